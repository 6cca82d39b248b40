"""A run whose settings change: what was made is kept, found again, shown, and freed when that is asked for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pipeline_runs import samples, tables, words

from geo_subset import layout, statefiles

OTHER = ("--set=download.image_size=128",)


@pytest.fixture(scope="module")
def run(run_file, geo_subset_here, tmp_path_factory):
    """A finished run, and its shards' bytes."""
    run = tmp_path_factory.mktemp("superseded") / "run"
    status, _, err = geo_subset_here(*words("run", run_file, run))
    assert status == 0, err
    return run, digests(run)


def digests(run):
    found = [*Path(run).glob("shards/*.*"), *Path(run).glob("report/*")]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_hosts_that_are_gone_cost_nothing_that_was_made(run, run_file, geo_subset_here):
    """The setting changes, and no host answers any more: what cannot be fetched again must not be lost."""
    folder, made = run
    gone = (*OTHER, "--set=download.allow_private_hosts=false")
    status, _, err = geo_subset_here(*words("run", run_file, folder, *gone))
    assert "Traceback" not in err
    assert "results of download, report are superseded" in err
    assert "download.image_size: 256 -> 128" in err
    assert "geo-subset clean" in err
    assert not {f"shards/{path.name}" for path in folder.glob("shards/*.tar")} & set(made), "two settings' shards mixed"
    status, out, err = geo_subset_here(*words("run", run_file, folder))
    assert status == 0, err
    assert "nothing to do: every stage is done already" in out
    assert digests(folder) == made


def test_both_settings_are_there_and_clean_frees_the_one_that_is_not_current(
    run, run_file, geo_subset_here, monkeypatch
):
    folder, _ = run
    before = tables(folder), samples(folder)
    assert geo_subset_here(*words("run", run_file, folder, *OTHER))[0] == 0
    assert (tables(folder), samples(folder)) == before
    status, out, _ = geo_subset_here("status", folder, "--json")
    tree = json.loads(out)
    assert status == 0
    assert {stage["state"] for stage in tree.values()} == {"done"}
    kept = [each for stage in tree.values() for each in stage["superseded"]]
    apart = [
        path
        for path in (folder / "_superseded").rglob("*.*")
        if path.name not in ("_manifest.json", "_unfinished.json")
    ]
    there = sum(path.stat().st_size for path in apart)
    assert sum(each["bytes"] for each in kept) == there > 0
    assert "superseded results: " in geo_subset_here("status", folder)[1]

    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: PTH123, SIM115 - nobody answers
    status, out, err = geo_subset_here("clean", folder)
    assert status == 2
    assert "--yes" in err
    assert (folder / "_superseded").exists()
    now = digests(folder)
    status, out, err = geo_subset_here("clean", folder, "--yes")
    assert status == 0, err
    assert f"freed {there / 1e6:,.1f} MB" in out
    assert not (folder / "_superseded").exists()
    assert digests(folder) == now
    assert geo_subset_here("clean", folder, "--yes")[1].startswith("nothing to free")
    status, out, err = geo_subset_here("verify", folder)
    assert status == 0, err
    assert "all as recorded" in out


def test_a_place_more_supersedes_all_that_follows_and_one_line_says_so(run_file, geo_subset_here, tmp_path):
    (tmp_path / "names.txt").write_text("Chicago\nBoston\n")
    places = ("--set=places.source=list", f"--set=places.path={tmp_path}/names.txt", "--set=places.filters={}")
    run = tmp_path / "run"
    assert geo_subset_here(*words("merge", run_file, run, *places))[0] == 0
    made = tables(run)
    (tmp_path / "names.txt").write_text("Chicago\nBoston\nHouston\n")
    _, out, _ = geo_subset_here("status", run)
    assert out.startswith("places    out of date")
    status, _, err = geo_subset_here(*words("merge", run_file, run, *places))
    assert status == 0, err
    assert err.count("superseded") == 1
    assert f"results of places, retrieve, merge are superseded (other input files: {tmp_path}/names.txt)" in err
    assert tables(run) != made
    (tmp_path / "names.txt").write_text("Chicago\nBoston\n")
    status, out, err = geo_subset_here(*words("merge", run_file, run, *places))
    assert "nothing to do" in out
    assert tables(run) == made


def test_every_file_of_a_run_has_a_name_of_its_stage(run):
    """What the layout does not know could neither be set aside nor be told from a stranger's."""
    folder, _ = run
    for stage in ("places", "retrieve", "merge", "download", "report"):
        manifest = statefiles.read_manifest(layout.stage_url(str(folder), stage))
        assert [entry.path for entry in manifest.files if not layout.is_own(stage, entry.path)] == []
