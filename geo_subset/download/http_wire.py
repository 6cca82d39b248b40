"""What an HTTP/1.1 answer looks like on the wire: head, framing, body (RFC 9112). Knows no sockets.

Strict where leniency would let two readers see two different answers: framing, chunks, header names. Lenient where RFC
9112 allows it: a line may end in a bare LF, a header may be folded.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from geo_subset.download import reasons
from geo_subset.download.reasons import FetchError

#: Bytes of a body that are read without asking `before_large`.
LARGE = 2 << 20
MAX_HEAD = 1 << 16
_MAX_FIELDS = 256
_MAX_INFORMATIONAL = 8
_MAX_CHUNK_LINE = 4096
#: A body may come in this many chunks, and one more for each _SMALL_CHUNK bytes: bytes cost little, chunks much.
_MAX_SMALL_CHUNKS = 1000
_SMALL_CHUNK = 64
_DECODED_AT_ONCE = 1 << 20
_ENCODED_AT_ONCE = 1 << 16

_LINE_END = re.compile(rb"\n")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?\Z", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,18}\Z", re.ASCII)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?\n\Z", re.DOTALL)
_GZIP, _ZLIB, _DEFLATE = 31, 15, -15  # window bits, as zlib tells them apart


class Headers:
    """The fields of a head, by their names in any case; a name may come several times."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}  # by names in lower case
        for name, value in fields:
            self._values.setdefault(name, []).append(value)

    def get_all(self, name: str, default: list[str] | None = None) -> list[str]:
        return self._values.get(name.lower()) or default or []

    def get(self, name: str) -> str | None:
        """The first of that name."""
        return next(iter(self.get_all(name)), None)

    def listed(self, name: str) -> list[str]:
        """The items of all fields of that name, in lower case: 'Connection: Keep-Alive, TE' -> ['keep-alive', 'te']."""
        return [item for value in self.get_all(name) for item in map(str.strip, value.lower().split(",")) if item]


@dataclass(frozen=True)
class Head:
    """`length`: of the body; None: `chunked`, or else all until the connection ends. `keeps`: it stays open after."""

    status: int
    headers: Headers
    length: int | None
    chunked: bool
    keeps: bool


