"""Downloading beside what kills its tasks and its driver: afterwards every shard is whole, and the samples are those of
a run that nobody disturbed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pipeline_runs import command, rubbish, samples, words

KILLS = 20
#: How many tasks more than there are shards done have been killed at most: so the kills go over the whole run.
AHEAD = 4
#: The 496 samples make twenty shards, each of which takes some seconds for what fails in it is tried four times.
SHARDS_OF_25 = ("--set=download.samples_per_shard=25", "--set=download.retries=3")


def chance() -> random.Random:
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    print(f"FAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def verified(run_file: Path, geo_subset_here: Callable[..., tuple[int, str, str]]) -> Callable[..., None]:
    """Asserts that `verify` finds nothing in a run folder."""

    def check(run: Path, *more: str) -> None:
        status, out, err = geo_subset_here(*words("verify", run_file, run, *more))
        assert status == 0, out + err

    return check


def tasks(driver: int) -> list[psutil.Process]:
    """The workers that make a shard at this moment."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(driver).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith("ray::make_shard"):
                    found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tasks_killed_twenty_times_over_twenty_shards(run_file, undisturbed, verified, tmp_path):
    run, rng = tmp_path / "run", chance()
    killed = 0
    errors = tmp_path / "stderr"
    with errors.open("w") as stderr, subprocess.Popen(
        command(run_file, run, *SHARDS_OF_25), stderr=stderr, stdout=subprocess.DEVNULL
    ) as driver:  # fmt: skip
        until = 0.0
        while driver.poll() is None and killed < KILLS:
            victims = tasks(driver.pid)
            done = len(list((run / "shards" / "_records").glob("[0-9]*.json")))
            if not victims or done < killed - AHEAD:
                until = 0.0
            elif until == 0.0:
                until = time.monotonic() + rng.uniform(0, 3)
            elif time.monotonic() >= until:
                with contextlib.suppress(psutil.NoSuchProcess):
                    # The oldest: the one whose last task was not killed. A shard is given up after ten lost workers.
                    min(victims, key=psutil.Process.create_time).kill()
                    killed += 1
                until = 0.0
            time.sleep(0.05)
        status = driver.wait()
    assert status == 0, errors.read_text()
    assert killed == KILLS
    assert len(list((run / "shards").glob("*.tar"))) == 20
    assert samples(run) == undisturbed[1]
    assert rubbish(run) == []
    verified(run, *SHARDS_OF_25)


@pytest.mark.slow
def test_driver_killed_in_a_retry_pass(run_file, undisturbed, verified, tmp_path):
    run, rng = tmp_path / "run", chance()
    subprocess.run(command(run_file, run), check=True, capture_output=True)
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run / "shards").glob("[0-9]*")}
    counters = json.loads((run / "shards" / "_manifest.json").read_text())["counters"]
    retry = command(run_file, run, "--retry-failed", "--reason=.", what="download")
    manifest, records = run / "shards" / "_manifest.json", run / "shards" / "_records"
    # Once when the stage has been opened again, once when the pass has been declared begun.
    for begun in (lambda: not manifest.exists(), lambda: any(records.glob("retry-*.json"))):
        with subprocess.Popen(retry, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
            while not begun() and driver.poll() is None:
                time.sleep(0.002)
            until = time.monotonic() + rng.uniform(0, 3)
            while time.monotonic() < until and driver.poll() is None:
                time.sleep(0.002)
            orphans = psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else []
            driver.kill()
        assert driver.returncode in (-signal.SIGKILL, 0)
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
    again = subprocess.run(command(run_file, run), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    after = json.loads(manifest.read_text())["counters"]
    assert list((run / "shards").glob("_retry-*.parquet"))
    assert after["attempted"] == counters["attempted"]
    assert after["succeeded"] >= counters["succeeded"]
    now = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run / "shards").glob("[0-9]*")}
    assert {name: now[name] for name in before} == before
    assert set(samples(run)) >= set(undisturbed[1])
    assert rubbish(run) == []
    verified(run)
