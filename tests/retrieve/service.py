"""A clip-retrieval service on loopback that misbehaves on order; its rows follow from the search text alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from geo_subset.retrieve.backends import QUESTION


def rows_for(text: str, num_images: int, limit: int = 7) -> list[dict[str, Any]]:
    """The rows this service answers for a text: up to `limit`, by falling similarity."""
    seed = int(hashlib.md5(text.encode()).hexdigest()[:8], 16)
    return [
        {
            "url": f"http://host{(seed + i) % 5}.com/{(seed + i * 7) % 50}.jpg",
            "caption": f"{text} {i}",
            "id": (seed + i * 7) % 1000,
            "similarity": 0.9 - i / 100 - seed % 10 / 1000,
            "NSFW": "UNLIKELY",
        }
        for i in range(min(num_images, limit))
    ]


class Service:
    """State of a running service; `fault(text, nth)` may return a response for the nth request for a text."""

    def __init__(self, fault: Callable[[str, int], Awaitable[web.StreamResponse | None]] | None) -> None:
        self.fault = fault
        self.url = ""
        self.indices = ["main"]
        self.metadata: dict[int, dict[str, Any]] = {}
        self.asked: Counter[str] = Counter()
        self.questions = 0
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.running = self.most_running = 0

    async def knn(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        text = body["text"]
        if text == QUESTION:  # asked before any work
            self.questions += 1
        else:
            self.asked[text] += 1
            self.bodies.append(body)
            self.times.append(asyncio.get_running_loop().time())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0.002)
            if self.fault is not None:
                response = await self.fault(text, self.asked[text] or self.questions)
                if response is not None:
                    return response
            return web.json_response(rows_for(text, body["num_images"]))
        finally:
            self.running -= 1

    async def described(self, request: web.Request) -> web.StreamResponse:
        if not self.metadata:
            return web.Response(status=404)
        ids = json.loads(await request.read())["ids"]
        columns = ("url", "caption", "NSFW")
        return web.json_response([{"id": i, "metadata": {k: self.metadata[i][k] for k in columns}} for i in ids])

    async def listed(self, _request: web.Request) -> web.Response:
        return web.json_response(self.indices)


@contextmanager
def serve(fault: Callable[[str, int], Awaitable[web.StreamResponse | None]] | None = None) -> Iterator[Service]:
    """Runs a service in a thread of its own."""
    service = Service(fault)
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/knn-service", service.knn)
        app.router.add_post("/metadata", service.described)
        app.router.add_get("/indices-list", service.listed)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        service.url = "http://{}:{}".format(*runner.addresses[0][:2])
        return runner

    def work() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.call_soon(ready.set)  # not before it can be stopped
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield service
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
