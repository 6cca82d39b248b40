"""kill -9 of the driver in the middle of each stage: the next run ends like one that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from pipeline_runs import command, rubbish, samples, tables

from geo_subset.demo import launch

FOLDERS = {"places": "places", "retrieve": "matches", "merge": "samples", "download": "shards", "report": "report"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    world = launch.build(folder, places=40, images=600, port=None, corpus=None)
    with launch.serving(world):
        yield launch.write_run_file(world, folder)


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run(command(world, run), check=True, capture_output=True)
    return tables(run), samples(run)


def in_the_middle(run, stage):
    """Whether a stage has begun and is not done: its folder holds something, but no manifest."""
    folder = Path(run) / FOLDERS[stage]
    return folder.exists() and any(folder.iterdir()) and not (folder / "_manifest.json").exists()


@pytest.mark.parametrize("stage", list(FOLDERS))
def test_kill_driver_in_the_middle_of(stage, world, undisturbed, tmp_path):
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    print(f"FAULT_SEED={seed}")
    delay = random.Random(seed).uniform(0, {"retrieve": 0.6, "merge": 0.5, "download": 3.0}.get(stage, 0.0))
    run = tmp_path / "run"
    with subprocess.Popen(command(world, run), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
        tree = psutil.Process(driver.pid)
        while not in_the_middle(run, stage):
            assert driver.poll() is None or (Path(run) / FOLDERS[stage] / "_manifest.json").exists()
            if driver.poll() is not None:
                break
            time.sleep(0.001)
        until = time.monotonic() + delay
        while time.monotonic() < until and in_the_middle(run, stage):
            time.sleep(0.001)
        orphans = tree.children(recursive=True) if driver.poll() is None else []
        driver.send_signal(signal.SIGKILL)
    again = subprocess.run(command(world, run), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (tables(run), samples(run)) == undisturbed
    assert rubbish(run) == []
    psutil.wait_procs(orphans, timeout=60)
