"""What work costs: seconds and CPU seconds, requests and bytes, counted in the worker and told by unit.

Units of one process may overlap (an actor holds two), so what it used is counted for the process as a whole and handed
to whichever unit is recorded next: sums are right, a single unit's share is about right. What a failed attempt used
goes to the next unit of its process; what a killed process used since its last record is lost.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from geo_subset import events, metrics


@dataclass(frozen=True)
class Finished:
    """What a worker sends to the driver: the result of its function, and what it logged."""

    result: Any
    kept: events.Kept


def measured(work: Callable[..., Any], cpus: float, gpus: float = 0) -> Callable[..., Any]:
    """`work` (a function, or an actor's class with a coroutine `run`) such that a worker measures it: it returns
    `Finished`. `cpus` and `gpus` are what a worker holds."""
    subject, exported = events.subject(), metrics.exported()

    if isinstance(work, type):

        async def run(actor: Any, unit: Any) -> Finished:
            events.adopt(subject)
            metrics.export(exported)
            with busy(cpus, gpus), events.kept() as kept:
                return Finished(await work.run(actor, unit), kept)  # type: ignore[attr-defined]

        return type(work.__name__, (work,), {"run": run, "__module__": work.__module__})

    @functools.wraps(work)
    def measured_work(*arguments: Any) -> Finished:
        events.adopt(subject)
        metrics.export(exported)
        with busy(cpus, gpus), events.kept() as kept:
            return Finished(work(*arguments), kept)

    return measured_work


@contextlib.contextmanager
def busy(cpus: float = 1, gpus: float = 0) -> Iterator[None]:
    """This process works on a unit as long as the context lasts, with so many CPUs and GPUs to itself."""
    _meter.begin(cpus, gpus)
    try:
        yield
    finally:
        _meter.end()


def add(name: str, amount: int) -> None:
    """Counts what work needs and results do not show: 'requests', 'bytes_fetched'."""
    _meter.add(name, amount)


def taken() -> dict[str, float]:
    """What this process used since it was last asked, while it was busy.

    worker_seconds: with a unit in hand; reserved_cpu_seconds and reserved_gpu_seconds: these times what the worker
    holds; used_cpu_seconds: CPU time of the process; and what was counted by `add`.
    """
    return _meter.take()


class _Meter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._units = 0
        self._held = (1.0, 0.0)
        self._wall = self._cpu = 0.0
        self._sums: Counter[str] = Counter()

    def begin(self, cpus: float, gpus: float) -> None:
        with self._lock:
            if not self._units:
                self._wall, self._cpu = time.monotonic(), time.process_time()
            self._units += 1
            self._held = (cpus, gpus)

    def end(self) -> None:
        with self._lock:
            self._settle()
            self._units -= 1

    def add(self, name: str, amount: int) -> None:
        with self._lock:
            self._sums[name] += amount

    def take(self) -> dict[str, float]:
        with self._lock:
            if self._units:
                self._settle()
            taken: dict[str, float] = {name: round(amount, 3) for name, amount in self._sums.items() if amount}
            self._sums.clear()
            return taken

    def _settle(self) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        seconds, (cpus, gpus) = wall - self._wall, self._held
        self._sums.update(  # type: ignore[call-overload]
            worker_seconds=seconds, reserved_cpu_seconds=seconds * cpus, reserved_gpu_seconds=seconds * gpus,
            used_cpu_seconds=cpu - self._cpu,
        )  # fmt: skip
        self._wall, self._cpu = wall, cpu


_meter = _Meter()
