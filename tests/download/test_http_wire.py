from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.download import http_wire
from geo_subset.download.http_wire import LARGE, Head, Headers, Stream, read_body, read_head
from geo_subset.download.reasons import FetchError

CUTS = st.lists(st.integers(1, 50), min_size=1, max_size=20)


def arriving(data: bytes, sizes: list[int] | None = None) -> Stream:
    """A stream of these bytes, in pieces of these sizes over and over."""
    pieces, at = [], 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)] if sizes else len(data)
        pieces.append(data[at : at + size])
        at += size
    waiting = iter(pieces)
    return Stream(lambda: next(waiting, b""))


def head_of(data: bytes) -> Head:
    head = read_head(arriving(data))
    assert head is not None
    return head


def answer(data: bytes, sizes: list[int] | None = None, max_bytes: int = 1 << 20) -> bytes:
    stream = arriving(data, sizes)
    head = read_head(stream)
    assert head is not None
    return read_body(stream, head, max_bytes)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(FetchError) as raised:
        call()
    return raised.value.reason


def chunked(parts: list[bytes], extension: bytes = b"") -> bytes:
    return b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts if part) + b"0\r\n\r\n"


@given(body=st.binary(max_size=500), cuts=CUTS, end=st.sampled_from([b"\r\n", b"\n"]))
def test_a_body_by_length_arrives_in_any_pieces(body: bytes, cuts: list[int], end: bytes) -> None:
    head = end.join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), b"", b""])
    assert answer(head + body, cuts) == body


@given(parts=st.lists(st.binary(max_size=60), max_size=10), cuts=CUTS, extension=st.sampled_from([b"", b";a=b", b" "]))
def test_a_body_in_chunks_arrives_in_any_pieces(parts: list[bytes], cuts: list[int], extension: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(parts, extension)
    assert answer(data, cuts) == b"".join(parts)


@given(body=st.binary(max_size=500), cuts=CUTS)
def test_a_body_until_the_end_arrives_in_any_pieces(body: bytes, cuts: list[int]) -> None:
    assert answer(b"HTTP/1.0 200 OK\r\n\r\n" + body, cuts) == body


@given(
    body=st.binary(max_size=2000),
    cuts=CUTS,
    coding=st.sampled_from(["gzip", "x-gzip", "deflate", "bare deflate", "identity"]),
)
def test_encodings_are_undone(body: bytes, cuts: list[int], coding: str) -> None:
    bare = zlib.compressobj(wbits=-15)
    encoded = {
        "gzip": gzip.compress(body), "x-gzip": gzip.compress(body), "deflate": zlib.compress(body),
        "bare deflate": bare.compress(body) + bare.flush(), "identity": body,
    }[coding]  # fmt: skip
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding.split()[-1]}\r\nContent-Length: {len(encoded)}\r\n\r\n"
    assert answer(head.encode() + encoded, cuts) == body


@given(data=st.binary(max_size=300), cuts=CUTS, start=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 "]))
def test_whatever_comes_is_an_answer_or_a_fetch_error(data: bytes, cuts: list[int], start: bytes) -> None:
    stream = arriving(start + data, cuts)
    try:
        head = read_head(stream)
        if head is not None:
            read_body(stream, head, 1000)
    except FetchError:
        pass


@given(data=st.binary(max_size=200), cuts=CUTS)
def test_whatever_comes_in_chunks_is_a_body_or_a_fetch_error(data: bytes, cuts: list[int]) -> None:
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    try:
        answer(start + data, cuts)
    except FetchError as error:
        assert error.reason in ("bad response", "truncated image")


def test_headers() -> None:
    head = head_of(b"HTTP/1.1 404 \r\nA: 1\r\nb:2 \r\n folded\r\na : 3,X\r\nCafe: caf\xc3\xa9\r\n\r\n")
    assert head.status == 404
    assert head.headers.get_all("A") == ["1", "3,X"]
    assert head.headers.get("B") == "2 folded"
    assert head.headers.listed("a") == ["1", "3", "x"]
    assert head.headers.get("cafe") == "caf\u00c3\u00a9"  # Latin-1: whoever knows better decodes it again
    assert head.headers.get("c") is None
    assert Headers([]).get_all("x", ["y"]) == ["y"]


@pytest.mark.parametrize(
    ("fields", "keeps"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0", True),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", True),
        ("HTTP/1.1 204 No Content", True),
        ("HTTP/1.1 200 OK", False),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close", False),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0", False),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive", True),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive", False),
        # Two framings: some other reader may have taken the other one.
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", False),
    ],
)
def test_when_a_connection_serves_another_request(fields: str, keeps: bool) -> None:
    assert head_of(f"{fields}\r\n\r\n".encode()).keeps is keeps


def test_chunks_go_before_a_length() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"abc"])
    assert answer(data) == b"abc"


