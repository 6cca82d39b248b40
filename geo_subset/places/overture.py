"""Source 'overture': places of Overture Maps (docs.overturemaps.org/guides/places), GeoParquet files of a release.

Both layouts are read: with `categories`, as releases before September 2026 have it, and with `taxonomy` and
`basic_category` alone. A place's kind is the most exact category it has. Its licence is that of its source, mostly
CDLA-Permissive-2.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.types as types

from geo_subset.places import names, parquet_rows
from geo_subset.places.areas import Area
from geo_subset.settings import PlaceFilters

_COLUMNS = (
    "id", "names", "taxonomy", "basic_category", "categories", "confidence", "operating_status", "addresses",
    "geometry",
)  # fmt: skip
_NEEDED = ("id", "names", "geometry")


def read(
    url: str, area: Area, filters: PlaceFilters, languages: Sequence[str], counters: Counter[str]
) -> Iterator[pa.Table]:
    """The places of one file that pass the filters (place.SCHEMA). Counts and raises as `parquet_rows.read` does."""

    def select(schema: pa.Schema) -> str:
        parquet_rows.lacking(url, schema, _NEEDED, "Overture's places")
        return _select(schema, filters, languages)

    return parquet_rows.read("overture", url, _COLUMNS, select, _with_coordinates, area, filters, counters)


def _with_coordinates(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Adds latitude and longitude from the points (WKB); nan where there is none."""
    import shapely

    stored = batch.column("geometry")
    if isinstance(stored, pa.ExtensionArray):
        stored = stored.storage
    points = shapely.from_wkb(np.array(stored.to_pylist(), dtype=object), on_invalid="ignore")
    points[shapely.is_empty(points) | (shapely.get_type_id(points) != shapely.GeometryType.POINT)] = None
    columns = {name: batch.column(name) for name in batch.schema.names if name != "geometry"}
    return pa.RecordBatch.from_pydict(
        columns | {"latitude": pa.array(shapely.get_y(points)), "longitude": pa.array(shapely.get_x(points))}
    )


def _select(schema: pa.Schema, filters: PlaceFilters, languages: Sequence[str]) -> str:
    """SQL for parquet_rows.COLUMNS, by what the file has."""
    exact = [path for path in ("taxonomy.primary", "basic_category", "categories.primary") if _has(schema, path)]
    every = [f"[{path}]" for path in exact]
    every += [
        path for path in ("taxonomy.hierarchy", "taxonomy.alternates", "categories.alternate") if _has(schema, path)
    ]
    common = _has(schema, "names.common") and languages
    status = _has(schema, "operating_status")
    open_ones = ", ".join(f"'{status}'" for status in filters.operating_status)
    address = "addresses" in schema.names
    return f"""
        SELECT id::VARCHAR AS id, names.primary AS name,
            replace({_first(exact)}, '_', ' ') AS kind,
            {"addresses[1].locality" if address else "NULL"} AS locality,
            {"addresses[1].region" if address else "NULL"} AS region,
            {"addresses[1].country" if address else "NULL"} AS country,
            latitude, longitude, {"confidence" if _has(schema, "confidence") else "NULL"} AS confidence,
            {f"coalesce(operating_status, 'open') NOT IN ({open_ones})" if status and open_ones else "false"} AS closed,
            {" || ".join(f"coalesce({path}, [])" for path in every) or "[]"} AS categories,
            {_in_languages(languages) if common else "NULL::VARCHAR[]"} AS alternate_names, line
        FROM batch"""


def _in_languages(languages: Sequence[str]) -> str:
    """The names in those languages, of the map of them by language."""
    named = "map_entries(names.common)"
    each = ", ".join(
        f"list_filter({named}, lambda entry: lower(entry.key) = '{language.lower()}')[1].value"
        for language in languages
    )
    cleaned = f"list_transform([{each}], lambda name: {names.clean('name')})"
    return f"list_filter({cleaned}, lambda name: name IS NOT NULL AND NOT {names.unsearchable('name', 'false')})"


def _first(paths: Sequence[str]) -> str:
    return f"coalesce({', '.join(paths)})" if paths else "NULL::VARCHAR"


def _has(schema: pa.Schema, path: str) -> bool:
    column, _, field = path.partition(".")
    if column not in schema.names:
        return False
    kind = schema.field(column).type
    return not field or (types.is_struct(kind) and kind.get_field_index(field) >= 0)
