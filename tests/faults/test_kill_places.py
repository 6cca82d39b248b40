"""kill -9 while files of places are being read: the next run reads only those that were not done."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from ..places.test_overture import row, write

FILES = 12


def command(folder: Path, run: str) -> list[str]:
    settings = folder / f"{run}.toml"
    settings.write_text(
        f'run = "{folder / run}"\n[places]\nsource = "overture"\npath = "{folder}/release"\n'
        '[retrieve.clip-service]\nurl = "http://127.0.0.1:1"\n[cluster]\nworkers = 1\n'
    )
    return [sys.executable, "-m", "geo_subset.cli", "places", str(settings)]


@contextlib.contextmanager
def ended_with_children(process: subprocess.Popen[bytes]) -> Iterator[None]:
    below: list[psutil.Process] = []
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for each in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


@pytest.mark.slow
def test_the_next_run_reads_what_was_not_done(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    for number in range(FILES):
        rows = [row(f"{number}-{n}", f"Old Mill {n}", at=(-100 + number, 30 + n / 1000)) for n in range(8000)]
        write(tmp_path / "release" / f"part-{number:05d}.parquet", rows)
    parts = tmp_path / "killed" / "places" / "_parts"
    with (
        subprocess.Popen(command(tmp_path, "killed"), stderr=subprocess.DEVNULL) as driver,
        ended_with_children(driver),
    ):
        while len(list(parts.glob("_records/part-*.json"))) < 3:
            assert driver.poll() is None
            time.sleep(0.01)
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    recorded = {path.stem for path in parts.glob("_records/part-*.json")}
    assert 3 <= len(recorded) < FILES
    with (
        subprocess.Popen(command(tmp_path, "killed"), stderr=subprocess.DEVNULL) as driver,
        ended_with_children(driver),
    ):
        again: dict[str, int] = {}
        while driver.poll() is None:
            for path in parts.glob("part-*.parquet"):
                with contextlib.suppress(FileNotFoundError):  # at the end they are removed
                    again[path.name] = path.stat().st_mtime_ns
        assert driver.returncode == 0
    # A part in place without its record is read again; one with a record is not touched.
    assert all(again[name] == time for name, time in kept.items() if name.rpartition("-")[0] in recorded)
    subprocess.run(command(tmp_path, "undisturbed"), check=True, stderr=subprocess.DEVNULL)
    tables = [tmp_path / run / "places" / "places.parquet" for run in ("killed", "undisturbed")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert pq.read_metadata(tables[0]).num_rows == FILES * 8000
    assert not parts.exists()
