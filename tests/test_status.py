"""`status` on a run folder that somebody works on, seen from another process."""

from __future__ import annotations

import json
import os
import time

import pyarrow as pa
import pytest

from geo_subset import lease, ownership, runfolder, storage
from geo_subset.manifests import Record, record_to_json
from geo_subset.pipeline import STAGES, _folder
from geo_subset.runfolder import StageFolder
from geo_subset.settings import load

TABLE = pa.table({"x": pa.array(range(10))})


@pytest.fixture
def run_toml(tmp_path):
    (tmp_path / "names.txt").write_text("Times Square\nBryant Park\n")
    path = tmp_path / "run.toml"
    path.write_text(
        f'run = "{tmp_path}/run"\n[places]\nsource = "list"\npath = "names.txt"\n'
        '[retrieve.clip-service]\nurl = "http://127.0.0.1:1"\n'
    )
    return path


@pytest.fixture
def retrieving(run_toml, geo_subset_here):
    """A run in the middle of retrieve: 4 of 10 chunks, one finished an hour ago, with a failed place."""
    status, _, err = geo_subset_here("places", run_toml)
    assert status == 0, err
    settings = load(run_toml)
    folder = _folder(STAGES[1], settings, ownership.open_run(settings.run))
    folder.start(10)
    started = json.loads(storage.read_text(f"{folder.url}/_records/stage.json") or "")
    storage.write_text(f"{folder.url}/_records/stage.json", json.dumps({**started, "started": time.time() - 4000}))
    for number in range(4):
        unit = f"chunk-{number:06d}"
        extra = {
            "failed": [{"reason": "http 500"}] if not number else [],
            "finished": time.time() - (number == 0) * 3600,
        }
        storage.write_text(
            f"{folder.url}/_records/{unit}.json",
            record_to_json(Record(unit, (), {"rows": 300}, extra), folder.fingerprint),
        )
    return folder


def test_a_running_job_from_another_shell(run_toml, retrieving, geo_subset_here):
    with lease.held(retrieving.run_url):
        status, out, err = geo_subset_here("status", run_toml, "--json")
        _, text, _ = geo_subset_here("status", run_toml)
    assert status == 0, err
    stage = json.loads(out)["retrieve"]
    assert (stage["state"], stage["units"], stage["units_done"], stage["units_left"]) == ("running", 10, 4, 6)
    assert stage["holder"]["pid"] == os.getpid()
    assert stage["counters"] == {"rows": 1200}
    assert stage["failures"] == {"http 500": 1}
    assert stage["recent"]["rates"] == {"units": pytest.approx(3 / 300, abs=1e-3), "rows": pytest.approx(3.0, rel=0.05)}
    assert stage["rates"]["rows"] == pytest.approx(1200 / 4000, rel=0.05)
    assert stage["seconds_left"] == pytest.approx(6 / (3 / 300), rel=0.1)
    assert f"PID {os.getpid()}" in text
    assert "4 of 10 parts" in text
    assert "failed: http 500 1" in text


def test_a_run_that_nobody_works_on(run_toml, retrieving, geo_subset_here):
    _, out, _ = geo_subset_here("status", run_toml, "--json")
    stage = json.loads(out)["retrieve"]
    assert (stage["state"], stage["holder"], stage["recent"], stage["seconds_left"]) == ("unfinished", None, None, None)
    assert stage["units_done"] == 4
    keys = {tuple(stage) for stage in json.loads(out).values()}
    assert len(keys) == 1, "every stage has the same keys"


def test_of_very_many_records_on_an_object_store_only_the_newest_are_read(s3_bucket, monkeypatch):
    monkeypatch.setattr(runfolder, "MOST_READ", 3)
    folder = StageFolder(ownership.claim(f"{s3_bucket}/run-{os.urandom(4).hex()}", ""), "download", "f" * 64)
    folder.start(20)
    for number in range(8):
        folder.record(f"{number:05d}", [], {"attempted": 10})
    read = []
    real = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda url, most: read.append(url) or real(url, most))
    progress = folder.progress()
    assert len(read) <= 2 + 3
    assert (progress.units, progress.units_done) == (20, 8)
    assert progress.sums.units in (2, 3), "what was written in the same second has no order"
    assert progress.sums.counters == {"attempted": 10 * progress.sums.units}
    assert 0 < progress.recent_seconds <= runfolder.RECENT
