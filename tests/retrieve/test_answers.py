from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.retrieve import answers, clip_service
from geo_subset.retrieve.answers import AnswerError
from geo_subset.tables import MATCHES

ROW = {"url": "http://a/1", "caption": "c", "id": 3, "similarity": 0.5, "NSFW": "UNSURE"}


LEFT_OUT = (
    "rows_no_object", "rows_url_missing", "rows_url_null", "rows_url_no_text", "rows_no_similarity", "rows_over_limit",
)  # fmt: skip


def refused(body, status=200, retry_after=None):
    with pytest.raises(AnswerError) as error:
        answers.check_status(status, body, retry_after)
        answers.parse(body)
    return error.value


def told(rows):
    return {name: count for name, count in rows.counters.items() if count and name != "rows_received"}


@pytest.mark.parametrize(
    ("status", "body", "reason", "passing"),
    [
        (500, b'{"message": "Internal Server Error"}', "http 500", True),
        (503, b"", "http 503", True),
        (429, b"", "http 429", True),
        (408, b"", "http 408", True),
        (400, b'{"message": "x"}', "http 400", False),
        (404, b"<html>", "http 404", False),
        (204, b"", "http 204", False),
        (200, b'{"message": "Internal Server Error"}', "not a list", False),
        (200, b"null", "not a list", False),
        (200, b'"[]"', "not a list", False),
        (200, b'[{"url": "http://a', "broken json", True),
        (200, b'[{"url": "http://a/1", "similarity": 0.5}, ', "broken json", True),
        (200, '[{"caption": "caf\u00e9"'.encode()[:-2], "broken json", True),
        (200, b'[{"url": \xff}]', "broken json", True),
        (200, b"[] []", "broken json", True),
        (200, gzip.compress(b"[]", mtime=0), "broken json", True),
        (200, "[]".encode("utf-16"), "broken json", True),
        (200, b"", "empty answer", True),
        (200, b"\xef\xbb\xbf \n", "empty answer", True),
        (200, b"\n<!doctype html><title>Log in</title>", "html page", True),
        (200, b"[" * 100_000, "json too deep", False),
        (200, b"[" * 100_000 + b"]" * 100_000, "json too deep", False),
        (200, b'[{"a":' * 100_000 + b"0" + b"}]" * 100_000, "json too deep", False),
    ],
)
def test_what_is_no_list_of_rows_is_an_error(status, body, reason, passing):
    error = refused(body, status)
    assert (error.reason, error.passing) == (reason, passing)
    assert len(error.detail) < 300
    assert error.detail.isprintable()


@pytest.mark.parametrize(
    "caption",
    [
        b'"\xff\xfe"',
        b'"caf\xe9"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b"NaN",
        b"-Infinity",
        b"9" * 5000,
        b"-" + b"9" * 400,
        b"1e999",
        b"18446744073709551616",
        b"[" * 500 + b"]" * 500,
    ],
)
def test_one_odd_value_does_not_cost_the_other_rows(caption):
    body = b'[{"url": "http://a/1", "caption": %s, "similarity": 0.5}, {"url": "http://a/2", "similarity": 0.4}]'
    rows = answers.rows(answers.parse(body % caption), 10)
    assert (rows.url, rows.caption) == (["http://a/1", "http://a/2"], [None, None])
    assert told(rows) == {"captions_no_text": 1}


def test_a_byte_order_mark_is_passed_over_and_of_keys_given_twice_the_last_counts():
    for odd in (b"", b', "width": NaN'):
        body = b'\xef\xbb\xbf[{"url": "http://a/1", "url": "http://a/2", "similarity": 0.5%s}]' % odd
        assert answers.rows(answers.parse(body), 10).url == ["http://a/2"]


def test_integers_beyond_64_bits_are_no_ids():
    body = b'[{"url": "http://a/1", "similarity": 0.5, "id": %s}]'
    for digits, image_id in [
        (b"9223372036854775807", 2**63 - 1), (b"-9223372036854775808", -(2**63)), (b"9223372036854775808", None),
        (b"18446744073709551615", None), (b"18446744073709551616", None), (b"7.0", 7), (b"7.5", None),
        (b"9" * 5000, None), (b"true", None), (b'"7"', None),
    ]:  # fmt: skip
        for odd in (b"", b', "width": NaN'):  # which only the more patient of two parsers reads
            rows = answers.rows(answers.parse(body % (digits + odd)), 10)
            assert rows.image_id == [image_id], digits


NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7), ("0", 0), (" 7 ", 7), ("1.5", 1.5), ("9" * 400, 3600), ("3601", 3600),
        ("Sun, 22 Nov 2026 12:01:30 GMT", 90), ("Sunday, 22-Nov-26 12:01:30 GMT", 90),
        ("Sun Nov 22 12:01:30 2026", 90), ("Sun, 22 Nov 2026 13:01:30 +0100", 90),
        ("Sun, 22 Nov 2026 11:59:59 GMT", 0),
        ("Tue, 22 Nov 2033 12:00:00 GMT", 3600),
        (None, 0), ("", 0), ("-5", 0), ("nan", 0), ("inf", 0), ("1e3", 0), ("1_000", 0), ("\u0667", 0), ("soon", 0),
        ("Sun, 22 Nov 99999999999999999999 12:00:00 GMT", 0), ("Sun, 99 Nov 2026 12:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_of_seconds_or_a_date(header, seconds):
    assert answers.waiting_time(header, NOW) == seconds


@given(header=st.one_of(st.text(max_size=30), st.from_regex(r"(Sun, )?\d+ (Jan|Nov) \d+ \d+:\d+:\d+ (GMT|[+-]\d+)")))
def test_no_retry_after_is_a_trap(header):
    assert 0 <= answers.waiting_time(header, NOW) <= answers.MAX_RETRY_AFTER == 3600


def test_errors_say_how_long_to_wait():
    assert refused(b"", 429, "7").retry_after == 7
    assert refused(b"", 503, format_datetime(datetime.now(timezone.utc) + timedelta(days=1))).retry_after == 3600
    assert refused(b"", 503).retry_after == 0


def test_bare_nan_is_understood():
    (row,) = answers.parse(b'[{"url": "http://a/1", "similarity": 0.5, "width": NaN, "caption": NaN}]')
    rows = answers.rows([row], 10)
    assert (rows.caption, rows.source["width"]) == ([None], [None])


@pytest.mark.parametrize(
    ("counter", "odd"),
    [
        ("rows_no_object", [None, 1, "x", [ROW]]),
        ("rows_url_missing", [{}, {"similarity": 1.0}, {"URL": "http://a/1", "similarity": 1.0}]),
        ("rows_url_null", [{**ROW, "url": None}, {"url": None}]),
        ("rows_url_no_text", [{**ROW, "url": url} for url in ("", " \t", 7, True, math.nan, {}, ["http://a"], "http://\ud800")]),
        (
            "rows_no_similarity",
            [
                {"url": "http://a/1"},
                *({**ROW, "similarity": s} for s in (None, "0.5", True, [], math.nan, math.inf, -math.inf)),
                *({**ROW, "similarity": s} for s in (1e39, -(10**400))),
            ],
        ),
    ],
)  # fmt: skip
def test_each_reason_to_leave_a_row_out_is_counted(counter, odd):
    for row in odd:
        rows = answers.rows([row], 10)
        assert (len(rows), told(rows)) == (0, {counter: 1}), row
    rows = answers.rows([ROW, *odd, {**ROW, "similarity": 0.25}], 10)
    assert rows.similarity == [0.5, 0.25]
    assert told(rows) == {counter: len(odd), "urls_repeated": 1}
    assert rows.counters["rows_received"] == len(odd) + 2


@pytest.mark.parametrize("column", ["similarity", "punsafe"])
def test_nan_hides_among_numbers_nowhere(column):
    for numbers in itertools.permutations((0.5, math.nan, 0.25)):
        rows = answers.rows([{**ROW, "similarity": 1.0, column: x} for x in numbers], 10)
        found = rows.similarity if column == "similarity" else [x for x in rows.source[column] if x is not None]
        assert sorted(found) == [0.25, 0.5]


def test_the_largest_float32_is_a_similarity():
    most = 3.4028234663852886e38
    rows = answers.rows([{**ROW, "similarity": s} for s in (most, -most, math.nextafter(most, math.inf))], 10)
    assert rows.similarity == [most, -most]
    assert all(map(math.isfinite, clip_service.to_table([("list:a", rows)])["similarity"].to_pylist()))


def test_what_is_told_besides():
    captions = ["text", None, math.nan, 7, "\ud800"]
    given = [{**ROW, "caption": c, "url": f"http://a/{i % 4}"} for i, c in enumerate(captions)]
    rows = answers.rows([*given, {**ROW, "image": "aGk=", "url": "http://b"}], 10)
    assert rows.caption == ["text", None, None, None, None, "c"]
    assert told(rows) == {"captions_no_text": 3, "urls_repeated": 1, "images_dropped": 1}


def test_the_id_that_means_nothing_is_no_id():
    rows = answers.rows([{**ROW, "id": i, "url": f"http://a/{i}"} for i in (-1, -7, 3)], 10)
    assert rows.image_id == [None, -7, 3]


BARE = [{"id": i, "similarity": 0.4} for i in (9, -1, 4, 9, 8.0, 2**70, True, None)]


def test_rows_of_nothing_but_an_id_are_filled_from_their_metadata():
    answer = [ROW, *BARE]
    assert answers.bare_ids(answer) == [9, 4, 8]
    metadata = [
        {"id": 4, "metadata": {"url": "http://a/4", "caption": "four", "NSFW": "UNSURE", "id": 77, "similarity": 0.9}},
        {"id": 9.0, "metadata": {"url": None, "caption": "nine"}},
        {"id": None, "metadata": {"url": "http://a/none"}},
        {"id": 3, "metadata": {"url": "http://a/other"}},
        {"id": 8},
        7,
    ]
    rows = answers.rows(answers.with_metadata(answer, metadata), 10)
    assert rows.image_id == [3, 4]
    assert (rows.url, rows.caption, rows.similarity) == (["http://a/1", "http://a/4"], ["c", "four"], [0.5, 0.4])
    assert rows.source["nsfw"] == ["UNSURE", "UNSURE"]
    # 4 and 9 (twice) are filled, to no avail for 9; the others stay bare
    assert told(rows) == {
        "rows_from_metadata": 3, "rows_url_null": 2, "rows_url_missing": 5, "rows_id_negative": 1,
    }  # fmt: skip
    assert answer == [ROW, *BARE], "the answer itself stays as it was"


def test_rows_with_anything_besides_are_not_bare():
    assert answers.bare_ids([ROW, {"id": 1}, {"similarity": 1}, {"id": 1, "similarity": 1, "NSFW": "x"}, None, 7]) == []


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


def test_order_and_limit():
    rows = answers.rows([{**ROW, "similarity": s, "id": i} for i, s in enumerate([0.1, 0.9, 0.9, 0.3])], 3)
    assert rows.image_id == [1, 2, 3]
    assert rows.counters["rows_over_limit"] == 1


_value = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([10**400, -(10**400), 3.5e38, -1, 0.5]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["http://a/1", "http://b/2", "\ud800", "", " ", "\u2003", "x" * 1000]),
    st.lists(st.integers(), max_size=2),
)
_answer = st.lists(
    st.one_of(
        st.dictionaries(
            st.sampled_from(["url", "caption", "id", "similarity", "NSFW", "width", "image", "punsafe"]), _value
        ),
        _value,
        st.just(ROW),
        st.builds(lambda i, s: {"id": i, "similarity": s}, _value, _value),
        st.builds(lambda v, k: {**ROW, k: v}, _value, st.sampled_from([*ROW, "HEIGHT"])),
    ),
    max_size=12,
)


