"""Source 'foursquare': Foursquare's open source places (release/dt=<date>/places/parquet), Apache License 2.0.

Places that have closed are left out. A place's kind is the last part of its first category's name where the file has
names of categories ('Landmarks and Outdoors > Park'), else 'place'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from geo_subset.places import parquet_rows
from geo_subset.places.areas import Area
from geo_subset.settings import PlaceFilters

_COLUMNS = (
    "fsq_place_id", "name", "latitude", "longitude", "locality", "region", "country", "fsq_category_ids",
    "fsq_category_labels", "date_closed",
)  # fmt: skip
_NEEDED = ("fsq_place_id", "name", "latitude", "longitude", "country", "date_closed")


def read(url: str, area: Area, filters: PlaceFilters, counters: Counter[str]) -> Iterator[pa.Table]:
    """The places of one file that pass the filters (place.SCHEMA). Counts and raises as `parquet_rows.read` does."""

    def select(schema: pa.Schema) -> str:
        parquet_rows.lacking(url, schema, _NEEDED, "Foursquare's places")
        return _select(schema)

    return parquet_rows.read("foursquare", url, _COLUMNS, select, lambda batch: batch, area, filters, counters)


def _select(schema: pa.Schema) -> str:
    """SQL for parquet_rows.COLUMNS, by what the file has. A category counts by id, by name and by each part of it."""
    labels = "fsq_category_labels" in schema.names
    parts = (
        "list_transform(flatten(list_transform(fsq_category_labels, lambda l: split(l, '>'))), lambda part: trim(part))"
    )
    categories = ["coalesce(fsq_category_ids, [])"] if "fsq_category_ids" in schema.names else []
    categories += ["coalesce(fsq_category_labels, [])", f"coalesce({parts}, [])"] if labels else []
    return f"""
        SELECT fsq_place_id::VARCHAR AS id, name,
            {"trim(split(fsq_category_labels[1], '>')[-1])" if labels else "NULL::VARCHAR"} AS kind,
            {"locality" if "locality" in schema.names else "NULL"} AS locality,
            {"region" if "region" in schema.names else "NULL"} AS region,
            country, latitude, longitude, NULL AS confidence,
            nullif(trim(date_closed::VARCHAR), '') IS NOT NULL AS closed,
            {" || ".join(categories) or "[]"} AS categories, NULL::VARCHAR[] AS alternate_names, line
        FROM batch"""
