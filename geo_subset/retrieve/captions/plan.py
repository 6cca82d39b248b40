"""How the matches are split by place. Pure: depends on the inputs and settings, never on workers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

#: Bytes that a partition of the reduce by place should hold at most, as they lie on storage.
PARTITION_BYTES = 256 << 20
#: What a match takes there: a URL, a caption and some numbers, compressed.
MATCH_BYTES = 150


def partitions(file_bytes: Iterable[int], places: int, num_images: int) -> int:
    """How many partitions there are to be.

    A file gives at most `num_images` rows a place, and hardly more bytes than it has.
    """
    most = sum(min(size, places * num_images * MATCH_BYTES) for size in file_bytes)
    return max(1, min(places, math.ceil(most / PARTITION_BYTES)))


def partition_of(place: npt.NDArray[np.integer], places: int, number: int) -> npt.NDArray[np.int64]:
    """The partition of each place (its row in the places table): consecutive places share one."""
    return place.astype(np.int64) * number // max(1, places)


def places_of(partition: int, places: int, number: int) -> tuple[int, int]:
    """The places [start, stop) of a partition."""
    return -(-partition * places // number), -(-(partition + 1) * places // number)
