"""A host on loopback that answers with whatever bytes a test wants, over connections that it counts."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Peer:
    """Each connection is served by `serve(connection, number)` on a thread of its own, and closed when that returns."""

    def __init__(self, serve: Callable[[Connection, int], None], tls: ssl.SSLContext | None = None) -> None:
        self._serve, self._tls = serve, tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{self.port}"
        self.connections = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._open.append(sock)
                threading.Thread(target=self._run, args=(sock, self.connections), daemon=True).start()

    def _run(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            sock.settimeout(30)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            self._serve(Connection(sock), number)
        sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Connection:
    """The host's side of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unread = b""

    def request(self) -> bytes:
        """The head of the next request; b'' if there is none."""
        while b"\r\n\r\n" not in self._unread:
            more = self.sock.recv(65536)
            if not more:
                return b""
            self._unread += more
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        return head

    def requests(self) -> Iterator[bytes]:
        return iter(self.request, b"")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, body: bytes = b"", status: int = 200, **headers: Any) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def wait_for_end(self) -> None:
        """Returns when the other side has closed."""
        while self.sock.recv(65536):
            pass


@contextlib.contextmanager
def peer(serve: Callable[[Connection, int], None], tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    host = Peer(serve, tls)
    try:
        yield host
    finally:
        host.close()
