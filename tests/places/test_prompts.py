"""Search texts from templates."""

from __future__ import annotations

from collections import Counter

import pytest

from geo_subset.errors import SettingsError
from geo_subset.places import prompts
from geo_subset.places.place import Place

PARK = Place("list:1", "Bryant Park", "park", context="midtown", population=12)


def test_templates_in_order_each_text_once() -> None:
    counters: Counter[str] = Counter()
    templates = ["{name} in {context}", "a {kind}: {name}", " {name}  in {context}", "{{100%}} {name} {population}"]
    texts = prompts.queries(PARK, templates, counters)
    assert texts == ["Bryant Park in midtown", "a park: Bryant Park", "{100%} Bryant Park 12"]
    assert not counters


def test_variants_follow_each_template() -> None:
    place = PARK._replace(variants=({"name": "The Park"},))
    texts = prompts.queries(place, ["{name}", "{name}, {context}", "{kind}"], Counter())
    assert texts == ["Bryant Park", "The Park", "Bryant Park, midtown", "The Park, midtown", "park"]


def test_a_template_whose_column_is_unknown_is_skipped_and_counted() -> None:
    counters: Counter[str] = Counter()
    assert prompts.queries(PARK, ["{name}, {admin1}", "{name} in {context}"], counters) == ["Bryant Park in midtown"]
    assert prompts.queries(PARK, ["{name}, {admin1}"], counters) == ["Bryant Park"]
    assert counters == {"skipped_prompts": 2}


def test_without_templates() -> None:
    assert prompts.queries(PARK, (), Counter()) == ["Bryant Park in midtown"]
    assert prompts.queries(PARK._replace(context=None), (), Counter()) == ["Bryant Park"]


@pytest.mark.parametrize(
    "template",
    ["{nam}", "{name", "name}", "{}", "{0}", "{name.upper}", "{name[0]}", "{name!r}", "{name:>9}", "{queries}"],
)
def test_bad_templates_name_themselves_and_the_known_columns(template: str) -> None:
    with pytest.raises(SettingsError, match=r"known (columns )?are \{place_id\}, \{name\}, \{kind\}") as caught:
        prompts.check([template])
    assert repr(template) in str(caught.value)


def test_a_template_without_a_column_finds_the_same_for_every_place() -> None:
    with pytest.raises(SettingsError, match="same for every place"):
        prompts.check(["midtown"])
