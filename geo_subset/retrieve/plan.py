"""Which chunks of places there are to retrieve. Pure: a plan depends on the places and settings, never on workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from geo_subset.manifests import Record

#: A chunk is what a crash can cost: about this many rows, within bounds that keep part files useful.
ROWS_PER_CHUNK = 32_000
MAX_PLACES = 256
#: Short lists are cut at least this fine, so that there is work for several actors.
MIN_CHUNKS = 16
MIN_PLACES = 8
#: What the record of a chunk says of each place that failed.
_FAILURE = {"place_id", "query", "reason", "detail", "attempts"}


@dataclass(frozen=True)
class Chunk:
    """Rows [start, stop) of the places table.

    With `again`, only these place ids are asked, the chunk's other rows are kept, and the new counters add to `before`.
    """

    index: int
    start: int
    stop: int
    again: tuple[str, ...] = ()
    before: tuple[tuple[str, int], ...] = ()

    @property
    def unit(self) -> str:
        return f"chunk-{self.index:06d}"


def chunks(places: int, num_images: int) -> list[Chunk]:
    """All chunks for `places` places with up to `num_images` rows each."""
    size = min(MAX_PLACES, max(1, ROWS_PER_CHUNK // num_images), max(MIN_PLACES, -(-places // MIN_CHUNKS)))
    return [Chunk(i, start, min(start + size, places)) for i, start in enumerate(range(0, places, size))]


def is_whole(record: Record) -> bool:
    """Whether a chunk's record says of how many places it is, and which of them failed."""
    return {"places", "failed"} <= record.extra.keys() and all(f.keys() >= _FAILURE for f in record.extra["failed"])


def left(all_chunks: Iterable[Chunk], records: dict[str, Record]) -> list[Chunk]:
    """The chunks without a record, and of the recorded ones what failed."""
    todo = []
    for chunk in all_chunks:
        record = records.get(chunk.unit)
        if record is None:
            todo.append(chunk)
        elif record.extra["failed"]:
            again = tuple(failure["place_id"] for failure in record.extra["failed"])
            todo.append(Chunk(chunk.index, chunk.start, chunk.stop, again, tuple(record.counters.items())))
    return todo
