"""HTTP/1.1 for one process: pooled connections, names looked up once, one TLS context, no redirects.

Sockets do not block; what waits for them is `waiting`. All of an exchange (look-up, connecting, TLS, each drip of the
answer) ends at its deadline, and the address that is connected to has been checked. Proxies of the environment are not
used: a proxy would look up and connect on its own, past that check.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import os
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from geo_subset import shortage
from geo_subset.download import reasons
from geo_subset.download.addresses import DESCRIPTORS, THREADS, Address, LookUp, Resolver, is_public
from geo_subset.download.http_wire import Head, Headers, Stream, read_body, read_head
from geo_subset.download.idle import MAX_IDLE, Connection, Idle, Place
from geo_subset.download.reasons import FetchError
from geo_subset.download.waiting import until_readable, until_writable

#: A body that nobody wants is read all the same if it is short: cheaper than another connection.
_DRAINED_BYTES = 1 << 16
_DRAINED_SECONDS = 1.0
#: Addresses of one host that are tried.
_MAX_ADDRESSES = 6
_BLOCK = 1 << 16

_HOST = re.compile(r"[0-9a-z_-]+(\.[0-9a-z_-]+)*\.?\Z", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: Characters of a host's name (RFC 1035, 2.3.4).
_LONGEST_HOST = 253
_QUOTE_SAFE = "%/:=&?~#+!$,;'@()*[]|"

T = TypeVar("T")
Until = Callable[[socket.socket, float], None]
AddressCheck = Callable[[str], bool]
Wanted = Callable[[Headers], bool]
BeforeLarge = Callable[[float], None]
OnceMore = Callable[[], bool]


@dataclass(frozen=True)
class Response:
    """`body` is None unless the status is 2xx and the body was wanted."""

    status: int
    headers: Headers
    body: bytes | None


class Client:
    """Asks for URLs. Any number of threads, and of a loop's tasks, may use one; a process needs no more than one.

    `address_allowed` is asked before an IP address is connected to. `descriptors`: how many it may use beside those of
    the requests in work. `ca_file` (more roots to trust) and `look_up` (in place of socket.getaddrinfo) are there for
    tests.
    """

    def __init__(
        self,
        address_allowed: AddressCheck = is_public,
        ca_file: str | None = None,
        look_up: LookUp = socket.getaddrinfo,
        descriptors: int = 1 << 10,
    ) -> None:
        self._address_allowed = address_allowed
        self._resolver = Resolver(look_up, max(1, min(THREADS, descriptors // 2 // DESCRIPTORS)))
        self._idle = Idle(min(MAX_IDLE, descriptors // 2))
        # One for all: building one, with all its roots, takes longer than fetching ten images.
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        if ca_file is not None:
            self._tls.load_verify_locations(ca_file)

    def get(
        self,
        url: str,
        deadline: float,
        headers: Mapping[str, str],
        max_bytes: int,
        wanted: Wanted | None = None,
        before_large: BeforeLarge | None = None,
        once_more: OnceMore = lambda: True,
    ) -> Response:
        """One GET, redirects not followed. `deadline` is a value of time.monotonic().

        `wanted(headers)` is asked before the body of a 2xx answer is read.
        `before_large(deadline)` is called once before more than http_wire.LARGE bytes of a body are held; it may wait
        and may raise FetchError. So the bodies that a process holds are bounded by LARGE times its requests and
        `max_bytes` times whom `before_large` lets in.
        `once_more()` is asked before the request is sent a second time, as it is when a connection that had waited ends
        without an answer.
        Raises FetchError, as `reasons` lists them; ShortageError if it is this machine that lacks something.
        """
        asked = _Asked(*_request(url, headers), deadline, max_bytes, wanted, before_large)
        with _told_as_fetch_error():
            idle = self._idle.take(asked.place)
            response = _exchange(idle, asked, self._idle) if idle is not None else None
            if response is None and (idle is None or once_more()):
                # RFC 9112, 9.3.1: a host may close an idle connection just as it is asked; so once more on a new one.
                new = Connection(self._connect(asked.place, deadline))
                response = _exchange(new, asked, self._idle)
        if response is None:
            raise FetchError(reasons.RESET, "the connection ended without an answer")
        return response

    def close(self) -> None:
        """Closes the connections that wait; those in use end with their exchange."""
        self._idle.close()
        self._resolver.close()

    def _connect(self, place: Place, deadline: float) -> socket.socket:
        """Connects to the first of the host's addresses that answers, TLS included."""
        with _unreached():
            found = self._resolver.addresses(place.host, deadline)
        allowed = [address for address in found if self._address_allowed(str(address[1][0]))][:_MAX_ADDRESSES]
        if not allowed:
            raise FetchError(reasons.PRIVATE, ", ".join(str(address[1][0]) for address in found))
        with _unreached():
            sock = self._first_that_answers(place, allowed, deadline)
        if place.scheme == "http":
            return sock
        try:
            name = place.host.rstrip(".")
            sock = tls = self._tls.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=name)
            _when_ready(tls, deadline, tls.do_handshake)
            return tls
        except BaseException:
            sock.close()
            raise

    def _first_that_answers(self, place: Place, addresses: list[Address], deadline: float) -> socket.socket:
        """Each address gets an equal share of the time left, and is used as it was checked: no second look-up."""
        for tried, (family, address) in enumerate(addresses):
            sock = self._socket(family)
            sock.setblocking(False)
            # Or the request waits until the end of the TLS handshake is acknowledged: up to 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                share = _left(deadline) / (len(addresses) - tried)
                _open(sock, (address[0], place.port, *address[2:]), time.monotonic() + share)
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError) or shortage.of(error) or tried == len(addresses) - 1:
                    raise
            else:
                if tried:
                    self._resolver.prefer(place.host, (family, address))
                return sock
        raise AssertionError("there is no address")

    def _socket(self, family: int) -> socket.socket:
        try:
            return socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._idle.drop():
                raise
            return socket.socket(family, socket.SOCK_STREAM)


