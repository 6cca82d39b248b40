"""What a run folder holds may be damaged, or somebody's trap: it is 'not done', or one line that names the file."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geo_subset import cli, lease, manifests, ownership
from geo_subset.errors import StageError
from geo_subset.manifests import FileEntry, Manifest, Record, Started
from geo_subset.runfolder import StageFolder

PRINT = "0123456789abcdef" * 4
ENTRY = FileEntry("part-000000-01234567.parquet", 3, 400, "a" * 64)
RECORD = Record(
    "chunk-000000", (ENTRY,), {"rows": 3, "failed: http 404": 1},
    {
        "finished": 1.7e9, "usage": {"worker_seconds": 1.5}, "places": 2, "columns": 512, "ends": [["ok", None, 3]],
        "failed": [{"place_id": "p", "query": "q", "reason": "http 500", "detail": "d", "attempts": 2}],
        "examples": {"too long": "Llanfair"},
    },
)  # fmt: skip
MANIFEST = Manifest(
    "retrieve", PRINT, (ENTRY,), {"rows": 3}, 2.5, {"ray": "2.60"}, (RECORD,), {"worker_seconds": 1.5}, {"a": [1, {}]}
)
STARTED = Started(PRINT, 4, 1.7e9, 3.5, {"settings": {"num_images": 20}})
HOLDER = lease.Holder("ab" * 16, "me", "here", "nowhere", 4_000_000, 5, "geo-subset run", None, "now", 7)
TREES = {
    "manifest": json.loads(manifests.manifest_to_json(MANIFEST)),
    "record": json.loads(manifests.record_to_json(RECORD, PRINT)),
    "started": json.loads(manifests.started_to_json(STARTED)),
    "lease": vars(HOLDER),
}
#: What no name may be.
NAMES = [
    "../x",
    "..",
    ".",
    "",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\0b",
    "a\n",
    ".tmp-1",
    "x" * 201,
    "a b",
    "ü",
    "\x1b[31m",
]
DEEP = b"[" * 200_000
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=5), st.sampled_from(NAMES),
    st.sampled_from([-1, 2**63, 10**400, [], {}, [1], {"a": 1}, [[[[[]]]]], "\ud800", "\u202eevil", True]),
)  # fmt: skip


def places_in(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all values of a JSON tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(found for key, value in inner for found in places_in(value, (*path, key)))]


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """The text of a file of that kind with a value changed or taken away, or with bytes changed or cut off."""
    tree = copy.deepcopy(TREES[kind])
    path = draw(st.sampled_from(places_in(tree)[1:]))
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    if draw(st.booleans()):
        parent[path[-1]] = draw(JUNK)
    else:
        del parent[path[-1]]
    text = bytearray(json.dumps(tree).encode())
    for _ in range(draw(st.integers(0, 2))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text)


def test_what_was_written_is_read() -> None:
    assert manifests.manifest_from_json(manifests.manifest_to_json(MANIFEST)) == MANIFEST
    assert manifests.record_from_json(manifests.record_to_json(RECORD, PRINT), PRINT, RECORD.unit) == RECORD
    assert manifests.started_from_json(manifests.started_to_json(STARTED)) == STARTED
    taken_back = Record("retry-001", (ENTRY,), {"attempted": -3}, {"finished": 1.0})
    assert manifests.record_from_json(manifests.record_to_json(taken_back, PRINT), PRINT, "retry-001") == taken_back


def test_what_is_not_counted_is_zero() -> None:
    tree = {**TREES["manifest"], "counters": {}}
    assert manifests.manifest_from_json(json.dumps(tree)).counters["rows"] == 0


#: Many threads that read records and the like, all for the first time in this process.
READERS = """
import sys, threading
from geo_subset import lease, manifests
sys.setswitchinterval(1e-6)
record, started, manifest, held = sys.stdin.read().splitlines()
together = threading.Barrier(16)
failed = []

def read():
    together.wait()
    for _ in range(20):
        if not (
            manifests.record_from_json(record, "0123456789abcdef" * 4, "chunk-000000")
            and manifests.started_from_json(started) and manifests.manifest_from_json(manifest) and lease._parsed(held)
        ):
            failed.append(True)

