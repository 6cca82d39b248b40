"""What became of every sample: `_index.parquet`, one row per sample in the order of the samples.

A retry pass tries again what failed, in shards of its own; the old shards' rows stay as they are. Which row counts is
decided here and nowhere else: that of the last pass that had the sample.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geo_subset import tables
from geo_subset.download import reasons
from geo_subset.download.plan import Shard
from geo_subset.download.shards import DamagedShardError
from geo_subset.manifests import FileEntry
from geo_subset.runfolder import StageFolder

#: The underscore keeps it out of what pandas, pyarrow and Spark read as the table of a folder.
FILE = "_index.parquet"
#: `shard` is the start of the shard's file names and `key` the sample's in it; `reason` is null for a success.
SCHEMA = pa.schema([(name, pa.string()) for name in ("uid", "shard", "key", "status", "reason")])
#: A retry pass' own list: the samples, and what had become of them before.
RETRY_SCHEMA = pa.schema(
    [*tables.SAMPLES, *(pa.field(name, pa.string()) for name in ("failed_in", "status", "reason"))]
)
_ROWS = 1 << 16
#: Shards that are read ahead of use.
_AHEAD = 16


class Row(NamedTuple):
    """A row of the index; `status` is 'success', 'failed_to_download' or 'failed_to_resize'."""

    uid: str
    shard: str
    key: str
    status: str
    reason: str | None


def current(first: Iterable[Sequence[Row]], retries: Sequence[Iterable[Row]]) -> Iterator[Sequence[Row]]:
    """Shard by shard, the rows of the first pass, those that were tried again replaced by the last try's.

    Rows come in the order of the samples, and each retry pass holds some of them in the same order. Raises
    DamagedShardError if a retry pass holds a sample that the passes before it do not.
    """
    heads = [_Head(rows) for rows in retries]
    for rows in first:
        counting = {row.uid: row for row in rows}
        for head in heads:
            while head.row is not None and head.row.uid in counting:
                counting[head.row.uid] = head.row
                head.advance()
        yield list(counting.values())
    for number, head in enumerate(heads, start=1):
        if head.row is not None:
            raise DamagedShardError(f"retry pass {number} holds a sample {head.row.uid} that no shard before it does")


class _Head:
    """The next row of a pass."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = iter(rows)
        self.row: Row | None = None
        self.advance()

    def advance(self) -> None:
        self.row = next(self._rows, None)


def rows_of(shard: Shard, folder: StageFolder) -> list[Row]:
    """What a shard's parquet file says, in the order of its samples. Raises DamagedShardError or StageError."""
    with folder.open(f"{shard.name}.parquet") as stream:
        try:
            table = pq.read_table(stream, columns=["uid", "key", "status", "error_message"])
        except (OSError, pa.ArrowInvalid) as error:
            raise DamagedShardError(f"{shard.name}.parquet cannot be read: {error}") from error
    uids, keys, statuses, messages = (column.to_pylist() for column in table.sort_by("key").columns)
    return [
        Row(uid, shard.name, key, status, None if status == "success" else reasons.failure_reason(status, message))
        for uid, key, status, message in zip(uids, keys, statuses, messages, strict=True)
    ]


def write(shards: Sequence[Shard], folder: StageFolder) -> tuple[FileEntry, Counter[tuple[str, str | None]]]:
    """Writes the index of all shards, those of the retry passes among them; returns how often each (status, reason) is.

    Raises DamagedShardError if a shard cannot be read or is not one of these samples.
    """
    passes = [list(group) for _, group in itertools.groupby(shards, key=lambda shard: shard.retry)]
    ends: Counter[tuple[str, str | None]] = Counter()

    def chunks() -> Iterator[pa.Table]:
        retries = [itertools.chain.from_iterable(_ahead(group, folder)) for group in passes[1:]]
        for rows in current(_ahead(passes[0], folder) if passes else (), retries):
            ends.update((row.status, row.reason) for row in rows)
            yield pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], SCHEMA)

    return folder.write_batches(FILE, SCHEMA, chunks()), ends


def is_wanted(status: str, reason: str | None, pattern: str | None) -> bool:
    """Whether a retry pass takes a sample that ended so: a download that failed for a reason that may pass; or, with a
    pattern (a regular expression, found anywhere in the reason), whatever failed for a reason that matches."""
    if reason is None:
        return False
    if pattern is not None:
        return re.search(pattern, reason) is not None
    return status == "failed_to_download" and reason in reasons.MAY_PASS


def to_retry(
    folder: StageFolder, samples: StageFolder, files: Sequence[str], pattern: str | None
) -> Iterator[pa.Table]:
    """The samples that a retry pass takes, as RETRY_SCHEMA has them; `files` are the samples' files in order.

    Raises DamagedShardError if the index is of other samples.
    """
    at = 0
    with folder.open(FILE) as index_stream:
        index = pq.ParquetFile(index_stream)
        for file in files:
            with samples.open(file) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(_ROWS):
                    rows = pa.Table.from_batches([batch])
                    ends = tables.read_rows(index, at, at + rows.num_rows)
                    at += rows.num_rows
                    if ends["uid"].to_pylist() != rows["uid"].to_pylist():
                        raise DamagedShardError(f"{FILE} is not that of the samples in {file}")
                    yield _wanted(rows, ends, pattern)


def settled_in(shard: Shard, folder: StageFolder, retries: Sequence[str]) -> dict[str, tuple[str, str]]:
    """uid -> (status, reason) of the rows of a shard that retry passes have taken on; `retries` are their lists."""
    settled: dict[str, tuple[str, str]] = {}
    for name in retries:
        with folder.open(name) as stream:
            rows = pq.read_table(
                stream, columns=["uid", "status", "reason"], filters=pc.field("failed_in") == shard.name
            )
            settled |= {row["uid"]: (row["status"], row["reason"]) for row in rows.to_pylist()}
    return settled


def _wanted(rows: pa.Table, ends: pa.Table, pattern: str | None) -> pa.Table:
    pairs = zip(ends["status"].to_pylist(), ends["reason"].to_pylist(), strict=True)
    mask = pa.array([is_wanted(status, reason, pattern) for status, reason in pairs], pa.bool_())
    before = {"failed_in": ends["shard"], "status": ends["status"], "reason": ends["reason"]}
    columns = [rows[name] if name in rows.column_names else before[name] for name in RETRY_SCHEMA.names]
    return pa.table(columns, RETRY_SCHEMA).filter(mask)


def _ahead(shards: Iterable[Shard], folder: StageFolder) -> Iterator[list[Row]]:
    """The shards' rows in turn, read by several threads, a few shards ahead."""
    source = iter(shards)
    with ThreadPoolExecutor(_AHEAD) as pool:
        reading = deque(pool.submit(rows_of, shard, folder) for shard in itertools.islice(source, _AHEAD))
        while reading:
            rows = reading.popleft().result()
            reading.extend(pool.submit(rows_of, shard, folder) for shard in itertools.islice(source, 1))
            yield rows
