"""The command line as a user meets it: exit status, one clear line, nothing done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from geo_subset.demo import launch


def run(*words, cwd=None, **env):
    command = [sys.executable, "-m", "geo_subset.cli", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **env}, timeout=250
    )


@pytest.fixture
def run_file(tmp_path):
    (tmp_path / "names.txt").write_text("Times Square\nBryant Park\n")
    path = tmp_path / "run.toml"
    path.write_text(
        f'run = "{tmp_path}/run"\n[places]\nsource = "list"\npath = "names.txt"\n'
        '[retrieve.clip-service]\nurl = "http://127.0.0.1:1"\nretries = 0\n'
    )
    return path


def refused(out, status, *words):
    assert out.returncode == status, out.stderr
    assert "Traceback" not in out.stderr
    last = out.stderr.strip().splitlines()[-1]
    assert last.startswith(("geo-subset: ", "Error: ", "Usage: ")), out.stderr
    for word in words:
        assert word in last


def test_missing_run_file(tmp_path):
    refused(run("run", tmp_path / "none.toml"), 2, "there is no run file", "none.toml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("retrieve.num_image=5", ["unknown key retrieve.num_image", "did you mean num_images?"]),
        ("retrieve.num_images=many", ["retrieve.num_images = 'many'", "integer"]),
        ("places.path=gone.txt", ["places.path", "gone.txt", "no such file"]),
        ("places.prompt={nome} there", ["nome"]),
        ("merge.where=similarty > 1", ["merge.where", "similarty"]),
        ("run=/proc/nowhere", ["run = '/proc/nowhere'", "cannot be written"]),
        ("run=nosuch://bucket/x", ["run = 'nosuch://bucket/x'"]),
    ],
)
def test_wrong_settings_are_one_line_and_status_2(run_file, override, words):
    refused(run("run", run_file, "--set", override), 2, *words)


def test_bad_usage():
    for words in ([], ["run"], ["fly"], ["run", "x.toml", "--fast"]):
        out = run(*words)
        assert out.returncode == 2 or words == []
        assert "Traceback" not in out.stderr


def test_empty_list(run_file):
    (run_file.parent / "names.txt").write_text("\n \n")
    out = run("places", run_file)
    refused(out, out.returncode, "names.txt")
    assert out.returncode in (1, 2)


def test_dead_server_is_one_line_and_places_are_kept(run_file):
    refused(
        run("run", run_file), 1, "no clip-retrieval backend answers", "http://127.0.0.1:1", "retrieve.clip-service.url"
    )
    status = json.loads(run("status", run_file, "--json").stdout)
    assert [status[stage]["state"] for stage in status] == ["done", "unfinished", "waiting", "waiting", "waiting"]


def test_corpus_without_captions(tmp_path):
    pd.DataFrame({"link": ["http://a/1"], "words": ["x"]}).to_parquet(tmp_path / "bad.parquet")
    refused(run("demo", "--out", tmp_path / "demo", "--corpus", tmp_path / "bad.parquet"), 2, "link", "words")
    refused(run("demo", "--out", tmp_path / "demo", "--corpus", tmp_path / "gone.parquet"), 2, "gone.parquet")


@pytest.fixture(scope="module")
def demo(tmp_path_factory, demo_ports):
    """A finished small demo: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    words = ["--places", 20, "--images", 400, "--port", demo_ports[-1]]
    out = run("demo", "--out", folder, *words, "--set", "download.samples_per_shard=150")
    assert out.returncode == 0, out.stderr
    return folder, out


def manifests(folder):
    return {path.parent.name: path.read_text() for path in Path(folder).glob("*/_manifest.json")}


def test_demo_ends_with_shards_a_report_and_what_to_do_next(demo):
    folder, out = demo
    assert "show the right place" in out.stdout
    assert f"{folder}/report/index.html" in out.stdout
    assert f"fill in {folder}/my_places.toml" in out.stdout
    assert (folder / "report" / "index.html").stat().st_size > 50_000
    assert list((folder / "shards").glob("*.tar"))