threads = [threading.Thread(target=read) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(bool(failed))
"""


def test_many_threads_may_begin_to_read_at_once() -> None:
    texts = "\n".join(json.dumps(TREES[kind]) for kind in ("record", "started", "manifest", "lease"))
    subprocess.run([sys.executable, "-c", READERS], input=texts, text=True, check=True)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_plain(name: str) -> None:
    for path in (("files", 0, "path"), ("units", 0, "unit"), ("units", 0, "files", 0), ("stage",), ("fingerprint",)):
        tree = copy.deepcopy(TREES["manifest"])
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = name
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            manifests.manifest_from_json(json.dumps(tree))
    record = TREES["record"]
    assert manifests.record_from_json(json.dumps({**record, "unit": name}), PRINT, name) is None
    file = {**record["files"][0], "path": name}
    assert manifests.record_from_json(json.dumps({**record, "files": [file]}), PRINT, RECORD.unit) is None


def test_a_record_is_of_the_unit_that_its_file_is_named_after() -> None:
    text = manifests.record_to_json(RECORD, PRINT)
    assert manifests.record_from_json(text, PRINT, "chunk-000001") is None
    assert manifests.record_from_json(text, "0" * 64, RECORD.unit) is None


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("manifest", {"files": [*TREES["manifest"]["files"]] * 2}),
        ("manifest", {"units": [*TREES["manifest"]["units"]] * 2}),
        ("manifest", {"files": []}),
        ("manifest", {"counters": {"rows": -1}}),
        ("manifest", {"seconds": True}),
        ("record", {"counters": {"rows": -1}}),
        ("record", {"counters": {"rows": True}}),
        ("record", {"counters": {"\x1b[31m": 1}}),
        ("record", {"extra": {}}),
        ("record", {"extra": {"finished": 1e300}}),
        ("record", {"extra": {"finished": 1.0, "failed": [{"reason": 1}]}}),
        ("started", {"units": -1}),
        ("started", {"units": True}),
        ("started", {"started": 1e300}),
        ("lease", {"pid": "../.."}),
        ("lease", {"pid": True}),
        ("lease", {"pid": 10**400}),
    ],
)
def test_lies(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps({**TREES[kind], **changes}).encode()
    assert read(kind, text, tmp_path) == "not done"


def read(kind: str, text: bytes, run: Path) -> str:
    """Puts a file of that kind into a run folder and reads it; says what came of it."""
    shutil.rmtree(run / "matches", ignore_errors=True)
    (run / "matches" / "_records").mkdir(parents=True)
    folder = StageFolder(str(run), "retrieve", PRINT)
    if kind == "lease":
        (run / lease.FILE).write_bytes(text)
        there = lease.holder(str(run))
        assert there is None or f"{there}{there.command}{there.machine}".isprintable()
        assert there is None or lease.lives(there) is None
        return "done" if there else "not done"
    if kind == "manifest":
        (run / "matches" / "_manifest.json").write_bytes(text)
        try:
            folder.progress()
        except StageError as error:
            assert "\n" not in str(error)
            assert "_manifest.json is damaged (" in str(error)
            return "not done"
        return "done"
    name = "stage.json" if kind == "started" else f"{RECORD.unit}.json"
    (run / "matches" / "_records" / "stage.json").write_text(manifests.started_to_json(STARTED))
    (run / "matches" / "_records" / name).write_bytes(text)
    progress = folder.progress()
    recorded = folder.recorded(RECORD.unit)
    assert progress.units_done == (recorded is not None)
    done = progress.state != "not started" if kind == "started" else recorded is not None
    folder.start(4)
    return "done" if done else "not done"


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe{}", DEEP, b'{"a":' * 100_000, b"[]", b"null", b"5", b'"x"', b"NaN"]
)
def test_no_json_of_that_kind(kind: str, text: bytes, tmp_path: Path) -> None:
    assert read(kind, text, tmp_path) == "not done"


@pytest.mark.parametrize("kind", TREES)
def test_what_is_longer_than_any_is_not_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = json.dumps(TREES[kind]).encode()
    assert read(kind, good, tmp_path) == "done"
    for limited in ("MANIFEST_BYTES", "RECORD_BYTES", "STARTED_BYTES"):
        monkeypatch.setattr(manifests, limited, 64)
    monkeypatch.setattr(lease, "_BYTES", 64)
    assert read(kind, good, tmp_path) == "not done"


@pytest.mark.parametrize("kind", TREES)
@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_any_kind(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    assert read(kind, data.draw(damaged(kind)), tmp_path) in ("done", "not done")


@pytest.mark.parametrize("kind", ["manifest", "record", "started", "lease"])
def test_a_folder_or_a_pipe_of_that_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "matches" / "_records").mkdir(parents=True)
    names = {"manifest": "matches/_manifest.json", "record": f"matches/_records/{RECORD.unit}.json",
             "started": "matches/_records/stage.json", "lease": lease.FILE}  # fmt: skip
    path, folder = tmp_path / names[kind], StageFolder(str(tmp_path), "retrieve", PRINT)
    for make, remove in ((path.mkdir, path.rmdir), (lambda: os.mkfifo(path), path.unlink)):
        make()
        if kind == "manifest":
            with pytest.raises(StageError, match=r"_manifest\.json is damaged"):
                folder.manifest()
        elif kind == "lease":
            assert lease.holder(str(tmp_path)) is None
        else:
            assert folder.recorded(RECORD.unit) is None
            assert folder.progress().state == "not started"
        remove()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file beside the run folder of its finished stage of places."""
    base = tmp_path_factory.mktemp("made")
    (base / "names.txt").write_text("Paris\nRome\n")
    (base / "run.toml").write_text(
        f'run = "{base}/run"\n[places]\nsource = "list"\npath = "names.txt"\n'
        '[retrieve.clip-service]\nurl = "http://127.0.0.1:1"\n'
    )
    assert command("places", base)[0] == 0
    shutil.copytree(base / "run", base / "good")
    return base


def command(word: str, base: Path) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = cli.main([word, str(base / "run.toml")])
    return status, out.getvalue()


def of_run(base: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """Where a file of that kind is in the run, and what a good one holds; of a stage cut off for records."""
    shutil.rmtree(base / "run")
    shutil.copytree(base / "good", base / "run")
    folder = base / "run" / "places"
    manifest = manifests.manifest_from_json((folder / "_manifest.json").read_bytes())
    if kind == "manifest":
        return folder / "_manifest.json", json.loads((folder / "_manifest.json").read_bytes())
    if kind == "lease":
        return base / "run" / lease.FILE, {**TREES["lease"], "machine": lease._machine()}
    (folder / "_manifest.json").unlink()
    (folder / "_records").mkdir()
    started = manifests.started_to_json(Started(manifest.fingerprint, 1, 1.0, 0.0))
    record = manifests.record_to_json(manifest.units[0], manifest.fingerprint)
    (folder / "_records" / "stage.json").write_text(started)
    (folder / "_records" / "places.json").write_text(record)
    name = "stage.json" if kind == "started" else "places.json"
    return folder / "_records" / name, json.loads(started if kind == "started" else record)


@pytest.mark.parametrize("kind", TREES)
@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_command_line_on_damage(kind: str, data: st.DataObject, made: Path, monkeypatch: Any) -> None:
    """`places` and `status` end with what they do on a good run, or with one line."""
    monkeypatch.setattr(lease, "SILENCE", 0.02)
    monkeypatch.setattr(lease, "TICK", 0.01)
    monkeypatch.setattr(lease, "SETTLE", 0.0)
    path, good = of_run(made, kind)
    key = data.draw(st.sampled_from(places_in(good)[1:]))
    parent = good
    for part in key[:-1]:
        parent = parent[part]
    parent[key[-1]] = data.draw(JUNK)
    text = data.draw(st.sampled_from([b"", DEEP, b"\xff\xfe{}", None, None, None]))
    path.write_bytes(json.dumps(good).encode() if text is None else text)
    for word in ("status", "places"):
        status, said = command(word, made)
        assert status in (0, 1)
        assert "Traceback" not in said
        assert "\x1b" not in said
        if status:
            assert f"{path} is damaged" in said or "is held by another driver" in said
            assert said.count("\n") == 1


def test_a_record_that_counts_nothing_of_what_a_stage_counts(made: Path) -> None:
    path, good = of_run(made, "record")
    path.write_text(json.dumps({**good, "counters": {"rows": 10**9}}))
    assert command("places", made)[0] == 0


def test_a_run_that_names_files_elsewhere_touches_nothing_there(made: Path) -> None:
    path, good = of_run(made, "manifest")
    victim = made / "victim.json"
    victim.write_text("mine")
    good["units"][0]["unit"] = "../../../victim"
    good["files"][0]["path"] = good["units"][0]["files"][0] = "../../victim.json"
    path.write_text(json.dumps(good))
    for word in ("places", "status"):
        status, said = command(word, made)
        assert status == 1
        assert said.count("\n") == 1
        assert f"{path} is damaged" in said
    assert victim.read_text() == "mine"
    assert ownership.open_run(str(made / "run")) == str(made / "run")
