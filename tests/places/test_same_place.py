"""The same place from two gazetteers: labelled pairs of real places, and what always holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_subset.places import names, same_place

_PAIRS = Path(__file__).parent / "same_place_pairs.csv"


def _side(side: str) -> str:
    return f"""
        CREATE TABLE {side} AS
        SELECT position, kind, country, admin1, latitude, longitude,
            list_transform({names.keys("name", "others", "kind")}, lambda key: position || ' ' || key) AS keys
        FROM (
            SELECT position, name_{side} AS name, replace(kind_{side}, '_', ' ') AS kind, country_{side} AS country,
                admin1_{side} AS admin1, latitude_{side} AS latitude, longitude_{side} AS longitude,
                CASE WHEN alternate_names_{side} <> '' THEN split(alternate_names_{side}, '|') ELSE [] END AS others
            FROM pairs
        )"""


def test_labelled_pairs() -> None:
    pairs = pd.read_csv(_PAIRS, keep_default_na=False).assign(position=lambda table: range(len(table)))
    assert len(pairs) >= 200 and 0.4 < pairs["same"].mean() < 0.6
    with duckdb.connect(":memory:") as database:
        database.register("pairs", pairs)
        database.execute(_side("a"))
        database.execute(_side("b"))
        taken = dict(database.sql(same_place.matches("a", "b")).fetchall())
    assert all(position == other for position, other in taken.items())  # the keys see to it
    right = int(pairs["same"].iloc[list(taken)].sum())
    precision, recall = right / len(taken), right / int(pairs["same"].sum())
    print(f"{len(pairs)} pairs: {len(taken)} taken for the same, precision {precision:.3f}, recall {recall:.3f}")
    assert precision >= 0.97
    assert recall >= 0.82


def place(position: int, **other: Any) -> dict[str, Any]:
    made = {"position": position, "keys": ["mill"], "kind": "city", "country": "US", "admin1": "Ohio", "latitude": 40.0,
            "longitude": -80.0}  # fmt: skip
    return made | other


def matched(earlier: list[dict[str, Any]], later: list[dict[str, Any]]) -> dict[int, int]:
    with duckdb.connect(":memory:") as database:
        database.register("one", pd.DataFrame(earlier))
        database.register("other", pd.DataFrame(later))
        return dict(database.sql(same_place.matches("one", "other")).fetchall())


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True), ({"keys": ["other", "mill"]}, True), ({"keys": ["other"]}, False), ({"kind": "park"}, False),
        ({"admin1": "Iowa"}, False), ({"admin1": None}, True), ({"country": None}, True), ({"country": "CA"}, False),
        ({"latitude": 40.2}, True), ({"latitude": 40.3}, False), ({"latitude": 40.2, "admin1": None}, False),
        ({"longitude": -80.29}, True), ({"longitude": -80.3}, False), ({"latitude": None}, False),
        ({"kind": "neighborhood"}, True), ({"kind": "neighborhood", "latitude": 40.02}, False),
    ],
)  # fmt: skip
def test_what_makes_towns_the_same(other: dict[str, Any], same: bool) -> None:
    assert bool(matched([place(1)], [place(2, **other)])) == same


def test_the_nearest_is_taken_then_the_first() -> None:
    mills = [place(number, kind="museum", latitude=40 + offset) for number, offset in enumerate([0.003, 0.001, -0.001])]
    assert matched(mills, [place(7, kind="museum")]) == {7: 1}


@settings(max_examples=30)
@given(
    st.floats(-89.9, 89.9), st.floats(-180, 180), st.floats(-0.02, 0.02), st.floats(-0.02, 0.02),
    st.sampled_from(["park", "museum"]), st.sampled_from(["park", "museum"]),
)  # fmt: skip
def test_bands_hide_no_pair_and_sides_do_not_matter(
    latitude: float, longitude: float, north: float, east: float, one: str, other: str
) -> None:
    a = place(1, kind=one, latitude=latitude, longitude=longitude)
    b = place(2, kind=other, latitude=latitude + north, longitude=longitude + east)
    found = matched([a], [b])
    assert bool(found) == bool(matched([b], [a]))
    groups = sorted({"park": "extended", "museum": "spot"}[kind] for kind in (one, other))
    with duckdb.connect(":memory:") as database:
        database.register("a", pd.DataFrame([a]))
        database.register("b", pd.DataFrame([b]))
        [(km,)] = database.sql(f"SELECT {same_place.distance_km('a', 'b')} FROM a, b").fetchall()
    assert bool(found) == (km <= same_place.REACH[groups[0], groups[1]])
