"""Parquet files beside vectors: what an image is called and where it is, and vectors that lie in a column there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geo_subset import tables
from geo_subset.errors import SettingsError
from geo_subset.retrieve.captions.files import CAPTION_COLUMNS, SOURCE_COLUMNS, URL_COLUMNS

#: Columns that hold vectors, where several do.
EMBEDDING_COLUMNS = ("image_embedding", "img_emb", "embedding", "embeddings", "emb", "vector", "clip_embedding")
_EITHER = f"one called {', '.join(EMBEDDING_COLUMNS)}"
#: Columns of `take`'s table.
FIELDS = [pa.field("url", pa.string()), pa.field("caption", pa.string()), *tables.SOURCE_FIELDS]


@dataclass(frozen=True)
class Metadata:
    """A parquet file."""

    url: str
    rows: int
    names: tuple[tuple[str, str], ...]
    """(ours, the file's) of the columns that are taken over, `url` first."""
    embedding: str = ""
    """The column of vectors, if there is one."""
    columns: int = 0
    """How long its vectors are."""
    half: bool = False
    """Whether they are float16."""


@contextlib.contextmanager
def _opened(url: str) -> Iterator[pq.ParquetFile]:
    try:
        with fsspec.open(url, "rb") as stream:
            yield pq.ParquetFile(stream)
    except SettingsError:
        raise
    except Exception as error:  # object stores raise kinds of their own
        raise SettingsError(f"{url} cannot be read: {' '.join(str(error).split()) or repr(error)}") from error


def describe(url: str) -> Metadata:
    """What a metadata file holds. Raises SettingsError, naming it, if it cannot be read or has no column of URLs."""
    with _opened(url) as file:
        schema = file.schema_arrow
        folded = {name.casefold(): name for name in reversed(schema.names)}

        def find(wanted: Sequence[str]) -> str | None:
            return next((folded[name] for name in wanted if name in folded), None)

        image = find(URL_COLUMNS)
        if image is None:
            raise SettingsError(
                f"{url}: no column 'url' among {', '.join(schema.names)}; clip-retrieval inference keeps the URLs that "
                "img2dataset downloaded when it runs with --enable_metadata True"
            )
        others = {"caption": find(CAPTION_COLUMNS), **{ours: find(theirs) for ours, theirs in SOURCE_COLUMNS.items()}}
        names = (("url", image), *((ours, name) for ours, name in others.items() if name))
        return Metadata(url, file.metadata.num_rows, names, *_embedding(file))


def vectors_in(url: str, file: pq.ParquetFile) -> Metadata:
    """What a parquet file of nothing but vectors holds. Raises SettingsError if it has no column of vectors."""
    embedding, columns, half = _embedding(file)
    if not embedding:
        raise SettingsError(f"{url} has no column of vectors (a list of floats; of several, {_EITHER})")
    return Metadata(url, file.metadata.num_rows, (), embedding, columns, half)


def _embedding(file: pq.ParquetFile) -> tuple[str, int, bool]:
    """The column of vectors, '' if there is none, how long they are, and whether they are float16."""
    lists = {field.name.casefold(): field.name for field in file.schema_arrow if _is_vector(field.type)}
    name = next((lists[usual] for usual in EMBEDDING_COLUMNS if usual in lists), "")
    name = name or (next(iter(lists.values())) if len(lists) == 1 else "")
    if not name:
        return "", 0, False
    return name, _columns(file, name), pa.types.is_float16(file.schema_arrow.field(name).type.value_type)


def _is_vector(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed and pa.types.is_floating(kind.value_type))


def _columns(file: pq.ParquetFile, embedding: str) -> int:
    kind = file.schema_arrow.field(embedding).type
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    for batch in file.iter_batches(1, columns=[embedding]):
        if length := pc.max(pc.list_value_length(batch.column(0))).as_py():
            return int(length)
    return 0


def _groups(file: pq.ParquetFile) -> Iterator[tuple[int, int, int]]:
    """Row groups with their rows [start, stop)."""
    start = 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        yield group, start, stop
        start = stop


def _batches(file: pq.ParquetFile, start: int, stop: int, rows: int, names: list[str]) -> Iterator[pa.RecordBatch]:
    for group, first, last in _groups(file):
        if first >= stop or last <= start:
            continue
        at = first
        for batch in file.iter_batches(rows, [group], columns=names, use_threads=False):
            inside = batch.slice(max(0, start - at), max(0, min(batch.num_rows, stop - at) - max(0, start - at)))
            at += batch.num_rows
            if inside.num_rows:
                yield inside


def with_url(meta: Metadata, start: int, stop: int) -> npt.NDArray[np.bool_]:
    """Which of the rows [start, stop) have a URL. Raises SettingsError if the file cannot be read."""
    with _opened(meta.url) as file:
        parts = [
            pc.fill_null(pc.greater(pc.binary_length(_text(batch.column(0))), 0), False).to_numpy(zero_copy_only=False)
            for batch in _batches(file, start, stop, 1 << 16, [meta.names[0][1]])
        ]
    return np.concatenate([np.zeros(0, np.bool_), *parts]).astype(np.bool_)


def vectors(meta: Metadata, start: int, stop: int, rows: int) -> Iterator[npt.NDArray[np.floating]]:
    """Rows [start, stop) of the column of vectors, as arrays of at most `rows` rows, float16 or float32.

    A vector that is null is all NaN. Raises SettingsError if one is of another length.
    """
    with _opened(meta.url) as file:
        for batch in _batches(file, start, stop, rows, [meta.embedding]):
            yield _matrix(batch.column(0), meta)


def _matrix(column: pa.Array, meta: Metadata) -> npt.NDArray[np.floating]:
    out = np.full((len(column), meta.columns), np.nan, np.float16 if meta.half else np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False)
    if (lengths != meta.columns).any():
        raise SettingsError(
            f"{meta.url}: a vector in column {meta.embedding!r} has {lengths[lengths != meta.columns][0]} numbers, "
            f"others {meta.columns}"
        )
    values = column.drop_null().flatten().to_numpy(zero_copy_only=False)
    out[there] = values.reshape(-1, meta.columns)
    return out


def take(meta: Metadata, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The given rows, in ascending order, as a table of FIELDS; what the file lacks is null.

    Only row groups with wanted rows are read. Raises SettingsError if the file cannot be read.
    """
    wanted = [name for _, name in meta.names]
    schema = pa.schema(FIELDS)
    found = []
    with _opened(meta.url) as file:
        for group, start, stop in _groups(file):
            inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)] - start
            if len(inside):
                there = file.read_row_group(group, columns=wanted, use_threads=False).take(pa.array(inside))
                found.append(_as_ours(there, meta))
    return pa.concat_tables(found).combine_chunks() if found else schema.empty_table()


def _as_ours(table: pa.Table, meta: Metadata) -> pa.Table:
    theirs = dict(meta.names)
    columns = []
    for field in FIELDS:
        if field.name not in theirs:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[theirs[field.name]]
        if pa.types.is_string(field.type):
            columns.append(_text(column))
        else:
            columns.append(_number(column, field.type))
    return pa.table(columns, schema=pa.schema(FIELDS))


def _text(column: Any) -> Any:
    """A column as strings; bytes that are no UTF-8 become U+FFFD, as DuckDB and others refuse them."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        column = column.cast(pa.large_string()).cast(pa.large_binary())
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        texts = (None if value is None else value.decode("utf-8", "replace") for value in column.to_pylist())
        return pa.array(list(texts), pa.string())


def _number(column: Any, wanted: pa.DataType) -> Any:
    """Types vary from file to file (width as double with NaN, as text): what is no number there is null."""
    numbers = [_float(value) for value in column.to_pylist()]
    if pa.types.is_integer(wanted):
        most = 2**31 - 1
        numbers = [int(value) if value is not None and abs(value) <= most else None for value in numbers]
    return pa.array(numbers, wanted)


def _float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
