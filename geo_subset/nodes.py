"""Whether every node of a Ray cluster sees the run folder, asked before any work; `driver.checked` asks later nodes."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geo_subset import driver, lease
from geo_subset.errors import FolderNotSharedError, StageError
from geo_subset.progress import log

#: Seconds in which nodes answer; those that do not are asked before their first unit.
PATIENCE = 60.0
#: Seconds after which a node is asked again that could not be.
AGAIN = 0.5


def check() -> None:
    """Raises FolderNotSharedError, naming the nodes that do not see the run folder that this process holds."""
    nodes = _alive()
    sought = lease.token()
    if sought is None or len(nodes) < 2:
        return
    remote = ray.remote(num_cpus=0, max_retries=0)(_complaint)

    def ask(node: dict[str, Any]) -> Any:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        return remote.options(scheduling_strategy=here).remote(*sought)

    asked = {ask(node): node for node in nodes}
    complaints = {}
    end = time.monotonic() + PATIENCE
    while asked and (left := end - time.monotonic()) > 0:
        for reference in ray.wait([*asked], timeout=left)[0]:
            node = asked.pop(reference)
            try:
                complaints[node["NodeManagerAddress"]] = ray.get(reference)
            except exceptions.RayError:  # it left, or the scheduler has not heard yet of a node that just joined
                time.sleep(AGAIN)
                if node["NodeID"] in {still["NodeID"] for still in _alive()}:
                    asked[ask(node)] = node
    if asked:
        log.info(
            "%d of %d nodes did not say whether they see the run folder; they are asked again", len(asked), len(nodes)
        )
    blind = {address: complaint for address, complaint in complaints.items() if complaint}
    if blind:
        first = next(iter(blind.values()))
        raise FolderNotSharedError(
            f"{len(blind)} of {len(nodes)} nodes do not see the run folder ({', '.join(sorted(blind))}): {first}"
        )


def _alive() -> list[dict[str, Any]]:
    """Ray's description of the nodes that work can go to."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _complaint(run_url: str, lease_id: str) -> str:
    """What `driver.see` complains about on this node; empty if nothing."""
    try:
        driver.see(run_url, lease_id)
    except StageError as error:
        return str(error)
    return ""
