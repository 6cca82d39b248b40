"""How many requests a backend gets at a time: found out while it works, for all workers of a run together. Pure.

`Limits` is told by every worker what it saw of every backend since it last asked (`Tally`), and answers how many
requests the worker may have in flight there now (`Reply`). Time is an argument.

The limit of a backend is found by trial, as PCC Allegro finds a sending rate (Dong et al., "PCC: Re-architecting
Congestion Control for Consistent High Performance", NSDI 2015): what counts is the throughput that comes of a limit,
not single losses, so that a backend that fails at random is not starved as by halving at every loss. It starts low and
doubles while that pays (slow start; Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988), then tries a quarter
more and a fifth less from time to time, and halves when failures rise (Chiu and Jain, "Analysis of the Increase and
Decrease Algorithms for Congestion Avoidance in Computer Networks", 1989). Throughput is in-flight over latency
(Little, "A Proof for the Queuing Formula: L = λW", 1961), which is far steadier over a short time than counted answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Requests in flight that a backend gets at first, and at least while it is well: one is answered, one is on its way.
START = 2
#: A change must pay: N times as many requests in flight have to bring more than N^COST times the throughput.
COST = 0.08
#: Answers that a measurement needs, in slow start and after it; never fewer than the limit or four times it.
FEW, MANY = 8, 16
#: Windows between two trials: from the first to the second number, doubling as long as no trial pays.
PATIENCE = (1, 32)
#: ln of the change in throughput at an unchanged limit from which on the backend is another one than was measured.
SURPRISE = 0.3
#: Seconds: a backend set aside is tried again after the first, then after twice as long, up to the second.
ASIDE = (1.0, 60.0)
#: Failures in a row, by weight, after which a backend is set aside: 3 without a connection, 5 time-outs, 10 others.
DEAD = 10
NO_CONNECTION, TIMED_OUT, OTHER = 4, 2, 1
#: Seconds between a worker's reports: half a request's time, within these bounds.
PERIOD = (0.05, 0.25)
#: Seconds without a report after which a worker is taken for lost.
LOST = 30.0


@dataclass(frozen=True)
class Tally:
    """What one worker saw of one backend since its last report. Times in seconds."""

    seconds: float = 0.0
    """Since the last report."""
    busy: float = 0.0
    """Requests in flight, integrated over this time."""
    held: float = 0.0
    """How long the requests that ended took, added up."""
    answered: int = 0
    failed: int = 0
    failing: int = 0
    """Weight of the failures since the last answer, or since the last report."""
    in_flight: int = 0
    pause: float = 0.0
    """For how long the backend asked to be left alone, from now on."""
    error: str = ""
    """What the last failure was."""


@dataclass(frozen=True)
class Reply:
    """What a worker may do until its next report, due in `period` seconds."""

    shares: tuple[int, ...]
    """Requests in flight, by backend."""
    tokens: int | None = None
    """Requests that may be started, where there is a rate limit; those left from before are void."""
    period: float = PERIOD[0]
    gone: str = ""
    """If set: no backend has answered for so long that it makes no sense to wait on, and what was wrong."""


@dataclass
class _Window:
    """A measurement at one limit: what each worker saw since."""

    since: float
    sums: dict[int, list[float]] = field(default_factory=dict)  # worker: seconds, busy
    held: float = 0.0
    answered: int = 0
    failed: int = 0

    def add(self, worker: int, tally: Tally) -> None:
        sums = self.sums.setdefault(worker, [0.0, 0.0])
        sums[0] += tally.seconds
        sums[1] += tally.busy
        self.held += tally.held
        self.answered += tally.answered
        self.failed += tally.failed

    @property
    def failures(self) -> float:
        """Their share of the requests that ended."""
        return self.failed / max(1, self.answered + self.failed)

    @property
    def in_flight(self) -> float:
        return sum(busy / seconds for seconds, busy in self.sums.values() if seconds > 0)

    @property
    def throughput(self) -> float:
        """Answers a second: requests in flight over their mean latency, failures taken off."""
        return self.in_flight * self.answered / max(self.held, 1e-9)


class Limit:
    """The number of requests one backend gets at a time, between 1 and `ceiling`."""

    _value: int
    _window: _Window

    def __init__(self, ceiling: int, now: float) -> None:
        self.latency = 0.0
        self._ceiling = ceiling
        self._usual_failures = 0.0
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begins again, low."""
        self._doubling = self._upwards = True
        self._reference: float | None = None  # throughput at `value`
        self._trial: int | None = None
        self._patience = self._wait = PATIENCE[0]
        self._missed = 0  # trials in a row that did not pay
        self._set(min(START, self._ceiling), now)

    @property
    def now(self) -> int:
        """Requests in flight that are allowed."""
        return self._value if self._trial is None else self._trial

    @property
    def settled(self) -> bool:
        """Whether slow start is over: what there was to gain by doubling has been found."""
        return not self._doubling

    def add(self, worker: int, tally: Tally, now: float) -> None:
        """Takes a worker's report into account."""
        ended = tally.answered + tally.failed
        if ended:
            latency = tally.held / ended
            self.latency = 0.8 * self.latency + 0.2 * latency if self.latency else latency
        # What was in flight when the limit changed says nothing of the new one.
        if worker not in self._heard or now < self._window.since + self.latency:
            self._heard.add(worker)
            return
        window = self._window
        window.add(worker, tally)
        if self._fails_more(window):
            self._fall(window, now)
        elif self._is_enough(window, now):
            self._usual_failures = 0.7 * self._usual_failures + 0.3 * window.failures
            if window.in_flight >= 0.85 * self.now:
                self._judge(window, now)
            else:  # too little work to make use of the limit: nothing is known of it (RFC 7661)
                self._trial = None
                self._set(self._value, now)

    def _is_enough(self, window: _Window, now: float) -> bool:
        """Whether a window tells what it is for; a trial that goes badly need not be sat out."""
        wanted = max(FEW, self.now) if self._doubling else max(MANY, 4 * self.now)
        if self._trial is not None and self._reference is not None and window.answered >= FEW // 2:
            return window.answered >= wanted or now - window.since > self.latency + 2 * wanted / self._reference
        return window.answered >= wanted

    def _fails_more(self, window: _Window) -> bool:
        """Whether more fails than usual, by over a tenth and by more than two standard deviations."""
        expected = min(0.9, self._usual_failures + 0.1)
        ended = window.answered + window.failed
        return window.failed >= 2 and window.failures > expected + 2 * math.sqrt(expected * (1 - expected) / ended)

    def _fall(self, window: _Window, now: float) -> None:
        if self._trial is not None:
            self._judge_trial(1e-9, now)
        elif self._value <= START:  # so few requests are not the reason
            self._usual_failures = window.failures
            self._set(self._value, now)
        else:
            self._doubling, self._reference = False, None
            self._patience = self._wait = PATIENCE[0]
            self._set(self._value // 2, now)

    def _judge(self, window: _Window, now: float) -> None:
        found = max(window.throughput, 1e-9)
        if self._trial is not None:
            self._judge_trial(found, now)
        elif self._reference is not None and abs(math.log(found / self._reference)) > SURPRISE:
            # Another backend than was measured: as many requests as keep the latency what it was, and look again.
            scaled = max(START, min(round(self._value * found / self._reference), 2 * self._value))
            self._reference, self._patience, self._missed = None, PATIENCE[0], 0
            self._wait = self._patience
            self._set(min(scaled, self._ceiling), now)
        else:
            self._reference = found if self._reference is None else 0.7 * self._reference + 0.3 * found
            self._wait -= 1
            if self._doubling or self._wait <= 0:
                self._try(now)
            else:
                self._set(self._value, now, changed=False)

    def _judge_trial(self, found: float, now: float) -> None:
        assert self._trial is not None and self._reference is not None
        gain, effort = math.log(found / self._reference), math.log(self._trial / self._value)
        if gain > COST * effort:
            self._value, self._reference, self._missed = self._trial, found, 0
            self._patience = PATIENCE[0]
            self._doubling = self._doubling or (effort > 0 and gain > effort / 2)  # far from what it can give
        else:
            self._doubling = False
            self._upwards = not self._upwards
            self._missed += 1
            if self._missed >= 2:
                self._patience = min(PATIENCE[1], 2 * self._patience)
        self._trial, self._wait = None, self._patience
        if self._doubling:
            self._try(now)
        else:
            self._set(self._value, now)

    def _try(self, now: float) -> None:
        more = 2 * self._value if self._doubling else max(self._value + 1, round(self._value * 1.25))
        less = max(START, min(self._value - 1, round(self._value * 0.8)))
        candidates = {True: min(more, self._ceiling), False: min(less, self._value)}
        for upwards in (self._upwards, not self._upwards):
            if candidates[upwards] != self._value:
                self._upwards, self._trial = upwards, candidates[upwards]
                break
        self._set(self._value, now, changed=self._trial is not None)

    def _set(self, value: int, now: float, changed: bool = True) -> None:
        """Begins a new measurement."""
        self._value = value
        # Where the limit was the same already, every report tells of it from its first moment on.
        self._heard: set[int] = set() if changed else set(self._window.sums)
        self._window = _Window(now if changed else now - self.latency)


class Backend:
    """One backend: its limit, and whether it is set aside."""

    def __init__(self, url: str, ceiling: int, now: float) -> None:
        self.url = url
        self.limit = Limit(ceiling, now)
        self.error = ""
        self._failing = 0
        self._aside_until = self._paused_until = 0.0
        self._times_aside = 0

    def allowed(self, now: float) -> int:
        """Requests in flight, over all workers."""
        if now < max(self._aside_until, self._paused_until):
            return 0
        return 1 if self._times_aside else self.limit.now

    def paused(self, now: float) -> bool:
        """Whether it has asked to be left alone."""
        return now < self._paused_until

    @property
    def aside(self) -> bool:
        """Whether it is set aside, or on trial after that."""
        return self._times_aside > 0

    def add(self, worker: int, tally: Tally, now: float) -> list[str]:
        """Takes a worker's report into account; returns what there is to log."""
        said = []
        self.error = tally.error or self.error
        if tally.pause > 0 and now + tally.pause > self._paused_until + 0.1:
            self._paused_until = now + tally.pause
            if tally.pause > 2:
                said.append(f"{self.url} asks for {tally.pause:.0f} s of rest ({tally.error})")
        self._failing = tally.failing + (0 if tally.answered else self._failing)
        if self._times_aside:
            if tally.answered and now >= self._aside_until:  # earlier ones are late news of the time before
                said.append(f"{self.url} answers again")
                self._times_aside = 0
                self.limit.restart(now)
            elif tally.failed and now >= self._aside_until:
                self._set_aside(now)
        elif self._failing >= DEAD:
            said.append(f"{self.url} is set aside: {self.error}; it is tried again from time to time")
            self._set_aside(now)
        else:
            self.limit.add(worker, tally, now)
        return said

    def _set_aside(self, now: float) -> None:
        wait = min(ASIDE[1], ASIDE[0] * 2.0**self._times_aside)
        self._aside_until = now + wait
        self._times_aside += 1
        self._failing = 0


@dataclass
class _Worker:
    incarnation: str
    heard: float
    wanted: int = 0
    bounds: list[int] = field(default_factory=list)  # requests it may have in flight, by backend
    in_flight: list[int] = field(default_factory=list)  # those it has, as it reported last


class Limits:
    """The limits of all backends, dealt out to the workers.

    At no time do the workers' shares of a backend add up to more than its limit, or all shares to more than
    `concurrency`: a share that is taken back is dealt out again only when its holder has reported it free.
    """

    def __init__(self, urls: Sequence[str], concurrency: int, rate: float | None, deadline: float, now: float) -> None:
        self.backends = [Backend(url, concurrency, now) for url in urls]
        self.news: list[str] = []
        self._concurrency, self._rate, self._deadline = concurrency, rate, deadline
        self._workers: dict[int, _Worker] = {}
        self._tokens, self._tokens_at = 1.0, now
        self._well = now  # when a backend answered last, or has been asking for rest

    def exchange(
        self, worker: int, incarnation: str, wanted: int, tallies: Sequence[Tally], tokens_left: int, now: float
    ) -> Reply:
        """What `worker` may do next. `wanted`: requests it has in flight or could start.

        A new `incarnation` says that the worker before it under this number is lost.
        """
        me = self._workers.get(worker)
        if me is None or me.incarnation != incarnation:
            me = self._workers[worker] = _Worker(incarnation, now)
        me.heard, me.wanted = now, wanted
        me.in_flight = [tally.in_flight for tally in tallies]
        me.bounds = list(me.in_flight)
        for backend, tally in zip(self.backends, tallies, strict=True):
            self.news += backend.add(worker, tally, now)
        self._workers = {w: state for w, state in self._workers.items() if now - state.heard < LOST}
        if any(tally.answered for tally in tallies) or any(backend.paused(now) for backend in self.backends):
            self._well = now
        shares = self._shares(worker, now)
        return Reply(shares, self._granted(worker, tokens_left, now), self._period(), self._gone(now))

    def taken(self, now: float) -> int | None:
        """Requests in flight that all backends together take now; None while that of one is being found out."""
        if not all(backend.limit.settled or backend.aside for backend in self.backends):
            return None
        return min(self._concurrency, sum(backend.allowed(now) for backend in self.backends))

    def load(self, now: float) -> list[tuple[str, int, int]]:
        """Of each backend its URL, the requests it has in flight, and how many it may have."""
        return [
            (backend.url, sum(worker.in_flight[k] for worker in self._workers.values()), backend.allowed(now))
            for k, backend in enumerate(self.backends)
        ]

    def _shares(self, worker: int, now: float) -> tuple[int, ...]:
        me = self._workers[worker]
        wanted = {w: state.wanted for w, state in self._workers.items()}
        everywhere = sum(sum(state.bounds) for state in self._workers.values())
        shares = []
        for k, backend in enumerate(self.backends):
            held = {w: state.bounds[k] for w, state in self._workers.items()}
            limit = backend.allowed(now)
            room = min(limit - sum(held.values()), self._concurrency - everywhere) + held[worker]
            shares.append(max(0, min(fair_shares(wanted, limit, held)[worker], room)))
            me.bounds[k] = max(held[worker], shares[k])
            everywhere += me.bounds[k] - held[worker]
        return tuple(shares)

    def _granted(self, worker: int, tokens_left: int, now: float) -> int | None:
        if self._rate is None:
            return None
        burst = max(1.0, self._rate * PERIOD[1])
        grown = self._tokens + (now - self._tokens_at) * self._rate + tokens_left
        self._tokens, self._tokens_at = min(burst, grown), now
        # Only who has a share of some backend can use a token.
        wanted = {w: state.wanted if sum(state.bounds) else 0 for w, state in self._workers.items()}
        # A lone token goes to whoever comes first: its fair owner may be long in coming.
        count = max(fair_shares(wanted, int(self._tokens), {})[worker], min(1, int(self._tokens), wanted[worker]))
        self._tokens -= count
        return count

    def _period(self) -> float:
        latency = min((b.limit.latency for b in self.backends if b.limit.latency), default=0.0)
        return max(PERIOD[0], min(PERIOD[1], latency / 2)) * max(1.0, len(self._workers) / 50)

    def _gone(self, now: float) -> str:
        if now - self._well <= self._deadline or not all(backend.aside for backend in self.backends):
            return ""
        errors = "; ".join(f"{backend.url}: {backend.error or 'no answer'}" for backend in self.backends)
        return f"no backend has answered for {now - self._well:.0f} s ({errors})"


def fair_shares(wanted: Mapping[int, int], total: int, held: Mapping[int, int]) -> dict[int, int]:
    """`total` dealt out max-min fairly: nobody gets more than it wants, and what it leaves goes to the others.

    Odd units go to those who hold most already, so that they need not change hands.
    """
    shares = {}
    for left, worker in zip(range(len(wanted), 0, -1), sorted(wanted, key=lambda w: (wanted[w], w)), strict=True):
        shares[worker] = min(wanted[worker], total // left)
        total -= shares[worker]
    for worker in sorted(wanted, key=lambda w: (-held.get(w, 0), w)):
        if total and shares[worker] < wanted[worker]:
            shares[worker] += 1
            total -= 1
    return shares