def test_trailers_are_read_and_what_follows_is_not() -> None:
    stream = arriving(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\nHTTP/1.1 200")
    head = read_head(stream)
    assert head is not None
    assert read_body(stream, head, 10) == b"a"
    assert stream.left_over


def test_informational_answers_are_passed_over() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert answer(hints * 3 + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na") == b"a"
    assert reason(lambda: answer(hints * 100)) == "bad response"
    assert reason(lambda: answer(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")) == "bad response"
    assert reason(lambda: answer(hints)) == "connection reset"


def test_a_stream_that_ends_before_its_head_does() -> None:
    assert read_head(arriving(b"")) is None
    assert reason(lambda: read_head(arriving(b"HTTP/1.1 200 OK\r\nA: b\r\n"))) == "connection reset"
    assert reason(lambda: read_head(arriving(b"HT"))) == "connection reset"


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH\r\n", b"<html>", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n", b"\r\nHTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n", b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folds nothing\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1" + b"0" * 30 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300 + b"\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, b"HTTP/1.1 " + b"2" * 70_000,
    ],
)  # fmt: skip
def test_heads_that_are_none(head: bytes) -> None:
    assert reason(lambda: read_head(arriving(head, [1000]))) == "bad response"


def test_the_same_length_twice_is_one_length() -> None:
    assert answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nab") == b"ab"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"5\r\nabcdeX\r\n0\r\n\r\n", "bad response"), (b"x\r\n", "bad response"), (b"-1\r\n", "bad response"),
        (b"\r\n", "bad response"), (b"1" * 16 + b"\r\n", "bad response"), (b"1;" + b"x" * 5000, "bad response"),
        (b"1\r\na\r\n" * 5000 + b"0\r\n\r\n", "bad response"), (b"0\r\n" + b"A: b\r\n" * 300, "bad response"),
        (b"ffffff\r\na", "too large"), (b"5\r\nab", "truncated image"), (b"5\r\nabcde", "truncated image"),
        (b"5\r\nabcde\r\n", "truncated image"), (b"", "truncated image"), (b"0\r\n", "truncated image"),
    ],
)  # fmt: skip
def test_chunks_that_are_none(body: bytes, expected: str) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    if expected == "too large":
        data += b"a" * (1 << 20)
    assert reason(lambda: answer(data, [1000])) == expected


def test_many_chunks_of_a_fair_size_are_fine() -> None:
    parts = [b"x" * 100] * 5000
    assert answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(parts)) == b"".join(parts)


def test_cut_and_oversized_bodies() -> None:
    assert reason(lambda: answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd")) == "truncated image"
    assert reason(lambda: answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", max_bytes=4)) == "too large"
    assert reason(lambda: answer(b"HTTP/1.1 200 OK\r\n\r\nabcde", [1], max_bytes=4)) == "too large"


def test_what_is_beyond_the_length_is_left() -> None:
    stream = arriving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabcd")
    head = read_head(stream)
    assert head is not None
    assert read_body(stream, head, 10) == b"ab"
    assert stream.left_over


def encoded(coding: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n\r\n".encode() + body


def test_encodings_that_are_broken_or_were_not_asked_for() -> None:
    packed = gzip.compress(b"a" * 1000)
    assert reason(lambda: answer(encoded("gzip", packed[:-9]))) == "truncated image"
    assert reason(lambda: answer(encoded("gzip", b"\xff\xd8\xff a JPEG after all"))) == "bad response"
    assert reason(lambda: answer(encoded("deflate", b"\xff\xff\xff"))) == "bad response"
    assert reason(lambda: answer(encoded("br", b"x"))) == "bad response"
    assert reason(lambda: answer(encoded("gzip, gzip", gzip.compress(packed)))) == "bad response"
    assert answer(encoded("gzip", b"")) == b""


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_goes_off_at_the_limit_of_what_it_decodes_to(coding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"\0" * (8 << 20)
    packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    assert len(packed) < 20_000
    assert reason(lambda: answer(encoded(coding, packed), max_bytes=1 << 20)) == "too large"
    assert answer(encoded(coding, packed), max_bytes=8 << 20) == body


@pytest.mark.parametrize("packed", [False, True])
def test_large_bodies_ask_before_they_take_room(packed: bool) -> None:
    def asked(size: int) -> list[int]:
        body = b"\0" * size
        stream = arriving(
            encoded("gzip", gzip.compress(body)) if packed else b"HTTP/1.1 200 OK\r\n\r\n" + body, [65536]
        )
        head = read_head(stream)
        assert head is not None
        calls: list[int] = []
        assert len(read_body(stream, head, 1 << 30, lambda: calls.append(1))) == size
        return calls

    assert asked(LARGE) == []
    assert asked(LARGE + 1) == [1]
    assert asked(4 * LARGE) == [1]


def test_a_large_body_may_be_refused_its_room() -> None:
    def no_room() -> None:
        raise FetchError("timed out")

    stream = arriving(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 3 * LARGE, [65536])
    head = read_head(stream)
    assert head is not None
    assert reason(lambda: read_body(stream, head, http_wire.LARGE * 10, no_room)) == "timed out"
