"""Every way in which a host may misbehave, and what may be said of an image that meets it."""

from __future__ import annotations

import functools
import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from . import bombs, dearest
from .hostile import GOOD, Behaviour, drip, flood, head, ok, redirect, reset, say, silent, unasked

IMAGE = "an image"
"""Stands among reasons for: there is none, the image comes."""


def gzip_bomb(coding: str = "gzip", layers: int = 1) -> bytes:
    """200 MB of zeros in 200 KB, or in less where it is packed twice."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    for _ in range(layers - 1):
        body = gzip.compress(body)
    return body


def _packed(make: Callable[[int], bytes], n: int) -> bytes:
    return gzip.compress(make(n))


_JPEG = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_MEGABYTE, _LETTERS = bytes(1 << 20), b"x" * (1 << 20)


class Content:
    """A body that is made when it is first needed, once, and how it is announced."""

    def __init__(self, make: Callable[..., bytes], *arguments: object, **headers: object) -> None:
        self.content = functools.cache(functools.partial(make, *arguments))
        self.headers = headers


@dataclass(frozen=True)
class Fault:
    """One way to misbehave, and what may be said of an image that meets it."""

    name: str
    behave: Behaviour
    reasons: frozenset[str]
    """What fetching ends with; `IMAGE`: the bytes come."""
    in_shard: frozenset[str]
    """What the row in the shard ends with: where the bytes come, the decoder has a say."""
    heavy: bool = False
    """Costs memory: many of them at a time must still fit."""
    content: Callable[[], bytes] | None = None
    """What the host sends, where making it takes a while: to be called before clocks are started."""


def _fault(
    name: str, reasons: str, behave: Behaviour | Content, in_shard: str | None = None, heavy: bool = False
) -> Fault:
    """Reasons are given as 'one|another'."""
    wanted = frozenset(reasons.split("|"))
    content = behave.content if isinstance(behave, Content) else None
    does = ok(behave.content, **behave.headers) if isinstance(behave, Content) else behave
    return Fault(name, does, wanted, frozenset(in_shard.split("|")) if in_shard else wanted, heavy, content)


#: Where many hosts send as much as they can at a time, none of them may come to the limit within the deadline.
_SLOW = "too large|timed out"
_NO_IMAGE = "undecodable image|truncated image|not an image"

FAULTS: list[Fault] = [
    # Bodies without end, or too long, or too slow.
    _fault("endless body", "too large", flood(_JPEG, _MEGABYTE), _SLOW, heavy=True),
    _fault("endless chunked body", "too large", flood(
        _CHUNKED, b"100000\r\n" + _MEGABYTE + b"\r\n"), _SLOW, heavy=True),
    _fault("600 MB, announced", "too large", flood(head(Content_Length=600 << 20), _MEGABYTE, 600), heavy=True),
    _fault("600 MB, not announced", "too large", flood(_JPEG, _MEGABYTE, 600), _SLOW, heavy=True),
    _fault("63 MB of nothing", "not an image", flood(head(Content_Length=63 << 20), _MEGABYTE, 63),
           "not an image|timed out", heavy=True),
    _fault("63 MB behind a header", "an image|not an image", flood(_JPEG + GOOD, _MEGABYTE, 63),
           "timed out|an image|" + _NO_IMAGE, heavy=True),
    _fault("30 digits of length", "too large|bad response", say(head(Content_Length="9" * 30))),
    _fault("dripping body", "timed out", drip(head(Content_Length=10_000) + GOOD[:100])),
    _fault("dripping endless body", "timed out", drip(_JPEG)),
    _fault("dripping chunks", "timed out", drip(_CHUNKED, b"1\r\nx\r\n")),
    _fault("dripping chunk size", "timed out|bad response", drip(_CHUNKED, b"0")),
    _fault("dripping trailer", "timed out|bad response", drip(_CHUNKED + b"0\r\n", b"a: b\r\n")),
    _fault("dripping status line", "timed out", drip(b"HTTP/1.1 200 ")),
    _fault("dripping header", "timed out", drip(b"HTTP/1.1 200 OK\r\nx: ")),
    _fault("dripping headers", "timed out|bad response", drip(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", 0.1)),
    _fault("dripping 100 Continue", "timed out|bad response", drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.1)),
    _fault("never a byte", "timed out", silent),
    _fault("half a body, then nothing", "timed out", lambda connection, stopping: (
        say(head(Content_Length=len(GOOD)) + GOOD[:1000])(connection, stopping), silent(connection, stopping))),
    # Lengths and chunks that lie.
    _fault("length too long", "truncated image", say(head(Content_Length=len(GOOD) + 1) + GOOD)),
    _fault("length too short", IMAGE, say(head(Content_Length=1000) + GOOD), _NO_IMAGE),
    _fault("negative length", "bad response", say(head(Content_Length=-5) + GOOD)),
    _fault("length in words", "bad response", say(head(Content_Length="many") + GOOD)),
    _fault("two lengths", "bad response", say(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n" + GOOD)),
    _fault("length and chunks", "bad response|not an image", say(
        head(Content_Length=5, Transfer_Encoding="chunked") + b"0\r\n\r\n")),
    _fault("length of chunks, cut", "truncated image", say(_CHUNKED, b"fff\r\n", GOOD[:100])),
    _fault("chunks without an end", "truncated image", say(_CHUNKED, b"%x\r\n%s\r\n" % (len(GOOD), GOOD))),
    _fault("garbage for chunks", "bad response", say(_CHUNKED, b"zebra\r\n", GOOD)),
    _fault("negative chunk", "bad response", say(_CHUNKED, b"-5\r\n", GOOD)),
    _fault("chunk of 16 exabytes", "too large|bad response", flood(_CHUNKED + b"ffffffffffffffff\r\n", _MEGABYTE)),
    _fault("chunk longer than it says", "bad response", say(_CHUNKED, b"5\r\n", GOOD, b"\r\n0\r\n\r\n")),
    _fault("chunk extension without end", "bad response|too large", flood(_CHUNKED + b"5;", _LETTERS)),
    _fault("flood of trailers", "bad response|too large|an image", flood(_CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000),
           "bad response|too large|not an image"),
    # Heads.
    _fault("flood of headers", "bad response", flood(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 10_000)),
    _fault("header of 1 MB", "bad response", say(head(X=_LETTERS.decode()), GOOD)),
    _fault("status line without end", "bad response", flood(b"HTTP/1.1 200 ", b"x" * 65536)),
    _fault("header without a colon", "bad response|an image", say(b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n" + GOOD)),
    _fault("header with a NUL", "bad response|an image", say(b"HTTP/1.1 200 OK\r\na: \0b\r\n\r\n" + GOOD)),
    _fault("flood of 100 Continue", "bad response|timed out", flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)),
    _fault("100 Continue, then an answer", IMAGE, say(
        b"HTTP/1.1 100 Continue\r\n\r\n" + head(Content_Length=len(GOOD)) + GOOD)),
    _fault("SSH", "bad response", say(b"SSH-2.0-OpenSSH_9.6\r\n")),
    _fault("an image without a head", "bad response", say(GOOD)),
    _fault("random bytes", "bad response", say(bytes(range(256)) * 40)),
    _fault("a status of words", "bad response", say(b"HTTP/1.1 fine OK\r\n\r\n" + GOOD)),
    _fault("closed without a word", "connection reset|bad response", say()),
    _fault("cut in the head", "connection reset|bad response|truncated image", say(b"HTTP/1.1 200 OK\r\nContent-Le")),
    # Statuses and kinds of content.
    _fault("101", "http 101|bad response", say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")),
    _fault("204", "not an image|http 204", say(head("204 No Content"))),
    _fault("206", "an image|http 206", say(head("206 Partial Content", Content_Length=1000) + GOOD[:1000]),
           "http 206|" + _NO_IMAGE),
    _fault("304", "http 304", say(head("304 Not Modified"))),
    _fault("404 with an image", "http 404", say(head("404 Not Found", Content_Length=len(GOOD)) + GOOD)),
    _fault("503 without end", "http 503", flood(b"HTTP/1.1 503 Busy\r\n\r\n", _MEGABYTE), heavy=True),
    _fault("an image as text/html", IMAGE, ok(GOOD, Content_Type="text/html")),
    _fault("a page as image/jpeg", "not an image", ok(b"<!doctype html><title>404</title>", Content_Type="image/jpeg")),
    _fault("SVG", "not an image", ok(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')),
    _fault("no bytes at all", "not an image", ok(b"")),
    # Redirects.
    _fault("redirect to itself", "too many redirects", redirect("/a.jpg")),
    _fault("redirect that grows", "too many redirects", redirect("b/c.jpg")),
    _fault("redirect without a target", "http 302", say(head("302 Found", Content_Length=0))),
    _fault("redirect to nothing", "http 302|too many redirects|unsupported url", redirect("")),
    _fault("redirect to javascript", "unsupported url", redirect("javascript:alert(1)")),
    _fault("redirect to a file", "unsupported url", redirect("file:///etc/passwd")),
    _fault("redirect to data", "unsupported url", redirect("data:image/png;base64,iVBORw0KGgo=")),
    _fault("redirect to ftp", "unsupported url", redirect("ftp://127.77.0.2/a.jpg")),
    _fault("redirect to no host", "unsupported url|too many redirects", redirect("http:///a.jpg")),
    _fault("redirect to half an address", "unsupported url", redirect("http://[::1/a.jpg")),
    _fault("redirect to random bytes", "unsupported url|too many redirects|bad response", redirect(
        bytes(range(128, 256)))),
    _fault("redirect of 1 MB", "bad response|unsupported url", redirect("/" + "a" * (1 << 20))),
    _fault("redirect with an endless body", "too many redirects|too large", flood(
        b"HTTP/1.1 302 Found\r\nLocation: /a.jpg\r\n\r\n", _MEGABYTE), heavy=True),
    # Connections.
    _fault("reset at connect", "connection reset", reset(after_request=False)),
    _fault("reset in the head", "connection reset", reset(b"HTTP/1.1 200")),
    _fault("reset in the body", "connection reset", reset(head(Content_Length=len(GOOD)) + GOOD[:1000])),
    _fault("sends before it reads", "an image|connection reset|bad response", unasked),
    # Content-Encoding that nobody asked for.
    _fault("gzip", IMAGE, ok(gzip.compress(GOOD), Content_Encoding="gzip")),
    _fault("gzip bomb", "too large", Content(gzip_bomb, Content_Encoding="gzip"), _SLOW, heavy=True),
    _fault("deflate bomb", "too large", Content(gzip_bomb, "deflate", Content_Encoding="deflate"), _SLOW, heavy=True),
    _fault("gzip bomb in gzip", "too large|bad response", Content(
        gzip_bomb, "gzip", 2, Content_Encoding="gzip, gzip"), heavy=True),
    _fault("gzip ten times", "bad response|too large|not an image|truncated image", ok(
        gzip.compress(GOOD), Content_Encoding=", ".join(["gzip"] * 10))),
    _fault("gzip, cut", "truncated image|bad response", ok(gzip.compress(GOOD)[:1000], Content_Encoding="gzip")),
    _fault("gzip that is none", "bad response|truncated image", ok(GOOD, Content_Encoding="gzip")),
    _fault("brotli", "bad response|not an image", ok(b"\x0b\x02\x80hello\x03", Content_Encoding="br")),
    # Images: promises of more pixels than there are bytes for, and cut files.
    _fault("PNG of 36 megapixels", "too many pixels", Content(bombs.png_of_36_megapixels), heavy=True),
    _fault("PNG that promises 4 gigapixels", "too many pixels", Content(bombs.png, 65_000, 65_000, 1)),
    _fault("PNG of 24 megapixels", IMAGE, Content(bombs.png_of_24_megapixels),
           "an image|too many pixels|" + _NO_IMAGE, heavy=True),
    _fault("PNG of 24 megapixels, 16 bits", IMAGE, Content(bombs.png_of_16_bits),
           "an image|too many pixels|" + _NO_IMAGE, heavy=True),
    _fault("PNG that promises 24 megapixels", IMAGE, Content(bombs.png, 4899, 4899, 1), _NO_IMAGE, heavy=True),
    _fault("PNG with 200 MB of text", "an image|not an image", Content(bombs.png_with_text, b"zTXt"), heavy=True),
    _fault("PNG with 200 MB of profile", "an image|not an image", Content(bombs.png_with_text, b"iCCP"),
           "an image|" + _NO_IMAGE, heavy=True),
    _fault("JPEG that promises 4 gigapixels", "too many pixels|not an image", Content(bombs.jpeg, 65_500, 65_500)),
    _fault("JPEG that promises 99 megapixels", IMAGE, Content(bombs.jpeg, 9999, 9900), "truncated image",
           heavy=True),
    _fault("JPEG of 90 megapixels", IMAGE, Content(bombs.jpeg_of_90_megapixels), heavy=True),
    _fault("GIF of 4 gigapixels", "too many pixels", Content(bombs.gif, 65_535, 65_535)),
    _fault("GIF of 20,000 frames", IMAGE, Content(bombs.gif, 800, 800, 20_000), "an image|" + _NO_IMAGE, heavy=True),
    _fault("WebP of 250 megapixels", "too many pixels|not an image", Content(bombs.webp, 16_000, 16_000)),
    _fault("WebP of 36 megapixels", "too many pixels", Content(bombs.webp_of_36_megapixels), heavy=True),
    _fault("TIFF of 3 gigapixels", "too many pixels", Content(bombs.tiff, 60_000, 60_000)),
    _fault("TIFF of 36 megapixels", "too many pixels", Content(bombs.tiff_of_36_megapixels), heavy=True),
    _fault("TIFF that promises 24 megapixels", IMAGE, Content(bombs.tiff, 4899, 4899), _NO_IMAGE, heavy=True),
    _fault("BMP of 900 megapixels", "too many pixels", Content(bombs.bmp, 30_000, 30_000)),
    # Images that cost nothing to send: 60 kB each, packed.
    *(_fault(make.__name__.replace("_", " "), fetched, Content(_packed, make, n, Content_Encoding="gzip"), in_shard)
      for make, n, fetched, in_shard in [
          (dearest.jpeg_of_segments, 15_000_000, "too costly", None),
          (dearest.jpeg_of_scans, 500, IMAGE, "too costly"),
          (dearest.png_of_chunks, 5_000_000, "too costly", None),
          (dearest.png_of_late_texts, 1500, IMAGE, IMAGE),
          (dearest.gif_of_comments, 15_000_000, IMAGE, _NO_IMAGE),
          (dearest.gif_of_clear_codes, 30_000, IMAGE, "too costly|undecodable image"),
          (dearest.ppm_of_comment, 60_000_000, "not an image", None),
          (dearest.tiff_of_one_strip_for_all, 1_000_000, "too costly", None),
          (dearest.tiff_of_scans, 500, IMAGE, "too costly|undecodable image"),
      ]),
    *(_fault(f"{form}, cut", "an image|" + _NO_IMAGE, Content(bombs.cut, form), _NO_IMAGE)
      for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000")),
]  # fmt: skip
