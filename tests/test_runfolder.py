from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_subset import manifests, ownership, storage, tables
from geo_subset.errors import SettingsError, StageError
from geo_subset.manifests import add_counters
from geo_subset.runfolder import StageFolder, fingerprint

TABLE = pa.table({"x": pa.array(range(100))})


@pytest.fixture(params=["local", "s3"])
def run_url(request, tmp_path):
    if request.param == "local":
        return ownership.claim(str(tmp_path / "run"), "")
    return ownership.claim(f"{request.getfixturevalue('s3_bucket')}/run-{os.urandom(4).hex()}", "")


def folder(run_url, stage="merge", number=1):
    return StageFolder(run_url, stage, f"{number:08x}" + "0" * 56)


def write(folder, number):
    name = f"part-{number:05d}-{folder.tag}.parquet"
    return folder.record(f"part-{number:05d}", [folder.write_table(TABLE, name)], {"rows": 100})


def names(run_url, sub="samples"):
    return set(storage.sizes(f"{run_url}/{sub}"))


def test_a_stage_is_finished_only_with_its_manifest(run_url):
    stage = folder(run_url)
    assert stage.start(2) == {}
    write(stage, 0)
    assert stage.finished() is None
    assert stage.progress().state == "unfinished"
    assert (stage.progress().units, stage.progress().units_done) == (2, 1)
    records = stage.start(2)
    assert set(records) == {"part-00000"}
    records["part-00001"] = write(stage, 1)
    manifest = stage.finish(records.values(), 1.0)
    assert stage.finished() == manifest
    assert manifest.counters == {"rows": 200}
    assert [entry.rows for entry in manifest.files] == [100, 100]
    assert names(run_url) == {"_manifest.json", *manifest.paths()}
    assert storage.sizes(f"{run_url}/samples/_records") == {}


def test_what_was_not_recorded_is_written_anew_and_goes_with_the_end(run_url):
    stage = folder(run_url)
    stage.start(2)
    write(stage, 0)
    stage.write_table(TABLE, f"part-00001-{stage.tag}.parquet")  # cut off before its record
    stage.write_table(TABLE, f"part-00009-{stage.tag}.parquet")  # of a plan with more units
    storage.write_text(f"{run_url}/samples/notes.txt", "the user's own")
    records = stage.start(2)
    assert set(records) == {"part-00000"}
    manifest = stage.finish([*records.values(), write(stage, 1)], 1.0)
    assert names(run_url) == {"_manifest.json", "notes.txt", *manifest.paths()}
    assert len(manifest.files) == 2


def test_a_finished_stage_that_lost_a_file_redoes_only_that_one(run_url):
    stage = folder(run_url)
    stage.start(2)
    manifest = stage.finish([write(stage, 0), write(stage, 1)], 1.0)
    storage.remove(f"{run_url}/samples/{manifest.files[1].path}")
    assert stage.finished() is None
    assert (stage.progress().state, stage.progress().units_done) == ("unfinished", 1)
    assert set(stage.start(2)) == {"part-00000"}


def test_a_damaged_record_is_none(run_url):
    stage = folder(run_url)
    stage.start(2)
    write(stage, 0), write(stage, 1)
    storage.write_text(f"{run_url}/samples/_records/part-00001.json", '{"fingerprint": ')
    assert set(stage.start(2)) == {"part-00000"}


def test_a_recorded_file_that_is_not_there_at_the_end_is_an_error(run_url):
    stage = folder(run_url)
    stage.start(2)
    records = [write(stage, 0), write(stage, 1)]
    storage.remove(f"{run_url}/samples/{records[1].files[0].path}")
    with pytest.raises(StageError, match=r"1 of 2 files .* do all nodes see this folder\?"):
        stage.finish(records, 1.0)
    assert set(stage.start(2)) == {"part-00000"}


def test_a_half_written_file_of_a_killed_worker_goes_at_the_end(run_url):
    stage = folder(run_url)
    stage.start(1)
    storage.write_text(f"{run_url}/samples/{storage.TEMPORARY}0123456789ab", "half a")
    manifest = stage.finish([write(stage, 0)], 1.0)
    assert names(run_url) == {"_manifest.json", *manifest.paths()}


def test_seconds_of_processes_that_were_cut_off_are_added(run_url):
    stage = folder(run_url)
    stage.start(2)
    first = write(stage, 0)
    until_then = stage.progress().seconds
    assert until_then >= 0
    stage.start(2)
    manifest = stage.finish([first, write(stage, 1)], 5.0)
    assert manifest.seconds == pytest.approx(5.0 + until_then, abs=0.002)


def test_a_file_cut_short_does_not_count(run_url):
    stage = folder(run_url)
    stage.start(1)
    record = write(stage, 0)
    storage.write_text(f"{run_url}/samples/{record.files[0].path}", "short")
    assert stage.start(1) == {}


