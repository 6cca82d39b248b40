from __future__ import annotations

import io
import json
import tarfile
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import webdataset
from img2dataset import downloader
from PIL import Image

from geo_subset.download.img2dataset_adapter import download_shard
from geo_subset.download.shards import DamagedShardError
from geo_subset.errors import StorageFullError
from geo_subset.settings import DownloadSettings

from .conftest import Web, image_bytes, samples_of

QUICK: dict[str, Any] = {"allow_private_hosts": True, "threads": 4, "retries": 0, "timeout": 5.0, "image_size": 64}


def sizes(tar: Path, extension: str = "jpg") -> set[tuple[int, int]]:
    with tarfile.open(tar) as archive:
        found = set()
        for member in archive:
            if member.name.endswith(extension):
                stream = archive.extractfile(member)
                assert stream is not None
                found.add(Image.open(io.BytesIO(stream.read())).size)
        return found


def test_a_shard_of_good_and_bad_images(web: Web, tmp_path: Path) -> None:
    good = [web.serve(f"/{n}.jpg", image_bytes(seed=n)) for n in range(5)]
    bad = [
        web.url + "/gone.jpg",
        web.serve("/page", b"<html>"),
        web.serve("/cut.jpg", image_bytes()[:1000]),
        web.serve("/small.jpg", image_bytes(20, 20)),
        web.serve("/long.jpg", image_bytes(900, 100)),
        "ftp://example.org/a.jpg",
    ]
    samples = samples_of(good + bad)
    settings = DownloadSettings(min_image_size=32, max_aspect_ratio=3.0, **QUICK)
    files, counts = download_shard(samples, 12, tmp_path, settings)
    assert counts == {
        "attempted": 11,
        "succeeded": 5,
        "failed: aspect ratio": 1,
        "failed: http 404": 1,
        "failed: image too small": 1,
        "failed: not an image": 1,
        "failed: undecodable image": 1,
        "failed: unsupported url": 1,
    }

    rows = pq.read_table(files.parquet).to_pandas().set_index("url")
    assert set(rows.index) == set(good + bad)
    assert rows.loc[good, "sha256"].str.len().eq(64).all()
    assert set(rows.loc[good, "original_width"]) == {320}

    read = list(webdataset.WebDataset(str(files.tar), shardshuffle=False))
    by_url = {row["url"]: row for row in samples.to_pylist()}
    assert len(read) == 5
    for sample in read:
        found = json.loads(sample["json"])
        row = by_url[found["url"]]
        for name in ("uid", "place_id", "name", "latitude", "longitude", "similarity", "place_ids", "similarities"):
            assert found[name] == row[name]
        assert sample["txt"].decode() == (row["caption"] or "")
        assert (found["width"], found["height"]) == Image.open(io.BytesIO(sample["jpg"])).size == (85, 64)
        assert sample["__key__"] == found["key"]
        assert found["key"].startswith("00012")


def test_keys_of_shards_do_not_meet(web: Web, tmp_path: Path) -> None:
    url = web.serve("/a.jpg", image_bytes())
    keys: list[str] = []
    for index in (0, 1, 9, 10, 99_999, 100_000):
        folder = tmp_path / str(index)
        folder.mkdir()
        settings = DownloadSettings(samples_per_shard=10, **QUICK)
        files, _ = download_shard(samples_of([f"{url}?{n}" for n in range(10)]), index, folder, settings)
        keys += pq.read_table(files.parquet)["key"].to_pylist()
    assert len(set(keys)) == len(keys) == 60


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("no", {(320, 240), (40, 30)}),
        ("keep_ratio", {(85, 64), (40, 30)}),
        ("keep_ratio_largest", {(64, 48), (40, 30)}),
        ("center_crop", {(64, 64)}),
        ("border", {(64, 64)}),
    ],
)
def test_only_modes_that_promise_one_shape_enlarge(
    web: Web, tmp_path: Path, mode: Any, expected: set[tuple[int, int]]
) -> None:
    links = [web.serve("/big.jpg", image_bytes()), web.serve("/small.jpg", image_bytes(40, 30))]
    files, _ = download_shard(samples_of(links), 0, tmp_path, DownloadSettings(resize_mode=mode, **QUICK))
    assert sizes(files.tar) == expected


@pytest.mark.parametrize(("form", "quality"), [("png", 3), ("webp", 80)])
def test_other_formats(web: Web, tmp_path: Path, form: Any, quality: int) -> None:
    settings = DownloadSettings(encode_format=form, encode_quality=quality, **QUICK)
    files, counts = download_shard(samples_of([web.serve("/a.jpg", image_bytes())]), 0, tmp_path, settings)
    assert counts == {"attempted": 1, "succeeded": 1}
    assert sizes(files.tar, form) == {(85, 64)}


def test_private_hosts_are_refused_unless_allowed(web: Web, tmp_path: Path) -> None:
    links = [web.serve("/a.jpg", image_bytes())]
    settings = DownloadSettings(**{**QUICK, "allow_private_hosts": False})
    _, counts = download_shard(samples_of(links), 0, tmp_path, settings)
    assert counts == {"attempted": 1, "succeeded": 0, "failed: private address": 1}


def test_a_worker_is_left_as_it_was(web: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    original, threads = downloader.download_image_with_retry, set(threading.enumerate())
    samples = samples_of([web.serve("/a.jpg", image_bytes()), web.url + "/gone"])
    download_shard(samples, 0, tmp_path, DownloadSettings(**QUICK))
    assert downloader.download_image_with_retry is original
    left = {thread for thread in threading.enumerate() if "process_request_thread" not in thread.name}
    assert left <= threads
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("images", [1, 40])
def test_a_full_disk_is_said_to_be_full(web: Web, tmp_path: Path, images: int) -> None:
    # 1: the data waits in a buffer until the tar is closed; 40: samples are dropped on the way.
    (tmp_path / "00000.tar").symlink_to("/dev/full")
    url = web.serve("/a.jpg", image_bytes())
    settings = DownloadSettings(**{**QUICK, "image_size": 1024})
    with pytest.raises(StorageFullError, match="no space left"):
        download_shard(samples_of([f"{url}?{n}" for n in range(images)]), 0, tmp_path, settings)


def test_a_sample_that_img2dataset_drops_is_noticed(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> str:
        raise RuntimeError("a bug")

    monkeypatch.setattr(downloader, "compute_key", broken)
    with pytest.raises(DamagedShardError, match=r"0 rows for 1 samples \(img2dataset: .*a bug"):
        download_shard(samples_of([web.serve("/a.jpg", image_bytes())]), 0, tmp_path, DownloadSettings(**QUICK))
