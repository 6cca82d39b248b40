"""The embedded world's server: the clip service on 127.0.0.1 and the image hosts on 127.0.0.2 to 127.0.0.65, one port.

    python -m geo_subset.demo.server FOLDER [--latency SECONDS]

It prints one line once it answers ('ready'), or why it cannot ('port taken'), and serves until its standard input ends:
whoever started it holds the other end, so that it cannot outlive them, however they die.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from aiohttp import web as http

from geo_subset.demo import images, search, service, web
from geo_subset.demo.web import HOSTS, SERVICE_HOST
from geo_subset.demo.world import World, load

READY, PORT_TAKEN = "ready", "port taken"
_JSON = {"Content-Type": "application/json", "Access-Control-Allow-Origin": "*"}
_HTML = {"Content-Type": "text/html; charset=utf-8"}
_PAGE = b"<!doctype html>\n<html lang=en>\n<title>%s</title>\n<h1>%s</h1>\n"


class Site:
    """Answers requests: by the Host header as the service or as one of the image hosts."""

    def __init__(self, world: World, latency: float) -> None:
        rows = world.index().to_pydict()
        self._port = world.port
        self._latency = latency
        self._caption = {web.address(url): caption for url, caption in _first_of(rows["url"], rows["caption"])}
        self._places: dict[str, tuple[str, ...]] = {}
        truth = world.truth().to_pydict()
        for url, name in zip(truth["url"], truth["name"], strict=True):
            if name is not None:
                place = web.address(url)
                self._places[place] = (*self._places.get(place, ()), name)
        metadata = [
            {"url": url, "caption": caption, **({"NSFW": rating} if rating is not None else {})}
            for url, caption, rating in zip(rows["url"], rows["caption"], rows["nsfw"], strict=True)
        ]
        index = search.build(rows["caption"], np.array(rows["look"], np.int64))
        self._catalog = service.Catalog(index, metadata)

    async def answer(self, request: http.BaseRequest) -> http.StreamResponse:
        host = request.host.partition(":")[0]
        if host != SERVICE_HOST:
            return await self._image(request, web.address(f"http://{host}{request.raw_path}"))
        response = await self._service(request)
        response.force_close()  # the real one, a development server, closes every connection
        return response

    async def _service(self, request: http.BaseRequest) -> http.Response:
        body = await request.content.read()
        routes: dict[tuple[str, str], Callable[[], service.Answer]] = {
            ("GET", "/indices-list"): service.indices_list,
            ("POST", "/knn-service"): partial(service.knn, self._catalog, body),
            ("POST", "/metadata"): partial(service.metadata, self._catalog, body),
        }
        route = routes.get((request.method, request.path))
        if route is None:
            return http.Response(status=404, body=_page("404 Not Found"), headers=_HTML)
        if self._latency and request.path == "/knn-service":
            await asyncio.sleep(self._latency)
        answer = await asyncio.to_thread(route)
        return http.Response(status=answer.status, body=answer.body, headers=_JSON)

    async def _image(self, request: http.BaseRequest, address: str) -> http.StreamResponse:
        outcome = web.outcome(address)
        shown = web.moved_from(address)
        if shown not in self._caption:
            return http.Response(status=404, body=_page("404 Not Found"), headers=_HTML)
        await asyncio.sleep(outcome.delay)
        if outcome.kind == "redirect":
            host, path = web.moved_to(address)
            return http.Response(status=302, headers={"Location": f"http://{host}:{self._port}{path}"})
        if outcome.kind in ("reset", "closed"):
            return _hung_up(request, reset=outcome.kind == "reset")
        if outcome.kind == "html" or outcome.status != 200:
            title = "Photo gallery" if outcome.status == 200 else f"{outcome.status} {outcome.kind}"
            return http.Response(status=outcome.status, body=_page(title), headers=_HTML)
        if outcome.kind == "tiny":
            data, kind = images.tiny(shown)
        else:
            draw = partial(images.picture, shown, self._places.get(shown, ()), self._caption[shown])
            data, kind = await asyncio.to_thread(draw)
        if outcome.kind == "cut off":
            return await _cut_off(request, data, kind)
        return http.Response(body=data, content_type=kind)


async def serve(world: World, latency: float) -> None:
    """Serves until standard input ends."""
    site = Site(world, latency)
    runner = http.ServerRunner(http.Server(site.answer, access_log=None), shutdown_timeout=2.0)
    await runner.setup()
    try:
        for host in (SERVICE_HOST, *HOSTS):
            await http.TCPSite(runner, host, world.port).start()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _say(PORT_TAKEN)
        raise SystemExit(1) from None
    _say(READY)
    await asyncio.to_thread(sys.stdin.buffer.read)
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m geo_subset.demo.server")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that the clip service waits")
    arguments = parser.parse_args()
    asyncio.run(serve(load(arguments.folder), arguments.latency))


def _first_of(urls: list[str], captions: list[str]) -> list[tuple[str, str]]:
    """Each URL's first caption."""
    first: dict[str, str] = {}
    for url, caption in zip(urls, captions, strict=True):
        first.setdefault(url, caption)
    return list(first.items())


def _hung_up(request: http.BaseRequest, reset: bool) -> http.Response:
    """Ends the connection without an answer: with a TCP reset, or in order."""
    if request.transport is not None:
        if reset:  # what lingers for no time is dropped at once, which TCP tells the other end by a reset
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return http.Response()  # nobody hears it


async def _cut_off(request: http.BaseRequest, data: bytes, kind: str) -> http.StreamResponse:
    """Announces the whole image, sends half of it and hangs up."""
    response = http.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _page(title: str) -> bytes:
    return _PAGE % (title.encode(), title.encode())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