class Stream:
    """The bytes of one answer, got with `receive` (b'' at the end) when those at hand are used up."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._data, self._at = b"", 0
        self.begun = False

    @property
    def left_over(self) -> bool:
        """Whether there are bytes at hand that nobody has read."""
        return self._at < len(self._data)

    def some(self, most: int) -> bytes:
        """Between one and `most` bytes; b'' at the end."""
        if not self.left_over:
            self._data, self._at = self._next(), 0
        part = self._data[self._at : self._at + most]
        self._at += len(part)
        return part

    def until(self, mark: re.Pattern[bytes], most: int, opening: bytes = b"") -> bytes | None:
        """All bytes up to and including `mark`; None if the stream ends before.

        Raises FetchError if they would be more than `most`, or do not begin with `opening`.
        """
        searched = self._at
        while True:
            if opening and not opening.startswith(self._data[self._at : self._at + len(opening)]):
                start = self._data[self._at : self._at + 20]
                raise FetchError(reasons.BAD_RESPONSE, f"begins with {start!r}")
            found = mark.search(self._data, searched)
            if (found.end() if found else len(self._data)) - self._at > most:
                raise FetchError(reasons.BAD_RESPONSE, f"more than {most:,} bytes of head")
            if found:
                text = self._data[self._at : found.end()]
                self._at = found.end()
                return text
            more = self._next()
            if not more:
                return None
            searched = max(0, len(self._data) - self._at - 2)  # the mark may have begun
            self._data, self._at = self._data[self._at :] + more, 0

    def _next(self) -> bytes:
        part = self._receive()
        self.begun = self.begun or bool(part)
        return part


def read_head(stream: Stream) -> Head | None:
    """The head of the final answer to a GET; None if the stream ended without a byte.

    Raises FetchError: bad response, or connection reset if the stream ended within it.
    """
    for _ in range(_MAX_INFORMATIONAL):
        text = stream.until(_BLANK_LINE, MAX_HEAD, opening=b"HTTP/1.")
        if text is None:
            if stream.begun:
                raise FetchError(reasons.RESET, "the connection ended within the head of the answer")
            return None
        head = _head(text.decode("latin-1"))
        if head.status == 101:
            break
        if head.status >= 200:
            return head
    raise FetchError(reasons.BAD_RESPONSE, "informational answers only")


def _head(text: str) -> Head:
    lines = text.rstrip("\r\n").split("\n")
    status_line = _STATUS_LINE.match(lines[0].rstrip("\r"))
    if status_line is None:
        raise FetchError(reasons.BAD_RESPONSE, f"status line {lines[0]!r}")
    headers = Headers(_fields(lines[1:]))
    status, persistent = int(status_line[2]), status_line[1] == "1"
    connection = headers.listed("connection")
    keeps = "close" not in connection and (persistent or "keep-alive" in connection)
    codings = [coding for coding in headers.listed("transfer-encoding") if coding != "identity"]
    length = _length(headers)
    if status in (204, 304) or status < 200:
        return Head(status, headers, 0, False, keeps)
    if codings:
        if codings != ["chunked"]:
            raise FetchError(reasons.BAD_RESPONSE, f"Transfer-Encoding: {', '.join(codings)}")
        # A length beside chunks, or chunks in HTTP/1.0: what follows on this connection is not to be trusted.
        return Head(status, headers, None, True, keeps and persistent and length is None)
    return Head(status, headers, length, False, keeps and length is not None)


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    if len(lines) > _MAX_FIELDS:
        raise FetchError(reasons.BAD_RESPONSE, f"more than {_MAX_FIELDS} headers")
    fields: list[tuple[str, str]] = []
    for line in lines:
        if line[:1] in (" ", "\t") and fields:  # folded: it goes on with the one before
            name, value = fields[-1]
            fields[-1] = name, f"{value} {line.strip()}"
            continue
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.match(name.rstrip(" \t")):
            raise FetchError(reasons.BAD_RESPONSE, f"header {line[:40]!r}")
        fields.append((name.rstrip(" \t").lower(), value.strip()))
    return fields


def _length(headers: Headers) -> int | None:
    lengths = set(headers.listed("content-length"))
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not _LENGTH.match(length):
        raise FetchError(reasons.BAD_RESPONSE, f"Content-Length: {', '.join([length, *lengths])}")
    return int(length)


def read_body(stream: Stream, head: Head, max_bytes: int, before_large: Callable[[], None] | None = None) -> bytes:
    """The body that follows `head`, with its Content-Encoding undone.

    `before_large` is called once before more than LARGE bytes of it are held, and may raise. Raises FetchError: too
    large (more than `max_bytes`, encoded or decoded), truncated image (it ended early), bad response.
    """
    if (head.length or 0) > max_bytes:
        raise FetchError(reasons.TOO_LARGE, f"{head.length:,} bytes")
    size = _Size(max_bytes, before_large)
    if head.chunked:
        parts = _chunks(stream, size)
    elif head.length is not None:
        parts = _exactly(stream, head.length, size)
    else:
        parts = []
        while part := stream.some(_ENCODED_AT_ONCE):
            size.add(len(part))
            parts.append(part)
    body = b"".join(parts)
    codings = [coding for coding in head.headers.listed("content-encoding") if coding != "identity"]
    if not codings or not body:
        return body
    if codings[0] not in ("gzip", "x-gzip", "deflate") or len(codings) > 1:
        raise FetchError(reasons.BAD_RESPONSE, f"Content-Encoding: {', '.join(codings)}")
    parts.clear()
    return _decoded(body, codings[0], size)


class _Size:
    """How large a body is so far, and what is to be done about it."""

    def __init__(self, max_bytes: int, before_large: Callable[[], None] | None) -> None:
        self._bytes, self._max_bytes, self._before_large = 0, max_bytes, before_large

    def add(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self._max_bytes:
            raise FetchError(reasons.TOO_LARGE, f"more than {self._max_bytes:,} bytes")
        if self._bytes > LARGE and self._before_large is not None:
            self._before_large()
            self._before_large = None

    def start_again(self) -> None:
        self._bytes = 0


def _exactly(stream: Stream, length: int, size: _Size) -> list[bytes]:
    parts = []
    while length:
        part = stream.some(length)
        if not part:
            raise FetchError(reasons.TRUNCATED, f"{length:,} bytes are missing")
        size.add(len(part))
        parts.append(part)
        length -= len(part)
    return parts


def _chunks(stream: Stream, size: _Size) -> list[bytes]:
    parts: list[bytes] = []
    spare = _MAX_SMALL_CHUNKS
    while length := _chunk_length(stream):
        spare += length // _SMALL_CHUNK - 1
        if spare < 0:
            raise FetchError(reasons.BAD_RESPONSE, "too many small chunks")
        parts += _exactly(stream, length, size)
        if _line(stream, 2).strip(b"\r\n"):
            raise FetchError(reasons.BAD_RESPONSE, "a chunk of another length than it says")
    for _ in range(_MAX_FIELDS):
        if not _line(stream, MAX_HEAD).strip(b"\r\n"):
            return parts
    raise FetchError(reasons.BAD_RESPONSE, f"more than {_MAX_FIELDS} trailers")


def _chunk_length(stream: Stream) -> int:
    line = _line(stream, _MAX_CHUNK_LINE)
    match = _CHUNK_SIZE.match(line)
    if match is None:
        raise FetchError(reasons.BAD_RESPONSE, f"chunk size {line[:20]!r}")
    return int(match[1], 16)


def _line(stream: Stream, most: int) -> bytes:
    line = stream.until(_LINE_END, most)
    if line is None:
        raise FetchError(reasons.TRUNCATED, "the connection ended between two chunks")
    return line


def _decoded(body: bytes, coding: str, size: _Size) -> bytes:
    """`coding` deflate is zlib's format by the standard, and bare by what some servers send."""
    zlib_header = len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    decoder = zlib.decompressobj(_GZIP if coding != "deflate" else _ZLIB if zlib_header else _DEFLATE)
    parts: list[bytes] = []
    size.start_again()
    try:
        for start in range(0, len(body), _ENCODED_AT_ONCE):
            encoded = body[start : start + _ENCODED_AT_ONCE]
            while encoded and not decoder.eof:
                parts.append(decoder.decompress(encoded, _DECODED_AT_ONCE))
                size.add(len(parts[-1]))
                encoded = decoder.unconsumed_tail
        while not decoder.eof:
            parts.append(decoder.decompress(b"", _DECODED_AT_ONCE))
            if not parts[-1]:
                raise FetchError(reasons.TRUNCATED, f"the end of its {coding} encoding is missing")
            size.add(len(parts[-1]))
    except zlib.error as error:
        raise FetchError(reasons.BAD_RESPONSE, f"Content-Encoding: {coding}: {error}") from error
    return b"".join(parts)
