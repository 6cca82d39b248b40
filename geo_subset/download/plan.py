"""Which rows of the samples make which shard. Pure: no I/O.

A shard is a slice of consecutive rows. The samples are sorted by uid, a hash, so a slice is a shuffle of the places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """Rows [start, stop) of one file of the samples."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """One shard: `name` is the start of its files' names, `slices` its rows in order."""

    index: int
    name: str
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        return sum(piece.stop - piece.start for piece in self.slices)


def plan(files: Sequence[tuple[str, int]], samples_per_shard: int, tag: str) -> list[Shard]:
    """Cuts files, given as (name, rows) in order, into shards of `samples_per_shard` rows; the last may be smaller.

    `tag` ends the names, so that shards of other settings or samples can never be taken for these.
    """
    shards: list[Shard] = []
    slices: list[Slice] = []
    room = samples_per_shard

    def close() -> None:
        nonlocal slices, room
        shards.append(Shard(len(shards), f"{len(shards):05d}-{tag}", tuple(slices)))
        slices, room = [], samples_per_shard

    for file, rows in files:
        start = 0
        while start < rows:
            stop = min(rows, start + room)
            slices.append(Slice(file, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                close()
    if slices:
        close()
    return shards