@dataclass(frozen=True)
class _Asked:
    place: Place
    request: bytes
    deadline: float
    max_bytes: int
    wanted: Wanted | None
    before_large: BeforeLarge | None


class _Receiver:
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._receive, self._sock, self.deadline = functools.partial(sock.recv, _BLOCK), sock, deadline

    def __call__(self) -> bytes:
        return _when_ready(self._sock, self.deadline, self._receive)


def _open(sock: socket.socket, address: tuple[Any, ...], deadline: float) -> None:
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        until_writable(sock, deadline)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error == errno.EADDRNOTAVAIL and sock.family == socket.AF_INET6:
        error = errno.ENETUNREACH  # this machine has no address of IPv6, which is no shortage
    if error:
        raise OSError(error, os.strerror(error))


def _send(sock: socket.socket, data: bytes, deadline: float) -> None:
    while data:
        data = data[_when_ready(sock, deadline, functools.partial(sock.send, data), until_writable) :]


def _when_ready(sock: socket.socket, deadline: float, work: Callable[[], T], blocked: Until = until_readable) -> T:
    """What `work` returns once `sock` is ready for it. `blocked` waits if it is not; TLS tells what it waits for."""
    while True:
        _left(deadline)
        try:
            return work()
        except BlockingIOError:
            blocked(sock, deadline)
        except ssl.SSLWantReadError:
            until_readable(sock, deadline)
        except ssl.SSLWantWriteError:
            until_writable(sock, deadline)


def _exchange(connection: Connection, asked: _Asked, idle: Idle) -> Response | None:
    """One request and its answer, after which the connection is idle or closed.

    None: it was closed before an answer began, which only a connection that has been used before may be.
    """
    receiver = _Receiver(connection.sock, asked.deadline)
    stream = Stream(receiver)
    keep = False
    try:
        head = _ask(connection, asked, stream)
        if head is None:
            return None
        body = None
        if 200 <= head.status < 300 and (asked.wanted is None or asked.wanted(head.headers)):
            before = asked.before_large
            body = read_body(stream, head, asked.max_bytes, before and functools.partial(before, asked.deadline))
            keep = head.keeps and not stream.left_over
        elif not 300 <= head.status < 400:  # some hosts close behind a redirect without saying so
            keep = head.keeps and _drained(receiver, stream, head) and not stream.left_over
        return Response(head.status, head.headers, body)
    finally:
        if keep:
            idle.put(asked.place, connection)
        else:
            connection.sock.close()


