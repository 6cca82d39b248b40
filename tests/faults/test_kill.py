"""kill -9 of the driver in the middle of each stage: the next run ends like one that nobody disturbed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from pipeline_runs import command, rubbish, samples, tables

FOLDERS = {"places": "places", "retrieve": "matches", "merge": "samples", "download": "shards", "report": "report"}


def in_the_middle(run, stage):
    """Whether a stage has begun and is not done: its folder holds something, but no manifest."""
    folder = Path(run) / FOLDERS[stage]
    return folder.exists() and any(folder.iterdir()) and not (folder / "_manifest.json").exists()


def lives_on(driver):
    """Whether the driver is still there two milliseconds later."""
    try:
        driver.wait(0.002)
    except subprocess.TimeoutExpired:
        return True
    return False


def killed_in_the_middle(stage, rng, run_file, run):
    """Kills a run's driver at a random moment of a stage. Returns what it left behind, Ray's workers among it."""
    delay = rng.uniform(0, {"retrieve": 0.6, "merge": 0.5, "download": 3.0}.get(stage, 0.0))
    with subprocess.Popen(command(run_file, run), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
        while not in_the_middle(run, stage):
            assert lives_on(driver)
        until = time.monotonic() + delay
        while time.monotonic() < until and in_the_middle(run, stage):
            assert lives_on(driver)
        orphans = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    return orphans


@pytest.mark.ci
def test_kill_driver_in_the_middle_of_every_stage(run_file, undisturbed, tmp_path):
    """What a killed driver left behind lives on beside the next run, which is killed one stage further on."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    print(f"FAULT_SEED={seed}")
    rng, run, orphans = random.Random(seed), tmp_path / "run", []
    try:
        for stage in FOLDERS:
            left = killed_in_the_middle(stage, rng, run_file, run)
            end(orphans)  # those of the kill before: five Rays at once would need more memory than a laptop has
            orphans = left
        last = subprocess.run(command(run_file, run), capture_output=True, text=True, check=False)
    finally:
        end(orphans)
    assert last.returncode == 0, last.stderr
    assert (tables(run), samples(run)) == undisturbed
    assert rubbish(run) == []


def end(processes):
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
