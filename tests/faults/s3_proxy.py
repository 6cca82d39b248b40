"""A proxy on loopback that spoils a share of the requests to an S3 server behind it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from aiohttp import ClientSession, ClientTimeout, web

#: Kind of fault -> share of the requests.
MIX = {
    "500": 0.05,
    "503": 0.05,
    "reset before": 0.03,
    "reset after": 0.03,
    "half an answer": 0.03,
    "stall": 0.01,
}
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>injected</Message></Error>'
_CODES = {"500": "InternalError", "503": "SlowDown", "403": "InvalidAccessKeyId"}
Which = Callable[[web.Request], bool]
_HOP_BY_HOP = {"transfer-encoding", "connection", "keep-alive", "content-length", "expect"}


class FaultyS3:
    """A proxy that is running; to be made by `faulty`. `requests` and `injected` count what it saw and did."""

    def __init__(self, target: str, faults: Mapping[str, float], seed: int, which: Which) -> None:
        self.target, self.faults, self.random, self.which = target, dict(faults), random.Random(seed), which
        self.requests = 0
        self.injected: Counter[str] = Counter()
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        body = await request.read()
        kinds = [*self.faults, ""]
        fault = self.random.choices(kinds, [*self.faults.values(), 1 - sum(self.faults.values())])[0]
        if not self.which(request):
            fault = ""
        if fault:
            self.injected[fault] += 1
        if fault in _CODES:
            return web.Response(status=int(fault), text=_ERROR.format(_CODES[fault]), content_type="application/xml")
        if fault == "reset before":
            return _reset(request)
        if fault == "stall":
            await asyncio.sleep(3600)  # until the client gives up
        async with self.session.request(
            request.method, f"{self.target}{request.raw_path}", data=body, allow_redirects=False,
            headers={name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP},
        ) as answer:  # fmt: skip
            data = await answer.read()
            if fault == "reset after":
                return _reset(request)
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            out = web.StreamResponse(status=answer.status, headers=kept)
            out.content_length = int(kept.get("Content-Length", len(data)))
            await out.prepare(request)
            if fault == "half an answer":
                await out.write(data[: len(data) // 2])
                return _reset(request)
            await out.write(data)
            return out

    async def run(self, started: threading.Event, stop: asyncio.Event) -> None:
        # Bytes as they are: what is compressed or checksummed must arrive so.
        self.session = ClientSession(auto_decompress=False, timeout=ClientTimeout(60))
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        await stop.wait()
        await runner.cleanup()
        await self.session.close()


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def each_first() -> Which:
    """Every request the first time it is made."""
    seen: set[tuple[str, str]] = set()

    def which(request: web.Request) -> bool:
        known = (request.method, request.raw_path) in seen
        seen.add((request.method, request.raw_path))
        return not known

    return which


@contextmanager
def faulty(
    target: str, faults: Mapping[str, float] = MIX, seed: int = 0, which: Which = lambda _: True
) -> Iterator[FaultyS3]:
    """Runs a proxy in front of the S3 server at `target`, in a thread of its own; it spoils only `which` requests."""
    proxy, started = FaultyS3(target, faults, seed, which), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(proxy.run(started, stop)), daemon=True)
    thread.start()
    started.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
