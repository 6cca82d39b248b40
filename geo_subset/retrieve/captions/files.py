"""Metadata files: which there are, and their rows as Arrow batches of a few columns.

Parquet (row group by row group), CSV, TSV and JSON lines, text ones also compressed. Column names are found without
regard to case; a CSV or TSV without a header holds URL and caption, in this order.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from geo_subset import inputs
from geo_subset.errors import SettingsError, StageError
from geo_subset.inputs import InputFile

FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_COMPRESSIONS = {".gz", ".zst", ".bz2", ".xz"}
#: What columns are looked for where the settings do not name them, in this order.
URL_COLUMNS = ("url", "image_url")
CAPTION_COLUMNS = ("caption", "text", "alt_text", "alt")
#: Columns of tables.SOURCE_FIELDS and what metadata files call them.
SOURCE_COLUMNS = {
    "width": ("width", "original_width"),
    "height": ("height", "original_height"),
    "nsfw": ("nsfw",),
    "punsafe": ("punsafe",),
    "pwatermark": ("pwatermark", "watermark_score"),
    "aesthetic": ("aesthetic", "aesthetic_score", "aesthetic_score_laion_v2"),
}
ROWS = 1 << 13
"""Rows of a batch: its text stays in a core's cache until it is read, which saves a third of the reading."""
_BLOCK = 16 << 20
"""Bytes of a block of CSV; a row must fit into it."""


@dataclass(frozen=True)
class Columns:
    """Names of a file's columns: URL, caption, and (ours, the file's) of the others that are taken over."""

    url: str
    caption: str
    source: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([self.url, self.caption, *(name for _, name in self.source)]))


def discover(paths: Sequence[str]) -> list[InputFile]:
    """The metadata files that files, patterns and folders (searched through) stand for, by URL, each once.

    Raises SettingsError: a path names none, or its file system is not there.
    """
    key = "retrieve.captions.path"
    packed = [f"{ending}{compression}" for ending in FORMATS if ending != ".parquet" for compression in _COMPRESSIONS]
    found = inputs.find(key, paths, [*FORMATS, *sorted(packed)])
    for file in found:
        if _format(file.url) is None:
            raise SettingsError(f"{key}: {file.url} is none of {', '.join(FORMATS)}, plain or (but parquet) compressed")
    return sorted(found, key=lambda file: file.url)


