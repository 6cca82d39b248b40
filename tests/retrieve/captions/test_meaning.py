"""What names in captions are taken to mean."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pyarrow as pa
import pytest
from gazetteer import WORLD, compiled, matched, meanings, places
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_subset.retrieve.captions import decide, features, model, names
from geo_subset.retrieve.captions.matcher import Matcher

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return Matcher(compiled(), 0.5)


@pytest.mark.parametrize(
    ("caption", "place"),
    [
        ("Main street. Springfield, Illinois", "list:Springfield Illinois"),
        ("Springfield, Ill. Main street", "list:Springfield Illinois"),
        ("House for sale in Springfield, MO 65801", "list:Springfield Missouri"),
        ("In the Alexander Community School in Greene County, Georgia", "county:Greene Georgia"),
        ("Farm in Greene County, Illinois", "county:Greene Illinois"),
        ("New York, New York. Children playing", "list:New York City New York"),
        ("Washington, D.C. The capitol", "list:Washington District of Columbia"),
        ("Mill near Washington, Pennsylvania", "list:Washington Pennsylvania"),
        ("Sunset over St. Paul, Minnesota", "list:Saint Paul Minnesota"),
        ("Courthouse, Paris, Texas", "list:Paris Texas"),
        ("Coeur d&#39;Alene, Idaho. Lake", "list:Coeur d'Alene Idaho"),
        ("Belen, New Mexico. In the Atchison, Topeka and Santa Fe Railroad freight yard", "list:Belen New Mexico"),
        ("Autumn leaves. Vermont", "state:Vermont"),
    ],
)
def test_a_name_means_one_place(matcher, caption, place):
    assert list(meanings(matcher, caption)) == [place]


@pytest.mark.parametrize(
    "caption",
    [
        "Hotels in Paris",
        "London, England",
        "Bus in London",
        "mobile phone case",
        "Jackson Pollock",
        "New Yorkshire",
        "",
        "12 345",
    ],
)
def test_what_is_none_of_the_places(matcher, caption):
    assert meanings(matcher, caption) == {}


@pytest.mark.parametrize(
    "caption",
    [
        b"\0Springfield\0, Illinois\0",
        b"Springfield, Illinois \xed\xa0\x80 lone surrogate",
        b"\xff\xfeSpringfield, Illinois",
        "\u202bתמונה\u202c Springfield, Illinois مرحبا".encode(),
        "🏔️ Springfield, Illinois 👩‍👩‍👧".encode(),
        "伊利诺伊州 Springfield, Illinois 东京都".encode(),
        "ไปเที่ยว Springfield, Illinois กรุงเทพ".encode(),
        b"Springfield, Illinois. " + b"word " * 200_000,
        b"Springfield, Illinois. " + b"Memphis, Tennessee. " * 50_000,
    ],
)
def test_odd_captions_are_read(caption):
    assert "list:Springfield Illinois" in meanings(Matcher(compiled(), 0.0), caption)


def test_what_is_far_into_a_caption_is_not_read_and_counted():
    from collections import Counter

    import pyarrow as pa

    text = "word " * (features.MOST_BYTES // 5 + 1) + "Springfield, Illinois"
    batch = pa.RecordBatch.from_pydict({"url": ["u", "u"], "caption": [text, None]})
    counters: Counter[str] = Counter()
    assert matched(Matcher(compiled(), 0.5), batch, counters).num_rows == 0
    assert (counters["captions_cut"], counters["captions_null"]) == (1, 1)


def test_confidences_of_a_level_add_up_to_one_at_most_and_counters_add_up():
    from collections import Counter

    import pyarrow as pa

    texts = [
        "Springfield",
        "Washington and Springfield",
        "Springfield, Illinois, Greene County",
        "Santa Fe, New Mexico",
    ]
    batch = pa.RecordBatch.from_pydict({"url": list("abcd"), "caption": texts})
    counters: Counter[str] = Counter()
    found = matched(Matcher(compiled(), 0.2), batch, counters)
    for text in texts:
        assert sum(meanings(Matcher(compiled(), 0.0), text).values()) <= 3.0
    assert all(0.2 <= s <= 1 for s in found["similarity"].to_pylist())
    assert counters["mentions"] == sum(counters[name] for name in decide.TALLIES if name.startswith("mentions_"))
    assert counters["mentions_accepted"] == counters["matches"] + counters["matches_null_url"]


_PIECES = (
    "Springfield", "springfield", "Illinois", "Ill.", "Paris", "Texas", "Washington", "D.C.", "Greene County", "Mobile",
    "mobile", "New York", "Saint Paul", "London", "Jackson", "Santa Fe Railroad", "near", "in", "from", "Hotels", "old",
    "photo of", ",", ".", "&", "(vicinity)", "Street", "shirt", "Vermont", "France",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=9).map(" ".join))
def test_leaving_out_what_is_hopeless_changes_little(matcher, caption):
    """Names whose places are not looked at for their want of confidence: the others' is nearly what it would be."""
    thorough = Matcher(compiled(), 0.5)
    thorough._floors = model.hopeless(0.0)
    quick, slow = meanings(matcher, caption), meanings(thorough, caption)
    assert {place for place, sure in slow.items() if sure > 0.55} <= quick.keys()
    assert all(abs(sure - slow.get(place, 0.5)) < 0.06 for place, sure in quick.items())


_compiled = functools.cache(compiled)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from((0.1, 0.5, 0.9)), st.lists(st.sampled_from(_PIECES), min_size=1, max_size=9).map(" ".join))
def test_what_all_names_together_cannot_reach_is_not_looked_for_and_nothing_else_changes(least, caption):
    names = _compiled()
    bounded, looked_at = Matcher(names, least), Matcher(names, least)
    looked_at._floors = bounded._floors._replace(caption=np.float32(-np.inf))
    assert meanings(bounded, caption) == meanings(looked_at, caption)


def test_the_model_knows_every_feature_it_weighs():
    for number, name in enumerate(features.FEATURES):
        assert getattr(features, name.upper()) == number
    assert model.weights().shape == (len(model.LEVELS), len(features.FEATURES))
    assert np.isfinite(model.weights()).all()


def test_regions_without_a_word_are_none():
    table = places()
    nothing = pa.array(["-"] * table.num_rows), pa.array(["ZW"] * table.num_rows)
    for column, values in zip(("admin1", "country"), nothing, strict=True):
        at = table.schema.get_field_index(column)
        table = table.set_column(at, table.schema.field(column), values.cast(table.schema.field(column).type))
    found, counters = names.compile_names(pa.concat_tables([places(), table]), WORLD)
    assert counters["places"] == 2 * table.num_rows
    assert (found.regions.names, found.trie.names) == (compiled().regions.names, compiled().trie.names)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["in", "or", "me", "il", "w", "n", "mex", "virginia", "texas", "paris", "greene", "county"]
            ),
            st.sampled_from([str.lower, str.title, str.upper]),
            st.sampled_from([" ", ", ", ". ", "'s "]),
        ),
        max_size=8,
    )
)
def test_abbreviations_in_lower_case_are_left_out_without_a_difference(parts):
    caption = "".join(case(word) + after for word, case, after in parts)
    assert meanings(_shortcut(), caption) == meanings(_without_shortcut(), caption)


@functools.cache
def _shortcut() -> Matcher:
    return Matcher(compiled(), 0.05)


@functools.cache
def _without_shortcut() -> Matcher:
    whole = compiled()
    assert (whole.region_lower_starts != whole.regions.starts).any()
    return Matcher(dataclasses.replace(whole, region_lower_starts=whole.regions.starts), 0.05)
