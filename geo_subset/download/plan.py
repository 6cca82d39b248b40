"""Which rows of the samples make which shard. Pure: no I/O.

A shard is a slice of consecutive rows. The samples are sorted by uid, a hash, so a slice is a shuffle of the places.
A retry pass has a list of its own of the samples that it tries again; its shards are slices of that list, numbered
after those that were there.
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
    """One shard: `name` is the start of its files' names, `slices` its rows in order.

    `retry` tells whose files the slices are of: 0, those of the samples; n, the n-th retry pass' own list of samples.
    """

    index: int
    name: str
    slices: tuple[Slice, ...]
    retry: int = 0

    @property
    def rows(self) -> int:
        return sum(piece.stop - piece.start for piece in self.slices)


def plan(
    files: Sequence[tuple[str, int]], samples_per_shard: int, tag: str, first: int = 0, retry: int = 0
) -> list[Shard]:
    """Cuts files, given as (name, rows) in order, into shards of `samples_per_shard` rows; the last may be smaller.

    `tag` ends the names, so that shards of other settings or samples can never be taken for these. Numbers go on from
    `first`.
    """
    shards: list[Shard] = []
    slices: list[Slice] = []
    room = samples_per_shard

    def close() -> None:
        nonlocal slices, room
        index = first + len(shards)
        shards.append(Shard(index, f"{index:05d}-{tag}", tuple(slices), retry))
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


def plan_all(
    samples: Sequence[tuple[str, int]], retries: Sequence[tuple[str, int]], samples_per_shard: int, tag: str
) -> list[Shard]:
    """The shards of the samples, and after them those of each retry pass; files are given as (name, rows) in order."""
    shards = plan(samples, samples_per_shard, tag)
    for number, file in enumerate(retries, start=1):
        shards += plan([file], samples_per_shard, tag, first=len(shards), retry=number)
    return shards
