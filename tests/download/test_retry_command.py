"""`geo-subset download --retry-failed` as a user meets it."""

from __future__ import annotations

import json

import pytest
from pipeline_runs import words


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--retry-failed", "--reason=("], "'(' is no regular expression"),
        (["--reason=503"], "--reason goes with --retry-failed"),
    ],
)
def test_wrong_options_are_told_before_anything_starts(geo_subset_here, run_file, tmp_path, options, told):
    status, _, err = geo_subset_here(*words("download", run_file, tmp_path / "run", *options))
    assert status == 2
    assert told in err
    assert not (tmp_path / "run").exists()


def test_a_retry_pass_and_the_report_after_it(geo_subset_here, run_file, tmp_path):
    run = tmp_path / "run"
    status, out, err = geo_subset_here(*words("download", run_file, run, "--retry-failed", "--reason=^http 404$"))
    assert status == 0, err
    assert "0 more images; now 421 of 496 images in 10 shards" in out
    assert out.count("; 75 failed: http 404 (") == 1 and "other reasons (" in out
    before = (run / "shards" / "_manifest.json").read_text()

    status, out, err = geo_subset_here(*words("download", run_file, run, "--retry-failed", "--reason=http 999"))
    assert status == 0, err
    assert "nothing to try again" in out
    assert (run / "shards" / "_manifest.json").read_text() == before

    status, _, err = geo_subset_here(*words("run", run_file, run))
    assert status == 0, err
    assert (run / "shards" / "_manifest.json").read_text() == before
    found = json.loads((run / "report" / "summary.json").read_text())["download"]
    assert (found["attempted"], found["succeeded"]) == (496, 421)
    assert sum(found["failed_by_reason"].values()) == 75
    assert found["failed_by_reason"]["http 404"] == json.loads(before)["counters"]["failed: http 404"] > 0


def test_after_a_dead_network_a_retry_pass_makes_up_for_it(geo_subset_here, run_file, tmp_path):
    run = tmp_path / "run"
    dead = "--set=download.timeout=1e-9"
    status, _, err = geo_subset_here(*words("download", run_file, run, dead))
    assert status == 1
    assert "0 of 496 images succeeded (0.0%)" in err
    assert "failed: timed out (496)" in err
    tars = {path.name: path.read_bytes() for path in (run / "shards").glob("*.tar")}

    status, _, err = geo_subset_here(*words("download", run_file, run))
    assert (status, "0 of 496 images succeeded" in err) == (1, True), "a plain second run accepts nothing"
    status, _, err = geo_subset_here(*words("download", run_file, run, dead, "--retry-failed"))
    assert (status, "0 of 496 images succeeded" in err) == (1, True)
    status, _, err = geo_subset_here(*words("download", run_file, run, "--retry-failed", "--reason=http 999"))
    assert (status, "0 of 496 images succeeded" in err) == (1, True)

    status, out, err = geo_subset_here(*words("download", run_file, run, "--retry-failed"))
    assert status == 0, err
    assert "421 more images; now 421 of 496 images in" in out
    assert {name: (run / "shards" / name).read_bytes() for name in tars} == tars
    status, out, err = geo_subset_here(*words("download", run_file, run))
    assert (status, "nothing to do" in out) == (0, True), err
