"""What the photographs of the Farm Security Administration show: captions with places known from the catalogue.

Used by `fit_captions.py` and `captions_quality.py`. Photographs are split into two halves by SHA-256 of the URL (the
file itself was drawn by MD5); the model is fitted on the one and judged on the other.
"""

from __future__ import annotations

import hashlib
import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

PHOTOGRAPHS = Path(__file__).parent.parent.parent / "shared" / "data" / "fsa_owi.parquet"
#: Kilometres within which a label is right, as in the baseline.
NEAR = 25.0


@dataclass(frozen=True)
class Truth:
    """One entry per photograph, (N,) each; coordinates are nan and names '' where the catalogue has none."""

    url: npt.NDArray[Any]
    caption: list[str]
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    city: npt.NDArray[Any]
    county: npt.NDArray[Any]
    state: npt.NDArray[Any]
    fitted: npt.NDArray[np.bool_]
    """Whether the photograph is in the half that the model was fitted on."""


def load(path: Path = PHOTOGRAPHS) -> Truth:
    table = pq.read_table(path)
    texts = {
        name: [text or "" for text in table[name].to_pylist()] for name in ("URL", "TEXT", "city", "county", "state")
    }
    numbers = {name: table[name].to_numpy().astype(np.float64) for name in ("lat", "lon")}
    return Truth(
        np.array(texts["URL"], object), texts["TEXT"], numbers["lat"], numbers["lon"],
        *(np.array([folded(name) for name in texts[column]], object) for column in ("city", "county")),
        np.array(texts["state"], object),
        np.array([hashlib.sha256(url.encode()).digest()[0] & 1 == 1 for url in texts["URL"]]),
    )  # fmt: skip


def folded(name: str) -> str:
    """A name in lower case without what the catalogue writes in one way and the gazetteer in another."""
    text = re.sub(r"\s*\(.*?\)", "", html.unescape(name)).lower().replace("'", "")
    text = re.sub(r"[^a-z0-9]+", " ", text).strip()
    text = re.sub(r"\b(county|parish)$", "", text).strip()
    return re.sub(r"\bsaint\b", "st", text)


def kilometres(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Great-circle distances of points in degrees: (latitude a, longitude b) to (c, d)."""
    a, b, c, d = (np.radians(degrees) for degrees in (a, b, c, d))
    h = np.sin((c - a) / 2) ** 2 + np.cos(a) * np.cos(c) * np.sin((d - b) / 2) ** 2
    return 2 * 6371.0 * np.arcsin(np.sqrt(h))


def right(
    truth: Truth, places: pa.Table, photograph: npt.NDArray[Any], place: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Whether each (photograph, place) pair of row numbers is right.

    A city is within 25 km; a county, for which the gazetteer has no coordinates, is the catalogue's by name and state;
    a state by name.
    """
    kind = np.array(places["kind"].to_pylist(), object)[place]
    latitude, longitude = (places[name].to_numpy()[place] for name in ("latitude", "longitude"))
    name = np.array([folded(text) for text in places["name"].to_pylist()], object)[place]
    state = np.array([text or "" for text in places["admin1"].to_pylist()], object)[place]
    distance = kilometres(latitude, longitude, truth.latitude[photograph], truth.longitude[photograph])
    same_state = state == truth.state[photograph]
    same_county = same_state & (name == truth.county[photograph])
    return np.where(kind == "state", same_state, np.where(kind == "county", same_county, distance <= NEAR)).astype(bool)


def in_gazetteer(truth: Truth, places: pa.Table) -> npt.NDArray[np.bool_]:
    """Photographs with coordinates whose city is one of the gazetteer's by name and state."""
    rows = places.select(["name", "kind", "admin1"]).to_pylist()
    cities = {(folded(row["name"]), row["admin1"]) for row in rows if row["kind"] == "city"} | {
        ("new york", "New York")
    }
    known = ~np.isnan(truth.latitude)
    return known & np.array([pair in cities for pair in zip(truth.city, truth.state, strict=True)])
