"""What the features weigh: the model that `benchmarks/fit_captions.py` has fitted, and bounds that follow from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geo_subset.retrieve.captions.features import FEATURES, SHARED

LEVELS = ("city", "county", "state")
#: Features that hold where, besides the other, the place's own region is not named.
_WITH_NONE = {
    "english_word": "english_word_none", "person_name": "person_name_none", "previous_none": "start_none",
    "next_end": "end_none",
}  # fmt: skip
_NEXT = (
    "next_within",
    "next_nature",
    "next_street",
    "next_body",
    "next_other_kind",
    "next_capital",
    "start_next_lower",
)
_PREVIOUS = (
    "previous_in", "previous_near", "previous_from", "previous_side", "previous_title", "previous_given",
    "previous_capital",
)  # fmt: skip
#: What goes with regions that are named, and is taken to speak against a place of which none is the region.
_AGAINST = (
    "region_name_after", "unknown_before", "unknown_after", "country_named", "other_country_adjacent",
    "other_country_named",
)  # fmt: skip
_ANYWHERE = ("near_after", "between", "goods", "goods_after_start")


class Floors(NamedTuple):
    """Scores below which nothing is looked at further; float32."""

    least: Any
    """Of any candidate."""
    alone: Any
    """Of all of a name's places together, in a caption that names no region."""
    caption: Any
    """Of all mentions of a caption together: with less, nothing in it is accepted."""
    anywhere: Any
    """No floor, but what a caption may add to a name's score (of its cities, where no region is named): words wherever
    they stand;"""
    next: Any
    """and besides, if no separator is between, the word after it;"""
    previous: Any
    """and the word before it;"""
    listed: Any
    """and a name right after it, or after one word, if its region is named;"""
    named: Any
    """and, if one is named that none of its places lies in, that."""


#: Floors that nothing is below.
EVERYTHING = Floors(*map(np.float32, (-np.inf, -np.inf, -np.inf, 0, 0, 0, 0, 0)))


@lru_cache(maxsize=1)
def _fitted() -> dict[str, dict[str, float]]:
    text = resources.files("geo_subset.retrieve.captions").joinpath("model.json").read_text(encoding="utf-8")
    weights: dict[str, dict[str, float]] = json.loads(text)["weights"]
    return weights


@lru_cache(maxsize=1)
def weights() -> npt.NDArray[np.float32]:
    """The model: float32 (levels, features)."""
    table = np.array([[_fitted()[level].get(name, 0.0) for name in FEATURES] for level in LEVELS], np.float32)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def alone() -> npt.NDArray[np.float32]:
    """What SHARED weighs of a city in a caption that names no region, float32 (bytes of SHARED's bits, 256): the sum
    for all bits of that byte, so that a set of features is added up by a few looks and no branch."""
    city = _fitted()["city"]
    each = np.zeros(-(-len(SHARED) // 8) * 8)
    each[: len(SHARED)] = [city[name] + city[_WITH_NONE[name]] if name in _WITH_NONE else city[name] for name in SHARED]
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    array = np.asarray(each.reshape(-1, 8) @ bits.T, np.float32)
    array.setflags(write=False)
    return array


def ceiling(
    number: npt.NDArray[Any],
    people: npt.NDArray[Any],
    crowd: npt.NDArray[Any],
    outside: npt.NDArray[Any],
    fame: npt.NDArray[Any],
) -> npt.NDArray[np.float64]:
    """No less than the log of the sum of exp(score) of a name's cities in a caption that names no region, less SHARED.

    Of names (N,): `number` of places, the highest log10 of `people` and `fame` among them, log10 of the people in all
    of them (`crowd`) and in the largest city so called `outside` of the table.
    """
    city = _fitted()["city"]
    # The highest of each is a bound only for weights of these signs.
    assert all(city[name] >= 0 for name in ("people_none", "share_none", "fame_none")) and city["outside_none"] <= 0
    return np.asarray(
        city["none_named"]
        + city["people_none"] * people
        + city["share_none"] * np.minimum(people - crowd, 0)
        + city["outside_none"] * np.maximum(outside - people, 0)
        + city["fame_none"] * fame
        + city["crowd_none"] * np.log10(np.maximum(number, 1))
        + np.log(np.maximum(number, 1))
    )


def hopeless(min_confidence: float) -> Floors:
    """The scores of a confidence of 1 %, of 5 % for a name in a caption that names no region, and of `min_confidence`
    for all names in such a caption.

    Nearly all names that are found have less, and are not looked at further, unless so little is to be accepted.
    """
    if min_confidence < 0.1:
        return EVERYTHING
    city = _fitted()["city"]

    def most(names: Sequence[str]) -> float:
        return max(0.0, *(city[name] for name in names))

    after = max(most(_NEXT), city["next_capital"] + city["start_next_capital"])
    before = max(most(_PREVIOUS), city["previous_of"] + max(0.0, city["previous_near"]))
    anywhere = sum(max(0.0, city[name]) for name in (*_ANYWHERE, "next_body"))
    # A little less, for all that is rounded; and nothing is surer than 1.
    accepted = np.log(min_confidence / max(1e-6, 1 - min_confidence)) - 0.01
    adjacent = city["other_adjacent"] + most(("region_then_end", "region_then_stop", "region_then_comma"))
    named = max(adjacent, city["other_next"], city["other_named"]) - city["none_named"]
    assert all(city[name] <= 0 for name in _AGAINST)
    scores = (
        np.log(0.01 / 0.99), np.log(0.05 / 0.95), accepted, anywhere, after, before, max(0.0, city["listed"]), named,
    )  # fmt: skip
    return Floors(*(np.float32(score) for score in scores))
