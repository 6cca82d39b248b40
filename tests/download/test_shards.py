from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from geo_subset.download.shards import DamagedShardError, ShardFiles, check

UIDS = [f"{n:032x}" for n in range(6)]


def write(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> ShardFiles:
    """A shard of six samples, four of them good; `change` spoils what is going to be written."""
    rows = [{"uid": uid, "key": f"{n:09d}", "status": "success", "error_message": None} for n, uid in enumerate(UIDS)]
    rows[4] |= {"status": "failed_to_download", "error_message": "http 404"}
    rows[5] |= {"status": "failed_to_resize", "error_message": "image too small"}
    members = [
        (f"{n:09d}.{extension}", body)
        for n in range(4)
        for extension, body in (("jpg", b"j" * 700), ("json", b"{}"), ("txt", b""))
    ]
    stats = {"count": 6, "successes": 4, "failed_to_download": 1, "failed_to_resize": 1}
    shard = {"rows": rows, "members": members, "stats": stats}
    change(shard)
    files = ShardFiles(folder / "00000.tar", folder / "00000.parquet", folder / "00000_stats.json")
    names = ["uid", "key", "status", "error_message"]
    pq.write_table(
        pa.Table.from_pylist(shard["rows"], schema=pa.schema([(n, pa.string()) for n in names])), files.parquet
    )
    with tarfile.open(files.tar, "w") as tar:
        for name, body in shard["members"]:
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))
    files.stats.write_text(json.dumps(shard["stats"]))
    return files


def test_a_whole_shard_is_counted(tmp_path: Path) -> None:
    assert check(write(tmp_path), UIDS, "jpg") == {
        "attempted": 6,
        "succeeded": 4,
        "failed: http 404": 1,
        "failed: image too small": 1,
    }


def test_a_shard_without_any_success_is_whole(tmp_path: Path) -> None:
    def nothing(shard: dict[str, Any]) -> None:
        shard["members"] = []
        shard["stats"] = {"count": 6, "successes": 0, "failed_to_download": 6, "failed_to_resize": 0}
        for row in shard["rows"]:
            row |= {"status": "failed_to_download", "error_message": "dns"}

    assert check(write(tmp_path, nothing), UIDS, "jpg") == {"attempted": 6, "succeeded": 0, "failed: dns": 6}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["rows"].pop(), "5 rows for 6 samples"),
        (lambda s: s["rows"].append(s["rows"][0]), "7 rows for 6 samples"),
        (lambda s: s["rows"][5].update(uid="f" * 32), "other samples"),
        (lambda s: s["rows"][5].update(uid=UIDS[0]), "other samples"),
        (lambda s: s["rows"][5].update(key=s["rows"][0]["key"]), "a key more than once"),
        (lambda s: s["rows"][0].update(status=None), "counts"),
        (lambda s: s["stats"].update(count=5), "counts"),
        (lambda s: s["stats"].update(successes=5), "counts"),
        (lambda s: s["stats"].pop("count"), "stats.json cannot be read"),
        (lambda s: s["members"].pop(), "not .*txt"),
        (lambda s: s["members"].append(s["members"][0]), "000000000 has"),
        (lambda s: s["members"].append(("000000000.png", b"x")), "000000000 has"),
        (lambda s: s["members"].append(("stray", b"x")), "stray"),
        (lambda s: s.update(members=s["members"][3:]), "3 samples, the parquet file 4 successes"),
        (lambda s: s.update(members=[(n.replace("000000003", "000000005"), b) for n, b in s["members"]]), "2 keys"),
        (lambda s: s["members"].__setitem__(0, ("000000000.jpg", b"")), "000000000.jpg is empty"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(DamagedShardError, match=message):
        check(write(tmp_path, change), UIDS, "jpg")


@pytest.mark.parametrize("size", [b"-0000000512", b"+0000001274", b"0000_001274"])
def test_sizes_that_only_python_reads_are_damage(tmp_path: Path, size: bytes) -> None:
    files = write(tmp_path)
    data = bytearray(files.tar.read_bytes())
    data[124:135] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    files.tar.write_bytes(data)
    with pytest.raises(DamagedShardError, match="a header is damaged"):
        check(files, UIDS, "jpg")


def test_another_format_than_the_one_wanted_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(DamagedShardError, match="webp"):
        check(write(tmp_path), UIDS, "webp")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = write(tmp_path)
    for path in (files.tar, files.stats, files.parquet):
        path.unlink()
        with pytest.raises(DamagedShardError, match=path.name):
            check(files, UIDS, "jpg")


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_tar_that_was_cut_anywhere_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    files = write(tmp_path)
    content = files.tar.read_bytes()
    last = len(content.rstrip(b"\0"))
    blocks = -(-last // 512) * 512 + 512  # all members, and one of the two blocks of zeros
    files.tar.write_bytes(content[: data.draw(st.integers(0, blocks))])
    with pytest.raises(DamagedShardError, match=r"00000\.tar"):
        check(files, UIDS, "jpg")


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_header_overwritten_anywhere_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    files = write(tmp_path)
    with tarfile.open(files.tar) as tar:
        headers = [member.offset for member in tar]
    content = bytearray(files.tar.read_bytes())
    position = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, 147))  # what the checksum covers
    content[position] ^= data.draw(st.integers(1, 127))
    files.tar.write_bytes(bytes(content))
    with pytest.raises(DamagedShardError):
        check(files, UIDS, "jpg")


def test_a_cut_parquet_file_is_noticed(tmp_path: Path) -> None:
    files = write(tmp_path)
    shutil.copyfile(files.tar, files.parquet)
    with pytest.raises(DamagedShardError, match=r"00000\.parquet cannot be read"):
        check(files, UIDS, "jpg")
