"""A lying proxy on loopback, in front of a clip-retrieval service that behaves.

It passes requests on one by one and spoils a seeded share of the searches: which request is spoiled depends on its
number alone. Everything it sees and does is counted, so that a test can tell the client's retries from its waste.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

#: Kind of fault -> share of the searches. 20 % errors, 5 % resets, 5 % stalls, 5 % half answers.
MIX = {
    "error 500": 0.2,
    "reset before the answer": 0.025,
    "reset within the answer": 0.025,
    "stall": 0.05,
    "half a body": 0.025,
    "half a chunked body": 0.025,
}
_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n"
    b'{"message": "Internal Server Error"}'
)


class Proxy:
    """A proxy that is running; to be made by `lying`.

    `searches` and `others` count the requests read (to /knn-service and elsewhere), `answered` the searches passed on
    whole, `injected` the searches spoiled, by kind. A search that is none of the last two: the client hung up.
    `outages`: how often it went down.
    """

    def __init__(self, target: str, faults: Mapping[str, float], seed: int) -> None:
        self._target, self._faults = urlsplit(target), faults
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.AbstractServer | None = None
        self._port = 0
        self._connections: set[asyncio.StreamWriter] = set()
        self._outage: tuple[int, float | None] | None = None
        self.searches = self.others = self.answered = 0
        self.outages = 0
        self.injected: Counter[str] = Counter()
        self._runs = threading.Event()
        self.is_down = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Opens the same port again after an outage."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def down_after(self, answers: int, seconds: float | None = None) -> None:
        """Goes down as soon as so many searches were answered: for some seconds, or else until `up` is called.

        Down means that the port is closed, so that connections are refused, and the open ones are reset.
        """
        self._outage = (answers, seconds)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.is_down.clear()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._connections):
            _reset(writer)
        self.is_down.set()
        self.outages += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            # Errors: the client has hung up, or this proxy has while it was going down.
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Meets one request. Returns whether the connection is good for another."""
        head = await reader.readuntil(b"\r\n\r\n")
        request = head + await reader.readexactly(_content_length(head))
        if b"/knn-service" not in head.split(b"\r\n", 1)[0]:
            self.others += 1
            writer.write(b"".join(await self._passed_on(request)))
            await writer.drain()
            return True
        self.searches += 1
        fault = self._fault()
        if fault is not None:
            self.injected[fault] += 1
            return await self._spoil(fault, request, reader, writer)
        try:
            writer.write(b"".join(await self._passed_on(request)))
            await writer.drain()
            if writer.is_closing():
                raise ConnectionResetError
        except ConnectionResetError:
            if self.is_down.is_set():
                self.injected["cut off by going down"] += 1
            raise
        self.answered += 1
        await self._perhaps_down()
        return True

    def _fault(self) -> str | None:
        kinds = [*self._faults, None]
        return self._random.choices(kinds, [*self._faults.values(), 1 - sum(self._faults.values())])[0]

    async def _spoil(
        self, fault: str, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if fault == "error 500":
            writer.write(_ERROR)
            await writer.drain()
            return True
        if fault == "stall":
            await reader.read()  # until the client gives up
            return False
        if fault == "reset before the answer":
            _reset(writer)
            return False
        head, body = await self._passed_on(request)
        half = body[: len(body) // 2]
        if fault == "half a chunked body":
            lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"content-length")]
            head = b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", b""])
            half = b"%x\r\n%b\r\n%x\r\n" % (len(half), half, len(body) - len(half))
        writer.write(head + half)
        await writer.drain()
        if fault == "reset within the answer":
            _reset(writer)
        return False

    async def _passed_on(self, request: bytes) -> tuple[bytes, bytes]:
        """Head (with the blank line) and body of the service's answer."""
        reader, writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            return head, await reader.readexactly(_content_length(head))
        finally:
            writer.close()

    async def _perhaps_down(self) -> None:
        if self._outage is None or self.answered < self._outage[0]:
            return
        seconds, self._outage = self._outage[1], None
        await self._close()
        if seconds is not None:
            self._loop.call_later(seconds, lambda: self._loop.create_task(self._open()))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        self._loop.call_soon(self._runs.set)  # not before it can be stopped
        self._loop.run_forever()
        self._loop.run_until_complete(self._close())
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST: with linger on and a time of 0, closing throws away instead of finishing."""
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def lying(target: str, faults: Mapping[str, float] = MIX, seed: int = 0) -> Iterator[Proxy]:
    """Runs a proxy in front of the service at `target`, in a thread of its own."""
    proxy = Proxy(target, faults, seed)
    thread = threading.Thread(target=proxy._run, daemon=True)
    thread.start()
    proxy._runs.wait()
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(proxy._loop.stop)
        thread.join()
