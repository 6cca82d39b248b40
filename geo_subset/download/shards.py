"""The files of one shard, and the check that what was written is whole.

img2dataset drops samples without a word when something goes wrong while writing, and a tar that was cut off often
still reads without an error. So the files are counted against one another and against what went in.
"""

from __future__ import annotations

import collections
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset.download.reasons import failure_reason

_BLOCK = 512


class DamagedShardError(Exception):
    """A shard's files do not hold what they should; made again from the start, it may well be right."""


@dataclass(frozen=True)
class ShardFiles:
    """Local files of one shard, as img2dataset wrote them."""

    tar: Path
    parquet: Path
    stats: Path


def check(files: ShardFiles, uids: Sequence[str], encode_format: str) -> dict[str, int]:
    """Checks a shard made of the samples `uids` and counts what became of them.

    Returns {'attempted', 'succeeded', 'failed: REASON'...}; attempted is the sum of the others.
    Raises DamagedShardError naming the file and what is wrong with it.
    """
    try:
        rows = pq.read_table(files.parquet, columns=["uid", "key", "status", "error_message"])
    except (OSError, pa.ArrowInvalid) as error:
        raise DamagedShardError(f"{files.parquet.name} cannot be read: {error}") from error
    _check_rows(files.parquet.name, rows, uids)
    statuses = collections.Counter(rows["status"].to_pylist())
    _check_stats(files.stats, statuses)
    keys = rows["key"].to_pylist()
    succeeded = {key for key, status in zip(keys, rows["status"].to_pylist(), strict=True) if status == "success"}
    _check_tar(files.tar, succeeded, {encode_format, "json", "txt"})

    failures = collections.Counter(
        failure_reason(status, message)
        for status, message in zip(rows["status"].to_pylist(), rows["error_message"].to_pylist(), strict=True)
        if status != "success"
    )
    counts = {"attempted": len(keys), "succeeded": len(succeeded)}
    return counts | {f"failed: {reason}": count for reason, count in sorted(failures.items())}


def _check_rows(name: str, rows: pa.Table, uids: Sequence[str]) -> None:
    if rows.num_rows != len(uids):
        raise DamagedShardError(f"{name} has {rows.num_rows} rows for {len(uids)} samples")
    if sorted(rows["uid"].to_pylist()) != sorted(uids):
        raise DamagedShardError(f"{name} holds other samples than the shard was planned with")
    if len(set(rows["key"].to_pylist())) != rows.num_rows:
        raise DamagedShardError(f"{name} has a key more than once")


def _check_stats(path: Path, statuses: collections.Counter[str]) -> None:
    try:
        stats = json.loads(path.read_bytes())
        counts = [stats[name] for name in ("count", "successes", "failed_to_download", "failed_to_resize")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedShardError(f"{path.name} cannot be read: {error!r}") from error
    expected = [statuses.total(), *(statuses[name] for name in ("success", "failed_to_download", "failed_to_resize"))]
    if counts != expected:
        raise DamagedShardError(f"{path.name} counts {counts}, the parquet file {expected}")


def _check_tar(path: Path, keys: set[str], extensions: set[str]) -> None:
    """`keys` are those of the samples that the tar must hold, each with exactly `extensions`."""
    found: dict[str, list[str]] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if member.size == 0 and extension != "txt":
                    raise DamagedShardError(f"{path.name}: {member.name} is empty")
                found.setdefault(key, []).append(extension)
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
    except (OSError, tarfile.TarError) as error:
        raise DamagedShardError(f"{path.name} cannot be read: {error}") from error
    # tarfile ends quietly at a bad header, and at the end of a file that was cut between two members.
    with path.open("rb") as stream:
        stream.seek(end)
        tail = stream.read()
    if len(tail) < 2 * _BLOCK or tail.strip(b"\0"):
        raise DamagedShardError(f"{path.name} has no end-of-archive mark after {len(found)} samples: it was cut off")
    for key, members in found.items():
        if len(members) != len(extensions) or set(members) != extensions:
            raise DamagedShardError(f"{path.name}: sample {key} has {sorted(members)}, not {sorted(extensions)}")
    if found.keys() != keys:
        raise DamagedShardError(
            f"{path.name} has {len(found)} samples, the parquet file {len(keys)} successes; "
            f"{len(found.keys() ^ keys)} keys are in one only"
        )
