"""kill -9 of a driver: its worker goes on for a while, in a world that goes down with the driver."""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from geo_subset.settings import dumps

from .conftest import samples_of
from .test_stage import merged, settings_for, shards_folder

pytestmark = pytest.mark.ci

#: All asked for at once.
IMAGES = 8

#: Words: a file of settings, the fingerprint of the download.
DRIVER = """
import sys
from pathlib import Path
from geo_subset import cluster, lease, settings, stopping
from geo_subset.download import stage
from geo_subset.runfolder import StageFolder

stopping.on_signals()
loaded = settings.loads(Path(sys.argv[1]).read_text())
with lease.held(loaded.run), cluster.connect(loaded.cluster):
    stage.run(loaded, StageFolder(loaded.run, "download", sys.argv[2]))
"""


class Stalling:
    """A host that takes connections and says nothing, until it goes down."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.asked: queue.Queue[socket.socket] = queue.Queue()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.asked.put(self._listening.accept()[0])

    def goes_down(self, connections: list[socket.socket]) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in connections:
            connection.close()


def test_the_worker_of_a_killed_driver_records_nothing(tmp_path: Path) -> None:
    host, run = Stalling(), tmp_path / "run"
    merged(run, samples_of([f"{host.url}/{n}.jpg" for n in range(IMAGES)]), rows_per_file=IMAGES)
    settings = settings_for(run, timeout=60.0, samples_per_shard=IMAGES, threads=IMAGES)
    (tmp_path / "settings.toml").write_text(dumps(settings))
    words = [sys.executable, "-c", DRIVER, str(tmp_path / "settings.toml"), shards_folder(run).fingerprint]
    orphans: list[psutil.Process] = []
    try:
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as driver:
            connections = [host.asked.get(timeout=120) for _ in range(IMAGES)]
            orphans = psutil.Process(driver.pid).children(recursive=True)
            (worker,) = [process for process in orphans if "ray::make_shard" in " ".join(process.cmdline())]
            for process in orphans:
                if process.name() in ("raylet", "gcs_server"):  # Ray is slow to end the worker
                    process.suspend()
            driver.kill()
        host.goes_down(connections)
        worker_ends(worker)
        assert sorted(path.name for path in (run / "shards").rglob("*")) == ["_records", "stage.json"]
    finally:
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()


def worker_ends(worker: psutil.Process) -> None:
    """Waits until the worker has ended, or its task has."""
    while "ray::make_shard" in name_of(worker):
        with contextlib.suppress(psutil.TimeoutExpired):
            worker.wait(0.05)


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
