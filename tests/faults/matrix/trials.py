"""One trial: a copy of a run folder, a stage on it, a fault at a random moment, the run that goes on, and what differs
from the run that nobody disturbed."""

from __future__ import annotations

import contextlib
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import psutil
from faults.matrix import outcome
from faults.matrix.disk import Disk, pages
from faults.matrix.nodes import Nodes
from faults.matrix.scenes import Scene

from geo_subset import storage
from geo_subset.runfolder import StageFolder

#: Seconds after which a command that does not end is taken to hang; machines may be busy.
HANGS = 900
_LOST = "a worker was lost"


@dataclass(frozen=True)
class Trial:
    """`moment`: the share of the stage's usual time at which it was disturbed (of the room it needs, for a full disk),
    None if it was over before that. `writing`: whether it was aimed at whoever was writing a file.
    `noticed`: whether the driver told of a lost worker. `problems`: what differs."""

    seed: int
    moment: float | None
    writing: bool
    noticed: bool
    problems: list[str]
    seconds: float


def killing(
    victim: str, title: str | None, scene: Scene, nodes: Nodes, run: str, seed: int, rng: random.Random
) -> Trial:
    """kill -9 of 'driver', 'worker' or 'raylet'; a worker: one on a unit, or whose title starts so.

    About every second trial waits on until a file is being written: moments that are short, and the worst.
    """
    started = time.monotonic()
    usual = statistics.median(scene.seconds)
    _copy(scene.before, run)
    moment: float | None = None
    writing = rng.random() < 0.5
    problems: list[str] = []
    recorded: dict[Path, int] = {}
    with _driver(scene, run, nodes) as driver:
        if _begins(scene, run, driver):
            began, at = time.monotonic(), rng.random() * usual
            while time.monotonic() < began + at and _works(scene, run, driver):
                time.sleep(0.005)
            if _kill(victim, title, nodes, driver, rng, lambda: _works(scene, run, driver), writing):
                moment = (time.monotonic() - began) / usual
        status = driver.wait(HANGS)
    log = _log(scene).read_text()
    if moment is None and status == 0:
        scene.seconds.append(scene.manifest(run).seconds)
    elif moment is not None and victim == "driver":
        if status != -signal.SIGKILL:
            problems.append(f"the killed driver ended with {status}")
        recorded = outcome.recorded(run)
        status, log = _ended(scene, run, nodes)
    if status == 0:
        problems += outcome.differences(scene, run, nodes.address)
        problems += outcome.made_again(recorded)
    else:
        problems.append(f"the run ended with {status}: {log}")
    nodes.replace_lost()
    if not problems:
        fs, root = fsspec.core.url_to_fs(run)
        fs.rm(root, recursive=True)
    return Trial(seed, moment, writing, _LOST in log, problems, time.monotonic() - started)


def filling(scene: Scene, nodes: Nodes, disk: Disk, seed: int, rng: random.Random) -> Trial:
    """A disk with room for a share of what the stage leaves behind; then more room."""
    started, moment = time.monotonic(), rng.random()
    with disk.mounted():
        run = str(disk.folder / "run")
        _copy(scene.before, run)
        disk.resize(pages(Path(run)) + int(moment * (pages(scene.whole) - pages(scene.before))))
        status, log = _ended(scene, run, nodes)
        last = log.strip().rpartition("\n")[2]
        problems = []
        if status != 1 or "Traceback" in log or "no space left" not in last or str(disk.folder) not in last:
            problems.append(f"a full disk ended the run with {status}: {log}")
        recorded = outcome.recorded(run)
        problems += outcome.damaged(run)
        disk.resize(None)
        status, log = _ended(scene, run, nodes)
        if status == 0:
            problems += outcome.differences(scene, run, nodes.address)
            problems += outcome.made_again(recorded)
        else:
            problems.append(f"with more room the run ended with {status}: {log}")
    return Trial(seed, moment, True, False, problems, time.monotonic() - started)


def _copy(before: Path, run: str) -> None:
    fs, root = fsspec.core.url_to_fs(run)
    fs.makedirs(root, exist_ok=True)
    for path in before.rglob("*"):
        if path.is_file():
            target = f"{root}/{path.relative_to(before)}"
            fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(path), target)


def _log(scene: Scene) -> Path:
    return scene.run_file.with_suffix(".log")


@contextlib.contextmanager
def _driver(scene: Scene, run: str, nodes: Nodes) -> Iterator[subprocess.Popen[bytes]]:
    """The stage's command, which writes to `_log`."""
    with (
        _log(scene).open("wb") as log,
        subprocess.Popen(scene.command(run, nodes.address), stdout=log, stderr=log) as driver,
    ):
        try:
            yield driver
        finally:
            driver.kill()


def _ended(scene: Scene, run: str, nodes: Nodes) -> tuple[int, str]:
    with _driver(scene, run, nodes) as driver:
        status = driver.wait(HANGS)
    return status, _log(scene).read_text()


def _begins(scene: Scene, run: str, driver: subprocess.Popen[bytes]) -> bool:
    """Waits until the stage has begun. False if the driver ended before."""
    started = f"{StageFolder(run, scene.stage).url}/_records/stage.json"
    while storage.read_text(started) is None:
        if driver.poll() is not None:
            return False
        time.sleep(0.005)
    return True


def _works(scene: Scene, run: str, driver: subprocess.Popen[bytes]) -> bool:
    """Whether a stage that has begun is not done yet."""
    manifest = f"{StageFolder(run, scene.stage).url}/_manifest.json"
    return driver.poll() is None and storage.read_text(manifest) is None


def _kill(
    victim: str,
    title: str | None,
    nodes: Nodes,
    driver: subprocess.Popen[bytes],
    rng: random.Random,
    works: Callable[[], bool],
    writing: bool,
) -> bool:
    """Kills as soon as there is what is to be killed, `writing`: and it, or what it ran, is at a file.

    False if the stage was over before.
    """
    while works():
        busy = nodes.working(title, second_alone=victim == "raylet")
        if victim == "driver":
            busy.append(psutil.Process(driver.pid))
        chosen = _soon_writing(busy) if writing else rng.choice(busy) if busy else None
        if chosen is None:
            time.sleep(0.002)
            continue
        if victim == "raylet":
            nodes.lose_second()
            return True
        with contextlib.suppress(psutil.NoSuchProcess):
            (driver if victim == "driver" else chosen).kill()
            return True
    return False


def _soon_writing(processes: list[psutil.Process]) -> psutil.Process | None:
    """The first of them that is at a file of the run folder, if there is one within a moment."""
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        for process in processes:
            with contextlib.suppress(OSError):
                opened = Path(f"/proc/{process.pid}/fd").iterdir()
                if any(storage.TEMPORARY in str(file.readlink()) for file in opened):
                    return process
        time.sleep(0.0005)  # what is watched needs the processor too
    return None
