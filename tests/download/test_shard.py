"""One shard, made by the public function from a web on loopback."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from geo_subset import tables
from geo_subset.download import apart, shard
from geo_subset.download.shard import AT_A_TIME, download_shard
from geo_subset.download.splits import with_splits
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
        "failed: truncated image": 1,
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


@pytest.mark.parametrize("images", [1, 40])
def test_a_full_disk_is_said_to_be_full(web: Web, tmp_path: Path, images: int) -> None:
    # 1: the data waits in a buffer until the tar is closed; 40: samples are dropped on the way.
    (tmp_path / "00000.tar").symlink_to("/dev/full")
    url = web.serve("/a.jpg", image_bytes())
    settings = DownloadSettings(**{**QUICK, "image_size": 1024})
    with pytest.raises(StorageFullError, match="no space left"):
        download_shard(samples_of([f"{url}?{n}" for n in range(images)]), 0, tmp_path, settings)


def together(web: Web, path: str, most: int) -> tuple[str, list[int]]:
    """A page that holds its answers back until `most` requests are open at a time (or it must stop), and how many
    were open whenever one more came."""
    body, open_now, seen = image_bytes(), [0], []
    change = threading.Condition()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with change:
            open_now[0] += 1
            seen.append(open_now[0])
            change.notify_all()
            change.wait_for(lambda: max(seen) >= most, timeout=5)
        with contextlib.suppress(OSError):
            handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        with change:
            open_now[0] -= 1

    return web.on(path, answer), seen


def many(web: Web, url: str, count: int) -> list[str]:
    """As many URLs as wanted for one page; the web counts requests by path."""
    path = url.removeprefix(web.url)
    for n in range(count):
        web.pages[f"{path}?{n}"] = web.pages[path]
    return [f"{url}?{n}" for n in range(count)]


@pytest.mark.parametrize(("limits", "most"), [({"threads": 3}, 3), ({"threads": 16, "requests_per_host": 5}, 5)])
def test_no_more_requests_at_a_time_than_set(web: Web, tmp_path: Path, limits: dict[str, int], most: int) -> None:
    url, seen = together(web, "/a.jpg", most)
    _, counts = download_shard(samples_of(many(web, url, 20)), 0, tmp_path, DownloadSettings(**(QUICK | limits)))
    assert counts == {"attempted": 20, "succeeded": 20}
    assert max(seen) == most


def test_hundreds_of_requests_at_a_time_need_no_setting(web: Web, tmp_path: Path) -> None:
    url, seen = together(web, "/a.jpg", AT_A_TIME)
    settings = DownloadSettings(**QUICK | {"threads": None, "requests_per_host": 1000, "timeout": 20.0})
    _, counts = download_shard(samples_of(many(web, url, AT_A_TIME + 10)), 0, tmp_path, settings)
    assert counts == {"attempted": AT_A_TIME + 10, "succeeded": AT_A_TIME + 10}
    assert max(seen) == AT_A_TIME


def test_pictures_of_any_size_come_out_the_same_whatever_resizes_them(web: Web, tmp_path: Path) -> None:
    large = io.BytesIO()
    Image.new("RGB", (2600, 1900), "teal").save(large, "JPEG")
    links = [web.serve("/large.jpg", large.getvalue())]
    links += [web.serve(f"/{n}.jpg", image_bytes(seed=n)) for n in range(20)]
    stored = []
    for cpus in (0.5, 1.0, 3.0):
        folder = tmp_path / str(cpus)
        folder.mkdir()
        files, counts = download_shard(samples_of(links), 0, folder, DownloadSettings(**QUICK), cpus=cpus)
        assert counts == {"attempted": 21, "succeeded": 21}
        read = webdataset.WebDataset(str(files.tar), shardshuffle=False)
        stored.append({sample["__key__"]: (sample["jpg"], sample["json"]) for sample in read})
    assert stored[0] == stored[1] == stored[2]


def test_a_host_is_asked_for_more_while_its_images_wait_to_be_resized(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, resize = threading.Semaphore(0), shard.resized
    answer = web.pages[web.serve("/a.jpg", image_bytes()).removeprefix(web.url)]

    def after_six(*arguments: Any) -> Any:
        assert asked.acquire(timeout=10)
        return resize(*arguments)

    def counted(handler: BaseHTTPRequestHandler) -> None:
        answer(handler)
        if web.requests.total() == 6:
            asked.release(6)

    monkeypatch.setattr(shard, "resized", after_six)
    links = many(web, web.on("/a.jpg", counted), 6)
    settings = DownloadSettings(**QUICK | {"threads": 16, "requests_per_host": 2})
    _, counts = download_shard(samples_of(links), 0, tmp_path, settings, cpus=2)
    assert counts == {"attempted": 6, "succeeded": 6}


def tiff(seed: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (100, 80), (seed, 0, 0)).save(out, "TIFF")
    return out.getvalue()


@pytest.mark.parametrize("cpus", [1.0, 2.0])
def test_other_images_never_wait_for_those_that_are_decoded_apart(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: float
) -> None:
    others, all_came, resize = [], threading.Event(), shard.resized

    def after_all_others(body: bytes, head: Any, settings: Any) -> Any:
        if head.apart:
            assert all_came.wait(20)
        else:
            others.append(body)
            if len(others) == 12:
                all_came.set()
        return resize(body, head, settings)

    monkeypatch.setattr(shard, "resized", after_all_others)
    links = [web.serve(f"/{n}.tif", tiff(n)) for n in range(12)]
    links += [web.serve(f"/{n}.jpg", image_bytes(seed=n)) for n in range(12)]
    settings = DownloadSettings(**QUICK | {"requests_per_host": 4})
    _, counts = download_shard(samples_of(links), 0, tmp_path, settings, cpus=cpus)
    assert counts == {"attempted": 24, "succeeded": 24}


def test_bodies_to_be_decoded_apart_are_bounded_and_their_rows_wait(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for one, so that each is asked for twice at most."""
    monkeypatch.setattr(shard, "_APART_BODIES", 1)
    held, most, resize = [0], [0], shard.resized

    def noted(*arguments: Any) -> Any:
        held[0] += 1
        most[0] = max(most[0], held[0])
        try:
            return resize(*arguments)
        finally:
            held[0] -= 1

    monkeypatch.setattr(shard, "resized", noted)
    links = [web.serve(f"/{n}.tif", tiff(n)) for n in range(8)]
    settings = DownloadSettings(**QUICK | {"max_bytes": len(tiff(0)) + 100, "threads": 8, "requests_per_host": 8})
    _, counts = download_shard(samples_of(links), 0, tmp_path, settings, cpus=4)
    assert counts == {"attempted": 8, "succeeded": 8}
    assert most[0] == 1
    assert max(web.requests.values()) <= 2


