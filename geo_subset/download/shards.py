"""The files of one shard, and the check that what was written is whole.

img2dataset drops samples without a word when something goes wrong while writing, and a tar that was cut off often
still reads without an error. So the files are counted against one another and against what went in.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterator, Sequence
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
    try:
        for name, size in _members(path):
            key, _, extension = name.partition(".")
            if size == 0 and extension != "txt":
                raise DamagedShardError(f"{path.name}: {name} is empty")
            found.setdefault(key, []).append(extension)
    except (OSError, ValueError) as error:
        raise DamagedShardError(f"{path.name} cannot be read after {len(found)} samples: {error}") from error
    for key, members in found.items():
        if len(members) != len(extensions) or set(members) != extensions:
            raise DamagedShardError(f"{path.name}: sample {key} has {sorted(members)}, not {sorted(extensions)}")
    if found.keys() != keys:
        raise DamagedShardError(
            f"{path.name} has {len(found)} samples, the parquet file {len(keys)} successes; "
            f"{len(found.keys() ^ keys)} keys are in one only"
        )


def _members(path: Path) -> Iterator[tuple[str, int]]:
    """Name and size of the files in a tar, to its end-of-archive mark. Raises ValueError if it has none.

    `tarfile` takes ten times as long, and ends quietly at a bad header and where a tar was cut between two members.
    Only plain files with short names are known here, as a shard holds no others (POSIX.1-1988 ustar layout).
    """
    with path.open("rb") as stream:
        while (header := stream.read(_BLOCK)).strip(b"\0"):
            if len(header) < _BLOCK or header[257:262] != b"ustar" or header[156:157] not in (b"0", b"\0"):
                raise ValueError("this is not the header of a file")
            checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
            if _octal(header[148:156]) != checksum or header[345:500].strip(b"\0"):
                raise ValueError("a header is damaged")
            size = _octal(header[124:136])
            yield header[:100].rstrip(b"\0").decode(), size
            stream.seek(-(-size // _BLOCK) * _BLOCK, os.SEEK_CUR)
        rest = stream.read()
        if len(header) + len(rest) < 2 * _BLOCK or rest.strip(b"\0"):
            raise ValueError("there is no end-of-archive mark: it was cut off")


def _octal(field: bytes) -> int:
    """A number of a header. Raises ValueError if it is none; `int` alone would take signs and underscores."""
    digits = field.strip(b"\0 ")
    if not digits.isdigit():
        raise ValueError("a header is damaged")
    return int(digits, 8)
