"""20,000 places through four actors: the driver does not grow, and killed actors leave no trace in the table."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from faults.retrieved import failures, is_what_the_service_has, matches, parts
from retrieve.service import serve

from geo_subset import settings

PLACES, NUM_IMAGES = 20_000, 5
#: Searches a second; so the stage takes at least 50 s, long enough for several actors to be killed.
RATE = 400
#: Seconds between two actors killed.
BETWEEN_KILLS = 10.0
#: MB that the driver may grow from the second quarter of the stage to the last. Half of the matches, which is what it
#: would then have read, takes 5 as an Arrow table.
GROWTH = 4.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Watch(threading.Thread):
    """Samples a driver's memory while it retrieves, and kills one of its actors every `between_kills` seconds."""

    def __init__(self, driver: int, matches_folder: Path, between_kills: float | None) -> None:
        super().__init__(daemon=True)
        self._driver, self._folder, self._between = psutil.Process(driver), matches_folder, between_kills
        self._ended = threading.Event()
        self.megabytes: list[float] = []
        self.killed: list[str] = []

    def run(self) -> None:
        next_kill: float | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self._ended.wait(0.1):
                if not any(self._folder.glob("part-*")) or (self._folder / "_manifest.json").exists():
                    continue
                self.megabytes.append(self._driver.memory_info().rss / 1e6)
                if self._between is not None:
                    next_kill = next_kill or time.monotonic() + self._between
                    if time.monotonic() >= next_kill and self._kill():
                        next_kill += self._between

    def end(self) -> None:
        self._ended.set()
        self.join()

    def _kill(self) -> bool:
        """Kills the oldest of the run's actors, so that each gets its turn, the one that deals out limits too."""
        actors = []
        for process in self._driver.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith(("ray::Worker", "ray::Limiter")):
                    actors.append((process.create_time(), process))
        if not actors:
            return False
        oldest = min(actors, key=lambda actor: actor[0])[1]
        with contextlib.suppress(psutil.NoSuchProcess):
            self.killed.append(oldest.cmdline()[0].split(".")[0].strip())
            oldest.kill()
        return True

    def figures(self) -> dict[str, float]:
        """Peak of the driver's memory and its medians over the second and the last quarter of the stage, in MB."""
        quarter = len(self.megabytes) // 4
        return {
            "peak": max(self.megabytes),
            "second quarter": statistics.median(self.megabytes[quarter : 2 * quarter]),
            "last quarter": statistics.median(self.megabytes[-quarter:]),
        }


def retrieve(folder: Path, between_kills: float | None = None) -> tuple[Path, Watch]:
    """A run of the command line on so many places. Returns its folder and what was seen of its driver."""
    names = folder / "names.txt"
    names.write_text("".join(f"Place {i}\n" for i in range(PLACES)))
    with serve() as service:
        wanted = settings.from_tree(
            {
                "run": str(folder / "run"),
                "places": {"source": "list", "path": str(names)},
                "retrieve": {"num_images": NUM_IMAGES, "clip-service": {"url": service.url, "rate_limit": RATE}},
                "cluster": {"workers": 4, "cpus_per_worker": 0.5},
            }
        )
        run, run_file, said = Path(wanted.run), folder / "run.toml", folder / "log"
        run_file.write_text(settings.dumps(wanted))
        command = [sys.executable, "-m", "geo_subset.cli", "retrieve", str(run_file)]
        with said.open("w") as log, subprocess.Popen(command, stderr=log, stdout=log) as driver:
            watch = Watch(driver.pid, run / "matches", between_kills)
            watch.start()
            driver.wait()
            watch.end()
        print(f"{len(service.bodies)} searches, killed: {watch.killed}, driver in MB: {watch.figures()}")
        print(said.read_text())
        assert driver.returncode == 0, said.read_text()
    return run, watch


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return retrieve(tmp_path_factory.mktemp("undisturbed"))


def assert_flat(watch):
    figures = watch.figures()
    assert figures["last quarter"] - figures["second quarter"] < GROWTH, figures


def test_the_driver_does_not_grow(undisturbed):
    run, watch = undisturbed
    assert failures(run) == []
    assert is_what_the_service_has(run, NUM_IMAGES)
    assert_flat(watch)


def test_an_actor_killed_every_ten_seconds(undisturbed, tmp_path):
    run, watch = retrieve(tmp_path, between_kills=BETWEEN_KILLS)
    assert len(watch.killed) >= 3
    assert failures(run) == []
    assert parts(run) == parts(undisturbed[0])
    assert matches(run).equals(matches(undisturbed[0]))
    assert_flat(watch)
