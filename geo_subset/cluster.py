"""Ray: connecting to a cluster, and working through units on tasks or on a pool of actors.

Both ways hold a bounded number of units in flight, hand small results back one by one as they come, and do a unit
again when its worker is lost. The driver sees unit ids and counters, never tables.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray import exceptions

from geo_subset import stopping
from geo_subset.errors import GeoSubsetError, SettingsError, StageError, StorageFullError
from geo_subset.progress import log
from geo_subset.settings import ClusterSettings

Unit = TypeVar("Unit")

#: How often a unit is tried when its own work raises.
ATTEMPTS = 3
#: How often a unit may lose its worker (killed, out of memory, node gone) before it is given up.
LOSSES = 10
UNITS_PER_ACTOR = 2
#: Fewer workers than CPUs go to all nodes alike: each node's network, disk and DNS cache carry a share, and a lost node
#: takes as few of them as possible.
_PLACEMENT = "SPREAD"
#: Seconds without any news after which the log says what is being waited for.
PATIENCE = 60.0


@dataclass(frozen=True)
class Outcome(Generic[Unit]):
    """What became of a unit: a result, or the error of its last attempt."""

    unit: Unit
    result: Any = None
    error: str | None = None
    wrong_input: bool = False
    """Whether that error was a SettingsError: an input is wrong, and trying again would not help."""


@contextlib.contextmanager
def connect(settings: ClusterSettings, address: str | None = None) -> Iterator[None]:
    """Connects to the cluster named by the option, the setting or $RAY_ADDRESS (as in a Ray job), else starts one here.

    Raises SettingsError if no cluster answers there.
    """
    if ray.is_initialized():  # a caller (a test, a notebook) brought its own
        yield
        return
    where = address or settings.address or os.environ.get("RAY_ADDRESS") or "local"
    # An early end leaves outcomes unread; what was wrong is told in our own words.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if where == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Results stay on storage, so the object store only carries arguments.
        options |= {"include_dashboard": False, "object_store_memory": 256 << 20}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(where, **options)
    except Exception as error:  # Ray raises bare ones, when a node is slow to start among others
        lines = str(error).strip().splitlines() or [repr(error)]
        raise SettingsError(f"no Ray cluster at {where}: {lines[0]}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray has put a handler of its own in its place
    try:
        cpus = float(ray.cluster_resources().get("CPU", 0))
        if where == "local" and settings.cpus_per_worker > cpus:
            raise SettingsError(f"cluster.cpus_per_worker = {settings.cpus_per_worker:g}: this machine has {cpus:g}")
        yield
    finally:
        ray.shutdown()


def worker_count(settings: ClusterSettings) -> int:
    """Worker processes that run at a time: as set, else as many as the cluster's CPUs carry now."""
    if settings.workers is not None:
        return settings.workers
    cpus = float(ray.cluster_resources().get("CPU", 1))
    return max(1, int(cpus / settings.cpus_per_worker))


def gpu_count() -> float:
    """GPUs of the cluster."""
    return float(ray.cluster_resources().get("GPU", 0))


def run_tasks(
    function: Callable[..., Any],
    units: Iterable[Unit],
    arguments: tuple[Any, ...],
    settings: ClusterSettings,
    gpus: float = 0,
) -> Generator[Outcome[Unit], None, None]:
    """Runs `function(unit, *arguments)` as Ray tasks and yields outcomes as they come; each has `gpus` for itself."""
    remote = ray.remote(
        num_cpus=settings.cpus_per_worker, num_gpus=gpus, max_retries=0, scheduling_strategy=_PLACEMENT
    )(function)
    shared = [ray.put(argument) for argument in arguments]
    pending: dict[Any, Unit] = {}

    def has_room() -> bool:
        # Where the number is not set, it follows the cluster as it grows, and one more round waits: that keeps workers
        # busy and tells an autoscaler of the demand.
        workers = min(worker_count(settings), gpu_count() / gpus if gpus else math.inf)
        return len(pending) < (workers if settings.workers is not None else 2 * workers)

    def submit(unit: Unit) -> None:
        pending[remote.remote(unit, *shared)] = unit

    yield from _drive(units, submit, has_room, pending, lambda _reference, _lost: None, {}, lambda _: None)


