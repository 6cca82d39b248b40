"""Backends and workers simulated event by event, with the real `Limits` between them: no clock, no waiting."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from geo_subset.retrieve.limits import Limits, Tally


@dataclass
class Model:
    """A backend: how many requests a second it gets done with n in flight, and which share of them fails."""

    speed: Callable[[int, float], float]
    """(requests in flight, time) -> requests a second, all of them together."""
    failing: Callable[[int], float] = lambda _n: 0.0
    spread: float = 0.2
    """Standard deviation of the requests' work, of 1 on average."""


@dataclass
class Outcome:
    answered: list[float] = field(default_factory=list)
    """When requests were answered."""
    in_flight: list[tuple[float, int]] = field(default_factory=list)
    """(time, requests in flight) whenever a worker has reported."""
    limits: list[tuple[float, int]] = field(default_factory=list)
    taken: list[int | None] = field(default_factory=list)

    def rate(self, start: float, stop: float) -> float:
        return sum(start < time <= stop for time in self.answered) / (stop - start)


@dataclass
class _Request:
    worker: int
    left: float
    began: float


@dataclass
class _State:
    next_report: float
    reported: float = 0.0
    share: int = 0
    busy: float = 0.0
    held: float = 0.0
    answered: int = 0
    failed: int = 0
    failing: int = 0

    def tally(self, now: float, in_flight: int) -> Tally:
        said = Tally(now - self.reported, self.busy, self.held, self.answered, self.failed, self.failing, in_flight)
        self.busy = self.held = 0.0
        self.answered = self.failed = self.failing = 0
        self.reported = now
        return said


def simulate(
    model: Model, seconds: float, workers: int = 2, wanted: int = 64, concurrency: int = 128, seed: int = 0
) -> Outcome:
    """Workers that always want `wanted` requests in flight, on one backend."""
    chance = random.Random(seed)
    limits = Limits(["backend"], concurrency, None, 600.0, 0.0)
    states = [_State(next_report=0.001 * worker) for worker in range(workers)]
    requests: list[_Request] = []
    outcome = Outcome()
    sigma = math.sqrt(math.log(1 + model.spread**2))
    now = 0.0
    while now < seconds:
        each = model.speed(len(requests), now) / len(requests) if requests else 0.0
        ends = min((request.left for request in requests), default=math.inf) / each if each else math.inf
        step = min(ends, min(state.next_report for state in states) - now)
        now += step
        for request in requests:
            request.left -= step * each
            states[request.worker].busy += step
        for request in [r for r in requests if r.left <= 1e-9]:
            state = states[request.worker]
            state.held += now - request.began
            if chance.random() < model.failing(len(requests)):
                state.failed += 1
                state.failing += 1
            else:
                state.answered += 1
                state.failing = 0
                outcome.answered.append(now)
        requests = [r for r in requests if r.left > 1e-9]
        for worker, state in enumerate(states):
            mine = sum(request.worker == worker for request in requests)
            if state.next_report <= now + 1e-12:
                reply = limits.exchange(worker, "first", wanted, [state.tally(now, mine)], 0, now)
                (state.share,) = reply.shares
                state.next_report = now + reply.period
                outcome.in_flight.append((now, len(requests)))
                outcome.limits.append((now, limits.backends[0].allowed(now)))
                outcome.taken.append(limits.taken(now))
            while mine < min(state.share, wanted):
                requests.append(_Request(worker, chance.lognormvariate(-sigma * sigma / 2, sigma), now))
                mine += 1
    return outcome
