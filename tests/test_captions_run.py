"""A whole run without a service: from the captions of a metadata file to verified shards and a report."""

from __future__ import annotations

import json

import pipeline_runs
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.ci


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
