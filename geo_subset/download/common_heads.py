"""The heads of JPEG, PNG, GIF, WebP, BMP and PNM."""

from __future__ import annotations

import re
import struct

from geo_subset.download import reasons
from geo_subset.download.picture import Header, PictureError, Steps, UnreadableError

_BASELINE, _EXTENDED, _PROGRESSIVE, _ARITHMETIC, _ARITHMETIC_PROGRESSIVE = 0xC0, 0xC1, 0xC2, 0xC9, 0xCA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SCAN, END = 0xDA, 0xD9
#: Bytes between two segments of a JPEG that may belong to none.
_JUNK = 4096
#: Groups of Huffman trees that a WebP decoded in this process may have.
_TREES = 1 << 14
#: JPEG markers that no segment follows.
ALONE = frozenset({0x01, *range(0xD0, 0xDA)})
#: Those that may come before the first scan: its decoder passes over them.
_PASSED_OVER = ALONE - {0xD8, END}
#: A marker may have bytes of 255 before it. So many of them are a step.
_MARKER, _PADDING_A_STEP = re.compile(rb"\xff{1,65536}[^\xff]"), 64

#: Blanks and comments, then a number that ends with a blank. Decoders differ on all else.
_NUMBER = rb"(?:[ \t\n\v\f\r]|#[^\r\n]*[\r\n])+(\d{1,9})(?=[ \t\n\v\f\r])"
_PNM = re.compile(rb"P[1-6]" + _NUMBER + _NUMBER)
#: Bytes that comments may fill.
_PNM_HEAD = 1 << 16


