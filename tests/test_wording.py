"""Counts and reasons in one line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset import wording


def test_the_most_frequent_reasons_come_first_and_the_others_share_a_count() -> None:
    reasons = {"timed out": 39, "http 404": 1150, "dns": 7, "tls": 0, "connection refused": 120, "robots": 2}
    assert wording.most_frequent(reasons) == (
        "http 404 (1,150), connection refused (120), timed out (39), 2 other reasons (9)"
    )
    assert wording.because("failed", reasons).startswith("; 1,318 failed: http 404 (1,150), ")
    assert wording.because("failed", {"dns": 1}, "image") == "; 1 image failed: dns (1)"
    assert wording.because("failed", {"dns": 0}) == wording.because("failed", {}) == ""


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 999)), st.integers(1, 5))
def test_all_that_is_counted_is_told(reasons: dict[str, int], shown: int) -> None:
    said = wording.most_frequent(reasons, shown)
    assert sum(int(count) for count in re.findall(r"\((\d+)\)", said.replace(",", ""))) == sum(reasons.values())


def test_counters_under_the_words_for_them() -> None:
    assert wording.prefixed({"rows": 5, "dropped_no_name": 3, "dropped_blank": 0}, "dropped_") == {"no name": 3}
    assert wording.chosen({"a": 1, "b": 0, "c": 2}, {"a": "A", "b": "B", "d": "D"}) == {"A": 1}
    assert [wording.counted(n, "place") for n in (0, 1, 1096)] == ["0 places", "1 place", "1,096 places"]


@pytest.mark.parametrize(
    ("names", "words"), [([], ""), (["a"], "a"), (list("abc"), "a, b, c"), (list("abcde"), "a, b, c and 2 more")]
)
def test_some_of_many_names(names, words):
    assert wording.some(names) == words
