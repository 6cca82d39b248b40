"""`geo-subset verify`: a real run's files are damaged in every way, and each is found by the command line."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from pipeline_runs import words

from .damage import AS_THEY_ARE, SEALED, Run, flip, flip_in_image

Here = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(run_file: Path, geo_subset_here: Here, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run through the download."""
    run = tmp_path_factory.mktemp("finished") / "run"
    status, _, err = geo_subset_here(*words("download", run_file, run))
    assert status == 0, err
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    shutil.copytree(finished, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def verify(run_file: Path, geo_subset_here: Here) -> Here:
    """The command on a run folder, with further words."""
    return lambda run, *more: geo_subset_here(*words("verify", run_file, run, *more))


def by_itself(run_file: Path, run: str | Path) -> tuple[int, str, str]:
    """The same in a process with a Ray of its own."""
    command = [sys.executable, "-m", "geo_subset.cli", *words("verify", run_file, run)]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    return out.returncode, out.stdout, out.stderr


def contents(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_a_whole_run_is_one_line_of_numbers_and_nothing_is_changed(run: Run, run_file: Path) -> None:
    before = contents(run.path)
    status, out, err = by_itself(run_file, run.path)
    told = [line for line in err.splitlines() if not re.search(r"verify +[\d,]+/[\d,]+ rows", line)]
    assert (status, told) == (0, [])
    tree = json.loads((run.shards / "_manifest.json").read_text())
    counters, tars = tree["counters"], list(run.shards.glob("*.tar"))
    assert re.fullmatch(
        rf"{len(tars)} shards, {counters['attempted']} samples, {counters['succeeded']} images, "
        r"[\d,]+ bytes re-read in [\d.]+ s: all as recorded\n",
        out,
    )
    assert contents(run.path) == before


@pytest.mark.parametrize(
    ("damage", "message", "sealed"),
    [pytest.param(damage, message, False, id=name) for name, damage, message in AS_THEY_ARE]
    + [pytest.param(damage, message, True, id=f"{name}, sealed") for name, damage, message in SEALED],
)
def test_damage_is_found(run: Run, verify: Here, damage: Callable[[Run], object], message: str, sealed: bool) -> None:
    shard = run.file(0, ".tar").stem
    damage(run)
    if sealed:
        run.seal()
    status, out, err = verify(run.path)
    assert status == 1
    assert re.search(message.replace("{shard}", shard), out), out
    assert "is not what it should be" in err
    assert [line for line in err.splitlines() if "  verify    " not in line] == err.splitlines()[-1:]


def test_a_byte_flipped_anywhere_is_found(run: Run, verify: Here) -> None:
    files = sorted(path for path in run.shards.iterdir() if path.name != "_manifest.json")
    chosen = random.Random(5)
    for path in files:
        flip(path, chosen.randrange(path.stat().st_size))
    status, out, _ = verify(run.path)
    assert status == 1
    found = set(re.findall(r"(\S+) has another SHA-256", out))
    assert found == {path.name for path in files}


def test_keys_of_another_shard_are_found(run: Run, verify: Here) -> None:
    """Keys that agree in all files of the shard, but are those of the next one."""
    path = run.file(0, ".parquet")
    keys = pq.read_table(path)["key"].to_pylist()
    other = {key: f"{int(key) + 100:0{len(key)}d}" for key in keys}
    run.column(path, "key", lambda values: values.__setitem__(slice(None), [other[key] for key in values]))

    def rename(members: list[tuple[str, bytes]]) -> None:
        for n, (name, body) in enumerate(members):
            key, _, end = name.partition(".")
            if end == "json":
                body = json.dumps(json.loads(body) | {"key": other[key]}, indent=4).encode()
            members[n] = (f"{other[key]}.{end}", body)

    run.rewrite(rename)
    run.seal()
    status, out, _ = verify(run.path)
    assert status == 1
    assert "should be number" in out
    lines = out.splitlines()
    assert sum("should be number" in line for line in lines) == 10
    assert sum("the shards say" in line for line in lines) == 10  # in the index, which still has the keys of before
    assert lines[-2] == f"... and {2 * len(keys) - 20} more"
    assert lines[-1].endswith(f": {2 * len(keys)} problems")


@pytest.mark.parametrize(("gone", "left"), [("shards", "not finished"), ("samples", "not finished")])
def test_a_run_that_is_not_finished_says_so(run: Run, verify: Here, gone: str, left: str) -> None:
    (run.path / gone / "_manifest.json").unlink()
    status, out, err = verify(run.path)
    assert (status, out) == (1, "")
    assert left in err


def test_a_run_that_was_never_started_says_so(tmp_path: Path, verify: Here) -> None:
    status, _, err = verify(tmp_path / "nothing")
    assert status == 1
    assert "not finished" in err
    assert not (tmp_path / "nothing").exists()


def test_shards_of_other_settings_or_samples_are_not_compared(run: Run, verify: Here) -> None:
    status, _, err = verify(run.path, "--set=download.image_size=99")
    assert status == 1
    assert "made with other settings or from other samples" in err
    assert verify(run.path, "--set=download.timeout=99.0")[0] == 0
    with run.manifest("samples") as tree:
        tree["files"][0]["sha256"] = "0" * 64
    status, _, err = verify(run.path)
    assert status == 1
    assert "made with other settings or from other samples" in err


def test_a_run_with_a_retry_pass(run: Run, run_file: Path, geo_subset_here: Here, verify: Here) -> None:
    retry = words("download", run_file, run.path, "--retry-failed", "--reason=http")
    assert geo_subset_here(*retry)[0] == 0
    status, out, _ = verify(run.path)
    assert status == 0, out
    (listed,) = run.shards.glob("*retry-*.parquet")
    with run.manifest() as tree:
        assert pq.read_metadata(listed).num_rows > 0
        shards = sum(entry["path"].endswith(".tar") for entry in tree["files"])
    assert out.startswith(f"{shards} shards, ")

    run.column(listed, "caption", lambda values: values.__setitem__(0, "not this"))
    run.seal()
    status, out, _ = verify(run.path)
    assert status == 1
    assert re.search(r"shards/retry-001: its row of sample \S+ is not that of the samples table", out)


@pytest.mark.slow
def test_a_run_on_object_storage(run: Run, run_file: Path, s3_bucket: str) -> None:
    url = f"{s3_bucket}/verified"
    fs, root = fsspec.core.url_to_fs(url)
    fs.put(f"{run.path}/", f"{root}/", recursive=True)
    name = run.file(0, ".tar").name
    flip_in_image(run)
    fs.put_file(str(run.file(0, ".tar")), f"{root}/shards/{name}")
    fs.rm_file(f"{root}/shards/{run.file(1, '.parquet').name}")
    status, out, _ = by_itself(run_file, url)
    assert status == 1
    assert f"{name} has another SHA-256" in out
    assert f"{run.file(1, '.parquet').name}: is missing" in out
    assert out.splitlines()[-1].endswith(": 3 problems"), out
