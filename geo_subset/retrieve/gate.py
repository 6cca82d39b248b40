"""A worker's way to the backends: waits for room, counts what becomes of each request, and keeps in touch.

Within one event loop. Who decides how much room there is stands in `limits`; the gate asks for it through `exchange`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from geo_subset.errors import StageError
from geo_subset.retrieve.limits import DEAD, Reply, Tally

#: (requests wanted, what was seen of each backend, tokens left over) -> what may be done.
Exchange = Callable[[int, Sequence[Tally], int], Awaitable[Reply]]
#: Seconds between reports of a worker that has nothing to ask.
IDLE = 5.0


@dataclass
class _Seen:
    """A backend as this worker sees it, counted since the last report."""

    busy: float = 0.0
    held: float = 0.0
    answered: int = 0
    failed: int = 0
    failing: int = 0
    error: str = ""
    in_flight: int = 0
    share: int = 0
    rest_until: float = 0.0


@dataclass
class _Waiting:
    avoid: int | None
    entered: asyncio.Future[Visit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(frozen=True)
class Visit:
    """A request that may be made now, of the backend with this number."""

    backend: int
    began: float


class Gate:
    """Lets requests through to the backends as room allows, in the order of their coming."""

    def __init__(self, backends: int, exchange: Exchange) -> None:
        self._seen = [_Seen() for _ in range(backends)]
        self._exchange = exchange
        self._waiting: deque[_Waiting] = deque()
        self._tokens: int | None = 0
        self._counted = self._reported = time.monotonic()
        self._wake = asyncio.Event()
        self._idle = True
        self._problem: BaseException | None = None
        self._in_touch: asyncio.Task[None] | None = None

    async def enter(self, avoid: int | None = None) -> Visit:
        """Waits for room at a backend; not at `avoid` while another one takes requests.

        Raises StageError when no backend has answered for too long.
        """
        if self._in_touch is None:
            self._in_touch = asyncio.ensure_future(self._keep_in_touch())
            self._in_touch.add_done_callback(self._lost_touch)
        if self._problem is not None:
            raise self._problem
        waiting = _Waiting(avoid)
        self._waiting.append(waiting)
        self._let_in()
        if self._idle:
            self._wake.set()
        try:
            return await waiting.entered
        except asyncio.CancelledError:
            if waiting.entered.done() and not waiting.entered.cancelled() and waiting.entered.exception() is None:
                self._seen[waiting.entered.result().backend].in_flight -= 1  # let in, but never begun
            raise

    def leave(self, visit: Visit, failure: str | None = None, weight: int = 0, rest: float = 0.0) -> None:
        """Ends a visit, with what failed, how heavily it weighs, and for how many seconds the backend wants rest."""
        now = self._count()
        seen = self._seen[visit.backend]
        seen.in_flight -= 1
        seen.held += now - visit.began
        if failure is None:
            seen.answered += 1
            seen.failing = 0
        else:
            seen.failed += 1
            seen.failing += weight
            seen.error = failure
            if seen.failing >= DEAD:  # it will be set aside; nothing more goes there until it is known
                seen.share = 0
                self._wake.set()
        if now + rest > seen.rest_until and rest > 0:
            seen.rest_until = now + rest
            self._wake.set()
        self._let_in()

    async def close(self) -> None:
        """Ends keeping in touch."""
        if self._in_touch is not None:
            self._in_touch.cancel()
            await asyncio.wait([self._in_touch])  # whoever waited has heard of its error, if it had one

    def _let_in(self) -> None:
        now = self._count()
        passed_over: list[_Waiting] = []
        while self._waiting and self._tokens != 0:
            free = [k for k, seen in enumerate(self._seen) if seen.in_flight < seen.share and now >= seen.rest_until]
            if not free:
                break
            waiting = self._waiting.popleft()
            if waiting.entered.done():  # cancelled
                continue
            others = [k for k, seen in enumerate(self._seen) if seen.share and k != waiting.avoid]
            candidates = [k for k in free if k in others] if others else free
            if not candidates:
                passed_over.append(waiting)
                continue
            backend = min(candidates, key=lambda k: self._seen[k].in_flight / self._seen[k].share)
            self._seen[backend].in_flight += 1
            if self._tokens is not None:
                self._tokens -= 1
            waiting.entered.set_result(Visit(backend, now))
        self._waiting.extendleft(reversed(passed_over))

    def _count(self) -> float:
        """Adds up how long how many requests have been in flight; returns the time."""
        now = time.monotonic()
        for seen in self._seen:
            seen.busy += seen.in_flight * (now - self._counted)
        self._counted = now
        return now

    async def _keep_in_touch(self) -> None:
        while True:
            reply = await self._report()
            if reply.gone:
                raise StageError(f"{reply.gone}; run again to go on from here")
            for seen, share in zip(self._seen, reply.shares, strict=True):
                seen.share = share
            self._tokens = reply.tokens
            self._let_in()
            self._idle = not self._waiting and not any(seen.in_flight for seen in self._seen)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), IDLE if self._idle else reply.period)

    def _lost_touch(self, task: asyncio.Task[None]) -> None:
        """Whoever waits must hear of it."""
        self._problem = None if task.cancelled() else task.exception()
        for waiting in self._waiting:
            if self._problem is not None and not waiting.entered.done():
                waiting.entered.set_exception(self._problem)
        self._waiting.clear()

    def _report(self) -> Awaitable[Reply]:
        self._wake.clear()
        now = self._count()
        tallies = []
        for seen in self._seen:
            rest = max(0.0, seen.rest_until - now)
            tallies.append(
                Tally(
                    now - self._reported, seen.busy, seen.held, seen.answered, seen.failed, seen.failing,
                    seen.in_flight, rest, seen.error,
                )
            )  # fmt: skip
            seen.busy = seen.held = 0.0
            seen.answered = seen.failed = seen.failing = 0
            seen.error = ""
        self._reported = now
        wanted = len(self._waiting) + sum(seen.in_flight for seen in self._seen)
        left, self._tokens = self._tokens or 0, 0 if self._tokens is not None else None
        return self._exchange(wanted, tallies, left)
