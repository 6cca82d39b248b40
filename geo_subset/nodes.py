"""Whether every node of a Ray cluster sees the run folder, asked before any work; `lease.checked` asks later nodes."""

from __future__ import annotations

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geo_subset import lease
from geo_subset.errors import FolderNotSharedError, StageError
from geo_subset.progress import log

#: Seconds in which nodes answer; those that do not are asked before their first unit.
PATIENCE = 60.0


def check() -> None:
    """Raises FolderNotSharedError, naming the nodes that do not see the run folder that this process holds."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    sought = lease.token()
    if sought is None or len(nodes) < 2:
        return
    remote = ray.remote(num_cpus=0, max_retries=0)(_complaint)
    asked = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *sought
        ): node["NodeManagerAddress"]
        for node in nodes
    }
    answered, late = ray.wait([*asked], num_returns=len(asked), timeout=PATIENCE)
    complaints = {}
    for reference in answered:
        try:
            complaints[asked[reference]] = ray.get(reference)
        except exceptions.RayError:
            late.append(reference)
    if late:
        log.info(
            "%d of %d nodes did not say whether they see the run folder; they are asked again", len(late), len(asked)
        )
    blind = {address: complaint for address, complaint in complaints.items() if complaint}
    if blind:
        first = next(iter(blind.values()))
        raise FolderNotSharedError(
            f"{len(blind)} of {len(asked)} nodes do not see the run folder ({', '.join(sorted(blind))}): {first}"
        )


def _complaint(run_url: str, lease_id: str) -> str:
    """What `lease.see` complains about on this node; empty if nothing."""
    try:
        lease.see(run_url, lease_id)
    except StageError as error:
        return str(error)
    return ""
