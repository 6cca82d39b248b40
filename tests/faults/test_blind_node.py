"""A node that does not see the run folder: in a mount namespace of its own, an empty file system lies over it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pipeline_runs import command
from ray.cluster_utils import Cluster

#: Works on a run folder with tasks or actors that go on for ever where they see it.
DRIVER = """
import asyncio, sys, time
from geo_subset import cluster, lease, nodes
from geo_subset.errors import StageError
from geo_subset.settings import ClusterSettings

def task(unit):
    while True:
        time.sleep(0.1)

class Actor:
    def __init__(self, index): pass
    async def run(self, unit):
        await asyncio.sleep(1e6)

run, address, way = sys.argv[1:]
settings = ClusterSettings(workers=2)
try:
    with lease.held(run), cluster.connect(settings, address):
        nodes.check()
        print("all see it", flush=True)
        sys.stdin.readline()
        ways = {"tasks": lambda: cluster.run_tasks(task, range(4), (), settings),
                "actors": lambda: cluster.run_actors(Actor, (), range(4), settings, 2)}
        print([outcome for outcome in ways[way]()])
except StageError as error:
    print(error)
"""


@pytest.fixture
def one_node() -> Iterator[Cluster]:
    one = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20},
    )
    yield one
    one.shutdown()


@pytest.fixture
def add_blind_node(one_node: Cluster) -> Iterator[Callable[[Path], None]]:
    """Adds a node that sees another, empty folder in place of the one given."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace may not be made here")
    started: list[subprocess.Popen[bytes]] = []

    def add(folder: Path) -> None:
        start = [
            sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={one_node.address}", "--num-cpus=1",
            "--object-store-memory=100000000", "--block",
        ]  # fmt: skip
        hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder), *start]
        started.append(subprocess.Popen(hidden, stdout=subprocess.DEVNULL))

    yield add
    for process in started:
        below = psutil.Process(process.pid).children(recursive=True)
        for each in [process, *below]:
            each.kill()
        process.wait()


def wait_for_nodes(address: str, count: int) -> None:
    code = "import ray, sys; ray.init(sys.argv[1], logging_level=40); print(sum(n['Alive'] for n in ray.nodes()))"
    words = [sys.executable, "-c", code, address]
    while int(subprocess.run(words, capture_output=True, text=True, check=True).stdout) < count:
        time.sleep(0.1)


@pytest.mark.ci
def test_a_node_that_is_there_from_the_start(one_node, add_blind_node, run_file, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    add_blind_node(run)
    wait_for_nodes(one_node.address, 2)
    words = command(run_file, run, f"--address={one_node.address}", what="retrieve")
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("geo-subset: 1 of 2 nodes do not see the run folder (")
    assert f"does not see the run folder {run} as the driver does" in last
    assert not (run / "matches").exists()


@pytest.mark.ci
@pytest.mark.parametrize("way", ["tasks", "actors"])
def test_a_node_that_joins_later(one_node, add_blind_node, tmp_path, way):
    run = tmp_path / "run"
    run.mkdir()
    words = [sys.executable, "-c", DRIVER, str(run), one_node.address, way]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "all see it\n"
        add_blind_node(run)
        wait_for_nodes(one_node.address, 2)
        out, _ = driver.communicate("\n")
    assert f"node {os.uname().nodename} does not see the run folder {run} as the driver does" in out
