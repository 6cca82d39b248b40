"""Reading files of places: txt, csv, tsv, json, jsonl, parquet; local or any fsspec URL; .gz, .bz2, .xz, .zst too.

txt has one name a line. csv and tsv have a header if a cell of the first row is one of the known names of the name
column; without a header the first column is the name. A txt file may have such a header line as well. json is an array,
jsonl has a value a line; a value is a name or an object. In parquet a lone column is the name, whatever it is called.

Known column names (any case; space and '-' count as '_'), the first that is there is taken:
    name: name, place, place_name, location, location_name, title, city     place_id: place_id, id, location_id
    latitude: latitude, lat     longitude: longitude, lon, lng, long        country: country, country_code
    admin1: admin1, state, region, province     admin2: admin2, county, district
    kind: kind, type, category                  population, pop             context             url: url, href, link
"""

from __future__ import annotations

import csv
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset import inputs
from geo_subset.errors import SettingsError
from geo_subset.progress import log

#: A row by the names of the places table's columns; or the reason why there is none.
Row = dict[str, Any] | str

_COLUMNS = {
    "name": ("name", "place", "place_name", "location", "location_name", "title", "city"),
    "place_id": ("place_id", "id", "location_id"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
    "country": ("country", "country_code"),
    "admin1": ("admin1", "state", "region", "province"),
    "admin2": ("admin2", "county", "district"),
    "kind": ("kind", "type", "category"),
    "population": ("population", "pop"),
    "context": ("context",),
    "url": ("url", "href", "link"),
}
_COMPRESSIONS = {".gz", ".bz2", ".xz", ".zst"}


def file_format(path: str) -> str:
    """'txt', 'csv', 'tsv', 'json', 'jsonl' or 'parquet', by the file's ending. Raises SettingsError for any other."""
    endings = [ending.lower() for ending in PurePosixPath(inputs.plain_name(path)).suffixes[-2:]]
    if endings and endings[-1] in _COMPRESSIONS:
        endings.pop()
    known = endings[-1].removeprefix(".") if endings else ""
    if known not in _READERS:
        raise SettingsError(f"places.path = {path!r}: its ending must be one of {', '.join(_READERS)} (.gz may follow)")
    return known


def read(path: str) -> Iterator[Row]:
    """The rows of a file, in order. Raises SettingsError: it cannot be read, or is not what its ending says."""
    reader = _READERS[file_format(path)]
    try:
        with fsspec.open(path, "rb", compression=inputs.compression(path)) as stream:
            yield from reader(path, stream)
    except (OSError, EOFError, ImportError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise SettingsError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _read_txt(path: str, stream: Any) -> Iterator[Row]:
    lines = io.StringIO(text(path, stream.read()), newline=None)
    for number, line in enumerate(lines):
        if number == 0 and "name" in _positions((line.strip(),)):
            continue
        yield {"name": line}


def _read_csv(path: str, stream: Any) -> Iterator[Row]:
    delimiter = "\t" if file_format(path) == "tsv" else ","
    # Every kind of line end becomes \n, of which csv wants to see no other.
    lines = io.StringIO(text(path, stream.read()), newline=None)
    # strict: a quote that is never closed is an error; otherwise it would swallow the rest of the file as one name.
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        first: list[str] = []
        for row in rows:
            if any(cell.strip() for cell in row):
                first = row
                break
            yield {"name": ""}
        columns = _positions(tuple(first))
        if "name" not in columns:
            if len(first) > 1 and len(columns) == len(first):
                raise _no_name_column(path, first)
            if len(first) > 1:
                log.info(
                    "%s has no header: its first column is taken for the name, the other %d are not used. If they "
                    "matter, add a first line of column names, e.g. name,latitude,longitude", path, len(first) - 1,
                )  # fmt: skip
            columns = {"name": 0}
            yield _cells(first, columns, len(first))
        for row in rows:
            yield _cells(row, columns, len(first))
    except csv.Error as error:
        raise SettingsError(
            f"{path}, line {rows.line_num}: {error}. A cell that holds a comma or quotes must be in double quotes, "
            "and quotes within it doubled"
        ) from error


def _cells(row: list[str], columns: dict[str, int], width: int) -> Row:
    if len(row) > width:
        return "too_many_cells"  # a comma without quotes: which cell is what cannot be known
    return {column: row[position] for column, position in columns.items() if position < len(row)}


def _read_json(path: str, stream: Any) -> Iterator[Row]:
    values = _parsed(path, stream.read(), "")
    if not isinstance(values, list):
        raise SettingsError(f'{path} must be an array of names or of objects, e.g. ["Bryant Park"]')
    yield from map(_value, values)


def _read_jsonl(path: str, stream: Any) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        yield _value(_parsed(path, data, f", line {number}")) if data.strip() else {"name": ""}


def _parsed(path: str, data: bytes, where: str) -> Any:
    try:
        return orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"{path}{where} is not valid JSON in UTF-8: {error}") from error


def _value(value: Any) -> Row:
    if not isinstance(value, dict):
        return {"name": value}
    columns = _keys(tuple(value))
    return {column: value[key] for column, key in columns.items()}


def _read_parquet(path: str, stream: Any) -> Iterator[Row]:
    file = pq.ParquetFile(stream)
    header = tuple(file.schema_arrow.names)
    columns = {"name": header[0]} if len(header) == 1 else _keys(header)
    if "name" not in columns:
        raise _no_name_column(path, header)
    for batch in file.iter_batches(columns=list(columns.values())):
        values = [batch.column(key).to_pylist() for key in columns.values()]
        for row in zip(*values, strict=True):
            yield dict(zip(columns, row, strict=True))


_READERS: dict[str, Callable[[str, Any], Iterator[Row]]] = {
    "txt": _read_txt,
    "csv": _read_csv,
    "tsv": _read_csv,
    "json": _read_json,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}


@lru_cache(maxsize=256)
def _positions(header: tuple[str, ...]) -> dict[str, int]:
    """Which known column stands where in a header."""
    names = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in header]
    found = {}
    for column, aliases in _COLUMNS.items():
        alias = next((alias for alias in aliases if alias in names), None)
        if alias is not None:
            found[column] = names.index(alias)
    return found


@lru_cache(maxsize=256)
def _keys(header: tuple[str, ...]) -> dict[str, str]:
    """Which known column goes by which key of an object or a parquet file."""
    return {column: header[position] for column, position in _positions(header).items()}


def text(path: str, data: bytes) -> str:
    """The file as text, its byte order mark removed. Raises SettingsError naming the line that is not UTF-8."""
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise SettingsError(f"{path} is in UTF-16: save it as UTF-8") from error
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8. Save the file as UTF-8, "
            "e.g. with iconv -f latin1 -t utf-8"
        ) from error
    if "\0" in decoded:
        line = decoded.count("\n", 0, decoded.index("\0")) + 1
        raise SettingsError(f"{path}, line {line}: a NUL byte; this is no text file in UTF-8")
    return decoded


def _no_name_column(path: str, header: tuple[str, ...] | list[str]) -> SettingsError:
    names = ", ".join(_COLUMNS["name"][1:])
    return SettingsError(f"{path} has no column for the name: call one of {', '.join(header)} 'name' (or {names})")
