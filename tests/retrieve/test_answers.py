from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.retrieve import answers, clip_service
from geo_subset.retrieve.answers import AnswerError
from geo_subset.tables import MATCHES

ROW = {"url": "http://a/1", "caption": "c", "id": 3, "similarity": 0.5, "NSFW": "UNSURE"}


@pytest.mark.parametrize(
    ("status", "body", "reason", "passing"),
    [
        (500, b'{"message": "Internal Server Error"}', "http 500", True),
        (503, b"", "http 503", True),
        (429, b"", "http 429", True),
        (400, b'{"message": "x"}', "http 400", False),
        (404, b"<html>", "http 404", False),
        (200, b'{"message": "Internal Server Error"}', "not a list", False),
        (200, b'[{"url": "http://a', "broken json", True),
        (200, b"", "broken json", True),
        (200, b"[" * 100_000, "broken json", True),
        (200, b"null", "not a list", False),
    ],
)
def test_what_is_no_list_of_rows_is_an_error(status, body, reason, passing):
    with pytest.raises(AnswerError) as error:
        answers.parse(status, body)
    assert (error.value.reason, error.value.passing) == (reason, passing)


def test_retry_after_is_read():
    with pytest.raises(AnswerError) as error:
        answers.parse(429, b"", "7")
    assert error.value.retry_after == 7


def test_bare_nan_is_understood():
    (row,) = answers.parse(200, b'[{"url": "http://a/1", "similarity": 0.5, "width": NaN, "caption": NaN}]')
    rows = answers.rows([row], 10)
    assert (rows.caption, rows.source["width"]) == ([None], [None])


def test_source_columns_are_found_whatever_their_case():
    row = {**ROW, "WIDTH": 640.0, "original_height": 480, "punsafe": "high", "pwatermark": 0.25, "aesthetic": None}
    rows = answers.rows([row, ROW], 10)
    assert rows.source == {
        "nsfw": ["UNSURE", "UNSURE"],
        "width": [640, None],
        "height": [480, None],
        "punsafe": [None, None],
        "pwatermark": [0.25, None],
        "aesthetic": [None, None],
    }


def test_of_two_widths_the_same_one_wins_in_every_process():
    code = (
        "from geo_subset.retrieve import answers; "
        "row = {'url': 'http://a/1', 'similarity': 1, 'original_width': 1, 'WIDTH': 2, 'width': 3}; "
        "print(answers.rows([row], 1).source)"
    )
    for seed in ("1", "2", "3"):
        command = [sys.executable, "-c", code]
        out = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert out.stdout.strip() == "{'width': [3]}"


def test_a_server_may_not_ask_to_wait_for_a_day():
    with pytest.raises(AnswerError) as error:
        answers.parse(503, b"", "9" * 400)
    assert error.value.retry_after == answers.MAX_RETRY_AFTER


def test_order_and_limit():
    rows = answers.rows([{**ROW, "similarity": s, "id": i} for i, s in enumerate([0.1, 0.9, 0.9, 0.3])], 3)
    assert rows.image_id == [1, 2, 3]
    assert rows.counters["rows_over_limit"] == 1


_value = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["http://a/1", "http://b/2", "\ud800", "", " ", 0.5, "x" * 1000]),
    st.lists(st.integers(), max_size=2),
)
_answer = st.lists(
    st.one_of(
        st.dictionaries(
            st.sampled_from(["url", "caption", "id", "similarity", "NSFW", "width", "image", "punsafe"]), _value
        ),
        _value,
        st.builds(lambda v, k: {**ROW, k: v}, _value, st.sampled_from([*ROW, "HEIGHT"])),
    ),
    max_size=12,
)


@given(answer=_answer, limit=st.integers(1, 10))
def test_any_list_becomes_a_sound_table_and_every_row_is_accounted_for(answer, limit):
    rows = answers.rows(answer, limit)
    count = rows.counters
    left_out = sum(count[f"rows_{why}"] for why in ("no_object", "no_url", "no_similarity", "over_limit"))
    assert count["rows_received"] == len(answer) == len(rows) + left_out
    table = clip_service.to_table([("list:a", rows)])
    assert table.schema.equals(MATCHES)
    assert table["rank"].to_pylist() == list(range(len(rows)))
    similarities = table["similarity"].to_pylist()
    assert similarities == sorted(similarities, reverse=True)
    assert all(url and url.strip() for url in table["url"].to_pylist())


@given(lists=st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=8), min_size=1, max_size=3))
def test_several_prompts_keep_each_image_once_with_its_best_similarity(lists):
    parts = [
        answers.rows(
            [{**ROW, "id": i, "url": f"http://a/{i}", "similarity": s / 10} for i, s in dict(part).items()], 99
        )
        for part in lists
    ]
    best: dict[int, float] = {}
    for part in lists:
        for i, s in dict(part).items():
            best[i] = max(best.get(i, -1), s / 10)
    merged = answers.merged(parts, 99)
    assert dict(zip(merged.image_id, merged.similarity, strict=True)) == best
    assert merged.similarity == sorted(merged.similarity, reverse=True)
    assert merged.counters["rows_received"] == len(merged) + merged.counters.get("rows_of_other_prompts", 0)


def test_json_that_only_python_reads_is_no_trap():
    body = json.dumps([{**ROW, "caption": "\ud800", "url": "http://a/\udfff"}, ROW]).encode()
    rows = answers.rows(answers.parse(200, body), 10)
    assert len(rows) == 1
