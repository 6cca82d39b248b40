"""How the work is cut: ranges of rows, groups of places, partitions. Pure: depends on inputs and settings alone, never
on workers, so that a run that was cut off finds the same units again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Rows of a unit at most and, where there are more, at least. A unit's part holds up to `k` rows a place, whatever the
#: unit's size, and a crash costs a unit: at the upper end, of 512 half floats, it is 1 GiB to read.
UNIT_ROWS = (1 << 18, 1 << 20)
#: How many units there are to be, so that many workers have something to do.
UNITS = 64
#: Bytes of a block of vectors as float32: rows are scored exactly while they are in memory.
BLOCK_BYTES = 256 << 20
#: Bytes that the places of a unit may take: vectors, and the best rows of each.
GROUP_BYTES = 1 << 30
#: Bytes of a partition of places: (place, row, similarity) of all candidates of its places.
PARTITION_BYTES = 128 << 20
CANDIDATE_BYTES = 16
#: Bytes of what is known of the rows of a partition, and of a row without its vector: URL, caption, numbers.
ROWS_BYTES = 1 << 30
ROW_BYTES = 300
#: Places whose texts are turned into vectors by one task.
ENCODE_PLACES = 4096


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a source, by its number."""

    source: int
    start: int
    stop: int


@dataclass(frozen=True)
class Unit:
    """Consecutive rows, for consecutive places [start, stop)."""

    index: int
    pieces: tuple[Piece, ...]
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"map-{self.index:06d}"


def candidates(num_images: int, deduplicate: bool, corrected: bool) -> int:
    """k: how many rows are kept of each place until hubs are put back and near-duplicates removed.

    Twice num_images for near-duplicates, so that a place is refilled as long as no more than half of its best rows are
    near-duplicates; where they are, the images missing are counted (images_not_refilled). Twice as many again for the
    correction of hubs: it ranks these candidates, so that an image comes in only from among them, however few places
    are near it.
    """
    return num_images * (2 if deduplicate else 1) * (2 if corrected else 1)


def unit_rows(total: int) -> int:
    """How many rows make a unit."""
    least, most = UNIT_ROWS
    return min(most, max(least, -(-total // UNITS)))


def ranges(rows: Sequence[int]) -> list[tuple[Piece, ...]]:
    """The rows of all sources (their numbers of rows) in consecutive ranges of equal size but the last."""
    size = unit_rows(sum(rows))
    found: list[tuple[Piece, ...]] = []
    held: list[Piece] = []
    room = size
    for source, count in enumerate(rows):
        start = 0
        while start < count:
            stop = min(count, start + room)
            held.append(Piece(source, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                found.append(tuple(held))
                held, room = [], size
    return [*found, tuple(held)] if held else found


def place_bytes(k: int, columns: int) -> int:
    """What a place takes in a search: its vector twice (as it is, and as it is multiplied), its best rows while they
    come (float32 and int64) and as they are written."""
    return 8 * columns + 2 * k * 12


def look_up_bytes(wanted: int, places: int, columns: int, neighbours: int, itemsize: int) -> int:
    """What a task takes that looks up `wanted` rows: what is known of them; their vectors, of `itemsize` bytes a number
    (0 where none are read), and once more those of a file as it is read; where `neighbours` nearest places of each are
    sought, a group of the rows with these, and a chunk of places."""
    held = wanted * (ROW_BYTES + 2 * columns * itemsize)
    if not neighbours:
        return held
    group = min(wanted, places_per_group(neighbours, columns))
    chunk = min(places, ENCODE_PLACES)
    return held + group * place_bytes(neighbours, columns) + chunk * columns * 8


def places_per_group(k: int, columns: int) -> int:
    return max(1, GROUP_BYTES // place_bytes(k, columns))


def units(rows: Sequence[int], places: int, k: int, columns: int, whole: bool = False) -> list[Unit]:
    """All units: every range of rows (`whole`: all rows) for every group of places, groups as even as can be."""
    groups = max(1, math.ceil(places / places_per_group(k, columns)))
    edges = [places * group // groups for group in range(groups + 1)]
    found: list[Unit] = []
    every = tuple(Piece(source, 0, count) for source, count in enumerate(rows))
    for pieces in [every] if whole else ranges(rows):
        for start, stop in itertools.pairwise(edges):
            found.append(Unit(len(found), pieces, start, stop))
    return found


def block_rows(columns: int) -> int:
    """Rows that are held in memory at a time."""
    return max(1024, BLOCK_BYTES // (4 * columns) // 1024 * 1024)


def partitions(units: Sequence[Unit], places: int, k: int, rows: int, vector_bytes: int) -> int:
    """How many partitions of places there are to be, so that one's candidates, and what is known of their rows, fit
    into memory. `rows` are those of all sources, `vector_bytes` what is carried of a row's vector."""
    most = sum(
        (unit.stop - unit.start) * min(k, sum(piece.stop - piece.start for piece in unit.pieces)) for unit in units
    )
    known = ROW_BYTES + vector_bytes
    carried = places * min(k, rows) * known if rows * known > ROWS_BYTES else 0
    number = max(math.ceil(most * CANDIDATE_BYTES / PARTITION_BYTES), math.ceil(carried / ROWS_BYTES))
    return max(1, min(places, number))
