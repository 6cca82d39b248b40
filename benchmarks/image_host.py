"""Hosts of images on loopback, in a process of their own: thousands of addresses in 127.0.0.0/8, http or https.

Every address answers GET /N.jpg with a photograph, and GET /small/N.jpg with a small one, after a set latency; they
keep connections open where the client wishes. Over https the addresses have certificates of an authority that the
benchmark makes; 64 addresses share one, as hosts of a content delivery network do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import ipaddress
import multiprocessing
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import trustme

#: Different pictures; image N is picture N modulo this.
PICTURES = 500
_SHARE = 64
_BACKLOG = 4096


def pictures(width: int, height: int, quality: int, count: int) -> list[bytes]:
    """Different crops of a photograph; the same in every run."""
    from matplotlib import cbook
    from PIL import Image

    file: Any = cbook.get_sample_data("grace_hopper.jpg")
    with file:
        photo = Image.open(file).convert("RGB")
    found = []
    for number in range(count):
        chance = np.random.default_rng(number)
        wide = int(chance.integers(400, photo.width + 1))
        high = wide * height // width
        left, top = int(chance.integers(photo.width - wide + 1)), int(chance.integers(photo.height - high + 1))
        part = photo.crop((left, top, left + wide, top + high)).resize((width, height), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        part.save(out, "JPEG", quality=quality)
        found.append(out.getvalue())
    return found


@dataclass(frozen=True)
class Seen:
    """What the hosts saw since they were last asked."""

    requests: int
    connections: int
    peak: int
    """Requests that the busiest host had unanswered at one time."""


class Hosts:
    """The hosts of one scheme. `port` is the same at every address."""

    def __init__(self, pipe: Connection, scheme: str) -> None:
        self._pipe, self.scheme = pipe, scheme
        self.port: int = pipe.recv()

    def set_latency(self, seconds: float) -> None:
        self._pipe.send(seconds)
        self._pipe.recv()

    def seen(self) -> Seen:
        self._pipe.send(None)
        return self._pipe.recv()  # type: ignore[no-any-return]


def authority(folder: Path, roots: Path) -> tuple[Path, Path]:
    """Makes an authority. Returns its own file for the hosts, and the roots for the clients: all of `roots`, and it."""
    made = trustme.CA()
    own, trusted = folder / "authority.pem", folder / "roots.pem"
    own.write_bytes(made.cert_pem.bytes() + made.private_key_pem.bytes())
    trusted.write_bytes(roots.read_bytes() + made.cert_pem.bytes())
    return own, trusted


@contextlib.contextmanager
def hosts(own: Path | None) -> Iterator[Hosts]:
    """Starts the hosts; over https if there is an authority for them."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, own), daemon=True)
    process.start()
    theirs.close()  # or its end would not be seen
    try:
        yield Hosts(ours, "https" if own else "http")
    finally:
        process.kill()
        process.join()


def _serve(pipe: Connection, own: Path | None) -> None:
    asyncio.run(_Host(pipe, own).work())


class _Host:
    def __init__(self, pipe: Connection, own: Path | None) -> None:
        self.pipe = pipe
        self.large = pictures(384, 432, quality=85, count=PICTURES)
        self.small = pictures(64, 72, quality=75, count=PICTURES)
        self.latency = 0.0
        self.requests = self.connections = self.peak = 0
        self.open: Counter[str] = Counter()
        pems = own.read_bytes() if own else b""
        self.authority = trustme.CA.from_pem(pems, pems) if own else None
        self.listener = socket.create_server(("0.0.0.0", 0), backlog=_BACKLOG)
        self.listener.setblocking(False)

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self.pipe.fileno(), self.told)
        self.pipe.send(self.listener.getsockname()[1])
        tasks: set[Any] = set()
        while True:
            sock, _ = await loop.sock_accept(self.listener)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does not, for a socket it is given
            self.connections += 1
            address = sock.getsockname()[0]
            factory = functools.partial(_Answers, self, address)
            tls = self.certificate(int(ipaddress.IPv4Address(address)) // _SHARE) if self.authority else None
            task = loop.create_task(_accept(loop, factory, sock, tls))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def told(self) -> None:
        try:
            message = self.pipe.recv()
        except EOFError:  # the benchmark was killed
            raise SystemExit from None
        if message is None:
            self.pipe.send(Seen(self.requests, self.connections, self.peak))
            self.requests = self.connections = self.peak = 0
        else:
            self.latency = message
            self.pipe.send(None)

    @functools.cache  # noqa: B019 - there is one of them
    def certificate(self, block: int) -> ssl.SSLContext:
        assert self.authority is not None
        names = [str(ipaddress.IPv4Address(block * _SHARE + n)) for n in range(_SHARE)]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(context)
        return context

    def body(self, path: bytes) -> bytes:
        number = int(path.rpartition(b"/")[2].partition(b".")[0])
        return (self.small if path.startswith(b"/small/") else self.large)[number % PICTURES]


async def _accept(
    loop: asyncio.AbstractEventLoop, factory: Any, sock: socket.socket, tls: ssl.SSLContext | None
) -> None:
    with contextlib.suppress(OSError):  # the client went away during the handshake
        await loop.connect_accepted_socket(factory, sock, ssl=tls)


class _Answers(asyncio.Protocol):
    """One connection; requests are answered in turn."""

    def __init__(self, host: _Host, address: str) -> None:
        self.host, self.address = host, address
        self.unread = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while b"\r\n\r\n" in self.unread:
            head, _, self.unread = self.unread.partition(b"\r\n\r\n")
            host = self.host
            host.requests += 1
            host.open[self.address] += 1
            host.peak = max(host.peak, host.open[self.address])
            if host.latency:
                asyncio.get_running_loop().call_later(host.latency, self.answer, head)
            else:
                self.answer(head)

    def answer(self, head: bytes) -> None:
        self.host.open[self.address] -= 1
        if self.transport.is_closing():
            return
        body = self.host.body(head.split(b" ", 2)[1])
        close = b"connection: close" in head.lower()
        ending = b"Connection: close\r\n" if close else b""
        lines = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n%b\r\n" % (len(body), ending)
        self.transport.write(lines + body)
        if close:
            self.transport.close()
