"""kill -9 of driver and workers in the middle of two passes over the vectors: the next run ends with the same bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PLACES, ROWS, COLUMNS = 300, 600_000, 64


def write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("img_emb", "metadata"):
        (folder / "inference" / part).mkdir(parents=True)
    for number in range(3):
        rows = rng.standard_normal((ROWS // 3, COLUMNS)).astype(np.float16)
        np.save(folder / f"inference/img_emb/img_emb_{number}.npy", rows)
        urls = pa.array([f"http://x/{number}/{n}" for n in range(len(rows))])
        pq.write_table(pa.table({"url": urls}), folder / f"inference/metadata/metadata_{number}.parquet")
    np.save(folder / "queries.npy", rng.standard_normal((PLACES, COLUMNS)).astype(np.float32))
    (folder / "places.txt").write_text("".join(f"Place {n}\n" for n in range(PLACES)))
    (folder / "run.toml").write_text(
        'run = "run"\n[places]\nsource = "list"\npath = "places.txt"\n[cluster]\nworkers = 2\n'
        '[retrieve]\nstrategy = "embeddings"\nnum_images = 300\n'
        '[retrieve.embeddings]\npath = "inference"\nquery_vectors = "queries.npy"\n'
    )


def command(folder: Path, run: str) -> list[str]:
    return [sys.executable, "-m", "geo_subset.cli", "retrieve", str(folder / "run.toml"), f"--set=run={folder / run}"]


def parts(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("matches/*.parquet")}


def killed_once_there_is(pattern: str, folder: Path) -> bool:
    """Starts the run and kills all of it as soon as a file of the run matches. Returns whether it came to that."""
    with subprocess.Popen(command(folder, "cut"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
        while not any((folder / "cut/matches").glob(pattern)):
            if driver.poll() is not None:
                return False
            os.sched_yield()
        below = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return True


@pytest.mark.ci
def test_killed_while_searching_and_while_looking_up(tmp_path: Path) -> None:
    write(tmp_path)
    subprocess.run(command(tmp_path, "whole"), check=True, capture_output=True)
    whole = parts(tmp_path / "whole")
    assert pq.read_metadata(next(tmp_path.glob("whole/matches/part-*.parquet"))).num_rows > 0
    scan = tmp_path / "cut/matches/_scan"
    assert killed_once_there_is("_scan/_records/map-*.json", tmp_path)
    recorded = {path.stem for path in scan.glob("_records/map-*.json")}
    made = {path.name: path.stat().st_mtime_ns for path in scan.glob("map-*.parquet")}
    assert killed_once_there_is("_scan/_rows/rows-*", tmp_path)
    again = {path.name: path.stat().st_mtime_ns for path in scan.glob("map-*.parquet")}
    # Parts that were recorded before the first kill were not made again.
    assert recorded
    assert all(again[name] == made[name] for name in made if name.rpartition("-")[0] in recorded)
    subprocess.run(command(tmp_path, "cut"), check=True, capture_output=True)
    assert parts(tmp_path / "cut") == whole
    assert not scan.exists()
