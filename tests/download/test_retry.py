"""Retry passes: what failed is tried again in new shards, and every sample counts once, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geo_subset.download import stage
from geo_subset.errors import StageError
from geo_subset.manifests import Manifest
from geo_subset.runfolder import StageFolder

from .conftest import Web, image_bytes, samples_of
from .test_stage import merged, settings_for, shards_folder

pytestmark = pytest.mark.usefixtures("ray_session")


class Moody:
    """A web of 14 images: 4 always there, 2 gone for good, 2 no images, and 6 whose host is `down` (path -> status)."""

    def __init__(self, web: Web) -> None:
        self.web, self.body = web, image_bytes()
        self.down: dict[str, int] = {f"/moody{n}.jpg": 503 if n % 2 else 500 for n in range(6)}
        links = [web.serve(f"/{n}.jpg", image_bytes(seed=n)) for n in range(4)]
        links += [web.url + f"/gone{n}.jpg" for n in range(2)]
        links += [web.serve(f"/page{n}", b"<html>") for n in range(2)]
        links += [web.on(path, self._answer) for path in self.down]
        self.samples = samples_of(links)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(self.down.get(handler.path, 200))
        handler.end_headers()
        if handler.path not in self.down:
            handler.wfile.write(self.body)


@pytest.fixture
def moody(web: Web, tmp_path: Path) -> Moody:
    """The moody web, downloaded once while all of it is down."""
    made = Moody(web)
    merged(tmp_path, made.samples, rows_per_file=5)
    manifest = stage.run(settings_for(tmp_path), shards_folder(tmp_path))
    assert nonzero(manifest) == {
        "attempted": 14, "succeeded": 4, "failed: http 404": 2, "failed: http 500": 3, "failed: http 503": 3,
        "failed: not an image": 2,
    }  # fmt: skip
    web.requests.clear()
    return made


def nonzero(manifest: Manifest) -> dict[str, int]:
    return {name: count for name, count in manifest.counters.items() if count}


def digests(run: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run / "shards").glob("[0-9]*")}


def in_tars(run: Path) -> dict[str, str]:
    """uid -> shard of every image there is; each must be there once."""
    found: list[tuple[str, str]] = []
    for path in sorted((run / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [(json.load(tar.extractfile(m))["uid"], path.stem) for m in tar if m.name.endswith(".json")]  # type: ignore[arg-type]
    assert len(dict(found)) == len(found)
    return dict(found)


def check_truth(run: Path, samples: pa.Table, manifest: Manifest) -> list[dict[str, Any]]:
    """The index must be of the samples in their order, and agree with the tars and with the counters."""
    index = pq.read_table(run / "shards" / "_index.parquet").to_pylist()
    assert [row["uid"] for row in index] == samples["uid"].to_pylist()
    assert {row["uid"]: row["shard"] for row in index if row["status"] == "success"} == in_tars(run)
    failed = Counter(f"failed: {row['reason']}" for row in index if row["status"] != "success")
    successes = sum(row["status"] == "success" for row in index)
    assert nonzero(manifest) == {"attempted": len(index), "succeeded": successes, **failed}
    listed = {entry.path for entry in manifest.files}
    assert {path.name for path in (run / "shards").iterdir()} == listed | {"_manifest.json"}
    return index


def test_what_may_pass_goes_into_new_shards_and_old_ones_stay(moody: Moody, tmp_path: Path) -> None:
    before = digests(tmp_path)
    del moody.down["/moody0.jpg"], moody.down["/moody1.jpg"], moody.down["/moody2.jpg"]
    folder = shards_folder(tmp_path)
    manifest = stage.retry_failed(settings_for(tmp_path), folder)
    assert manifest is not None
    assert moody.web.requests == {f"/moody{n}.jpg": 1 for n in range(6)}
    assert nonzero(manifest) == {
        "attempted": 14, "succeeded": 7, "failed: http 404": 2, "failed: http 500": 1, "failed: http 503": 2,
        "failed: not an image": 2,
    }  # fmt: skip
    after = digests(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted(name for name in after if name.endswith(".tar")) == [f"{n:05d}-c0ffee00.tar" for n in range(6)]
    check_truth(tmp_path, moody.samples, manifest)
    assert folder.finished() == manifest

    # A second pass takes only what still fails, a third finds nothing to do.
    moody.web.requests.clear()
    moody.down.clear()
    manifest = stage.retry_failed(settings_for(tmp_path), folder)
    assert manifest is not None
    assert moody.web.requests == {f"/moody{n}.jpg": 1 for n in (3, 4, 5)}
    assert nonzero(manifest) == {
        "attempted": 14, "succeeded": 10, "failed: http 404": 2, "failed: not an image": 2
    }  # fmt: skip
    index = check_truth(tmp_path, moody.samples, manifest)
    assert {row["shard"][:5] for row in index if row["status"] == "success"} >= {"00004", "00006"}
    assert stage.retry_failed(settings_for(tmp_path), folder) is None
    assert folder.finished() == manifest


def test_a_pattern_says_which_reasons(moody: Moody, tmp_path: Path) -> None:
    folder = shards_folder(tmp_path)
    assert stage.retry_failed(settings_for(tmp_path), folder, "timed out") is None
    assert moody.web.requests.total() == 0
    moody.down.clear()
    manifest = stage.retry_failed(settings_for(tmp_path), folder, "404|50[0]")
    assert manifest is not None
    wanted = {f"/moody{n}.jpg": 1 for n in (0, 2, 4)} | {f"/gone{n}.jpg": 1 for n in range(2)}
    assert moody.web.requests == wanted
    check_truth(tmp_path, moody.samples, manifest)


def test_an_unfinished_download_is_finished_first(web: Web, tmp_path: Path) -> None:
    merged(tmp_path, samples_of([web.url + "/a"]), rows_per_file=5)
    with pytest.raises(StageError, match="not finished"):
        stage.retry_failed(settings_for(tmp_path), shards_folder(tmp_path))


def test_a_pass_that_was_cut_off_is_gone_on_with(moody: Moody, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    run_stage, folder = stage.run, shards_folder(tmp_path)

    def killed(*_: object) -> Manifest:
        raise Killed

    # The driver dies when the pass has begun, before any of its shards is made.
    with monkeypatch.context() as patch:
        patch.setattr(stage, "run", killed)
        with pytest.raises(Killed):
            stage.retry_failed(settings_for(tmp_path), folder)
    assert folder.finished() is None
    moody.down.clear()
    manifest = run_stage(settings_for(tmp_path), folder)
    assert moody.web.requests == {f"/moody{n}.jpg": 1 for n in range(6)}
    assert nonzero(manifest)["succeeded"] == 10
    check_truth(tmp_path, moody.samples, manifest)

    # It dies before the pass is declared begun: nothing has happened.
    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "record", killed)
        with pytest.raises(Killed):
            stage.list_failed(2, [f.path for f in StageFolder(str(tmp_path), "merge").manifest().files], folder, "404")  # type: ignore[union-attr]
    assert run_stage(settings_for(tmp_path), folder).files == manifest.files
    check_truth(tmp_path, moody.samples, manifest)


@pytest.mark.parametrize("lost", ["00000", "00001", "00002", "00003", "00004", "00005"])
def test_a_lost_shard_is_made_again_without_doubles(moody: Moody, tmp_path: Path, lost: str) -> None:
    folder = shards_folder(tmp_path)
    del moody.down["/moody0.jpg"], moody.down["/moody3.jpg"]
    stage.retry_failed(settings_for(tmp_path), folder)
    moody.down.clear()  # all would succeed now, also in the shard that is made again
    before = stage.retry_failed(settings_for(tmp_path), folder)
    assert before is not None
    (tmp_path / "shards" / f"{lost}-c0ffee00.tar").unlink()
    after = stage.run(settings_for(tmp_path), folder)
    assert nonzero(after) == nonzero(before)
    check_truth(tmp_path, moody.samples, after)


def test_a_pass_whose_list_is_lost_is_given_up(moody: Moody, tmp_path: Path) -> None:
    before = nonzero(stage.run(settings_for(tmp_path), shards_folder(tmp_path)))
    folder = shards_folder(tmp_path)
    moody.down.clear()
    stage.retry_failed(settings_for(tmp_path), folder)
    (tmp_path / "shards" / "_retry-001-c0ffee00.parquet").unlink()
    manifest = stage.run(settings_for(tmp_path), folder)
    assert nonzero(manifest) == before
    check_truth(tmp_path, moody.samples, manifest)
    again = stage.retry_failed(settings_for(tmp_path), folder)
    assert again is not None
    assert nonzero(again)["succeeded"] == 10
    check_truth(tmp_path, moody.samples, again)


def test_a_lost_index_is_made_again(moody: Moody, tmp_path: Path) -> None:
    folder = shards_folder(tmp_path)
    before = folder.finished()
    (tmp_path / "shards" / "_index.parquet").unlink()
    after = stage.run(settings_for(tmp_path), folder)
    assert before is not None
    assert after.files == before.files
    assert moody.web.requests.total() == 0
