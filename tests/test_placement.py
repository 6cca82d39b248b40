"""Where workers go on a cluster of several nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Prints on how many of two nodes two tasks at a time ran, and two actors; each node has room for all of them.
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
os.environ["RAY_raylet_start_wait_time_s"] = "200"  # where the machine is busy
import ray
from ray.cluster_utils import Cluster
from geo_subset import cluster
from geo_subset.settings import ClusterSettings

def node(unit):
    return ray.get_runtime_context().get_node_id()

class Worker:
    def __init__(self, index, folder):
        self.folder = Path(folder)
        (self.folder / str(index)).touch()

    async def run(self, unit):
        while len(list(self.folder.iterdir())) < 2:  # else one that starts first might do it all
            await asyncio.sleep(0.05)
        return node(unit)

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
try:
    for _ in range(2):
        nodes.add_node(num_cpus=4)
    settings = ClusterSettings(workers=2)
    with cluster.connect(settings, nodes.address):
        tasks = {outcome.result for outcome in cluster.run_tasks(node, range(6), (), settings)}
        actors = {outcome.result for outcome in cluster.run_actors(Worker, (sys.argv[1],), range(6), settings, limit=2)}
finally:
    nodes.shutdown()
print(len(tasks), len(actors))
"""


@pytest.mark.ci
def test_workers_are_spread_over_nodes(tmp_path: Path) -> None:
    out = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert out.stdout.split() == ["2", "2"], out.stderr
