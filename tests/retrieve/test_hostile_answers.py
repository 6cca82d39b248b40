"""Answers that are made to be dear, or to break what reads them: judged like any other wrong answer, and cheaply."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from retrieve.service import rows_for, serve
from retrieve.test_clip_service import retrieve

from geo_subset.errors import StageError
from geo_subset.retrieve import answers, clip_service, plain_answers
from geo_subset.retrieve.answers import AnswerError


def judged(body, limit):
    """What the client makes of a body with status 200."""
    answers.check_size(body, limit)
    rows = plain_answers.read(body, limit)
    return answers.rows(answers.parse(body), limit) if rows is None else rows


def _row(**changes):
    return {"url": "http://a/1", "id": 1, "similarity": 0.5, "caption": "c", **changes}


@pytest.mark.parametrize("key", ["caption", "url", "NSFW"])
def test_bytes_that_are_no_utf8_cost_their_text_and_no_other_place(key):
    async def broken(text, nth):
        rows = rows_for(text, 5)
        rows[1][key] = "X"
        body = json.dumps(rows).encode().replace(b'"X"', b'"caf\xe9"')
        return web.Response(body=body) if text == "place 7" else None

    queries = [[f"place {i}"] for i in range(20)]
    with serve() as service:
        whole = retrieve(service, queries)
        service.fault = broken
        found = retrieve(service, queries)
    assert found.failures == []
    assert found.counters["requests"] == 20
    assert found.matches.num_rows == whole.matches.num_rows - (key == "url")
    assert found.counters["rows_url_no_text"] == (key == "url")
    assert found.counters["captions_no_text"] == (key == "caption")


def _bomb():
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(b" " * (200 << 20)) + packer.flush()


BOMB = _bomb()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_packed_answer_is_unpacked_no_further_than_an_answer_may_be_large(encoding):
    async def bomb(text, nth):
        return web.Response(body=BOMB, headers={"Content-Encoding": encoding})

    with serve(bomb) as service:
        (failure,) = retrieve(service, [["a"]]).failures
    assert (failure.reason, failure.attempts) == ("body too large", 1)


def _empty_blocks():
    """A stream that unpacks to nothing, however long it is."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(b"") + packer.flush(zlib.Z_SYNC_FLUSH) + b"\x00\x00\x00\xff\xff" * (4 << 20)


@pytest.mark.parametrize(
    ("body", "reason", "attempts"),
    [(gzip.compress(b"[]", mtime=0) + b"x" * (64 << 20), "broken encoding", 2), (_empty_blocks(), "body too large", 1)],
    ids=["after its end", "empty blocks"],
)
def test_a_packed_answer_is_read_no_further_than_an_answer_may_be_large(body, reason, attempts):
    async def endless(text, nth):
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    before = time.process_time()
    with serve(streamed(endless)) as service:
        (failure,) = retrieve(service, [["a"]], retries=1).failures
    assert (failure.reason, failure.attempts) == (reason, attempts)
    assert time.process_time() - before < 5


def streamed(fault):
    """Without a length that would tell how much there is."""

    async def chunked(text, nth):
        response = await fault(text, nth)
        response.enable_chunked_encoding()
        return response

    return chunked


@pytest.mark.parametrize("encoding", ["identity", "gzip", "br"])
def test_an_error_of_any_size_and_encoding_is_that_error(encoding):
    async def large(text, nth):
        body = b"out of memory " * (2 << 20)
        body = gzip.compress(body, 1) if encoding == "gzip" else body
        return web.Response(status=503, body=body, headers={"Content-Encoding": encoding})

    with serve(large) as service:
        (failure,) = retrieve(service, [["a"]], retries=1).failures
    assert (failure.reason, failure.attempts) == ("http 503", 2)
    assert len(failure.detail) <= 200 and failure.detail.startswith("out of memory out")


def test_what_a_server_says_is_one_printable_line_of_bounded_length_without_passwords():
    async def points(text, nth):
        where = "http://joe:" + "s3cret" * 40 + "@host/" + "y" * 4000
        return web.Response(status=302, headers={"Location": where})

    async def repeats(text, nth):
        body = "x" * 150 + " http://joe:" + "s3cret" * 40 + "@host/\x1b[2J\nretrieve  all is well \u202e"
        return web.Response(status=403, text=body)

    for fault, reason in ((points, "http 302"), (repeats, "http 403")):
        with serve(fault) as service:
            (failure,) = retrieve(service, [["a"]]).failures
        assert failure.reason == reason
        assert "http://***@host/" in failure.detail and "s3cret" not in failure.detail
        assert failure.detail.isprintable() and len(failure.detail) <= 500


def test_a_packed_answer_that_was_not_asked_for_is_read_all_the_same():
    async def packed(text, nth):
        body = gzip.compress(json.dumps(rows_for(text, 5)).encode())
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    with serve() as service:
        plain = retrieve(service, [["a"], ["b"]])
        service.fault = packed
        assert retrieve(service, [["a"], ["b"]]).matches.equals(plain.matches)


@pytest.mark.parametrize(
    ("encoding", "body", "reason"),
    [
        ("br", b"x", "unknown encoding"),
        ("gzip, gzip", b"x", "unknown encoding"),
        ("gzip", b"no gzip", "broken encoding"),
        ("gzip", gzip.compress(b"[]" * 1000, mtime=0)[:-9], "answer cut off"),
    ],
)
def test_a_packed_answer_that_cannot_be_unpacked_is_a_wrong_one(encoding, body, reason):
    async def packed(text, nth):
        return web.Response(body=body, headers={"Content-Encoding": encoding})

    with serve(packed) as service:
        (failure,) = retrieve(service, [["a"]], retries=0).failures
    assert failure.reason == reason


