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


@pytest.mark.parametrize("stage", list(FOLDERS))
def test_kill_driver_in_the_middle_of(stage, run_file, undisturbed, tmp_path):
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    print(f"FAULT_SEED={seed}")
    delay = random.Random(seed).uniform(0, {"retrieve": 0.6, "merge": 0.5, "download": 3.0}.get(stage, 0.0))
    run = tmp_path / "run"
    with subprocess.Popen(command(run_file, run), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
        while not in_the_middle(run, stage):
            assert lives_on(driver)
        until = time.monotonic() + delay
        while time.monotonic() < until and in_the_middle(run, stage):
            assert lives_on(driver)
        orphans = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    try:  # what the killed driver left behind, Ray's workers among it, lives on beside the second run for a while
        again = subprocess.run(command(run_file, run), capture_output=True, text=True, check=False)
    finally:
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
    assert again.returncode == 0, again.stderr
    assert (tables(run), samples(run)) == undisturbed
    assert rubbish(run) == []
