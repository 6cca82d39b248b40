"""Captions to matches: one batch of a metadata file in, the rows of the places that its captions name out.

Knows nothing of Ray, of files to write or of progress.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geo_subset.compiled import compiled
from geo_subset.retrieve.captions import decide, features, model
from geo_subset.retrieve.captions.files import Columns
from geo_subset.retrieve.captions.names import Names
from geo_subset.retrieve.captions.trie import buffers
from geo_subset.tables import SOURCE_FIELDS

#: What goes from the reading of files to the reduce by place. `place` is a row of the places table; `order` and `tie`
#: are hashes of URL and caption: they decide between equals, so that no order of files or rows does.
FOUND = pa.schema(
    [
        pa.field("place", pa.int32()),
        pa.field("similarity", pa.float32()),
        pa.field("order", pa.uint64()),
        pa.field("tie", pa.uint64()),
        pa.field("url", pa.large_string()),
        pa.field("caption", pa.large_string()),
        *SOURCE_FIELDS,
    ]
)
_ROOM = 1 << 16
#: Rows of a table of matches at least, but for the last: making one takes as long as reading a thousand captions.
_TABLE_ROWS = 1 << 12
_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_HALF = np.uint64(32)


def warm_up(names: Names, min_confidence: float) -> None:
    """Has machine code made of all functions, so that a node's workers need not make it at the same time."""
    nothing = pa.RecordBatch.from_pydict({"url": [b""], "caption": [b""]})
    for _ in Matcher(names, min_confidence).matches([(nothing, Columns("url", "caption"))], Counter()):
        pass
    _hashes(_text(nothing.column("url")))


@dataclass(frozen=True)
class _Found:
    """Rows of a batch in which places were found, each as often as there are; `places` int32 and `sure` float32."""

    rows: pa.RecordBatch
    columns: Columns
    places: npt.NDArray[np.int32]
    sure: npt.NDArray[np.float32]


