from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retrieve.service import rows_for

from geo_subset.retrieve import answers, plain_answers

_text = st.text(max_size=5) | st.sampled_from(["", " ", "http://a/1", "\ud800", "\x00", "é", "\u2028"])
_odd = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | _text | st.just([])
_row = st.fixed_dictionaries(
    {"url": st.sampled_from(["http://a/1", "http://a/2"]), "caption": _text | st.none(), "id": st.integers(0, 9)}
    | {"similarity": st.floats(-1, 1)},
    optional={"NSFW": st.sampled_from(["UNSURE", None]), "width": st.integers(0, 3) | st.none(), "height": st.just(7)},
)
_odd_row = st.dictionaries(
    st.sampled_from(["url", "caption", "id", "similarity", "NSFW", "nsfw", "width", "image"]), _odd
)


def both(body, limit):
    return plain_answers.read(body, limit), answers.rows(answers.parse(body), limit)


def is_same(plain, judged):
    for name in ("similarity", "url", "caption", "image_id", "source", "counters"):
        assert getattr(plain, name) == getattr(judged, name), name
    assert list(map(type, plain.similarity)) == list(map(type, judged.similarity))


@given(rows=st.lists(_row, min_size=1, max_size=8), odd=st.lists(_odd_row, max_size=1), limit=st.integers(1, 9))
def test_what_is_read_in_one_go_is_what_judging_finds(rows, odd, limit):
    rows.sort(key=lambda row: -row["similarity"])
    body = json.dumps(rows + odd).encode()
    plain, judged = both(body, limit)
    if plain is not None:
        is_same(plain, judged)


@given(rows=st.lists(_row, min_size=1, max_size=8), limit=st.integers(1, 9))
def test_answers_as_they_nearly_always_are_need_no_judging(rows, limit):
    rows = [{"NSFW": "UNLIKELY", **row, "width": 5} for row in rows]
    for row in rows:
        row.pop("height", None)
    rows = sorted(rows, key=lambda row: -row["similarity"])
    if any("\ud800" in (row["caption"] or "") for row in rows):
        return
    plain, judged = both(json.dumps(rows).encode(), limit)
    is_same(plain, judged)


@pytest.mark.parametrize(
    "change",
    [
        {"url": None}, {"url": 5}, {"url": " "}, {"url": ""}, {"id": -1}, {"id": 2**63}, {"id": 2.5}, {"id": "7"},
        {"similarity": None}, {"similarity": "0.5"}, {"similarity": True}, {"similarity": math.nan},
        {"similarity": 1e39}, {"similarity": 0.99}, {"caption": 5}, {"NSFW": 5}, {"image": "aGk="}, {"width": -1},
        {"width": 2**31}, {"nsfw": "x"}, {"url": "http://a/\udfff"},
    ],
    ids=str,
)  # fmt: skip
def test_anything_odd_is_left_to_be_judged(change):
    rows = rows_for("a", 5)
    rows[2] |= change
    assert plain_answers.read(json.dumps(rows).encode(), 5) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"[1]", b"[[]]", b"[" * 100_000, b'[{"url": "http://a'])
def test_what_is_no_list_of_rows_is_left_to_be_judged(body):
    assert plain_answers.read(body, 5) is None
