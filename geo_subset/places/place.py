"""One place as a source gives it, before its search texts are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Place(NamedTuple):
    """The columns of the places table except `queries`; text that is not known is None.

    `variants` are further ways to speak of the place: each replaces some of its columns when search texts are made,
    as {'name': 'New York'} does for New York City.
    """

    place_id: str
    name: str
    kind: str
    context: str | None = None
    admin1: str | None = None
    admin2: str | None = None
    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    population: int | None = None
    variants: tuple[Mapping[str, Any], ...] = ()
