"""Reduce by key through partitions on storage.

A map task splits its rows by partition and writes them as one parquet file with one row group a partition; a reduce
task reads its row group of every map file. So M map and P reduce tasks leave M files, not M x P, a reduce reads no
byte of another partition, and nothing has to survive in memory or on a node's disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

_GROUPS = b"geo_subset.partitions"


def grouped_by_bytes(files: Iterable[tuple[str, int]], most: int) -> list[list[str]]:
    """Consecutive (name, bytes) files in groups of at most `most` bytes; a larger file is a group of its own."""
    groups: list[list[str]] = []
    room = 0
    for name, size in files:
        if not groups or size > room:
            groups.append([])
            room = most
        groups[-1].append(name)
        room -= size
    return groups


def write_partitioned(table: pa.Table, partition: npt.NDArray[np.integer], partitions: int, path: Path) -> None:
    """Writes the rows of `table` with their partition numbers (N,), in [0, partitions), to one local parquet file."""
    order = np.argsort(partition, kind="stable")
    counts = np.bincount(partition, minlength=partitions)
    table = table.take(pa.array(order))
    ends = np.cumsum(counts)
    written = np.flatnonzero(counts)
    groups = (table.slice(ends[number] - counts[number], counts[number]) for number in written)
    write_groups(groups, written, table.schema, path)


def write_groups(
    groups: Iterable[pa.Table], partitions: Sequence[int] | npt.NDArray[np.integer], schema: pa.Schema, path: Path
) -> None:
    """The same, one partition's rows (at least one) after the other, so that all of them are never in memory at once.

    `partitions` are their numbers, ascending.
    """
    schema = schema.with_metadata({_GROUPS: np.asarray(partitions, dtype="<u4").tobytes().hex().encode()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group.combine_chunks(), row_group_size=max(1, group.num_rows))


def read_partition(streams: Iterable[IO[bytes]], number: int) -> Iterator[pa.Table]:
    """The rows of one partition from every map file, in the order of the files."""
    for stream in streams:
        file = pq.ParquetFile(stream)
        written = np.frombuffer(bytes.fromhex(file.metadata.metadata[_GROUPS].decode()), dtype="<u4")
        (place,) = np.nonzero(written == number)
        if len(place):
            yield file.read_row_group(int(place[0]))
