"""Nodes come and go: the pool of actors asks for them, uses them, and lets them go before its last unit ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from autoscaling import autoscaling_cluster

# Beside other work on two cores it has timed out: nodes come and go while the machine is busy with starting others.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Units wait for a file: the first ones until all workers are there, the last one until their nodes have gone.
_DRIVER = """
import asyncio, os, sys
from pathlib import Path
from geo_subset import cluster
from geo_subset.settings import ClusterSettings
from ray import cloudpickle

class Waiter:
    def __init__(self, index, folder):
        self.folder = Path(folder)
    async def run(self, unit):
        (self.folder / f"began-{unit}-{os.getpid()}").touch()
        while not (self.folder / ("last" if unit == 11 else "go")).exists():
            await asyncio.sleep(0.05)
        return os.getpid()

cloudpickle.register_pickle_by_value(sys.modules["__main__"])
settings = ClusterSettings(workers=3)
with cluster.connect(settings, sys.argv[1]):
    outcomes = list(cluster.run_actors(Waiter, (sys.argv[2],), range(12), settings, 100))
print(sorted(o.unit for o in outcomes), len({o.result for o in outcomes}), {o.error for o in outcomes})
"""


def until(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_from_one_node_to_three_and_back(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def actors() -> int:
        return len({path.name.split("-")[2] for path in marks.glob("began-*")})

    with autoscaling_cluster(tmp_path, most=3, idle_minutes=0.4) as cluster:
        until(lambda: cluster.nodes() == 1)
        command = [sys.executable, "-c", _DRIVER, cluster.address, str(marks)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
            try:
                until(lambda: actors() == 3 or driver.poll() is not None)
                assert cluster.nodes() == 3
                (marks / "go").touch()
                until(lambda: cluster.nodes() == 1 or driver.poll() is not None)
                assert driver.poll() is None, "the last unit is still at work: its node stays, the others go"
                (marks / "last").touch()
                out, err = driver.communicate(timeout=60)
            finally:
                driver.kill()
    assert out == f"{list(range(12))} 3 {{None}}\n", err
