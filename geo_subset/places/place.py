"""One place as a source gives it, before its search texts are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Place(NamedTuple):
    """What a source knows of a place; text that is not known is None.

    `alternate_names` are other names it is searched by, as 'New York' is for New York City. Of one source, places of
    higher `precedence` stand first, those without last. `variants` are further ways to speak of the place: each
    replaces some of its columns when search texts are made, as {'admin1': 'D.C.'} does.
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
    alternate_names: tuple[str, ...] = ()
    precedence: float | None = None
    variants: tuple[Mapping[str, Any], ...] = ()
