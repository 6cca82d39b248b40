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
    rows = f"""(
        SELECT position, name_{side} AS name, replace(kind_{side}, '_', ' ') AS kind, country_{side} AS country,
            admin1_{side} AS admin1, latitude_{side} AS latitude, longitude_{side} AS longitude,
            CASE WHEN alternate_names_{side} <> '' THEN split(alternate_names_{side}, '|') ELSE [] END AS others
        FROM pairs
    )"""
    keyed = names.with_keys(rows, "name", "others", "kind")
    own = "list_transform(keys, lambda key: position || ' ' || key)"
    return f"CREATE TABLE {side} AS SELECT * REPLACE ({own} AS keys) FROM ({keyed})"


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
    assert recall >= 0.81


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


@pytest.mark.parametrize(
    ("one", "other", "metres", "same"),
    [
        ("bank", "pet store", 300, False), ("bank", "pet store", 50, True), ("museum", "art museum", 300, True),
        ("park", "parking", 250, True), ("coffee shop", "cafe", 50, True), ("place", "museum", 300, True),
        ("building", "school", 300, True), ("place", "city", 4000, True), ("place", "park", 900, True),
        ("city", "park", 10, False), ("City", "town", 10, True),
    ],
)  # fmt: skip
def test_kinds_that_go_together(one: str, other: str, metres: float, same: bool) -> None:
    assert bool(matched([place(1, kind=one)], [place(2, kind=other, latitude=40 + metres / 111_195)])) == same


def test_shops_of_a_chain_in_one_street_stay_apart() -> None:
    one = [place(1, kind="coffee shop")]
    several = [place(number, kind="cafe", latitude=40 + number / 10_000) for number in range(3)]
    assert matched(one, several) == {0: 1}
    assert matched(several, one) == {1: 0}


def test_codes_of_states_are_their_names() -> None:
    assert matched([place(1, admin1="OH")], [place(2, admin1="Ohio", latitude=40.2)]) == {2: 1}


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
    reach = same_place.REACH[groups[0], groups[1]] if one == other else same_place.OTHER_KIND
    assert bool(found) == (km <= reach)
