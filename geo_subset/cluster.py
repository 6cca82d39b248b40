"""Ray: connecting to a cluster, and working through units on tasks or on a pool of actors.

Both ways hold a bounded number of units in flight, hand small results back one by one as they come, and do a unit
again when its worker is lost. The driver sees unit ids and counters, never tables.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import ray
from ray import exceptions

from geo_subset import driver, events, local_ray, metrics, stopping, work
from geo_subset.errors import GeoSubsetError, SettingsError, StopRunError
from geo_subset.manifests import Record
from geo_subset.workers import GIB, Actors, Tasks, Workers

if TYPE_CHECKING:
    from geo_subset.settings import ClusterSettings

Unit = TypeVar("Unit")

#: How often a unit is tried when its own work raises.
ATTEMPTS = 3
#: How often a unit may lose its worker (killed, out of memory, node gone) before it is given up.
LOSSES = 10
#: Seconds between two looks at how many workers the cluster has room for, while no unit ends.
LOOK = 5.0
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
        metrics.export(True)
        yield
        return
    where = address or settings.address or os.environ.get("RAY_ADDRESS") or "local"
    # An early end leaves outcomes unread; what was wrong is told in our own words.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if where != "local":
        with _joined(where, options):
            metrics.export(True)
            yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Results stay on storage, so the object store only carries arguments.
    options["object_store_memory"] = 256 << 20
    with local_ray.private() as private, _joined(where, options | private):
        cpus = float(ray.cluster_resources().get("CPU", 0))
        if settings.cpus_per_worker > cpus:
            raise SettingsError(f"cluster.cpus_per_worker = {settings.cpus_per_worker:g}: this machine has {cpus:g}")
        metrics.export(False)
        yield


@contextlib.contextmanager
def _joined(where: str, options: dict[str, Any]) -> Iterator[None]:
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(where, **options)
    except Exception as error:  # Ray raises bare ones, when a node is slow to start among others
        # The reason (a token that is missing, another version) is that of the error before it.
        reasons = [str(e).strip().splitlines()[0] for e in (error, error.__cause__) if e is not None and str(e).strip()]
        raise SettingsError(f"no Ray cluster at {where}: {': '.join(reasons) or repr(error)}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray has put a handler of its own in its place
    try:
        yield
    finally:
        metrics.export(False)
        ray.shutdown()


def run_tasks(
    function: Callable[..., Any],
    units: Iterable[Unit],
    arguments: tuple[Any, ...],
    settings: ClusterSettings,
    gpus: float = 0,
    memory: int = GIB,
) -> Generator[Outcome[Unit], None, None]:
    """Runs `function(unit, *arguments)` as Ray tasks and yields outcomes as they come.

    Each has `gpus` for itself, and goes to a node that has `memory` bytes for it (as it peaks, not a bound).
    """
    measured = work.measured(driver.checked(function), settings.cpus_per_worker, gpus)
    yield from _drive(units, Tasks(measured, arguments, settings, gpus, memory))


def run_actors(
    actor_class: type,
    arguments: tuple[Any, ...],
    units: Iterable[Unit],
    settings: ClusterSettings,
    limit: int,
    useful: Callable[[], int | None] = lambda: None,
    memory: int = GIB,
) -> Generator[Outcome[Unit], None, None]:
    """Runs `actor.run(unit)` on a pool of actors made of `actor_class(index, *arguments)`; yields outcomes.

    Each actor holds up to two units at a time (its `run` is a coroutine, so that one unit's slow end overlaps the
    next one's start). Units go only to actors that have started, so one that the cluster has no room for holds none.
    A lost actor is replaced and its units are done again.

    There are as many actors as set, else as many as there are CPUs for. `useful` says how many have something to do
    (None: not known yet): where the number is not set, the pool shrinks to that, or grows with the cluster up to it.
    There are never more than `limit`, or than units left, so that nodes go back before the last unit ends.
    Raises StageError if an actor's constructor does.
    """
    waiting = list(units)
    measured = work.measured(driver.checked(actor_class), settings.cpus_per_worker)
    yield from _drive(waiting, Actors(measured, arguments, len(waiting), settings, limit, useful, memory))


def _drive(units: Iterable[Unit], team: Workers) -> Generator[Outcome[Unit], None, None]:
    """Keeps the workers busy until every unit has an outcome."""
    source = iter(units)
    pending: dict[Any, Unit] = {}
    waiting: deque[Unit] = deque()  # the next one, and those to be done again
    failures: dict[Unit, int] = {}
    losses: dict[Unit, int] = {}
    news = time.monotonic()
    try:
        while True:
            waiting.extend(itertools.islice(source, 0 if waiting else 1))
            while team.has_room() and waiting:  # asked even if nothing waits: the team follows the work
                unit = waiting.popleft()
                pending[team.submit(unit)] = unit
                waiting.extend(itertools.islice(source, 0 if waiting else 1))
            if not waiting and not pending:
                return
            stopping.check()
            ready, _ = ray.wait([*pending, *team.starting], num_returns=1, timeout=LOOK)
            stopping.check()
            if ready:
                news = time.monotonic()
            elif time.monotonic() - news >= PATIENCE and (team.starting or not _anything_runs()):
                wanted = "more workers" if pending else "a worker"
                events.event("waiting", f"waiting: the cluster has no room for {wanted}")
                news = time.monotonic()
            for reference in ready:
                if reference in team.starting:
                    team.started(reference)
                    continue
                unit = pending.pop(reference)
                outcome: Outcome[Unit] | None = None
                lost = False
                try:
                    outcome = Outcome(unit, _received(unit, ray.get(reference)))
                except exceptions.RayTaskError as error:
                    cause = error.cause
                    if isinstance(cause, StopRunError):
                        raise cause from None
                    failures[unit] = failures.get(unit, 0) + 1
                    final = isinstance(cause, GeoSubsetError) or failures[unit] >= ATTEMPTS
                    _tell_of_failure(unit, cause, failures[unit], final)
                    if final:
                        outcome = Outcome(unit, error=_one_line(cause), wrong_input=isinstance(cause, SettingsError))
                except exceptions.RayError as error:
                    lost = True
                    losses[unit] = losses.get(unit, 0) + 1
                    _tell_of_loss(unit, error, losses[unit])
                    if losses[unit] >= LOSSES:
                        outcome = Outcome(unit, error=_lost(error, losses[unit]))
                team.ended(reference, lost, outcome is not None)
                if outcome is None:
                    waiting.append(unit)
                else:
                    yield outcome
    finally:
        team.close()


def _received(unit: Any, finished: work.Finished) -> Any:
    """A unit's result; tells of it, and of what its worker logged."""
    result = finished.result
    record = result[0] if isinstance(result, tuple) else result
    if isinstance(record, Record):
        used = record.extra.get("usage", {})
        sizes = {"files": len(record.files), "bytes": sum(entry.bytes for entry in record.files)}
        events.tell(finished.kept, unit=record.unit)
        events.event("unit done", **{"unit": record.unit, **sizes, **used, "counters": record.counters})
        metrics.unit_done(record)
    else:
        events.tell(finished.kept, unit=_name(unit))
    return result


def _tell_of_failure(unit: Any, cause: BaseException, times: int, final: bool) -> None:
    error, name = _one_line(cause), _name(unit)
    metrics.trouble("failed")
    if final:  # people are told by whoever gets the outcome
        events.event("unit failed", level=logging.ERROR, unit=name, error=error, attempts=times)
    else:
        message = f"{name} failed ({error}); it is tried again"
        events.event("unit tried again", message, level=logging.WARNING, unit=name, error=error, attempts=times)


def _tell_of_loss(unit: Any, error: BaseException, times: int) -> None:
    kind = type(error).__name__
    metrics.trouble("lost")
    events.event(
        "worker lost", f"a worker was lost ({kind}); its work is done again",
        level=logging.WARNING, unit=_name(unit), error=kind, losses=times,
    )  # fmt: skip


def _name(unit: Any) -> str:
    """A unit as the log names it: shards and chunks have names, numbers and files stand for themselves."""
    return str(getattr(unit, "name", None) or getattr(unit, "unit", None) or unit)[:200]


def _anything_runs() -> bool:
    """Whether any CPU of the cluster is in use."""
    return float(ray.available_resources().get("CPU", 0)) < float(ray.cluster_resources().get("CPU", 0))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, GeoSubsetError) else f"{type(error).__name__}: {text}"


def _lost(error: BaseException, times: int) -> str:
    return f"its worker died {times} times ({type(error).__name__}); the node may be out of memory"