def test_the_shards_hold_what_the_report_says(demo):
    import webdataset

    folder, _ = demo
    summary = json.loads((folder / "report" / "summary.json").read_text())
    tars = sorted(map(str, (folder / "shards").glob("*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert len(samples) == summary["download"]["succeeded"] > 0
    assert len(tars) == summary["shards"]
    meta = json.loads(samples[0]["json"])
    wanted = {"uid", "place_id", "name", "latitude", "longitude", "similarity", "place_ids", "similarities"}
    assert wanted <= set(meta)
    table = pd.read_parquet(folder / "samples").set_index("uid")
    for sample in samples:
        meta = json.loads(sample["json"])
        row = table.loc[meta["uid"]]
        assert (meta["url"], meta["place_id"], meta["place_ids"]) == (row.url, row.place_id, list(row.place_ids))


def test_the_run_file_to_start_from_is_sound(demo, tmp_path):
    folder, _ = demo
    shutil.copy(folder / "my_places.toml", tmp_path)
    (tmp_path / "places.txt").write_text("Bryant Park\n")
    out = run("places", tmp_path / "my_places.toml", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    table = pd.read_parquet(tmp_path / "runs/my-places/places/places.parquet")
    assert list(table.queries[0]) == ["Bryant Park in midtown east, united states"]


def test_the_second_run_does_nothing_and_says_so(demo):
    folder, _ = demo
    before = manifests(folder)
    out = run("demo", "--out", folder, "--places", 20, "--images", 400, "--set", "download.samples_per_shard=150")
    assert out.returncode == 0
    assert "nothing to do" in out.stdout
    assert manifests(folder) == before


def test_changing_num_images_redoes_retrieve_and_what_follows_but_not_places(demo, geo_subset_here, tmp_path):
    folder, _ = demo
    copy = tmp_path / "demo"
    shutil.copytree(folder, copy)
    before = manifests(copy)
    words = ["--set", f"run={copy}", "--set", "download.samples_per_shard=150"]
    with launch.serving(launch.build(folder, 20, 400, None, None)):
        status, _, err = geo_subset_here("run", folder / "demo.toml", *words, "--set", "retrieve.num_images=7")
    assert status == 0, err
    after = manifests(copy)
    assert [stage for stage in before if before[stage] == after[stage]] == ["places"]
    matches = pd.read_parquet(sorted(copy.glob("matches/part-*.parquet"))[0])
    assert matches.groupby("place_id").size().max() == 7
    for stage in before:
        listed = {entry["path"] for entry in json.loads(after[stage])["files"]}
        there = {p.name for p in (copy / stage).iterdir()} - {"_manifest.json"}
        assert there == listed, "nothing of the old run is left"


def test_how_hard_it_is_tried_changes_nothing_that_is_done(demo):
    folder, _ = demo
    words = [
        "download.samples_per_shard=150",
        "download.timeout=3",
        "retrieve.clip-service.concurrency=2",
        "cluster.workers=1",
    ]
    out = run("run", folder / "demo.toml", *[word for setting in words for word in ("--set", setting)])
    assert out.returncode == 0, out.stderr
    assert "nothing to do" in out.stdout


def test_status_of_a_finished_run(demo):
    folder, _ = demo
    stages = json.loads(run("status", folder / "demo.toml", "--set", "download.samples_per_shard=150", "--json").stdout)
    assert {stage["state"] for stage in stages.values()} == {"done"}
    text = run("status", folder / "demo.toml", "--set", "download.samples_per_shard=150").stdout
    assert "samples" in text
    changed = json.loads(run("status", folder / "demo.toml", "--set", "retrieve.num_images=3", "--json").stdout)
    assert [stage["state"] for stage in changed.values()][:3] == ["done", "out of date", "out of date"]


@pytest.mark.parametrize("kind", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_says_how_to_go_on(demo, tmp_path, kind):
    folder, _ = demo
    words = ["run", str(folder / "demo.toml"), "--set", f"run={tmp_path}/run"]
    with launch.serving(launch.build(folder, 20, 400, None, None), latency=0.3):
        command = [sys.executable, "-m", "geo_subset.cli", *words]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "places" in line
            while not list(tmp_path.glob("run/matches/part-*")):  # until Ray runs and has set handlers of its own
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.1)
            process.send_signal(kind)
            rest = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert rest.strip().splitlines()[-1] == f"stopped; what is done is kept. To go on: geo-subset {' '.join(words)}"