def test_far_more_rows_than_were_asked_for_are_not_parsed():
    body = b"[" + b"{}," * 5_000_000 + b"{}]"

    async def empty(text, nth):
        return web.Response(body=body) if text == "bad" else None

    with serve(empty) as service:
        found = retrieve(service, [["bad"], ["good"]], num_images=10)
    assert [(f.place_id, f.reason, f.attempts) for f in found.failures] == [("list:0", "too many values", 1)]
    assert found.counters["rows"] == 7


def test_a_list_of_indices_is_bounded_as_well(monkeypatch):
    import asyncio

    from geo_subset.retrieve import backends
    from geo_subset.settings import ClipServiceSettings

    monkeypatch.setattr(backends, "_WAIT", 0.0)
    with serve() as service:
        service.indices = [["x"]] * 200_000
        with pytest.raises(StageError, match="too many values"):
            asyncio.run(backends.check(ClipServiceSettings(url=(service.url,)), 10))


def test_long_captions_full_of_commas_are_fine():
    rows = [_row(caption="a tower, a river, " * 100, similarity=1 - i / 1000) for i in range(1000)]
    assert len(judged(json.dumps(rows).encode(), 1000)) == 1000


@pytest.mark.parametrize("where", ["url", "caption"])
def test_a_text_of_megabytes_is_no_text(where):
    rows = judged(json.dumps([_row(), _row(**{where: "x" * 5_000_000})]).encode(), 5)
    assert [len(url) for url in rows.url] == ([10] if where == "url" else [10, 10])
    assert rows.caption[1:] == ([] if where == "url" else [None])
    assert rows.counters["rows_url_no_text"] + rows.counters["captions_no_text"] == 1


_PIECES = (
    b'[ ] { } , : " \\ - "url": "id": "similarity": "caption": 1e999 NaN Infinity \\ud800 \\u0000 null '
    b'true 0.5 "http://a/1" {"url":"http://a/1","id":1,"similarity":0.5,"caption":"c"} \xe9 \xff\xfe \xef\xbb\xbf \0'
)
_piece = st.sampled_from([*_PIECES.split(b" "), b" ", b"9" * 500])


@given(st.lists(_piece, max_size=30).map(b"".join) | st.binary(max_size=60), st.booleans())
def test_any_bytes_give_rows_or_an_answer_error(middle, in_list):
    body = b"[" + middle + b"]" if in_list else middle
    try:
        rows = judged(body, 5)
    except AnswerError:
        return
    table = clip_service.to_table([("p", rows)])
    table.validate(full=True)
    assert table.num_rows <= 5


COSTS = """
import json, os, sys, time
from retrieve.test_hostile_answers import judged
from geo_subset.retrieve.answers import AnswerError
SIZE = 60_000_000
row = b'{"url":"http://a/1","id":1,"similarity":0.5,"caption":null}'
bodies = {
    "empty objects": lambda: b"[" + b"{}," * (SIZE // 3) + b"{}]",
    "empty lists": lambda: b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "numbers": lambda: b"[" + b"1.5," * (SIZE // 4) + b"1]",
    "NaN": lambda: b"[" + b"NaN," * (SIZE // 4) + b"1]",
    "rows": lambda: b"[" + (row + b",") * (SIZE // 60) + row + b"]",
    "keys": lambda: b"[{" + b",".join(b'"k%d":1' % i for i in range(SIZE // 12)) + b"}]",
    "the same key": lambda: b"[{" + b'"a":1,' * (SIZE // 6) + b'"a":1}]',
    "deep lists": lambda: b"[" * SIZE,
    "deep objects": lambda: b'{"a":' * (SIZE // 5),
    "one digit after another": lambda: b"[" + b"1" * SIZE + b"]",
    "an exponent": lambda: b"[1e" + b"1" * SIZE + b"]",
    "escapes": lambda: b'["' + b"\\\\n" * (SIZE // 2) + b'"]',
    "lone surrogates": lambda: b'["' + b"\\\\ud800" * (SIZE // 6) + b'"]',
    "no UTF-8": lambda: row.replace(b"null", b'"' + b"\\xe9" * SIZE + b'"').join([b"[", b"]"]),
    "blank URL": lambda: row.replace(b"http://a/1", b" " * SIZE).join([b"[", b"]"]),
    "white space": lambda: b"[" + b" " * SIZE + b"]",
    "pictures": lambda: b"[" + b",".join([row[:-1] + b',"image":"' + b"A" * 60_000 + b'"}'] * 1000) + b"]",
}
for name, make in bodies.items():
    read, write = os.pipe()
    if os.fork() == 0:  # so that each has a peak of its own
        body = make()
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        def memory(which):
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(which))
        before, started = memory("VmRSS"), time.process_time()
        try:
            judged(body, 1000)
        except AnswerError:
            pass
        print(json.dumps([name, time.process_time() - started, memory("VmHWM") - before]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.ci
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures peaks as Linux does")
def test_judging_sixty_megabytes_takes_a_second_at_most_and_little_more_memory_than_it_came_in():
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, "-c", COSTS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    costs = [json.loads(line) for line in ended.stdout.splitlines()]
    print(ended.stdout)
    assert len(costs) == 17, ended.stderr
    assert [cost for cost in costs if cost[1] > 2.0 or cost[2] > 300] == []
