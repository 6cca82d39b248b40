"""Names to addresses, looked up once for the whole process, and which addresses belong to the open internet."""

from __future__ import annotations

import concurrent.futures
import functools
import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from geo_subset import shortage
from geo_subset.download.waiting import result_of
from geo_subset.errors import ShortageError

#: Seconds that an answer of the resolver is used for. It does not tell for how long the name's owner would allow.
GOOD_FOR = 300.0
BAD_FOR = 30.0
#: Names kept, and looked up at the same time: a resolver that hangs holds up to this many threads, and nobody else's.
_MAX_NAMES = 1 << 16
THREADS = 32
#: File descriptors that one look-up takes.
DESCRIPTORS = 2

LookUp = Callable[..., list[tuple[Any, ...]]]
#: Family and address without port, as `socket` wants them.
Address = tuple[int, tuple[Any, ...]]

# ipaddress keeps the registries' tables too, but which version depends on Python's; and it knows nothing of clouds.
_CLOSED_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/3",
        "168.63.129.16/32",  # Azure's metadata and agents: a public address by its looks
    )
]  # fmt: skip
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_V6 = [ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20")]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@functools.lru_cache(1 << 12)
def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet.

    Not: loopback, private, shared, link-local, multicast, reserved, documentation, Teredo, or a cloud's metadata
    service. Forms of IPv6 that lead to an IPv4 address (mapped, NAT64, 6to4) are judged by that. Tables: the IANA
    special-purpose address registries (RFC 6890). Raises ValueError if it is no address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = (
            ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        )
        if inner is None:
            return ip in _UNICAST_V6 and not any(ip in network for network in _CLOSED_V6)
        ip = inner
    return not any(ip in network for network in _CLOSED_V4)


def _literal(host: str) -> Address | None:
    """The address that a host already is; forms that only some resolvers take for one ('127.1') are none."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (socket.AF_INET, (host, 0)) if ip.version == 4 else (socket.AF_INET6, (host, 0, 0, 0))


@dataclass(frozen=True)
class _Known:
    addresses: tuple[Address, ...]
    error: OSError | ShortageError | None
    until: float


class Resolver:
    """Looks names up in a few threads, each name once for all who ask, and remembers."""

    def __init__(self, look_up: LookUp = socket.getaddrinfo, threads: int = THREADS) -> None:
        self._look_up = look_up
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="dns")
        self._lock = threading.Lock()
        self._names: dict[str, concurrent.futures.Future[_Known]] = {}

    def addresses(self, host: str, deadline: float) -> tuple[Address, ...]:
        """The addresses of a host, best first; one or more.

        Raises TimeoutError at the deadline (time.monotonic()), OSError (most often socket.gaierror) if there is none,
        ShortageError if this machine could not look.
        """
        literal = _literal(host)
        if literal is not None:
            return (literal,)
        now = time.monotonic()
        with self._lock:
            known = self._names.get(host)
            if known is None or (known.done() and known.result().until <= now):
                self._names.pop(host, None)
                if len(self._names) >= _MAX_NAMES:
                    del self._names[next(iter(self._names))]
                known = self._names[host] = self._submitted(host)
        answer = result_of(known, deadline)
        if answer.error is not None:
            raise answer.error.with_traceback(None)
        return answer.addresses

    def prefer(self, host: str, address: Address) -> None:
        """Puts the address that answered first, so that others do not wait for one that is dead again and again."""
        with self._lock:
            known = self._names.get(host)
            if known is None or not known.done():
                return
            answer = known.result()
            others = [other for other in answer.addresses if other != address]
            better: concurrent.futures.Future[_Known] = concurrent.futures.Future()
            better.set_result(_Known((address, *others), None, answer.until))
            self._names[host] = better

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submitted(self, host: str) -> concurrent.futures.Future[_Known]:
        try:
            return self._pool.submit(self._ask, host)
        except RuntimeError as error:
            raise shortage.of(error) or error from None

    def _ask(self, host: str) -> _Known:
        try:
            found = self._look_up(host, None, type=socket.SOCK_STREAM)
        except (OSError, MemoryError) as error:
            if (lacking := shortage.of(error)) is not None or not isinstance(error, OSError):
                return _Known((), lacking, time.monotonic())
            return _Known((), error, time.monotonic() + BAD_FOR)
        except UnicodeError as error:  # a name that cannot be one: a label of more than 63 letters
            return _Known((), socket.gaierror(socket.EAI_NONAME, str(error)), time.monotonic() + BAD_FOR)
        addresses = tuple(dict.fromkeys((entry[0], entry[4]) for entry in found))
        return _Known(addresses, None, time.monotonic() + GOOD_FOR)
