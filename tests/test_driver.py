"""What a worker does when its driver has ended: nothing counts any more. This process is the worker."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from geo_subset import driver, lease, ownership, storage
from geo_subset.errors import DriverLostError, FolderNotSharedError, StageError
from geo_subset.runfolder import StageFolder

#: A driver that holds a run folder until its stdin ends. Words: run folder, a name for its machine or "".
DRIVER = """
import sys
from geo_subset import lease

lease.BEAT, lease.TICK = 0.05, 0.01
if sys.argv[2]:
    lease._machine = lambda: sys.argv[2]
with lease.held(sys.argv[1]):
    print("holds", flush=True)
    sys.stdin.read()
"""
Drivers = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run_url(tmp_path: Path) -> str:
    return ownership.claim(str(tmp_path / "run"), "")


@pytest.fixture
def held_by(run_url: str) -> Iterator[Drivers]:
    made = []

    def begin(machine: str = "") -> subprocess.Popen[str]:
        words = [sys.executable, "-c", DRIVER, run_url, machine]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        made.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        seen(run_url)
        return process

    yield begin
    for process in made:
        process.kill()
        process.communicate()
    driver._drivers.pop(run_url, None)


def seen(run_url: str) -> lease.Holder:
    """Has this worker see who holds the run folder."""
    there = lease.holder(run_url)
    assert there is not None
    driver.see(run_url, there.id)
    return there


def work(run_url: str) -> list[str]:
    """Does a unit; returns what is in the stage's folder afterwards."""
    folder = StageFolder(run_url, "merge", "0" * 64)
    storage.make_folder(f"{folder.url}/_records")
    try:
        folder.record("part-000000", [], {})
        folder.write_table(pa.table({"x": [1]}), "part-000000-00000000.parquet")
    finally:
        found = [*storage.sizes(folder.url), *storage.sizes(f"{folder.url}/_records")]
    return sorted(found)


def refused(run_url: str) -> None:
    """Nothing of a unit is put in place."""
    folder = StageFolder(run_url, "merge", "0" * 64)
    storage.make_folder(f"{folder.url}/_records")
    before = {**storage.sizes(folder.url), **storage.sizes(f"{folder.url}/_records")}
    with pytest.raises(DriverLostError, match="has ended, or lost"):
        folder.record("part-000001", [], {})
    with pytest.raises(DriverLostError):
        folder.write_table(pa.table({"x": [1]}), "part-000001-00000000.parquet")
    assert {**storage.sizes(folder.url), **storage.sizes(f"{folder.url}/_records")} == before


def test_a_worker_looks_for_the_lease(run_url: str) -> None:
    with pytest.raises(FolderNotSharedError, match=r"node .* does not see the run folder"):
        driver.see(run_url, "id")
    with lease.held(run_url):
        sought = lease.token()
        assert sought is not None
        driver.see(*sought)
        with pytest.raises(StageError, match="is held by another driver by now"):
            driver.see(run_url, "id")
    driver.see(*sought)  # seen once, it is not looked for again
    driver._drivers.clear()


@pytest.mark.parametrize("machine", ["", "far away"])
def test_for_a_driver_that_lives_work_counts(run_url: str, held_by: Drivers, machine: str) -> None:
    held_by(machine)
    assert work(run_url) == ["part-000000-00000000.parquet", "part-000000.json"]


def test_without_a_driver_there_is_nothing_to_check(run_url: str) -> None:
    assert work(run_url) == ["part-000000-00000000.parquet", "part-000000.json"]


def test_after_kill_9_nothing_counts(run_url: str, held_by: Drivers) -> None:
    process = held_by()
    process.kill()
    process.wait()
    refused(run_url)


def test_after_the_driver_has_ended_well_nothing_counts(run_url: str, held_by: Drivers) -> None:
    held_by().communicate("")
    assert lease.holder(run_url) is None
    refused(run_url)


def test_for_a_driver_that_lost_its_lease_nothing_counts(run_url: str, held_by: Drivers) -> None:
    held_by()
    there = seen(run_url)
    storage.write_text(f"{run_url}/{lease.FILE}", lease._text(dataclasses.replace(there, id="0" * 32)))
    refused(run_url)


def test_of_two_leases_the_last_one_seen_is_worked_for(run_url: str, held_by: Drivers) -> None:
    first = held_by()
    first.communicate("")
    refused(run_url)
    held_by()
    assert len(work(run_url)) == 2


def test_a_driver_elsewhere_that_is_killed_falls_silent(run_url: str, held_by: Drivers, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Its beats are watched all the time; a silence is not held against it before it is long enough."""
    for name, seconds in (("BEAT", 0.05), ("TICK", 0.01), ("SILENCE", 1.0)):
        monkeypatch.setattr(lease, name, seconds)
    process = held_by("far away")
    known = driver._drivers[run_url]
    first = known._beat
    while known._beat == first:  # the thread has noticed
        time.sleep(0.01)
    process.kill()
    process.wait()
    while lease.awake() - known._changed < 2 * lease.BEAT:
        time.sleep(0.01)
    refused(run_url)
    assert lease.awake() - known._changed >= lease.SILENCE


def test_in_doubt_a_worker_waits_for_the_next_beat(run_url: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """By a clock of the test's own; a driver elsewhere is silent, and beats once more just in time."""
    now = 1000.0
    there = dataclasses.replace(lease._myself(), machine="far away")
    url = f"{run_url}/{lease.FILE}"
    storage.write_text(url, lease._text(there))
    monkeypatch.setattr(lease, "awake", lambda: now)
    monkeypatch.setattr("threading.Thread.start", lambda _: None)
    driver.see(run_url, there.id)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now == 1000 + lease.SILENCE - 1:
            storage.write_text(url, lease._text(dataclasses.replace(there, beat=1)))

    monkeypatch.setattr("time.sleep", sleep)
    now += 2 * lease.BEAT - 1
    driver.check(run_url)
    assert now == 1000 + 2 * lease.BEAT - 1, "not in doubt yet"
    now += 1
    driver.check(run_url)
    assert now == 1000 + lease.SILENCE - 1
    now += 2 * lease.BEAT
    with pytest.raises(DriverLostError):
        driver.check(run_url)
    assert now == 1000 + 2 * lease.SILENCE - 1
    driver._drivers.clear()


def test_processes_that_are_hidden_are_not_gone(run_url: str, held_by: Drivers, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """As where /proc is mounted with hidepid, and the driver is another user's."""
    held_by()
    stat = lease._stat
    monkeypatch.setattr(lease, "_stat", lambda pid: stat(pid) if pid == os.getpid() else None)
    assert lease.lives(seen(run_url)) is None
    assert len(work(run_url)) == 2
