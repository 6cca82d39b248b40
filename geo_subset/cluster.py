"""Ray: connecting to a cluster, and working through units on tasks or on a pool of actors.

Both ways hold a bounded number of units in flight, hand small results back one by one as they come, and do a unit
again when its worker is lost. The driver sees unit ids and counters, never tables.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray import exceptions

from geo_subset.errors import GeoSubsetError, SettingsError, StorageFullError
from geo_subset.progress import log
from geo_subset.settings import ClusterSettings

Unit = TypeVar("Unit")

#: How often a unit is tried when its own work raises.
ATTEMPTS = 3
#: How often a unit may lose its worker (killed, out of memory, node gone) before it is given up.
LOSSES = 10
UNITS_PER_ACTOR = 2


@dataclass(frozen=True)
class Outcome(Generic[Unit]):
    """What became of a unit: a result, or the error of its last attempt."""

    unit: Unit
    result: Any = None
    error: str | None = None


@contextlib.contextmanager
def connect(settings: ClusterSettings, address: str | None = None) -> Iterator[None]:
    """Connects to the cluster named by the option, the setting or $RAY_ADDRESS (as in a Ray job), else starts one here.

    Raises SettingsError if no cluster answers there.
    """
    if ray.is_initialized():  # a caller (a test, a notebook) brought its own
        yield
        return
    where = address or settings.address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if where == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Results stay on storage, so the object store only carries arguments.
        options |= {"include_dashboard": False, "object_store_memory": 256 << 20}
    try:
        ray.init(where, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise SettingsError(f"no Ray cluster at {where}: {lines[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def worker_count(settings: ClusterSettings) -> int:
    """Worker processes that run at a time: as set, else as many as the cluster's CPUs carry now."""
    if settings.workers is not None:
        return settings.workers
    cpus = float(ray.cluster_resources().get("CPU", 1))
    return max(1, int(cpus / settings.cpus_per_worker))


def run_tasks(
    function: Callable[..., Any], units: Iterable[Unit], arguments: tuple[Any, ...], settings: ClusterSettings
) -> Iterator[Outcome[Unit]]:
    """Runs `function(unit, *arguments)` as Ray tasks and yields outcomes as they come."""
    remote = ray.remote(num_cpus=settings.cpus_per_worker, max_retries=0)(function)
    shared = [ray.put(argument) for argument in arguments]
    pending: dict[Any, Unit] = {}

    def has_room() -> bool:
        # Where the number is not set, it follows the cluster as it grows, and one more round waits: that keeps workers
        # busy and tells an autoscaler of the demand.
        workers = worker_count(settings)
        return len(pending) < (workers if settings.workers is not None else 2 * workers)

    def submit(unit: Unit) -> None:
        pending[remote.remote(unit, *shared)] = unit

    yield from _drive(units, submit, has_room, pending, on_lost=lambda _: None)


def run_actors(
    actor_class: type, arguments: tuple[Any, ...], units: Iterable[Unit], settings: ClusterSettings, limit: int
) -> Iterator[Outcome[Unit]]:
    """Runs `actor.run(unit)` on a pool of actors made of `actor_class(index, workers, *arguments)`; yields outcomes.

    Each actor holds up to two units at a time (its `run` is a coroutine, so that one unit's slow end overlaps the
    next one's start). A lost actor is replaced and its units are done again. There are never more actors than units
    or than `limit`.
    """
    waiting = list(units)
    workers = min(worker_count(settings), max(1, len(waiting)), limit)
    remote = ray.remote(num_cpus=settings.cpus_per_worker, max_restarts=0, max_concurrency=UNITS_PER_ACTOR)(actor_class)

    def make(index: int) -> Any:
        return remote.remote(index, workers, *arguments)

    actors = [make(index) for index in range(workers)]
    loads = [0] * workers
    homes: dict[Any, tuple[int, Any]] = {}
    pending: dict[Any, Unit] = {}

    def submit(unit: Unit) -> None:
        home = min(range(workers), key=loads.__getitem__)
        reference = actors[home].run.remote(unit)
        pending[reference], homes[reference] = unit, (home, actors[home])
        loads[home] += 1

    def on_lost(reference: Any) -> None:
        home, actor = homes[reference]
        if actors[home] is actor:  # else replaced already, when another of its units was reported lost
            ray.kill(actor, no_restart=True)
            actors[home] = make(home)

    def on_ended(reference: Any) -> None:
        home, _ = homes.pop(reference)
        loads[home] -= 1

    try:
        yield from _drive(waiting, submit, lambda: min(loads) < UNITS_PER_ACTOR, pending, on_lost, on_ended)
    finally:
        for actor in actors:
            ray.kill(actor, no_restart=True)


def _drive(
    units: Iterable[Unit],
    submit: Callable[[Unit], None],
    has_room: Callable[[], bool],
    pending: dict[Any, Unit],
    on_lost: Callable[[Any], None],
    on_ended: Callable[[Any], None] = lambda _: None,
) -> Iterator[Outcome[Unit]]:
    """Keeps the workers busy until every unit has an outcome."""
    source = iter(units)
    again: deque[Unit] = deque()
    failures: dict[Unit, int] = {}
    losses: dict[Unit, int] = {}
    exhausted = False
    try:
        while True:
            while has_room() and not (exhausted and not again):
                if again:
                    submit(again.popleft())
                    continue
                try:
                    submit(next(source))
                except StopIteration:
                    exhausted = True
            if not pending:
                return
            ended, _ = ray.wait(list(pending), num_returns=1)
            for reference in ended:
                unit = pending.pop(reference)
                outcome: Outcome[Unit] | None = None
                try:
                    outcome = Outcome(unit, ray.get(reference))
                except exceptions.RayTaskError as error:
                    cause = error.cause
                    if isinstance(cause, StorageFullError):
                        raise cause from None
                    failures[unit] = failures.get(unit, 0) + 1
                    final = isinstance(cause, GeoSubsetError) or failures[unit] >= ATTEMPTS
                    if final:
                        outcome = Outcome(unit, error=_one_line(cause))
                except exceptions.RayError as error:
                    on_lost(reference)
                    losses[unit] = losses.get(unit, 0) + 1
                    log.info("a worker was lost (%s); its work is done again", type(error).__name__)
                    if losses[unit] >= LOSSES:
                        outcome = Outcome(unit, error=_lost(error, losses[unit]))
                on_ended(reference)
                if outcome is None:
                    again.append(unit)
                else:
                    yield outcome
    finally:
        for reference in pending:
            with contextlib.suppress(exceptions.RayError, ValueError, TypeError):
                ray.cancel(reference, force=False)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, GeoSubsetError) else f"{type(error).__name__}: {text}"


def _lost(error: BaseException, times: int) -> str:
    return f"its worker died {times} times ({type(error).__name__}); the node may be out of memory"
