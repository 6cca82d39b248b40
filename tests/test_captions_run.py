"""A whole run without a service: from the captions of a metadata file to verified shards and a report."""

from __future__ import annotations

import json

import pipeline_runs
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.ci


def test_a_run_that_finds_nothing_ends_and_says_why(run_file, geo_subset_here, tmp_path):
    (tmp_path / "captions.csv").write_text("url,caption\nhttp://127.0.0.1:9/1,a white shirt\n")
    strategy = ("--set=retrieve.strategy=captions", f"--set=retrieve.captions.path={tmp_path}/captions.csv")
    words = pipeline_runs.words("run", run_file, tmp_path / "run", *strategy)
    status, out, err = geo_subset_here(*words)
    assert status == 0, err
    assert out.strip().endswith("report/index.html")
    for said in (
        "0 rows for 0 of 40 places from 1 caption with 0 mentions of places",
        "nothing to merge: the retrieve stage found no row",
        "nothing to download: the merge stage kept no image",
        "1 plot, 0 contact sheets",
    ):
        assert said in err
    assert "0 rows, 0 distinct images." in (tmp_path / "run/report/index.html").read_text()


def test_from_captions_to_shards(run_file, geo_subset_here, tmp_path):
    run = tmp_path / "run"
    (index,) = run_file.parent.rglob("index.parquet")
    strategy = ("--set=retrieve.strategy=captions", f"--set=retrieve.captions.path={index}")
    status, _, err = geo_subset_here(*pipeline_runs.words("run", run_file, run, *strategy))
    assert status == 0, err
    (part,) = (run / "samples").glob("part-*.parquet")
    samples = pq.read_table(part, columns=["uid", "name", "caption"]).to_pylist()
    assert samples
    assert all(row["name"].casefold() in row["caption"].casefold() for row in samples)
    counted = json.loads((run / "shards/_manifest.json").read_text())["counters"]
    assert counted["attempted"] == len(samples)
    downloaded = pipeline_runs.samples(run)
    assert set(downloaded) <= {row["uid"] for row in samples}
    assert len(downloaded) == counted["succeeded"] > len(samples) / 2  # some hosts of the world fail on purpose
    status, out, err = geo_subset_here(*pipeline_runs.words("verify", run_file, run, *strategy))
    assert status == 0, err
    assert "all as recorded" in out
    assert (run / "report/index.html").exists()