def run_actors(
    actor_class: type, arguments: tuple[Any, ...], units: Iterable[Unit], settings: ClusterSettings, limit: int
) -> Generator[Outcome[Unit], None, None]:
    """Runs `actor.run(unit)` on a pool of actors made of `actor_class(index, workers, *arguments)`; yields outcomes.

    Each actor holds up to two units at a time (its `run` is a coroutine, so that one unit's slow end overlaps the
    next one's start). Units go only to actors that have started, so one that the cluster has no room for holds none.
    A lost actor is replaced and its units are done again. There are never more actors than units or than `limit`.
    Raises StageError if an actor's constructor does.
    """
    waiting = list(units)
    workers = min(worker_count(settings), max(1, len(waiting)), limit)
    remote = ray.remote(
        num_cpus=settings.cpus_per_worker, max_restarts=0, max_concurrency=UNITS_PER_ACTOR,
        scheduling_strategy=_PLACEMENT,
    )(actor_class)  # fmt: skip
    actors: list[Any] = [None] * workers
    starting: dict[Any, int] = {}
    loads: dict[int, int] = {}  # of the actors that have started
    homes: dict[Any, tuple[int, Any]] = {}
    pending: dict[Any, Unit] = {}

    def make(index: int) -> None:
        actors[index] = remote.remote(index, workers, *arguments)
        starting[actors[index].__ray_ready__.remote()] = index
        loads.pop(index, None)

    def started(reference: Any) -> None:
        index = starting.pop(reference)
        try:
            ray.get(reference)
        except exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise StageError(f"a worker could not start: {_last_line(error)}") from error
            make(index)
        else:
            loads[index] = 0

    def submit(unit: Unit) -> None:
        home = min(loads, key=loads.__getitem__)
        reference = actors[home].run.remote(unit)
        pending[reference], homes[reference] = unit, (home, actors[home])
        loads[home] += 1

    def ended(reference: Any, lost: bool) -> None:
        home, actor = homes.pop(reference)
        if actors[home] is not actor:
            return  # replaced already, when another of its units was reported lost
        loads[home] -= 1
        if lost:
            ray.kill(actor, no_restart=True)
            make(home)

    try:
        for index in range(workers):
            make(index)
        yield from _drive(
            waiting, submit, lambda: min(loads.values(), default=UNITS_PER_ACTOR) < UNITS_PER_ACTOR, pending, ended,
            starting, started,
        )  # fmt: skip
    finally:
        for actor in filter(None, actors):
            ray.kill(actor, no_restart=True)


def _drive(
    units: Iterable[Unit],
    submit: Callable[[Unit], None],
    has_room: Callable[[], bool],
    pending: dict[Any, Unit],
    on_ended: Callable[[Any, bool], None],
    starting: dict[Any, int],
    on_started: Callable[[Any], None],
) -> Generator[Outcome[Unit], None, None]:
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
            if exhausted and not again and not pending:
                return
            stopping.check()
            ready, _ = ray.wait([*pending, *starting], num_returns=1, timeout=PATIENCE)
            stopping.check()
            if not ready and (starting or not _anything_runs()):
                log.info("waiting: the cluster has no room for %s", "more workers" if pending else "a worker")
            for reference in ready:
                if reference in starting:
                    on_started(reference)
                    continue
                unit = pending.pop(reference)
                outcome: Outcome[Unit] | None = None
                lost = False
                try:
                    outcome = Outcome(unit, ray.get(reference))
                except exceptions.RayTaskError as error:
                    cause = error.cause
                    if isinstance(cause, StorageFullError):
                        raise cause from None
                    failures[unit] = failures.get(unit, 0) + 1
                    final = isinstance(cause, GeoSubsetError) or failures[unit] >= ATTEMPTS
                    if final:
                        outcome = Outcome(unit, error=_one_line(cause), wrong_input=isinstance(cause, SettingsError))
                except exceptions.RayError as error:
                    lost = True
                    losses[unit] = losses.get(unit, 0) + 1
                    log.info("a worker was lost (%s); its work is done again", type(error).__name__)
                    if losses[unit] >= LOSSES:
                        outcome = Outcome(unit, error=_lost(error, losses[unit]))
                on_ended(reference, lost)
                if outcome is None:
                    again.append(unit)
                else:
                    yield outcome
    finally:
        for reference in pending:
            with contextlib.suppress(exceptions.RayError, ValueError, TypeError):
                # Killed: a worker interrupted while it imports a module would fail the next task that it is given.
                # (Actors' calls cannot be; their owner ends them.)
                ray.cancel(reference, force=True)


def _anything_runs() -> bool:
    """Whether any CPU of the cluster is in use."""
    return float(ray.available_resources().get("CPU", 0)) < float(ray.cluster_resources().get("CPU", 0))


def _last_line(error: BaseException) -> str:
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)])[-1]


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, GeoSubsetError) else f"{type(error).__name__}: {text}"


def _lost(error: BaseException, times: int) -> str:
    return f"its worker died {times} times ({type(error).__name__}); the node may be out of memory"
