"""Who does units of work on a Ray cluster: tasks, or a pool of actors that follows the cluster and the work.

Both know nothing of what a unit is, nor of what becomes of its result; `cluster` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray import exceptions

from geo_subset.errors import StageError

if TYPE_CHECKING:
    from geo_subset.settings import ClusterSettings

UNITS_PER_ACTOR = 2
#: Fewer workers than CPUs go to all nodes alike: each node's network, disk and DNS cache carry a share, and a lost node
#: takes as few of them as possible.
_PLACEMENT = "SPREAD"
GIB = 1 << 30


def worker_count(settings: ClusterSettings, memory: int = 0) -> int:
    """Worker processes that run at a time: as set, else as many as the cluster has CPUs and memory for now."""
    if settings.workers is not None:
        return settings.workers
    there = ray.cluster_resources()
    workers = float(there.get("CPU", 1)) / settings.cpus_per_worker
    return max(1, int(min(workers, float(there.get("memory", math.inf)) / memory) if memory else workers))


def gpu_count() -> float:
    """GPUs of the cluster."""
    return float(ray.cluster_resources().get("GPU", 0))


def placeable(memory: int) -> int:
    """`memory`, or what the largest node has to give where that is less: it is the best place there is."""
    most = max((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    return min(memory, int(most))


class Workers(Protocol):
    """Who does the units."""

    starting: dict[Any, int]
    """What becomes ready when a worker has started."""

    def has_room(self) -> bool: ...

    def submit(self, unit: Any) -> Any:
        """Hands a unit out; returns the reference of its result."""

    def ended(self, reference: Any, lost: bool, final: bool, /) -> None:
        """A unit has come back, as it was `lost` or not; `final`: it is not handed out again."""

    def started(self, reference: Any, /) -> None: ...

    def close(self) -> None: ...


class Tasks:
    """Ray tasks, as many at a time as there are workers."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        settings: ClusterSettings,
        gpus: float,
        memory: int,
    ) -> None:
        self.starting: dict[Any, int] = {}
        self._settings, self._gpus, self._memory = settings, gpus, placeable(memory)
        self._remote = ray.remote(
            num_cpus=settings.cpus_per_worker,
            num_gpus=gpus,
            memory=self._memory,
            max_retries=0,
            scheduling_strategy=_PLACEMENT,
        )(function)
        self._arguments = [ray.put(argument) for argument in arguments]
        self._out = 0

    def has_room(self) -> bool:
        # Where the number is not set, it follows the cluster as it grows, and one more round waits: that keeps workers
        # busy and tells an autoscaler of the demand.
        workers = worker_count(self._settings, self._memory)
        workers = min(workers, int(gpu_count() / self._gpus)) if self._gpus else workers
        return self._out < (workers if self._settings.workers is not None else 2 * workers)

    def submit(self, unit: Any) -> Any:
        self._out += 1
        return self._remote.remote(unit, *self._arguments)

    def ended(self, _reference: Any, _lost: bool, _final: bool, /) -> None:
        self._out -= 1

    def started(self, _reference: Any, /) -> None:
        raise AssertionError("tasks start by themselves")

    def close(self) -> None:
        """What is left ends with the connection. `ray.cancel` is no way: where it meets a task that has just ended, by
        force or not, Ray (2.60) ends this process before it has said what went wrong."""


@dataclass
class _Actor:
    handle: Any
    load: int | None = None
    """Units it holds; None until it has started."""


class Actors:
    """A pool of actors that follows the cluster and the work."""

    def __init__(
        self,
        actor_class: Callable[..., Any],
        arguments: tuple[Any, ...],
        units: int,
        settings: ClusterSettings,
        limit: int,
        useful: Callable[[], int | None],
        memory: int,
    ) -> None:
        self.starting: dict[Any, int] = {}
        self._settings, self._limit, self._useful, self._memory = settings, limit, useful, placeable(memory)
        self._remote = ray.remote(
            num_cpus=settings.cpus_per_worker,
            memory=self._memory,
            max_restarts=0,
            max_concurrency=UNITS_PER_ACTOR,
            scheduling_strategy=_PLACEMENT,
        )(actor_class)
        self._arguments = arguments
        self._left = units
        self._actors: dict[int, _Actor] = {}
        self._homes: dict[Any, tuple[int, _Actor]] = {}
        self._next: int | None = None

    def has_room(self) -> bool:
        """Also has the pool follow the cluster and the work."""
        wanted = self._wanted()
        for index in range(wanted):
            if len(self._actors) < wanted and index not in self._actors:
                self._make(index)
        # Those that hold most stay: the others are the first to have nothing left.
        held = {i: -1 if actor.load is None else actor.load for i, actor in self._actors.items()}
        ranked = sorted(held, key=lambda i: (-held[i], i))
        for index in ranked[wanted:]:
            if held[index] <= 0:
                self._retire(index)
        room = [i for i in ranked[:wanted] if 0 <= held[i] < UNITS_PER_ACTOR]
        self._next = min(room, key=held.__getitem__, default=None)
        return self._next is not None

    def submit(self, unit: Any) -> Any:
        assert self._next is not None, "asked for before"
        index, actor = self._next, self._actors[self._next]
        reference = actor.handle.run.remote(unit)
        self._homes[reference] = index, actor
        actor.load = (actor.load or 0) + 1
        return reference

    def ended(self, reference: Any, lost: bool, final: bool, /) -> None:
        index, actor = self._homes.pop(reference)
        self._left -= int(final)
        if self._actors.get(index) is not actor:
            return  # replaced already, when another of its units was reported lost
        assert actor.load is not None
        actor.load -= 1
        if lost:
            ray.kill(actor.handle, no_restart=True)
            self._make(index)

    def started(self, reference: Any, /) -> None:
        index = self.starting.pop(reference)
        try:
            ray.get(reference)
        except exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise StageError(f"a worker could not start: {_last_line(error)}") from error
            self._make(index)
        else:
            self._actors[index].load = 0

    def close(self) -> None:
        for index in list(self._actors):
            self._retire(index)

    def _wanted(self) -> int:
        """How many actors there should be."""
        here = worker_count(self._settings, self._memory)
        if self._settings.workers is None and (useful := self._useful()) is not None:
            # One more round waits for the cluster to grow, if it can be of use.
            here = min(2 * here, max(1, useful))
        return min(here, self._limit, self._left)

    def _make(self, index: int) -> None:
        self._actors[index] = actor = _Actor(self._remote.remote(index, *self._arguments))
        self.starting[actor.handle.__ray_ready__.remote()] = index

    def _retire(self, index: int) -> None:
        ray.kill(self._actors.pop(index).handle, no_restart=True)
        for reference in [r for r, i in self.starting.items() if i == index]:
            del self.starting[reference]


def _last_line(error: BaseException) -> str:
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)])[-1]
