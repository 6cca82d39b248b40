"""Connections that wait for another request, each to one place."""

from __future__ import annotations

import collections
import socket
import ssl
import threading
import time
from dataclasses import dataclass

#: Connections that wait: how many at most, over all hosts, and for how long.
MAX_IDLE = 256
IDLE_SECONDS = 10.0


@dataclass(frozen=True)
class Place:
    """What a connection leads to; the host in lower case and ASCII."""

    scheme: str
    host: str
    port: int


@dataclass
class Connection:
    sock: socket.socket
    used: bool = False
    idle_since: float = 0.0


class Idle:
    """At most `most` connections that wait. The latest is used first; the one that waits longest goes first."""

    def __init__(self, most: int = MAX_IDLE) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._by_place: dict[Place, collections.deque[Connection]] = {}
        self._by_age: collections.OrderedDict[int, tuple[Place, Connection]] = collections.OrderedDict()
        self._closed = False

    def take(self, place: Place) -> Connection | None:
        """A connection that is open and on which nothing has come that was not asked for."""
        while True:
            with self._lock:
                self._drop_old()
                waiting = self._by_place.get(place)
                if not waiting:
                    return None
                connection = waiting.pop()
                del self._by_age[id(connection)]
            if _is_quiet(connection.sock):
                return connection
            connection.sock.close()

    def put(self, place: Place, connection: Connection) -> None:
        connection.used, connection.idle_since = True, time.monotonic()
        with self._lock:
            if self._closed:
                connection.sock.close()
                return
            self._by_place.setdefault(place, collections.deque()).append(connection)
            self._by_age[id(connection)] = place, connection
            self._drop_old()

    def drop(self) -> bool:
        """Closes all that wait. Returns whether there were any."""
        with self._lock:
            dropped = bool(self._by_age)
            while self._by_age:
                self._drop_oldest()
            return dropped

    def close(self) -> None:
        """Closes all that wait, and from now on all that come."""
        self._closed = True
        self.drop()

    def _drop_old(self) -> None:
        too_old = time.monotonic() - IDLE_SECONDS
        while self._by_age:
            _, oldest = next(iter(self._by_age.values()))
            if oldest.idle_since > too_old and len(self._by_age) <= self._most:
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (place, connection) = self._by_age.popitem(last=False)
        waiting = self._by_place[place]
        waiting.popleft()
        if not waiting:
            del self._by_place[place]
        connection.sock.close()


def _is_quiet(sock: socket.socket) -> bool:
    try:
        sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False  # its end, or bytes that nobody asked for