def _ask(connection: Connection, asked: _Asked, stream: Stream) -> Head | None:
    try:
        _send(connection.sock, asked.request, asked.deadline)
        return read_head(stream)
    except (ConnectionError, ssl.SSLError):
        if stream.begun or not connection.used:
            raise
        return None


def _drained(receiver: _Receiver, stream: Stream, head: Head) -> bool:
    """Reads a body that nobody wants. False: it is too long or too slow for that, or broken."""
    receiver.deadline = min(receiver.deadline, time.monotonic() + _DRAINED_SECONDS)
    try:
        read_body(stream, head, _DRAINED_BYTES)
    except (OSError, FetchError):
        return False
    return True


def _request(url: str, headers: Mapping[str, str]) -> tuple[Place, bytes]:
    """Whom to ask, and the bytes to send. Raises FetchError: unsupported url."""
    try:
        parts = urllib.parse.urlsplit(url or "")
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise FetchError(reasons.UNSUPPORTED_URL, parts.scheme)
        host = _host(parts.hostname, in_brackets="[" in parts.netloc)
        default = _DEFAULT_PORTS[parts.scheme]
        port = default if parts.port is None else parts.port
        target = urllib.parse.quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", _QUOTE_SAFE)
    except ValueError as error:
        raise FetchError(reasons.UNSUPPORTED_URL, error) from error
    if port == 0:
        raise FetchError(reasons.UNSUPPORTED_URL, "port 0")
    named = f"[{host}]" if ":" in host else host
    lines = [f"GET {target} HTTP/1.1", f"Host: {named}" if port == default else f"Host: {named}:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return Place(parts.scheme, host, port), "\r\n".join([*lines, "Accept-Encoding: identity", "", ""]).encode("ascii")


def host_of(url: str) -> str:
    """The host that is asked for a URL, as a URL names it. Raises FetchError: unsupported url."""
    host = _request(url, {})[0].host.rstrip(".")
    return f"[{host}]" if ":" in host else host


def _host(name: str, in_brackets: bool) -> str:
    """A host as it is looked up: lower case, ASCII. Raises ValueError if it is none.

    Percent signs have no place in it, nor in an IPv6 address: who undoes them, and when, would decide what is meant.
    """
    if in_brackets and "%" not in name:
        return str(ipaddress.IPv6Address(name))
    if len(name) > _LONGEST_HOST + 1:
        raise ValueError(f"host of {len(name)} characters")
    host = name.encode("idna").decode("ascii").lower()
    if not _HOST.match(host):
        raise ValueError(f"host {host[:80]!r}")
    return host


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@contextlib.contextmanager
def _unreached() -> Iterator[None]:
    """Marks what ends here as having come to nobody."""
    try:
        with _told_as_fetch_error():
            yield
    except FetchError as error:
        error.unreached = error.reason in reasons.UNREACHED
        raise


@contextlib.contextmanager
def _told_as_fetch_error() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise FetchError(reasons.TIMED_OUT) from error
    except socket.gaierror as error:
        missing = error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        raise FetchError(reasons.DNS if missing else reasons.DNS_UNANSWERED, error.strerror) from error
    except ConnectionRefusedError as error:
        raise FetchError(reasons.REFUSED) from error
    except (ConnectionError, ssl.SSLEOFError) as error:
        raise FetchError(reasons.RESET, error) from error
    except ssl.SSLError as error:
        raise FetchError(reasons.TLS, error) from error
    except OSError as error:
        if (lacking := shortage.of(error)) is not None:
            raise lacking from error
        raise FetchError(reasons.NO_CONNECTION, error) from error