def test_a_process_that_cannot_decode_is_a_shortage_here(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "_CODE", "raise MemoryError")
    monkeypatch.setattr(apart, "_idle", type(apart._idle)())
    links = [web.serve("/a.tif", tiff(1)), web.serve("/a.jpg", image_bytes())]
    files, counts = download_shard(samples_of(links), 0, tmp_path, DownloadSettings(**QUICK))
    assert counts == {"attempted": 2, "succeeded": 1, "failed: shortage here": 1}
    rows = {row["url"]: row["status"] for row in pq.read_table(files.parquet).to_pylist()}
    assert rows[links[0]] == "failed_to_download"  # a retry pass takes it


def failing(web: Web, path: str, status: int, times: int, headers: dict[str, str] | None = None) -> str:
    """A page that answers with an image after so many failures."""
    body = image_bytes()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        failed = web.requests[handler.path] <= times
        handler.send_response(status if failed else 200)
        for name, value in ((headers or {}) if failed else {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(b"" if failed else body)

    return web.on(path, answer)


def test_only_what_may_pass_is_tried_again(web: Web, tmp_path: Path) -> None:
    links = [failing(web, f"/{status}", status, 1) for status in (408, 425, 429, 500, 503, 404, 403, 410, 451)]
    robots = web.serve("/robots", image_bytes(), headers={"X-Robots-Tag": "noai"})
    bad = web.serve("/bad", b"<html>")
    samples = samples_of([*links, robots, bad, failing(web, "/always", 500, 99)])
    _, counts = download_shard(samples, 0, tmp_path, DownloadSettings(**QUICK | {"retries": 2}))
    assert counts == {
        "attempted": 12, "succeeded": 5, "failed: http 403": 1, "failed: http 404": 1, "failed: http 410": 1,
        "failed: http 451": 1, "failed: http 500": 1, "failed: not an image": 1, "failed: robots": 1,
    }  # fmt: skip
    again = {"/408": 2, "/425": 2, "/429": 2, "/500": 2, "/503": 2, "/always": 3}
    assert web.requests == dict.fromkeys(["/404", "/403", "/410", "/451", "/robots", "/bad"], 1) | again


def test_a_host_rests_as_long_as_it_asks_for(web: Web, tmp_path: Path) -> None:
    asked: list[tuple[float, str]] = []

    def noted(path: str) -> str:
        answer = web.pages[path]
        return web.on(path, lambda handler: asked.append((time.monotonic(), path)) or answer(handler))

    failing(web, "/busy", 429, 1, {"Retry-After": "1"})
    links = [noted("/busy")]
    for n in range(5):
        web.serve(f"/{n}.jpg", image_bytes())
        links.append(noted(f"/{n}.jpg"))
    _, counts = download_shard(samples_of(links), 0, tmp_path, DownloadSettings(**QUICK | {"threads": 1, "retries": 1}))
    assert counts == {"attempted": 6, "succeeded": 6}
    refused, accepted = (at for at, path in asked if path == "/busy")
    assert accepted >= refused + 1
    assert [path for at, path in asked if refused < at < refused + 1] == []


def test_a_host_that_wants_too_much_rest_is_left_alone(web: Web, tmp_path: Path) -> None:
    other = web.serve("/other.jpg", image_bytes())
    links = many(web, failing(web, "/a", 503, 99, {"Retry-After": "3600"}), 50)
    rows = samples_of([*links, other]).to_pylist()
    for row in rows:
        row["domain"] = "busy.example" if "/a?" in row["url"] else "other.example"
    samples = pa.Table.from_pylist(rows, tables.SAMPLES)
    files, counts = download_shard(samples, 0, tmp_path, DownloadSettings(**QUICK | {"retries": 5}))
    assert counts == {"attempted": 51, "succeeded": 1, "failed: http 503": 50}
    assert web.requests.total() <= 1 + QUICK["threads"]
    messages = set(pq.read_table(files.parquet)["error_message"].to_pylist())
    assert messages == {None, "http 503", "http 503: not asked: its host wants rest"}


def test_more_large_images_than_there_is_room_for_come_one_after_another(web: Web, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (1000, 1000, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG", compress_level=0)
    links = many(web, web.serve("/a.png", out.getvalue()), 12)
    settings = DownloadSettings(**QUICK | {"threads": 12, "requests_per_host": 12, "max_bytes": 256 << 20})
    _, counts = download_shard(samples_of(links), 0, tmp_path, settings)
    assert counts == {"attempted": 12, "succeeded": 12}


def test_rows_that_a_later_pass_has_are_not_asked_for(web: Web, tmp_path: Path) -> None:
    samples = samples_of([web.serve(f"/{n}.jpg", image_bytes(seed=n)) for n in range(4)])
    uids = samples["uid"].to_pylist()
    settled = {uids[0]: ("failed_to_download", "http 503"), uids[2]: ("failed_to_resize", "undecodable image")}
    files, counts = download_shard(samples, 0, tmp_path, DownloadSettings(**QUICK), settled)
    assert counts == {"attempted": 4, "succeeded": 2, "failed: http 503": 1, "failed: undecodable image": 1}
    assert web.requests.total() == 2
    rows = pq.read_table(files.parquet).sort_by("key")
    assert rows["uid"].to_pylist() == uids
    assert rows["status"].to_pylist() == ["failed_to_download", "success", "failed_to_resize", "success"]


def test_a_shard_may_have_nothing_to_ask_for(web: Web, tmp_path: Path) -> None:
    samples = samples_of([web.url + "/a.jpg"])
    settled = {samples["uid"][0].as_py(): ("failed_to_download", "http 503")}
    _, counts = download_shard(samples, 0, tmp_path, DownloadSettings(**QUICK), settled)
    assert counts == {"attempted": 1, "succeeded": 0, "failed: http 503": 1}
    assert web.requests.total() == 0


def test_every_sample_says_which_split_it_is_in(web: Web, tmp_path: Path) -> None:
    url = web.serve("/a.jpg", image_bytes())
    samples = samples_of(many(web, url, 30))
    files, _ = download_shard(samples, 0, tmp_path, DownloadSettings(**QUICK))
    wanted = {row["uid"]: (row["split"], row["split_place"]) for row in with_splits(samples).to_pylist()}
    read = [json.loads(sample["json"]) for sample in webdataset.WebDataset(str(files.tar), shardshuffle=False)]
    assert {row["uid"]: (row["split"], row["split_place"]) for row in read} == wanted
    rows = pq.read_table(files.parquet).to_pylist()
    assert {row["uid"]: (row["split"], row["split_place"]) for row in rows} == wanted
