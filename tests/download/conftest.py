"""A small web on loopback that behaves as the real one does, at its worst."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from geo_subset import tables, urls

# Some tests import img2dataset before the package does, which sets this itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def image_bytes(width: int = 320, height: int = 240, form: str = "JPEG", seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    out = io.BytesIO()
    small.resize((width, height)).save(out, form)
    return out.getvalue()


def samples_of(links: list[str]) -> pa.Table:
    """A samples table of these URLs, sorted by uid as merge leaves it."""
    rows = [
        {
            "uid": urls.uid(url),
            "url": url,
            "caption": f"Café № {n}, New York" if n else None,
            "place_id": f"list:{n}",
            "name": f"Café № {n}",
            "latitude": 40.75 + n / 1000,
            "longitude": None if n == 1 else -73.97,
            "similarity": 0.25,
            "place_ids": [f"list:{n}", "list:other"],
            "similarities": [0.25, 0.125],
            "place_count": 2,
            "domain": "127.0.0.1",
            "width": 9999,
            "height": None,
            "nsfw": "UNLIKELY",
            "punsafe": None,
            "pwatermark": 0.5,
            "aesthetic": None,
        }
        for n, url in enumerate(links)
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["uid"])), schema=tables.SAMPLES)


def of_domains(links: list[str], domains: list[str] | None = None) -> pa.Table:
    """Samples of these URLs, each of a domain of its own, or as given."""
    of = dict(zip(links, domains or [f"d{n}.example" for n in range(len(links))], strict=True))
    rows = samples_of(links).to_pylist()
    return pa.Table.from_pylist([{**row, "domain": of[row["url"]]} for row in rows], tables.SAMPLES)


@dataclass
class Web:
    """`pages` maps a path to what answers it; `requests` counts what was asked for, `seen` keeps the last headers."""

    url: str = ""
    pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    seen: dict[str, str] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    tls: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def serve(self, path: str, body: bytes = b"", status: int = 200, headers: dict[str, str] | None = None) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)

        return self.on(path, answer)

    def on(self, path: str, answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        self.pages[path] = answer
        return self.url + path

    def drip(self, path: str, head: bytes, piece: bytes) -> str:
        """Sends `head`, then a piece every 20 ms for ever."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(head)
            while not self.stopping.wait(0.02):
                handler.wfile.write(piece)

        return self.on(path, answer)

    def speak_tls(self, certificate: Path) -> None:
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate)

    def reset(self, path: str) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()

        return self.on(path, answer)


@pytest.fixture
def web() -> Iterator[Web]:
    site = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests[self.path] += 1
            site.seen = dict(self.headers.items())
            with contextlib.suppress(OSError):  # the client went away
                site.pages.get(self.path, lambda handler: handler.send_error(404))(self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512

        def finish_request(self, request: Any, client_address: Any) -> None:
            if site.tls is not None:
                request = site.tls.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a connection reset on purpose

    with Server(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield site
        site.stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a host at which nothing connects."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        queued = [socket.socket() for _ in range(4)]
        for sock in queued:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for sock in queued:
            sock.close()