def jpeg(body: bytes, steps: Steps) -> Header:
    """Segment by segment (ITU-T T.81, annex B); what lies between them is passed over, as libjpeg does."""
    at, kind, frame = 2, 0, b""
    while (at := body.find(b"\xff", at, at + _JUNK)) >= 0:
        marker = _MARKER.match(body, at)
        if marker is None:
            raise UnreadableError("padding without an end")
        steps.take(1 + len(marker[0]) // _PADDING_A_STEP)
        code, at = body[marker.end() - 1], marker.end()
        if code == 0 or code in _PASSED_OVER:
            continue
        if code in ALONE:
            raise UnreadableError("a marker that does not belong before a scan")
        following = at + segment_length(body, at)
        if code == SCAN:
            if not frame:
                raise UnreadableError("a scan before any frame")
            return _of_frame(kind, frame, at - 2, body[at + 2])
        if code in _FRAMES:
            if frame:
                raise PictureError(reasons.UNDECODABLE, "a JPEG of two frames")
            kind, frame = code, body[at + 2 : following]
        at = following
    raise UnreadableError("no scan")


def segment_length(body: bytes, at: int) -> int:
    """Of the segment of a JPEG whose marker ends at `at`."""
    length = int.from_bytes(body[at : at + 2], "big")
    if length < 2 or at + length >= len(body):
        raise UnreadableError("a segment is longer than the file")
    return length


def _of_frame(kind: int, frame: bytes, scans: int, in_first: int) -> Header:
    if kind not in (_BASELINE, _EXTENDED, _PROGRESSIVE, _ARITHMETIC, _ARITHMETIC_PROGRESSIVE) or frame[0] != 8:
        raise PictureError(reasons.UNDECODABLE, f"a JPEG of process {kind - 0xC0} in {frame[0]} bits")
    height, width, channels = struct.unpack_from(">HHB", frame, 1)
    if len(frame) != 6 + 3 * channels or channels not in (1, 3, 4):
        raise PictureError(reasons.UNDECODABLE, f"a JPEG of {channels} channels")
    across, down = [sampling >> 4 for sampling in frame[7::3]], [sampling & 15 for sampling in frame[7::3]]
    if min(*across, *down) < 1 or max(*across, *down) > 4:
        raise PictureError(reasons.UNDECODABLE, "a JPEG of impossible sampling factors")
    apart = kind in (_ARITHMETIC, _ARITHMETIC_PROGRESSIVE)
    if kind in (_BASELINE, _EXTENDED, _ARITHMETIC) and in_first == channels:
        return Header("JPEG", width, height, apart=apart, scans=scans, channels=channels)
    sizes = [-(-width * a // max(across)) * -(-height * d // max(down)) for a, d in zip(across, down, strict=True)]
    return Header(
        "JPEG", width, height, apart=apart, effort=3 * width * height, decoder_bytes=2 * sum(sizes),
        scans=scans, channels=channels, samples=dict(zip(frame[6::3], sizes, strict=True)),
    )  # fmt: skip


def png(body: bytes, steps: Steps) -> Header:
    if body[8:16] != b"\0\0\0\x0dIHDR":
        raise UnreadableError("no IHDR")
    width, height = struct.unpack_from(">II", body, 16)
    at = 33
    while True:
        steps.take()
        length, kind = struct.unpack_from(">I4s", body, at)
        if kind == b"IDAT":
            return Header("PNG", width, height)
        if kind == b"IHDR":
            raise PictureError(reasons.UNDECODABLE, "a PNG of two heads")
        at += 12 + length


def gif(body: bytes, _steps: Steps) -> Header:
    width, height = struct.unpack_from("<HH", body, 6)
    return Header("GIF", width, height, effort=400 * len(body))  # a clear code of 3 bits costs as much as 400 pixels


def webp(body: bytes, steps: Steps) -> Header:
    if int.from_bytes(body[4:8], "little") + 8 > len(body):
        raise UnreadableError("the file is shorter than it says")
    canvas, at, lossless = None, 12, 0
    while True:
        steps.take()
        kind, length = struct.unpack_from("<4sI", body, at)
        start, at = at + 8, at + 8 + length + (length & 1)
        if kind == b"VP8X" and canvas is None:
            sides = [1 + int.from_bytes(body[start + n : start + n + 3], "little") for n in (4, 7)]
            canvas = sides[0], sides[1]
            if body[start] & 2:  # an animation: its frames lie within the canvas
                return _webp_of(canvas, len(body))
        elif kind == b"ALPH":  # coded as lossless pictures are
            lossless = length
        elif kind in (b"VP8 ", b"VP8L"):
            size = _webp_frame(body, start, kind)
            if canvas not in (None, size):
                raise UnreadableError("its picture has another size than its canvas")
            return _webp_of(size, length if kind == b"VP8L" else lossless)


def _webp_of(size: tuple[int, int], lossless: int) -> Header:
    """`lossless`: bytes of lossless coding. It may hold groups of Huffman trees, each of 20 bits and for 16 pixels at
    least, that take the decoder as long as 800 pixels, and 6 to 12 kB."""
    trees = min(1 << 16, lossless * 8 // 20, size[0] * size[1] // 16)
    return Header("WEBP", *size, apart=trees > _TREES, effort=800 * trees, decoder_bytes=6000 * trees)


def _webp_frame(body: bytes, start: int, kind: bytes) -> tuple[int, int]:
    if kind == b"VP8L":
        if body[start] != 0x2F:
            raise UnreadableError("no lossless picture")
        sides = int.from_bytes(body[start + 1 : start + 5], "little")
        return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    if body[start + 3 : start + 6] != b"\x9d\x01\x2a":
        raise UnreadableError("no key frame")
    width, height = struct.unpack_from("<HH", body, start + 6)
    return width & 0x3FFF, height & 0x3FFF


def bmp(body: bytes, _steps: Steps) -> Header:
    size = int.from_bytes(body[14:18], "little")
    if size == 12:
        width, height = struct.unpack_from("<HH", body, 18)
    elif 36 <= size <= 1024:
        width, height = struct.unpack_from("<ii", body, 18)
        height = abs(height)  # negative where the first line comes first
    else:
        raise UnreadableError("no head of a bitmap")
    return Header("BMP", width, height)


def pnm(body: bytes, _steps: Steps) -> Header:
    found = _PNM.match(body[:_PNM_HEAD])
    if not found:
        raise UnreadableError("no width and height")
    return Header("PNM", int(found[1]), int(found[2]))


def pfm(_body: bytes, _steps: Steps) -> Header:
    raise PictureError(reasons.UNDECODABLE, "values without a known range")
