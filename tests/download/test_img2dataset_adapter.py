"""The seam to img2dataset: a shard of ours beside one that img2dataset itself makes of the same rows.

When a release of img2dataset names, orders or writes anything differently, this fails.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from img2dataset.downloader import Downloader
from img2dataset.resizer import Resizer
from img2dataset.writer import WebDatasetSampleWriter

from geo_subset.download import img2dataset_adapter
from geo_subset.download.img2dataset_adapter import ShardWriter
from geo_subset.download.pixels import Picture
from geo_subset.download.shard import download_shard
from geo_subset.download.shards import check
from geo_subset.download.splits import with_splits
from geo_subset.settings import DownloadSettings

from .conftest import Web, image_bytes, samples_of

STATS = {"count", "successes", "failed_to_download", "failed_to_resize", "duration", "start_time", "end_time"}


def theirs(samples: pa.Table, index: int, folder: Path, settings: DownloadSettings) -> None:
    """The shard as img2dataset makes it, fetching and resizing by itself."""
    samples = with_splits(samples).drop_columns(["width", "height"])
    source = folder / "input.arrow"
    with pa.ipc.new_file(str(source), samples.schema) as writer:
        writer.write_table(samples)
    downloader = Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=Resizer(settings.image_size, settings.resize_mode, resize_only_if_bigger=True,
                        min_image_size=settings.min_image_size),
        thread_count=4,
        save_caption=True,
        extract_exif=False,
        output_folder=str(folder),
        column_list=samples.column_names,
        timeout=5,
        number_sample_per_shard=settings.samples_per_shard,
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=["noai"],
    )  # fmt: skip
    downloader.download_shard((index, str(source)))


def read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def without_message(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "error_message"}


@pytest.mark.parametrize(("samples_per_shard", "index"), [(10_000, 3), (12, 7), (10, 123_456)])
def test_a_shard_is_what_img2dataset_would_have_written(
    web: Web, tmp_path: Path, samples_per_shard: int, index: int
) -> None:
    links = [web.serve(f"/{n}.jpg", image_bytes(seed=n)) for n in range(7)]
    links += [web.url + "/gone.jpg", web.serve("/page", b"<html>"), web.serve("/small.jpg", image_bytes(20, 20))]
    samples = samples_of(links)
    settings = DownloadSettings(
        allow_private_hosts=True, retries=0, image_size=64, min_image_size=32, samples_per_shard=samples_per_shard
    )
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    theirs(samples, index, tmp_path / "theirs", settings)
    files, _ = download_shard(samples, index, tmp_path / "ours", settings)

    name = f"{index:05d}"
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        f"{name}.tar", f"{name}.parquet", f"{name}_stats.json"
    } == {path.name for path in (tmp_path / "theirs").iterdir()}  # fmt: skip

    with tarfile.open(files.tar) as tar:
        assert {(m.mode, m.uname, m.gname, m.type, m.mtime % 1, *m.pax_headers) for m in tar} == {
            (0o444, "bigdata", "bigdata", tarfile.REGTYPE, 0)
        }
    mine, other = read_tar(files.tar), read_tar(tmp_path / "theirs" / f"{name}.tar")
    assert mine.keys() == other.keys()
    assert len(mine) == 3 * 7
    for member, body in mine.items():
        if member.endswith("jpg"):
            assert body[:2] == other[member][:2] == b"\xff\xd8"
        else:
            assert body == other[member]  # json: the same keys in the same order, the same values; txt: the caption

    tables = [pq.read_table(tmp_path / side / f"{name}.parquet").sort_by("key") for side in ("ours", "theirs")]
    assert tables[0].schema.equals(tables[1].schema)
    rows = [[without_message(row) for row in table.to_pylist()] for table in tables]
    for row, wanted in zip(*rows, strict=True):
        if row["url"].endswith("/page"):  # known to be no image before it gets to a decoder
            assert (row.pop("status"), wanted.pop("status")) == ("failed_to_download", "failed_to_resize")
        assert row == wanted

    stats, wanted = (json.loads((tmp_path / side / f"{name}_stats.json").read_text()) for side in ("ours", "theirs"))
    assert stats.keys() == wanted.keys() == STATS | {"status_dict"}
    assert (stats["count"], stats["successes"]) == (wanted["count"], wanted["successes"]) == (10, 7)
    assert stats["status_dict"] == {"success": 7, "http 404": 1, "not an image": 1, "image too small: 20 x 20": 1}


def test_rows_may_be_written_in_any_order(tmp_path: Path) -> None:
    samples = samples_of([f"http://example.org/{n}" for n in range(5)])
    writer = ShardWriter(samples, 2, tmp_path, samples_per_shard=1000, encode_format="jpg")
    writer.failure(4, "failed_to_download", "timed out")
    writer.success(1, Picture(image_bytes(), 320, 240, 640, 480), "0" * 64)
    writer.failure(0, "failed_to_resize", "undecodable image: cut")
    writer.success(3, Picture(image_bytes(), 320, 240, 640, 480), "1" * 64)
    writer.failure(2, "failed_to_download", "http 404")
    writer.close()
    assert check(writer.files, samples["uid"].to_pylist(), "jpg") == {
        "attempted": 5, "succeeded": 2, "failed: http 404": 1, "failed: timed out": 1, "failed: undecodable image": 1
    }  # fmt: skip
    rows = pq.read_table(writer.files.parquet).sort_by("key")
    assert rows["uid"].to_pylist() == samples["uid"].to_pylist()
    assert rows["key"].to_pylist() == [f"00002{n:03d}" for n in range(5)]


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.floats() | st.text()),
    )
)
def test_json_is_written_as_img2dataset_writes_it(meta: dict[str, Any]) -> None:
    written = img2dataset_adapter._json(meta)
    assert (written if isinstance(written, str) else written.decode()) == json.dumps(meta, indent=4)