def is_sound(rows, received, limit):
    """Whatever came: counters that add up, columns of one length, the best first, and a table of them."""
    count = rows.counters
    assert count["rows_received"] == received == len(rows) + sum(count[name] for name in LEFT_OUT)
    assert all(n >= 0 for n in count.values())
    assert all(name.split("_")[0] in ("rows", "urls", "captions", "images") for name in count)
    assert len(rows) <= limit
    columns = [rows.similarity, rows.url, rows.caption, rows.image_id, *rows.source.values()]
    assert {len(column) for column in columns} == {len(rows)}
    table = clip_service.to_table([("list:a", rows)])
    assert table.schema.equals(MATCHES)
    assert table["rank"].to_pylist() == list(range(len(rows)))
    similarities = table["similarity"].to_pylist()
    assert similarities == sorted(similarities, reverse=True)
    assert all(map(math.isfinite, similarities))
    assert all(url and url.strip() for url in table["url"].to_pylist())


@given(answer=_answer, limit=st.integers(1, 10))
def test_any_list_becomes_a_sound_table_and_every_row_is_accounted_for(answer, limit):
    is_sound(answers.rows(answer, limit), len(answer), limit)


@given(answer=_answer, metadata=_answer, limit=st.integers(1, 10))
def test_any_metadata_leave_a_sound_answer(answer, metadata, limit):
    ids = answers.bare_ids(answer)
    assert len(ids) == len(set(ids))
    assert all(0 <= i < 2**63 for i in ids)
    said = [{"id": i, "metadata": row} for i, row in zip([*ids, 5], metadata, strict=False)]
    filled = answers.with_metadata(answer, [*said, *metadata])
    rows = answers.rows(filled, limit)
    is_sound(rows, len(answer), limit)
    assert rows.counters["rows_from_metadata"] <= sum(isinstance(row, dict) for row in answer)


@given(
    value=st.recursive(_value, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner)),
    cut=st.integers(0, 200),
)
def test_any_json_is_an_answer_or_an_error(value, cut):
    body = json.dumps(value).encode()
    for start in (body, body[:cut], body.replace(b"1", b"\xff")):
        try:
            answer = answers.parse(start)
        except AnswerError:
            continue
        is_sound(answers.rows(answer, 3), len(answer), 3)


@given(answer=_answer)
def test_looking_at_columns_finds_what_looking_at_each_row_finds(answer):
    """An odd value must not change what is made of the other rows."""
    alone = [rows for row in answer if len(rows := answers.rows([row], 1))]
    best = sorted(alone, key=lambda rows: -rows.similarity[0])
    together = answers.rows(answer, 100)
    for name in ("similarity", "url", "caption", "image_id"):
        assert getattr(together, name) == [getattr(rows, name)[0] for rows in best]
    for column, values in together.source.items():
        assert values == [rows.source.get(column, [None])[0] for rows in best]
    for name in (*LEFT_OUT, "rows_id_negative", "captions_no_text", "images_dropped"):
        assert together.counters[name] == sum(answers.rows([row], 1).counters[name] for row in answer)


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
    rows = answers.rows(answers.parse(body), 10)
    assert len(rows) == 1
