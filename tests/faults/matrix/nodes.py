"""Two Ray nodes on this machine that outlive what is killed on them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable

import psutil
from ray.cluster_utils import Cluster

#: Titles of the processes below a raylet that work on nothing of ours at the moment.
_OTHERS = re.compile(r"ray::(IDLE|SPILL|RESTORE|DashboardAgent|RuntimeEnvAgent|Limiter)")
_STORE = 100 << 20


class Nodes:
    """A head of one CPU, which drivers connect to, and a second node of one CPU, which may be lost and replaced."""

    def __init__(self) -> None:
        # A lost node is found out within a second, and not in ten: that only makes trials shorter.
        checks = {"initial_delay_ms": 0, "period_ms": 300, "failure_threshold": 3, "timeout_ms": 60_000}
        options = {"include_dashboard": False, "_system_config": {f"health_check_{k}": v for k, v in checks.items()}}
        self._cluster = Cluster(True, head_node_args={"num_cpus": 1, "object_store_memory": _STORE, **options})
        self._second = self._cluster.add_node(num_cpus=1, object_store_memory=_STORE)
        self._orphans: list[psutil.Process] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def working(self, title: str | None = None, second_alone: bool = False) -> list[psutil.Process]:
        """The workers on a unit at this moment: all, or those whose title starts so."""
        found = []
        for raylet in [self._raylet(self._second)] + ([] if second_alone else [self._raylet(self._cluster.head_node)]):
            for process in _below(raylet):
                with contextlib.suppress(psutil.Error):
                    named = " ".join(process.cmdline())
                    if named.startswith(title) if title else named.startswith("ray::") and not _OTHERS.match(named):
                        found.append(process)
        return found

    def lose_second(self) -> None:
        """kill -9 of the second node's raylet. What ran below it is left to itself until `replace_lost`."""
        raylet = self._raylet(self._second)
        self._orphans += _below(raylet)
        raylet.kill()

    def replace_lost(self) -> None:
        """Another second node, if it was lost."""
        if self._raylet(self._second).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return
        self._cluster.remove_node(self._second, allow_graceful=False)
        end(self._orphans)
        self._orphans.clear()
        self._second = self._cluster.add_node(num_cpus=1, object_store_memory=_STORE)

    def end(self) -> None:
        self._cluster.shutdown()
        end(self._orphans)

    @staticmethod
    def _raylet(node: object) -> psutil.Process:
        return psutil.Process(node.all_processes["raylet"][0].process.pid)  # type: ignore[attr-defined]


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def end(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
