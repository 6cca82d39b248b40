"""Boxes, of which JPEG 2000 and AVIF files are made (ISO 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from geo_subset.download.picture import Steps, UnreadableError


@dataclass(frozen=True)
class Box:
    """`start` and `end` are those of its content."""

    kind: bytes
    start: int
    end: int


def boxes(body: bytes, at: int, end: int, steps: Steps, cut: bool = False) -> Iterator[Box]:
    """The boxes of a part of a file. `cut`: the last may be longer than the part."""
    while at + 8 <= end:
        steps.take()
        length, kind = struct.unpack_from(">I4s", body, at)
        start = at + 8
        if length == 1:
            length, start = struct.unpack_from(">Q", body, start)[0], start + 8
        stop = at + length if length else end
        if stop < start or (stop > end and not cut):
            raise UnreadableError("a box is longer than what it lies in")
        yield Box(kind, start, min(stop, end))
        at = stop


def by_kind(body: bytes, within: Box | None, steps: Steps, skip: int = 0) -> dict[bytes, Box]:
    """The last box of each kind in a box, after `skip` bytes of it; none in none."""
    steps.take()
    return {box.kind: box for box in boxes(body, within.start + skip, within.end, steps)} if within else {}
