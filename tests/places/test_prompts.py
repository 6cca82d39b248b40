"""Search texts from templates."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.errors import SettingsError
from geo_subset.places import clip_tokens, prompts
from geo_subset.places.place import Place, table


def made(
    place: Place, templates: prompts.Prompt, counters: Counter[str] | None = None, shorten: bool = True
) -> list[str]:
    """The search texts. Says of the examples what always holds: there is one for each counter that counts."""
    counters, examples = Counter() if counters is None else counters, dict[str, str]()
    texts = prompts.queries(place, templates, counters, examples, shorten)
    assert set(examples) == set(counters) - {"skipped_prompts"}
    assert set(examples.values()) <= set(texts)
    return texts


PARK = Place("list:1", "Bryant Park", "park", context="midtown", population=12)


def test_templates_in_order_each_text_once() -> None:
    counters: Counter[str] = Counter()
    templates = ["{name} in {context}", "a {kind}: {name}", " {name}  in {context}", "{{100%}} {name} {population}"]
    texts = made(PARK, templates, counters)
    assert texts == ["Bryant Park in midtown", "a park: Bryant Park", "{100%} Bryant Park 12"]
    assert not counters


def test_variants_follow_each_template() -> None:
    place = PARK._replace(variants=({"name": "The Park"},))
    texts = made(place, ["{name}", "{name}, {context}", "{kind}"])
    assert texts == ["Bryant Park", "The Park", "Bryant Park, midtown", "The Park, midtown", "park"]


def test_a_template_whose_column_is_unknown_is_skipped_and_counted() -> None:
    counters: Counter[str] = Counter()
    assert made(PARK, ["{name}, {admin1}", "{name} in {context}"], counters) == ["Bryant Park in midtown"]
    assert made(PARK, ["{name}, {admin1}"], counters) == ["Bryant Park"]
    assert counters == {"skipped_prompts": 2}


def test_without_templates() -> None:
    assert made(PARK, ()) == ["Bryant Park in midtown"]
    assert made(PARK._replace(context=None), ()) == ["Bryant Park"]


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


def test_a_long_text_loses_words_at_the_end_of_its_context() -> None:
    counters: Counter[str] = Counter()
    place = PARK._replace(context="midtown, " * 35 + "new york, united states")
    assert made(place, (), counters) == ["Bryant Park in " + ", ".join(["midtown"] * 35 + ["new york"])]
    assert made(place, ["{context}: {name}!"], counters) == [", ".join(["midtown"] * 35 + ["new"]) + ": Bryant Park!"]
    assert counters == {"queries_shortened": 2}
    assert made(place, (), shorten=False) == [f"Bryant Park in {place.context}"]


def test_a_text_that_just_fits_stays_as_it_is() -> None:
    place = PARK._replace(context="a " * 70 + "b,")  # 75 tokens with 'Bryant Park in'
    assert made(place, (), counters := Counter()) == [f"Bryant Park in {place.context}"]
    assert not counters
    place = place._replace(context="a " * 71 + "b,")
    assert made(place, (), counters) == [f"Bryant Park in {'a ' * 71}b"]
    assert counters == {"queries_shortened": 1}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{name} in {context}", "{name}"),
        ("{context}: {name}", "{name}"),
        ("{{a}} {kind}: {name}, near {context}, {country}", "{{a}} park: {name}, US"),
        ("({name} in {context})", "({name})"),
        ("{context}", "{name}"),  # never without any text
    ],
)
def test_without_room_for_a_word_of_the_context_what_leads_up_to_it_goes_too(template: str, text: str) -> None:
    place = PARK._replace(name="Park " * 50 + "Hill", context="7" * 76, country="US")
    assert made(place, [template], counters := Counter()) == [text.format(name=place.name)]
    assert counters == {"queries_shortened": 1}


def test_names_that_are_too_long_stay_whole_and_are_counted_apart() -> None:
    place = PARK._replace(name="7" * 76)
    assert made(place, ["{name} in {context}", "{name}", "{admin1}"], counters := Counter()) == [place.name]
    assert counters == {"queries_too_long": 2, "skipped_prompts": 1}
    assert made(place, ["{admin1}"], counters := Counter()) == [place.name]
    assert counters == {"queries_too_long": 1, "skipped_prompts": 1}


def test_texts_that_become_one_are_asked_once() -> None:
    place = PARK._replace(context="midtown " * 80, variants=({"name": "The Park"},))
    texts = made(place, ["{name}, {context}", "{name}, {context} city", "{context}"], counters := Counter())
    assert texts == [
        "Bryant Park, " + " ".join(["midtown"] * 72),
        "The Park, " + " ".join(["midtown"] * 72),
        "Bryant Park, " + " ".join(["midtown"] * 71) + " city",
        "The Park, " + " ".join(["midtown"] * 71) + " city",
        " ".join(["midtown"] * 75),
    ]
    assert counters == {"queries_shortened": 5}


_WORD = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30)
_WORDS = st.lists(
    _WORD | st.sampled_from(["midtown,", "7777777777", "字字字字", "&amp;", "–"]), min_size=1, max_size=60
)


@given(
    _WORDS.map(" ".join), _WORDS.map(" ".join), st.sampled_from(["{name} in {context}", "{context}, {name} ({kind})"])
)
def test_any_text_fits_or_is_counted_and_holds_its_name(name: str, context: str, template: str) -> None:
    place = PARK._replace(name=name, context=context)
    [whole] = made(place, [template], shorten=False)
    [text] = made(place, [template], counters := Counter())
    assert clip_tokens.fits(text) == (not counters["queries_too_long"])
    assert name in text
    assert (text == whole and not counters.total()) if clip_tokens.fits(whole) else counters.total() == 1
    assert made(place, [template]) == [text]


def test_templates_by_kind() -> None:
    prompt = {"museum": ("{name} museum", "{name} in {context}"), "default": ("{name}!",)}
    prompts.check(prompt)
    museum = PARK._replace(kind="museum")
    assert made(museum, prompt) == [f"{PARK.name} museum", f"{PARK.name} in {PARK.context}"]
    assert made(PARK, prompt) == [f"{PARK.name}!"]
    assert made(PARK, {"museum": ("{name}!",)}) == made(PARK, ())
    with pytest.raises(SettingsError, match="there is no column"):
        prompts.check({"museum": ("{nme}",)})


def test_other_names_follow_each_template() -> None:
    place = PARK._replace(alternate_names=("The Park", "El Parque"))
    assert made(place, ("{name}", "{name} park")) == [
        PARK.name, "The Park", "El Parque", f"{PARK.name} park", "The Park park", "El Parque park",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "admin2", "expected"),
    [
        ("city", "Lane County", "Mill, Oregon"), ("neighborhood", "Lane County", "Mill in Lane County, Oregon"),
        ("state", None, "Mill, United States"), ("park", "Lane County", "Mill in Lane County, Oregon"),
        ("park", None, "Mill, Oregon"),
    ],
)  # fmt: skip
def test_defaults_by_kind(kind: str, admin2: str | None, expected: str) -> None:
    place = Place("geonames:1", "Mill", kind, "Oregon, United States", "Oregon", admin2, "US")
    assert made(place, ()) == [expected]


_names = st.text(st.sampled_from("Aé&東 "), min_size=1, max_size=5) | st.just("Mill") | st.just("Mill " * 16)
_places = st.builds(
    Place,
    place_id=st.sampled_from(["geonames:1", "overture:a:b", "list:x"]),
    name=_names,
    kind=st.sampled_from(["city", "state", "park"]),
    context=st.none() | st.just("Oregon") | st.just("Oregon " * 90),
    admin1=st.none() | st.just("Oregon"),
    admin2=st.none() | st.just("Lane County"),
    country=st.sampled_from([None, "US", "FR"]),
    population=st.none() | st.integers(0, 9),
    alternate_names=st.just(()) | st.just(("El Molino", "Mill")),
    confidence=st.none(),
    variants=st.just(()),
    latitude=st.none(),
    longitude=st.none(),
)
_prompts = st.sampled_from(
    [(), ("{name}",), ("{name}, {admin1}", "{name} in {context}", "{name} {population}%"),
     {"city": ("{name}!",), "default": ("{kind} {name}", "{name}")}, {"park": ("{name} park",)}]
)  # fmt: skip


@given(st.lists(_places, min_size=1, max_size=8), _prompts, st.booleans())
def test_a_tables_texts_are_those_of_its_places_one_by_one(
    drawn: list[Place], prompt: prompts.Prompt, shorten: bool
) -> None:
    alone: Counter[str] = Counter()
    said: dict[str, str] = {}
    expected = [prompts.queries(each, prompt, alone, said, shorten) for each in drawn]
    counters: Counter[str] = Counter()
    together = prompts.column(table(drawn), prompt, counters, {}, shorten)
    assert together.to_pylist() == expected
    assert counters == alone
