"""Small places tables for tests of captions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
from fabricate import table

from geo_subset import tables
from geo_subset.retrieve.captions import names
from geo_subset.retrieve.captions.files import Columns
from geo_subset.retrieve.captions.matcher import FOUND, Matcher
from geo_subset.retrieve.captions.world import World

WORLD = World(
    ["Paris", "London"],
    ["FR", "GB"],
    [(48.85, 2.35), (51.5, -0.13)],
    [2_100_000, 8_900_000],
    {"US": "United States", "FR": "France", "GB": "United Kingdom"},
    {},
)

CITIES = [
    ("New York City", "New York", 8_800_000),
    ("Springfield", "Illinois", 114_000),
    ("Springfield", "Missouri", 169_000),
    ("Santa Fe", "New Mexico", 87_000),
    ("Belen", "New Mexico", 7_000),
    ("Mobile", "Alabama", 187_000),
    ("Coeur d'Alene", "Idaho", 54_000),
    ("Winston-Salem", "North Carolina", 249_000),
    ("Saint Paul", "Minnesota", 311_000),
    ("Paris", "Texas", 24_000),
    ("London", "Kentucky", 8_000),
    ("Greene", "Georgia", 600),
    ("Memphis", "Tennessee", 633_000),
    ("Washington", "District of Columbia", 689_000),
    ("Washington", "Pennsylvania", 13_000),
]


def places() -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "place_id": f"list:{name} {state}",
            "name": name,
            "kind": "city",
            "admin1": state,
            "country": "US",
            "population": people,
            "alternate_names": [name.removesuffix(" City")] if name.endswith(" City") else [],
            "dictionary_word": name == "Mobile",
        }
        for name, state, people in CITIES
    ]
    for state in ("Georgia", "New Mexico", "Vermont", "Illinois"):
        rows.append({"place_id": f"state:{state}", "name": state, "kind": "state", "admin1": state, "country": "US"})
    for state in ("Georgia", "Illinois"):
        row = {"name": "Greene County", "kind": "county", "admin1": state, "country": "US"}
        rows.append({"place_id": f"county:Greene {state}", **row})
    return table(rows, tables.PLACES)


def compiled() -> names.Names:
    return names.compile_names(places(), WORLD)[0]


def matched(matcher: Matcher, batch: pa.RecordBatch, counters: Counter[str]) -> pa.Table:
    return pa.concat_tables([FOUND.empty_table(), *matcher.matches([(batch, Columns("url", "caption"))], counters)])


def meanings(matcher: Matcher, caption: str | bytes) -> dict[str, float]:
    """Place id to similarity of what a caption is taken to name."""
    text = caption.encode() if isinstance(caption, str) else caption
    batch = pa.RecordBatch.from_pydict({"url": [b"http://x/1"], "caption": [text]})
    found = matched(matcher, batch, Counter())
    ids = places()["place_id"].to_pylist()
    return {ids[row["place"]]: row["similarity"] for row in found.to_pylist()}
