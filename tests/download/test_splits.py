from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset import tables
from geo_subset.download.splits import NAMES, ROWS, block_ids, side_of, with_splits

EARTH = 6371.0088
latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


def samples(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in tables.SAMPLES.names} for row in rows], tables.SAMPLES
    )


def block(latitude: float, longitude: float) -> int:
    return int(block_ids(np.array([latitude]), np.array([longitude]))[0])


def kilometres(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Great-circle distance by the haversine formula."""
    (a, b), (c, d) = (map(math.radians, point) for point in (one, other))
    h = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * EARTH * math.asin(min(1.0, math.sqrt(h)))


def test_nine_tenths_train_and_the_rest_in_equal_parts() -> None:
    counts = Counter(side_of(f"{n:032x}") for n in range(100_000))
    assert set(counts) == set(NAMES)
    for name, share in (("train", 0.90), ("val", 0.05), ("test", 0.05)):
        assert abs(counts[name] / 100_000 - share) < 0.005  # seven standard deviations


def test_a_slice_of_samples_sorted_by_uid_has_all_sides() -> None:
    for first in range(0, 1 << 128, 1 << 124):
        assert {side_of(f"{first + n:032x}") for n in range(300)} == set(NAMES)


def test_the_same_in_every_run() -> None:
    sides = [side_of(f"{n:032x}") for n in range(200)]
    assert [n for n, side in enumerate(sides) if side == "val"] == [
        9,
        15,
        30,
        42,
        44,
        88,
        103,
        136,
        147,
        159,
        167,
        175,
        179,
        186,
        195,
    ]
    assert [n for n, side in enumerate(sides) if side == "test"] == [62, 70, 87, 90, 98, 106, 115, 150, 188]


@given(latitudes, longitudes, st.floats(-0.02, 0.02), st.floats(-180, 180))
def test_a_block_is_no_larger_than_its_diagonal(latitude: float, longitude: float, north: float, east: float) -> None:
    other = (min(90.0, max(-90.0, latitude + north)), longitude + east / 1000)
    if block(latitude, longitude) == block(*other):
        assert kilometres((latitude, longitude), other) < math.hypot(1.0, 1.05) + 0.01


@given(st.integers(0, ROWS - 1), longitudes)
def test_blocks_are_about_a_square_kilometre(row: int, longitude: float) -> None:
    latitude = (row + 0.5) / ROWS * 180 - 90
    column_count = block(latitude, 179.9999999) - block(latitude, -180) + 1
    width = 2 * math.pi * EARTH * math.cos(math.radians(latitude)) / column_count
    assert 0.95 < width < 1.05
    if abs(latitude) < 89:
        assert 0.999 < width < 1.001
    assert math.pi * EARTH / ROWS == pytest.approx(1, abs=1e-4)


@given(latitudes, longitudes)
def test_longitudes_go_round(latitude: float, longitude: float) -> None:
    rounded = round(longitude * 1024) / 1024  # so that a turn is added without rounding
    assert block(latitude, rounded) == block(latitude, rounded + 360) == block(latitude, rounded - 360)


@pytest.mark.parametrize("point", [(math.nan, 0), (0, math.nan), (91, 0), (-90.5, 0), (0, math.inf)])
def test_what_is_no_point_has_no_block(point: tuple[float, float]) -> None:
    assert block(*point) == -1
    assert block(90, 0) >= 0
    assert block(-90, 180) >= 0


def test_all_places_of_a_block_are_on_one_side_and_places_without_coordinates_on_one_of_their_own() -> None:
    rows = [
        {"uid": f"{n:032x}", "place_id": f"list:{n}", "latitude": 40.7505 + n * 1e-6, "longitude": -73.9705}
        for n in range(200)
    ]
    rows += [{"uid": f"{n:032x}", "place_id": "list:nowhere", "latitude": None, "longitude": 1.0} for n in range(200)]
    rows += [{"uid": f"{n:032x}", "place_id": f"list:{n}"} for n in range(400)]
    table = with_splits(samples(rows))
    assert table.column_names[-2:] == ["split", "split_place"]
    by_place = table["split_place"].to_pylist()
    assert len(set(by_place[:200])) == 1
    assert len(set(by_place[200:400])) == 1
    assert set(by_place[400:]) == set(NAMES)
    assert set(table["split"].to_pylist()[:200]) == set(NAMES)
    assert table.select(tables.SAMPLES.names).equals(samples(rows))


def test_no_samples() -> None:
    assert with_splits(samples([])).num_rows == 0