def test_manifest_as_promised(run_url):
    import hashlib
    import json

    stage = folder(run_url)
    stage.start(1)
    stage.finish([write(stage, 0)], 1.5)
    tree = json.loads(storage.read_text(f"{run_url}/samples/_manifest.json"))
    assert tree["stage"] == "merge"
    assert tree["fingerprint"] == stage.fingerprint
    assert tree["seconds"] == 1.5
    assert tree["counters"] == {"rows": 100}
    assert "pyarrow" in tree["versions"]
    (entry,) = tree["files"]
    with stage.open(entry["path"]) as stream:
        data = stream.read()
    assert entry == {
        "path": entry["path"],
        "rows": 100,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_damaged_manifest_is_named(run_url):
    stage = folder(run_url)
    storage.filesystem(stage.url)[0].makedirs(storage.filesystem(stage.url)[1], exist_ok=True)
    storage.write_text(f"{run_url}/samples/_manifest.json", '{"stage": "merge"')
    with pytest.raises(StageError, match=r"_manifest\.json is damaged"):
        stage.manifest()


def test_local_gives_paths_that_can_be_read(run_url):
    stage = folder(run_url)
    stage.start(1)
    record = write(stage, 0)
    with stage.local([record.files[0].path]) as (path,):
        assert pq.read_table(path).equals(TABLE)


@given(
    cuts=st.lists(st.integers(0, 500), max_size=6),
    group=st.integers(1, 300),
)
@settings(max_examples=30)
def test_parquet_bytes_depend_on_rows_alone(tmp_path_factory, cuts, group):
    table = pa.table({"text": [f"value {i % 97}" for i in range(500)], "x": range(500)})
    bounds = [0, *sorted(cuts), 500]
    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    stage = folder(str(tmp_path_factory.mktemp("run")))
    stage.start(1)
    whole = stage.write_table(table, "part-1-00000001.parquet", group)
    parts = stage.write_batches("part-2-00000001.parquet", table.schema, pieces, group)
    assert (whole.rows, whole.sha256) == (parts.rows, parts.sha256)


@given(start=st.integers(0, 1000), length=st.integers(0, 1000))
@settings(max_examples=50)
def test_read_rows(tmp_path_factory, start, length):
    path = tmp_path_factory.getbasetemp() / "rows.parquet"
    if not path.exists():
        pq.write_table(pa.table({"x": range(1000)}), path, row_group_size=64)
    stop = min(1000, start + length)
    assert tables.read_rows(pq.ParquetFile(path), start, stop)["x"].to_pylist() == list(range(start, stop))


def test_fingerprint_follows_settings_inputs_and_what_was_before(tmp_path):
    path = tmp_path / "input"
    path.write_text("a")
    first = fingerprint("merge", {"a": 1}, None, [str(path)])
    assert first == fingerprint("merge", {"a": 1}, None, [str(path)])
    assert first != fingerprint("merge", {"a": 2}, None, [str(path)])
    path.write_text("b")
    assert first != fingerprint("merge", {"a": 1}, None, [str(path)])
    manifest = manifests.Manifest("places", "f", (manifests.FileEntry("x", 1, 2, "s"),), {}, 1.0, {})
    second = fingerprint("merge", {}, manifest)
    slower = dataclasses.replace(manifest, seconds=2.0)
    assert second == fingerprint("merge", {}, slower)
    changed = dataclasses.replace(manifest, files=(manifests.FileEntry("x", 1, 2, "t"),))
    assert second != fingerprint("merge", {}, changed)


def test_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        ownership.claim(str(tmp_path / "file" / "run"), "")
    with pytest.raises(SettingsError, match="run = 'nosuch://x'"):
        ownership.claim("nosuch://x", "")
    with pytest.raises(SettingsError, match="a memory of its own"):
        ownership.claim("memory://x", "")


def test_scratch_of_killed_processes_is_removed(tmp_path, monkeypatch):
    code = "from geo_subset import storage; import os\nwith storage.scratch_folder(): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with storage.scratch_folder() as mine:
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []


#: Holds a scratch folder until its stdin ends; words: what to make in it.
HOLDS_SCRATCH = """
import sys
from geo_subset import storage
with storage.scratch_folder() as folder:
    (folder / "file").write_text("mine")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("inside", [False, True])
def test_live_scratch_of_another_container_stays(tmp_path, monkeypatch, inside):
    """Of one that shares the temporary directory and the host's name, but sees other PIDs."""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no PID namespace may be made here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    other = [sys.executable, "-c", HOLDS_SCRATCH]
    with subprocess.Popen([*words, *other] if inside else other, stdin=-1, stdout=-1, text=True) as process:
        there = Path(process.stdout.readline().strip())
        sweep = "from geo_subset import storage\nwith storage.scratch_folder(): pass"
        subprocess.run([*([] if inside else words), sys.executable, "-c", sweep], check=True)
        assert (there / "file").read_text() == "mine"
        process.communicate("")
    assert list(tmp_path.iterdir()) == []


def test_scratch_is_never_removed_through_a_link_or_another_users(tmp_path, monkeypatch):
    """What bears the name but is no folder of ours; and our own, however it is called, until nobody holds it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with storage.scratch_folder() as mine:
        prefix = mine.name[: mine.name.rindex("-") + 1]
    (tmp_path / "precious").mkdir()
    (tmp_path / f"{prefix}link").symlink_to(tmp_path / "precious")
    (tmp_path / f"{prefix}file").write_text("")
    (tmp_path / f"{prefix}left").mkdir()
    (tmp_path / f"{prefix}other").mkdir()
    kept = {"precious", f"{prefix}link", f"{prefix}file"}
    if os.geteuid() == 0:
        os.chown(tmp_path / f"{prefix}other", 12345, 12345)
        kept.add(f"{prefix}other")
    with storage.scratch_folder() as mine:
        assert {path.name for path in tmp_path.iterdir()} == kept | {mine.name}


def test_scratch_that_is_taken_for_stale_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = []

    def swept(prefix, make=tempfile.mkdtemp):
        made.append(make(prefix=prefix))
        if len(made) == 1:  # another process looks for stale ones at this very moment
            storage._remove_stale(Path(made[0]))
        return made[-1]

    monkeypatch.setattr("tempfile.mkdtemp", swept)
    with storage.scratch_folder() as mine:
        assert str(mine) == made[1]
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []


def test_add_counters():
    assert add_counters([{"a": 1}, {"b": 2, "a": 3}, {}]) == {"a": 4, "b": 2}