def _format(name: str) -> str | None:
    suffixes = [suffix.lower() for suffix in PurePosixPath(inputs.plain_name(name)).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
        return None if not suffixes or suffixes[-1] == ".parquet" else FORMATS.get(suffixes[-1])
    return FORMATS.get(suffixes[-1]) if suffixes else None


def columns(names: Sequence[str], url: str | None, caption: str | None) -> Columns:
    """Which of a file's columns are meant, without regard to case; those asked for by name, else the usual ones.

    Raises ValueError, naming the file's columns, where one is missing.
    """

    def find(wanted: Sequence[str]) -> str | None:
        for name in wanted:
            same = [column for column in names if column.casefold() == name.casefold()]
            if same:
                return name if name in same else same[0]
        return None

    found = {}
    for key, asked, usual in (("url_col", url, URL_COLUMNS), ("caption_col", caption, CAPTION_COLUMNS)):
        column = find((asked,) if asked else usual)
        if column is None:
            wanted = repr(asked) if asked else " or ".join(map(repr, usual))
            raise ValueError(f"no column {wanted} among {', '.join(names)}; name it in retrieve.captions.{key}")
        found[key] = column
    source = ((ours, find(theirs)) for ours, theirs in SOURCE_COLUMNS.items())
    return Columns(found["url_col"], found["caption_col"], tuple((ours, name) for ours, name in source if name))


def read(
    file: InputFile, url: str | None, caption: str | None, counters: Counter[str]
) -> Iterator[tuple[pa.RecordBatch, Columns]]:
    """A file's rows in batches of at most ROWS, with the names of their columns; text is as it is in the file.

    Counts `rows` and `rows_malformed` (of CSV: another number of fields; of JSON lines: no object), which are in no
    batch. Raises StageError, naming the file, if it cannot be read.
    """
    kind = _format(file.url)
    reader = {"parquet": _parquet, "csv": _separated, "tsv": _separated, "jsonl": _json_lines}[kind or ""]
    try:
        with contextlib.ExitStack() as stack:
            local = "://" not in file.url and kind == "parquet"
            # Mapped, a parquet file is read without a copy of its bytes.
            opened = (
                pa.memory_map(file.url)
                if local
                else fsspec.open(file.url, "rb", compression=inputs.compression(file.url)).open()
            )
            stream = stack.enter_context(contextlib.closing(opened))
            for batch, named in reader(stream, file.url, url, caption, counters):
                counters["rows"] += batch.num_rows
                yield batch, named
    except (OSError, ValueError) as error:  # Arrow's own are ValueErrors
        raise StageError(f"{file.url} cannot be read: {' '.join(str(error).split())}") from error


_Batches = Iterator[tuple[pa.RecordBatch, Columns]]


def _parquet(stream: Any, _path: str, url: str | None, caption: str | None, _counters: Counter[str]) -> _Batches:
    file = pq.ParquetFile(stream)
    named = columns(file.schema_arrow.names, url, caption)
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(ROWS, [group], columns=named.names, use_threads=False):
            yield batch, named


def _separated(stream: IO[bytes], path: str, url: str | None, caption: str | None, counters: Counter[str]) -> _Batches:
    tabs = _format(path) == "tsv"
    first = stream.readline()
    line = first.decode("utf-8", "replace").rstrip("\r\n")
    fields = line.split("\t") if tabs else next(csv.reader([line]), [""])
    try:
        named, header = columns(fields, url, caption), True
    except ValueError:
        if "://" not in fields[0]:
            raise
        named, header = Columns("url", "caption"), False
        fields = ["url", "caption", *(f"column {i}" for i in range(2, len(fields)))]

    def malformed(_row: Any) -> str:
        counters["rows"] += 1
        counters["rows_malformed"] += 1
        return "skip"

    reader = pa.csv.open_csv(
        _Rest(b"" if header else first, stream),
        pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=fields),
        pa.csv.ParseOptions(
            delimiter="\t" if tabs else ",", quote_char=False if tabs else '"', newlines_in_values=not tabs,
            invalid_row_handler=malformed,
        ),
        pa.csv.ConvertOptions(
            column_types={name: pa.binary() for name in named.names}, include_columns=named.names,
            strings_can_be_null=False,
        ),
    )  # fmt: skip
    for block in reader:
        for start in range(0, block.num_rows, ROWS):
            yield block.slice(start, ROWS), named


class _Rest:
    """A stream that begins with bytes that were read from it already; what pyarrow asks of a file."""

    def __init__(self, first: bytes, stream: IO[bytes]) -> None:
        self._first, self._stream = first, stream
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        taken, self._first = self._first, b""
        return taken + self._stream.read(size if size < 0 else max(1, size - len(taken)))

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def _json_lines(
    stream: IO[bytes], _path: str, url: str | None, caption: str | None, counters: Counter[str]
) -> _Batches:
    named: Columns | None = None
    while lines := list(islice(stream, ROWS)):
        rows = []
        for line in lines:
            if not line.strip():
                continue
            row = _json(line)
            if row is None:
                counters["rows"] += 1
                counters["rows_malformed"] += 1
            else:
                rows.append(row)
        if rows:
            named = named or columns(list(rows[0]), url, caption)
            arrays = [pa.array([_bytes(row.get(name)) for row in rows], pa.binary()) for name in named.names]
            yield pa.RecordBatch.from_arrays(arrays, named.names), named


def _json(line: bytes) -> dict[str, Any] | None:
    try:
        row = orjson.loads(line)
    except ValueError:
        try:
            row = json.loads(line)  # takes what orjson refuses: lone surrogates, NaN
        except (ValueError, RecursionError):
            return None
    return row if isinstance(row, dict) else None


def _bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    return text.encode("utf-8", "surrogatepass")
