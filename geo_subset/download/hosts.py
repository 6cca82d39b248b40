"""Which of a shard's images is asked for next, so that hosts are spread and none is asked too much. Pure: no I/O, no
clock; not safe for threads, whoever shares one between threads holds a lock around each call.

Every host's rows are laid evenly over the shard: the k-th of n at (k + phase) / n of the way, so that a host with a
fifth of the rows is about every fifth request. A host that is at its limit is passed over; once it may be asked again,
its rows are the furthest behind and so come first. A step costs O(log n).
"""

from __future__ import annotations

import collections
import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Multiples of it, modulo 1, are spread evenly however many are taken: (sqrt(5) - 1) / 2.
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Wait:
    """Nothing may be asked for yet: call again after `seconds`, or earlier when a row is given back.

    None: only a row that is given back can change that.
    """

    seconds: float | None


@dataclass
class _Host:
    phase: float
    rows: list[int] = field(default_factory=list)
    asked: int = 0  # of rows, in their order
    due: collections.deque[int] = field(default_factory=collections.deque)  # to be tried again, and time has come
    active: int = 0
    not_before: float = -math.inf
    on_trial: bool = False  # it asked for rest, and has not answered since without asking for more
    entry: int = 0  # the one entry of the heaps that counts

    def has_rows(self) -> bool:
        return bool(self.due) or self.asked < len(self.rows)

    def position(self) -> float:
        """How far through the shard the next row lies, in [0, 1); rows to be tried again are behind all others."""
        return 0.0 if self.due else (self.asked + self.phase) / len(self.rows)

    def take(self) -> int:
        self.active += 1
        if self.due:
            return self.due.popleft()
        self.asked += 1
        return self.rows[self.asked - 1]


class Schedule:
    """Hands out each row once, and again when told to.

    `hosts[row]` is the registered domain of a row, at first: a redirect may lead to another one. A host has at most
    `per_host` rows handed out at a time, and with a `rate` they are handed out at least 1 / rate seconds apart. Times
    are seconds of any clock that never goes back. Every row that is handed out must be given back with `done` or
    `again`.
    """

    def __init__(self, hosts: Sequence[str], per_host: int, rate: float | None = None) -> None:
        self._per_host, self._interval = per_host, 1 / rate if rate else 0.0
        self._host_of = list(hosts)
        self._hosts: dict[str, _Host] = {}
        for row, name in enumerate(hosts):
            self._known(name).rows.append(row)
        self._out: set[int] = set()
        self._entries = itertools.count(1)
        # Hosts are in at most one of the first two; entries that were overtaken are dropped when they come up.
        self._ready: list[tuple[float, int, _Host]] = []  # by position
        self._resting: list[tuple[float, int, _Host]] = []  # by the time they may be asked again
        self._later: list[tuple[float, int, int]] = []  # rows to be tried again, by time
        for host in self._hosts.values():
            self._enlist(host)

    def take(self, now: float) -> int | Wait | None:
        """A row to ask for now, or how long to wait, or None when every row is done."""
        while self._later and self._later[0][0] <= now:
            _, _, row = heapq.heappop(self._later)
            host = self._hosts[self._host_of[row]]
            host.due.append(row)
            self._enlist(host)
        while self._resting and self._resting[0][0] <= now:
            _, entry, host = heapq.heappop(self._resting)
            if entry == host.entry:
                self._enlist(host)
        while self._ready:
            _, entry, host = heapq.heappop(self._ready)
            if entry != host.entry:
                continue
            if host.not_before > now:
                heapq.heappush(self._resting, (host.not_before, entry, host))
                continue
            if host.on_trial and host.active:  # enlisted before it was
                continue
            row = host.take()
            if self._interval:
                host.not_before = now + self._interval
            self._out.add(row)
            self._enlist(host)
            return row
        return self._wait(now)

    def done(self, row: int) -> None:
        """The row needs no further request. Raises KeyError if it is not handed out."""
        self._give_back(row)

    def again(self, row: int, at: float, host: str | None = None) -> None:
        """The row is to be handed out again, not before `at`. Raises KeyError if it is not handed out.

        `host`: whose limits it counts against from then on, if not those of the same host as before.
        """
        self._give_back(row)
        if host is not None:
            self._known(host)
            self._host_of[row] = host
        heapq.heappush(self._later, (at, next(self._entries), row))

    def host(self, row: int) -> str:
        """Whose limits the row counts against."""
        return self._host_of[row]

    def rest(self, host: str, until: float) -> None:
        """The host is not to be asked before `until`, and then for one row at a time until `rested` is called.

        So the rows of a host that is not well yet are not all spent on it. Raises KeyError if no row has had that host.
        """
        self._hosts[host].not_before = max(self._hosts[host].not_before, until)
        self._hosts[host].on_trial = True

    def rested(self, host: str) -> None:
        """The host answers again. Raises KeyError if no row has had that host."""
        if self._hosts[host].on_trial:
            self._hosts[host].on_trial = False
            self._enlist(self._hosts[host])

    def _known(self, name: str) -> _Host:
        if name not in self._hosts:
            self._hosts[name] = _Host(phase=(len(self._hosts) * _GOLDEN) % 1.0)
        return self._hosts[name]

    def _give_back(self, row: int) -> None:
        self._out.remove(row)
        host = self._hosts[self._host_of[row]]
        host.active -= 1
        self._enlist(host)

    def _enlist(self, host: _Host) -> None:
        host.entry = next(self._entries)
        if host.active < (1 if host.on_trial else self._per_host) and host.has_rows():
            heapq.heappush(self._ready, (host.position(), host.entry, host))

    def _wait(self, now: float) -> Wait | None:
        while self._resting and self._resting[0][1] != self._resting[0][2].entry:
            heapq.heappop(self._resting)
        times = [heap[0][0] for heap in (self._resting, self._later) if heap]
        if times:
            return Wait(min(times) - now)
        return Wait(None) if self._out else None
