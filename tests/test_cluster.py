from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray import cloudpickle

from geo_subset import cluster
from geo_subset.errors import StageError, StorageFullError
from geo_subset.settings import ClusterSettings

# By value: where another package is called 'tests', workers would look for this module there.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SETTINGS = ClusterSettings(workers=2)


def _square(unit, folder):
    return unit * unit


def _marks(folder, unit, name):
    """Leaves one file a call; returns how many calls there were before."""
    path = Path(folder) / f"{name}-{unit}"
    path.mkdir(exist_ok=True)
    before = len(list(path.iterdir()))
    (path / str(time.monotonic_ns())).touch()
    return before


def _fails_twice(unit, folder):
    if _marks(folder, unit, "try") < 2:
        raise RuntimeError("not\nyet")
    return unit


def _always_fails(unit, folder):
    _marks(folder, unit, "try")
    raise RuntimeError("broken\nbeyond repair") if unit == 1 else StageError("clear as it is")


def _dies_twice(unit, folder):
    if unit == 2 and _marks(folder, unit, "try") < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit


def _fills_the_disk(unit, folder):
    _marks(folder, unit, "try")
    raise StorageFullError("no space left")


def outcomes(function, units, folder):
    return sorted(cluster.run_tasks(function, units, (str(folder),), SETTINGS), key=lambda outcome: outcome.unit)


def test_every_unit_has_its_outcome(ray_session, tmp_path):
    assert [(o.unit, o.result, o.error) for o in outcomes(_square, range(20), tmp_path)] == [
        (i, i * i, None) for i in range(20)
    ]
    assert outcomes(_square, [], tmp_path) == []


def test_what_raises_is_tried_three_times(ray_session, tmp_path):
    assert [o.result for o in outcomes(_fails_twice, [5, 6], tmp_path)] == [5, 6]


def test_a_unit_that_keeps_raising_does_not_stop_the_others(ray_session, tmp_path):
    got = outcomes(_always_fails, [1, 2], tmp_path)
    assert [o.error for o in got] == ["RuntimeError: broken beyond repair", "clear as it is"]
    assert len(list((tmp_path / "try-1").iterdir())) == 3
    assert len(list((tmp_path / "try-2").iterdir())) == 1, "an error meant for the user is final"


def test_a_killed_worker_costs_nothing_but_its_unit_again(ray_session, tmp_path):
    assert [o.result for o in outcomes(_dies_twice, range(5), tmp_path)] == list(range(5))
    assert len(list((tmp_path / "try-2").iterdir())) == 3


def test_a_full_disk_stops_the_run_at_once(ray_session, tmp_path):
    with pytest.raises(StorageFullError):
        outcomes(_fills_the_disk, range(1000), tmp_path)
    assert len(list(tmp_path.iterdir())) < 20


def _ends_early(unit, folder):
    if unit == 3:
        raise StorageFullError("no space left")
    time.sleep(unit % 7 * 1e-4)


def test_stopping_meets_tasks_that_are_just_ending(ray_session, tmp_path):
    """Ray (2.60) ends a process that cancels them: within some hundred runs here."""
    for _ in range(200):
        with pytest.raises(StorageFullError):
            outcomes(_ends_early, range(40), tmp_path)


def test_what_a_stop_leaves_ends_with_the_connection(tmp_path):
    program = """
import contextlib, os, pathlib, sys, time
import psutil
from geo_subset import cluster
from geo_subset.errors import StorageFullError
from geo_subset.settings import ClusterSettings

def work(unit, file):
    if unit == "endless":
        pathlib.Path(file + ".new").write_text(str(os.getpid()))
        os.replace(file + ".new", file)
    while not os.path.exists(file) or unit == "endless":
        time.sleep(0.01)
    raise StorageFullError("no space left")

file, settings = sys.argv[1], ClusterSettings(workers=2, cpus_per_worker=0.5)
with contextlib.suppress(StorageFullError), cluster.connect(settings, "local"):
    list(cluster.run_tasks(work, ["endless", "stops"], (file,), settings))
with contextlib.suppress(psutil.NoSuchProcess):
    psutil.Process(int(pathlib.Path(file).read_text())).wait(timeout=60)
print("ended")
"""
    words = [sys.executable, "-c", program, str(tmp_path / "pid")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert ended.stdout.endswith("ended\n"), ended.stderr


class Squarer:
    def __init__(self, index, folder):
        self.index, self.folder = index, folder

    async def run(self, unit):
        if unit == 3 and _marks(self.folder, unit, "actor") < 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return unit * unit, os.getpid()


class Broken:
    def __init__(self, index, folder):
        raise ValueError("no such model")


def actor_outcomes(actor_class, units, folder, settings, limit=100):
    return list(cluster.run_actors(actor_class, (str(folder),), units, settings, limit))


def test_actors_that_the_cluster_has_no_room_for_hold_no_unit(ray_session, tmp_path):
    settings = ClusterSettings(workers=6)  # of which two have room
    got = actor_outcomes(Squarer, range(30), tmp_path, settings)
    assert sorted((o.unit, o.result[0]) for o in got) == [(i, i * i) for i in range(30)]
    assert len(list((tmp_path / "actor-3").iterdir())) >= 3, "a killed actor was replaced, twice"


def test_no_more_actors_than_the_limit(ray_session, tmp_path):
    (tmp_path / "actor-3").mkdir()
    for name in "ab":
        (tmp_path / "actor-3" / name).touch()
    got = actor_outcomes(Squarer, range(10), tmp_path, SETTINGS, limit=1)
    assert len({o.result[1] for o in got}) == 1
    assert actor_outcomes(Squarer, [], tmp_path, SETTINGS) == []


def test_an_actor_that_cannot_start_is_one_clear_error(ray_session, tmp_path):
    with pytest.raises(StageError, match=r"a worker could not start: .*no such model"):
        actor_outcomes(Broken, range(1000), tmp_path, SETTINGS)


def test_no_cluster_at_the_address():
    import subprocess
    import sys

    code = (
        "from geo_subset import cluster, settings, errors\n"
        "try:\n"
        "    with cluster.connect(settings.ClusterSettings(), 'http://127.0.0.1:1'): pass\n"
        "except errors.SettingsError as error: print('SAID', error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert "SAID no Ray cluster at http://127.0.0.1:1" in out.stdout, out.stderr


@pytest.mark.parametrize(("useful", "actors"), [(None, 2), (1, 1)])
def test_the_pool_is_as_large_as_is_of_use(ray_session, tmp_path, useful, actors):
    """Where no number is set: as many as there are CPUs, until it is known how many have something to do."""
    got = list(cluster.run_actors(Slow, (str(tmp_path), actors), range(8), ClusterSettings(), 9, lambda: useful))
    assert sorted(o.unit for o in got) == list(range(8))
    assert len({o.result for o in got}) == actors


class Slow:
    """Its first units last until a second actor has begun one, if there is to be one."""

    def __init__(self, index, folder, actors):
        self.folder, self.actors = Path(folder), actors

    async def run(self, unit):
        (self.folder / f"{self.actors}-{os.getpid()}").touch()
        while len(list(self.folder.glob(f"{self.actors}-*"))) < self.actors:
            await asyncio.sleep(0.01)
        return os.getpid()
