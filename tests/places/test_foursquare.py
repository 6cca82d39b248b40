"""Source 'foursquare': parquet files of a release, bad rows, filters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geo_subset.errors import SettingsError

from .conftest import Made, make_places

_TEXTS = ("address", "locality", "region", "postcode", "admin_region", "post_town", "po_box", "country", "date_closed")
SCHEMA = pa.schema(
    [
        ("fsq_place_id", pa.string()), ("name", pa.string()), ("latitude", pa.float64()), ("longitude", pa.float64()),
        *((name, pa.string()) for name in _TEXTS), ("fsq_category_ids", pa.list_(pa.string())),
        ("fsq_category_labels", pa.list_(pa.string())),
    ]
)  # fmt: skip
PARK = "4bf58dd8d48988d163941735"


def row(number: str | None = "4a", name: str | None = "Bryant Park", **other: Any) -> dict[str, Any]:
    """A park in Manhattan unless told otherwise."""
    made = {
        "fsq_place_id": number, "name": name, "latitude": 40.7536, "longitude": -73.9832, "locality": "New York",
        "region": "NY", "country": "US", "date_closed": None, "fsq_category_ids": [PARK],
        "fsq_category_labels": ["Landmarks and Outdoors > Park"],
    }  # fmt: skip
    return made | other


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Made]:
    def run(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA, **filters: Any) -> Made:
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "places-00000.snappy.parquet", row_group_size=2)
        return make_places(tmp_path / "run", source="foursquare", path=str(tmp_path), filters=filters)

    return run


def test_a_place_with_and_without_names_of_categories(run: Callable[..., Made]) -> None:
    expected = {
        "place_id": "foursquare:4a", "name": "Bryant Park", "kind": "park",
        "context": "New York, New York, United States", "admin1": "New York", "admin2": None, "country": "US",
        "latitude": 40.7536, "longitude": -73.9832, "population": None,
        "queries": ["Bryant Park, New York, New York, United States"], "alternate_names": [],
        "source_ids": ["foursquare:4a"], "namesakes": 1, "dictionary_word": False,
    }  # fmt: skip
    assert run([row()]).rows == [expected]
    bare = pa.schema([field for field in SCHEMA if field.name != "fsq_category_labels"])
    assert run([row()], bare).rows == [expected | {"kind": "place"}]


def test_every_bad_row_is_counted_by_its_reason(run: Callable[..., Made]) -> None:
    made = run(
        [
            row("good"), row(None), row("b1", None), row("b2", latitude=None), row("b3", longitude=181.0),
            row("b4", date_closed="2019-04-01"), row("b5", "x"), row("good", "Again"),
            row("odd", "Old Mill", fsq_category_ids=None, fsq_category_labels=[], country=None, region=None,
                locality=None),
        ]
    )  # fmt: skip
    assert made.counters == {
        "rows": 9, "places": 2, "dropped_no_id": 1, "dropped_no_name": 1, "dropped_impossible_coordinates": 2,
        "dropped_closed": 1, "dropped_unsearchable_name": 1, "dropped_duplicate_id": 1,
    }  # fmt: skip
    assert made.column("queries") == [["Bryant Park, New York, New York, United States"], ["Old Mill"]]


@pytest.mark.parametrize("category", [PARK, "park", "Landmarks and outdoors", "landmarks and outdoors > park"])
def test_categories_by_id_or_name(run: Callable[..., Made], category: str) -> None:
    rows = [row("a"), row("b", "Joe's", fsq_category_ids=["4bf5"], fsq_category_labels=["Dining and Drinking > Cafe"])]
    made = run(rows, categories=[category])
    assert made.column("place_id") == ["foursquare:a"]
    assert made.counters["dropped_other_category"] == 1


def test_row_groups_outside_the_box_are_counted_unread(run: Callable[..., Made]) -> None:
    rows = [row("a"), row("b"), row("c", latitude=10.0), row("d", latitude=None)]
    made = run(rows, bbox=[-74, 40, -73, 41])
    assert made.column("place_id") == ["foursquare:a", "foursquare:b"]
    assert made.counters["dropped_outside_bbox"] == 2  # the one without coordinates lies nowhere


def test_what_is_no_file_of_places_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(SettingsError, match=r"is no file of Foursquare's places: it has no column fsq_place_id"):
        make_places(tmp_path / "run", source="foursquare", path=str(tmp_path))


def test_statistics_of_coordinates_written_as_text_decide_nothing(run: Callable[..., Made]) -> None:
    kinds = {"latitude": pa.string(), "longitude": pa.string()}
    schema = pa.schema([field.with_type(kinds.get(field.name, field.type)) for field in SCHEMA])
    rows = [row("a", latitude="9.5", longitude="8.5"), row("b", latitude="10.5", longitude="9.5")]
    made = run(rows, schema, bbox=[8.0, 9.0, 10.0, 10.0])
    assert made.column("place_id") == ["foursquare:a"]  # of text, '10.5' is the least and '9.5' the most
