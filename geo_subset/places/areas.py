"""The area that places must lie in: countries, a bounding box, polygons. All that is set must fit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from geo_subset.errors import SettingsError
from geo_subset.settings import PlaceFilters

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees (WGS84); west is greater than east where it crosses 180 degrees."""


@dataclass(frozen=True)
class Area:
    """Where places are wanted; whatever is empty or None asks for nothing."""

    countries: frozenset[str] = frozenset()
    """ISO 3166-1 alpha-2 codes, upper case."""
    box: Box | None = None
    polygon: Any = None
    """A shapely geometry, in degrees of longitude and latitude."""

    @property
    def boxes(self) -> list[Box]:
        """Boxes that a place must lie in, every one of them: the one that was set, and the polygon's."""
        around = [] if self.polygon is None else [tuple(float(degrees) for degrees in self.polygon.bounds)]
        return [*([self.box] if self.box else []), *around]  # type: ignore[list-item]


def area(filters: PlaceFilters) -> Area:
    """The area that the settings describe. Raises SettingsError if a file of polygons is none."""
    box = (filters.bbox[0], filters.bbox[1], filters.bbox[2], filters.bbox[3]) if filters.bbox else None
    return Area(frozenset(code.upper() for code in filters.countries), box, _polygon(filters.polygon))


def inside(
    area: Area,
    countries: Sequence[str | None],
    latitudes: npt.NDArray[np.float64],
    longitudes: npt.NDArray[np.float64],
    counters: Counter[str],
) -> npt.NDArray[np.bool_]:
    """Which of N places lie in the area: (N,) bool. Unknown coordinates are nan.

    Counts the others as dropped_other_country, dropped_no_coordinates (where a box or a polygon asks for them),
    dropped_outside_bbox and dropped_outside_polygon; the first that fits counts.
    """
    left: npt.NDArray[np.bool_] = np.ones(len(latitudes), dtype=bool)

    def keep(reason: str, good: npt.NDArray[np.bool_]) -> None:
        if dropped := int(np.count_nonzero(left & ~good)):
            counters[f"dropped_{reason}"] += dropped
        left[...] &= good

    if area.countries:
        keep("other_country", np.fromiter((code in area.countries for code in countries), bool, len(left)))
    if area.box or area.polygon is not None:
        keep("no_coordinates", np.isfinite(latitudes) & np.isfinite(longitudes))
    if area.box:
        keep("outside_bbox", in_box(area.box, latitudes, longitudes))
    if area.polygon is not None:
        import shapely

        keep("outside_polygon", shapely.intersects_xy(area.polygon, longitudes, latitudes))
    return left


def in_box(box: Box, latitudes: Any, longitudes: Any) -> npt.NDArray[np.bool_]:
    """Which of N points lie in the box, its edges included: (N,) bool."""
    west, south, east, north = box
    after_west, before_east = np.asarray(longitudes) >= west, np.asarray(longitudes) <= east
    across = (after_west & before_east) if west <= east else (after_west | before_east)
    return across & (np.asarray(latitudes) >= south) & (np.asarray(latitudes) <= north)


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes have a point in common."""
    return (
        one[1] <= other[3]
        and other[1] <= one[3]
        and any(a[0] <= b[1] and b[0] <= a[1] for a in _spans(one) for b in _spans(other))
    )


def _spans(box: Box) -> list[tuple[float, float]]:
    return [(box[0], box[2])] if box[0] <= box[2] else [(box[0], 180.0), (-180.0, box[2])]


def _polygon(paths: Sequence[str]) -> Any:
    """The union of all polygons in some GeoJSON files, made ready for many look-ups; None without files."""
    if not paths:
        return None
    import shapely

    shapes = [shape for path in paths for shape in _shapes(path)]
    union = shapely.union_all(shapely.make_valid(shapes))
    shapely.prepare(union)
    return union


def _shapes(path: str) -> list[Any]:
    import shapely
    from shapely.geometry import shape

    try:
        with fsspec.open(path, "rb", compression="infer") as stream:
            tree = json.loads(stream.read())
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read as GeoJSON: {error}") from error
    try:
        shapes = [shape(geometry) for geometry in _geometries(tree)]
    except Exception as error:  # shapely raises whatever a malformed geometry makes of its code
        raise SettingsError(f"{path} holds a geometry that is not GeoJSON: {error}") from error
    shapes = [found for found in shapes if found.geom_type in ("Polygon", "MultiPolygon") and not found.is_empty]
    if not shapes:
        raise SettingsError(
            f"{path} holds no polygon: a GeoJSON Polygon or MultiPolygon, or features of such, is wanted"
        )
    west, south, east, north = shapely.total_bounds(shapes)
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise SettingsError(
            f"{path} is not in degrees of longitude and latitude (WGS84), as GeoJSON is: it reaches from "
            f"{west:g}, {south:g} to {east:g}, {north:g}"
        )
    return shapes


def _geometries(tree: Any) -> Iterator[Any]:
    """The geometries of a GeoJSON object of any type."""
    kind = tree.get("type") if isinstance(tree, dict) else None
    if kind == "FeatureCollection":
        for feature in tree.get("features") or ():
            yield from _geometries(feature)
    elif kind == "Feature":
        if tree.get("geometry") is not None:
            yield from _geometries(tree["geometry"])
    elif kind == "GeometryCollection":
        for geometry in tree.get("geometries") or ():
            yield from _geometries(geometry)
    elif kind is not None:
        yield tree
