"""Hosts on loopback that do to a downloader whatever a host can do, over plain sockets.

Each fault has a server with an address of its own (127.77.x.y, of which Linux has sixteen million), so that limits per
host and pooled connections of one do not touch another.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import itertools
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import image_bytes

TLS_ADDRESS = "127.77.0.1"
"""Where hosts with certificates are; certificates that are right are for it."""
GOOD = image_bytes()

Behaviour = Callable[[socket.socket, threading.Event], None]
Piece = bytes | Callable[[], bytes]


class Hosts:
    """Servers that each behave in one way; `close` ends them all."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.connections: dict[str, int] = {}
        """'address:port' -> connections that were made to it."""
        self._threads: list[threading.Thread] = []
        self._listening: list[socket.socket] = []
        self._numbers = itertools.count(2)

    def serve(self, behave: Behaviour, tls: ssl.SSLContext | None = None, address: str | None = None) -> str:
        """A new server. Returns its URL without a path: 'http://127.77.0.2:40123'."""
        number = next(self._numbers)
        address = address or (TLS_ADDRESS if tls else f"127.77.{number // 256}.{number % 256}")
        listening = socket.create_server((address, 0), backlog=64)
        self._listening.append(listening)
        where = f"{address}:{listening.getsockname()[1]}"
        self.connections[where] = 0

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                self.connections[where] += 1
                self._start(lambda connection=connection: self._talk(connection, behave, tls))

        self._start(accept)
        return f"{'https' if tls else 'http'}://{where}"

    def end(self, seconds: float) -> bool:
        """Stops listening; whether every connection has ended, which needs the clients to let go of theirs."""
        for listening in self._listening:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        for thread in self._threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        self.stopping.set()
        self.end(0.0)

    def _start(self, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _talk(self, connection: socket.socket, behave: Behaviour, tls: ssl.SSLContext | None) -> None:
        with contextlib.suppress(OSError), connection:  # OSError: the client has had enough
            if tls is None:
                behave(connection, self.stopping)
            else:
                with tls.wrap_socket(connection, server_side=True) as secured:
                    behave(secured, self.stopping)


def read_request(connection: socket.socket) -> bytes:
    """The head of the next request; empty if the client has closed the connection."""
    head = b""
    while b"\r\n\r\n" not in head:
        block = connection.recv(65536)
        if not block:
            return b""
        head += block
    return head


def path_of(request: bytes) -> str:
    return request.split(b" ", 2)[1].decode()


def head(status: str = "200 OK", **headers: object) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode("latin-1")


def ok(body: Piece, **headers: object) -> Behaviour:
    """Sends a body as one should."""

    def behave(connection: socket.socket, _: threading.Event) -> None:
        read_request(connection)
        content = body() if callable(body) else body
        connection.sendall(head(Content_Length=len(content), **headers) + content)

    return behave


def say(*pieces: Piece) -> Behaviour:
    """Reads a request, answers with `pieces` and closes the connection."""

    def behave(connection: socket.socket, _: threading.Event) -> None:
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece() if callable(piece) else piece)

    return behave


def drip(start: bytes, piece: bytes = b"x", every: float = 0.02) -> Behaviour:
    """Sends `start`, then a little at a time for ever."""

    def behave(connection: socket.socket, stopping: threading.Event) -> None:
        read_request(connection)
        connection.sendall(start)
        while not stopping.wait(every):
            connection.sendall(piece)

    return behave


def flood(start: bytes, block: bytes, times: int | None = None) -> Behaviour:
    """Sends `start`, then `block` as fast as it is taken: for ever, or so many times."""

    def behave(connection: socket.socket, stopping: threading.Event) -> None:
        read_request(connection)
        connection.sendall(start)
        for _ in itertools.count() if times is None else range(times):
            if stopping.is_set():
                return
            connection.sendall(block)

    return behave


def silent(connection: socket.socket, _: threading.Event) -> None:
    while connection.recv(65536):
        pass


def reset(*pieces: bytes, after_request: bool = True) -> Behaviour:
    def behave(connection: socket.socket, _: threading.Event) -> None:
        if after_request:
            read_request(connection)
        for piece in pieces:
            connection.sendall(piece)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return behave


def unasked(connection: socket.socket, _: threading.Event) -> None:
    """The answer comes before the request is read."""
    connection.sendall(head(Content_Length=len(GOOD)) + GOOD)
    silent(connection, _)


def slow_handshake(connection: socket.socket, stopping: threading.Event) -> None:
    """A TLS record of a handshake message, a byte at a time."""
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    while not stopping.wait(0.02):
        connection.sendall(b"\0")


def redirect(location: str | bytes, status: str = "302 Found") -> Behaviour:
    raw = location.encode() if isinstance(location, str) else location
    return say(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nLocation: ".encode() + raw + b"\r\n\r\n")


def kept_open(answers: Callable[[str], bytes]) -> Behaviour:
    """Answers request after request on one connection, with `answers` of the path."""

    def behave(connection: socket.socket, _: threading.Event) -> None:
        while request := read_request(connection):
            connection.sendall(answers(path_of(request)))

    return behave


def certificates(folder: Path) -> tuple[Path, dict[str, ssl.SSLContext]]:
    """A certificate authority's own certificate, for clients to trust, and what servers with certificates need:
    'good', 'expired', 'not yet valid', 'wrong name' of that authority, and 'self-signed'."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography makes the certificates")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)

    def make(
        name: str, address: str, issuer: tuple[Any, Any] | None, first: Any = -1, last: Any = 1
    ) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder(issuer[0].subject if issuer else subject, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + first * day)
            .not_valid_after(now + last * day)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=name == "authority", path_length=None), critical=True)
        )
        return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key

    authority = make("authority", TLS_ADDRESS, None)
    made = {
        "good": make("good", TLS_ADDRESS, authority),
        "expired": make("expired", TLS_ADDRESS, authority, -2, -1),
        "not yet valid": make("not yet valid", TLS_ADDRESS, authority, 1, 2),
        "wrong name": make("wrong name", "127.77.255.255", authority),
        "self-signed": make("self-signed", TLS_ADDRESS, None),
    }
    pem, unencrypted = serialization.Encoding.PEM, serialization.NoEncryption()
    contexts = {}
    for name, (certificate, key) in made.items():
        path = folder / f"{name}.pem"
        path.write_bytes(
            certificate.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted)
        )
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        contexts[name].load_cert_chain(path)
    trusted = folder / "authority.pem"
    trusted.write_bytes(authority[0].public_bytes(pem))
    return trusted, contexts