class Matcher:
    """Compiled names with the working space of one thread."""

    def __init__(self, names: Names, min_confidence: float) -> None:
        self._tables, self._scratch = features.tables(names), features.scratch()
        self._least, self._weights = np.float32(min_confidence), model.weights()
        self._alone = model.alone()
        self._floors = model.hopeless(min_confidence)
        most = features.MOST_CANDIDATES
        self._space = (
            np.empty(most, np.float32), np.empty((most, len(model.LEVELS)), np.int32), np.empty(most, np.int8),
        )  # fmt: skip
        self._rows = np.empty(_ROOM, np.int64)
        self._places = np.empty(_ROOM, np.int32)
        self._sure = np.empty(_ROOM, np.float32)

    def matches(self, rows: Iterable[tuple[pa.RecordBatch, Columns]], counters: Counter[str]) -> Iterator[pa.Table]:
        """The accepted mentions of a file's batches, by row, in tables (FOUND) of some thousands. Adds to the counters.

        Counters: captions_null; decide.TALLIES; matches (rows returned), matches_null_url (not returned).
        """
        held: list[_Found] = []
        for batch, columns in rows:
            found = self._found(batch, columns, counters)
            if found.places.size:
                held.append(found)
            if sum(part.places.size for part in held) >= _TABLE_ROWS:
                yield _table(held, counters)
                held = []
        if held:
            yield _table(held, counters)

    def _found(self, batch: pa.RecordBatch, columns: Columns, counters: Counter[str]) -> _Found:
        captions = _text(batch.column(columns.caption))
        counters["captions_null"] += captions.null_count
        rows, places, sure = self._read(captions, counters)
        return _Found(batch.select(columns.names).take(pa.array(rows)), columns, places, sure)

    def _read(self, captions: pa.Array, counters: Counter[str]) -> tuple[npt.NDArray[Any], ...]:
        data, ends = buffers(pc.fill_null(captions, b"") if captions.null_count else captions)
        tallies = np.zeros(len(decide.TALLIES), np.int64)
        parts: list[tuple[npt.NDArray[Any], ...]] = []
        begin = 0
        while begin < len(captions):
            begin, made = decide.read(
                data, ends, begin, self._least, self._floors, self._weights, self._alone, self._tables,
                self._scratch, *self._space, self._rows, self._places, self._sure, tallies,
            )  # fmt: skip
            parts.append(tuple(part[:made].copy() for part in (self._rows, self._places, self._sure)))
        counters.update({name: int(n) for name, n in zip(decide.TALLIES, tallies, strict=True)})
        if not parts:
            return self._rows[:0], self._places[:0], self._sure[:0]
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _table(held: Sequence[_Found], counters: Counter[str]) -> pa.Table:
    """What was found, in the columns of FOUND, but for rows without a URL."""
    columns = held[0].columns
    found = pa.Table.from_batches([part.rows for part in held]).combine_chunks()
    urls, texts = (_text(_whole(found.column(name))) for name in (columns.url, columns.caption))
    valid = pc.and_kleene(pc.is_valid(urls), pc.greater(pc.binary_length(urls), 0))
    valid = pc.fill_null(valid, False)
    counters["matches_null_url"] += found.num_rows - int(pc.sum(valid).as_py() or 0)
    source = dict(columns.source)
    table = pa.table(
        {
            "place": pa.array(np.concatenate([part.places for part in held])),
            "similarity": pa.array(np.concatenate([part.sure for part in held])),
            "order": pa.array(_hashes(pc.fill_null(urls, b""))),
            "tie": pa.array(_hashes(texts)),
            "url": _valid_text(urls),
            "caption": _valid_text(texts),
            **{
                field.name: _converted(_whole(found.column(source[field.name])), field.type)
                if field.name in source
                else pa.nulls(found.num_rows, field.type)
                for field in SOURCE_FIELDS
            },
        },
        schema=FOUND,
    ).filter(valid)
    counters["matches"] += table.num_rows
    return table


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _text(column: pa.Array) -> pa.Array:
    """A column as large_binary: captions need not be UTF-8, and a cast to text would refuse them all for one."""
    if pa.types.is_large_binary(column.type):
        return column
    if not (
        pa.types.is_binary(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        column = column.cast(pa.large_string())
    return column.cast(pa.large_binary())


def _valid_text(column: pa.Array) -> pa.Array:
    """Bytes as text; what is no UTF-8 in them becomes U+FFFD, as DuckDB and others refuse it."""
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:
        texts = (None if value is None else value.decode("utf-8", "replace") for value in column.to_pylist())
        return pa.array(list(texts), pa.large_string())


def _converted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A source column in the type of tables.SOURCE_FIELDS; what has no value there is null."""
    if pa.types.is_binary(column.type):
        column = _valid_text(column)
    if pa.types.is_string(kind):
        return column.cast(pa.string())
    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowInvalid:  # text among the numbers
        return pa.array([_number(value) for value in column.to_pylist()], pa.float64()).cast(kind, safe=False)
    if pa.types.is_integer(kind):
        fits = pc.and_(pc.is_finite(numbers), pc.less(pc.abs(numbers), 2**31))
        numbers = pc.trunc(pc.if_else(fits, numbers, None))
    return numbers.cast(kind, safe=False)


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 2**31 else None


def _hashes(texts: pa.Array) -> npt.NDArray[np.uint64]:
    data, ends = buffers(texts)
    hashes = np.empty(len(texts), np.uint64)
    _hash_all(data, ends, hashes)
    return hashes


@compiled
def _hash_all(data, ends, hashes):  # type: ignore[no-untyped-def]
    """64-bit FNV-1a of each text, its bits mixed once more."""
    for i in range(hashes.size):
        value = _SEED
        for at in range(ends[i], ends[i + 1]):
            value = (value ^ np.uint64(data[at])) * _PRIME
        value = (value ^ (value >> _HALF)) * _MIX
        hashes[i] = value ^ (value >> _HALF)
