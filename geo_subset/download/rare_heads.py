"""The heads of TIFF and JPEG 2000. They do not tell how dear the rest is: both are decoded apart."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from geo_subset.download import reasons
from geo_subset.download.boxes import boxes
from geo_subset.download.picture import Header, PictureError, Steps, UnreadableError

# --- TIFF (revision 6.0) and BigTIFF -------------------------------------------------------------------------------

_TAGS = (256, 257, 258, 259, 274, 278, 279, 322, 323, 325)
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _ORIENTATION, _ROWS, _LENGTHS, _TILE_WIDTH, _TILE_HEIGHT, _TILE_LENGTHS = _TAGS
#: Bytes of an integer, by the type of a tag.
_INTEGERS = {1: 1, 3: 2, 4: 4, 16: 8}
_NONE = np.empty(0)
#: Tiles or strips of a picture: 25 megapixels in tiles of 16 x 16 are 100,000.
_PARTS = 1 << 17
#: Pixels of a tile or strip, whatever the picture's size: it is unpacked as a whole.
_TILE = 1 << 20


def tiff(body: bytes, steps: Steps) -> Header:
    tags = _first_directory(body, steps)
    width, height = _first(tags, _WIDTH), _first(tags, _HEIGHT)
    if _first(tags, _BITS, 1) > 16:
        raise PictureError(reasons.UNDECODABLE, "values without a known range")
    tiled = _TILE_WIDTH in tags
    across = _first(tags, _TILE_WIDTH) if tiled else width
    down = _first(tags, _TILE_HEIGHT) if tiled else min(height, _first(tags, _ROWS, height))
    if not across or not down:
        raise UnreadableError("tiles or strips of no size")
    if across * down > max(_TILE, 2 * width * height):
        raise PictureError(reasons.TOO_MANY_PIXELS, f"{across:,} x {down:,} in one tile")
    if _first(tags, _COMPRESSION, 1) != 1:
        _check_overlap(tags, -(-width // across) * -(-height // down), len(body))
    return Header("TIFF", width, height, apart=True, turned=_first(tags, _ORIENTATION, 1) >= 5)


def _check_overlap(tags: dict[int, Any], parts: int, length: int) -> None:
    """Bytes that are unpacked again and again for each of many tiles or strips would cost more than the file's length.
    The decoder takes all there are for a part whose length is missing or 0."""
    known = np.concatenate([tags.get(tag, _NONE) for tag in (_LENGTHS, _TILE_LENGTHS)])
    known = np.where(known == 0, length, np.minimum(known, length))
    unpacked = int(known.sum()) if len(known) else parts * length
    if unpacked > 2 * length:
        raise PictureError(reasons.TOO_COSTLY, f"{unpacked:,} bytes in tiles or strips, of {length:,}")


def _first(tags: dict[int, Any], tag: int, default: int | None = None) -> int:
    values = tags.get(tag, _NONE)
    if not len(values) and default is None:
        raise UnreadableError(f"no tag {tag}")
    return int(values[0]) if len(values) else default or 0


def _first_directory(body: bytes, steps: Steps) -> dict[int, Any]:
    """The tags that matter here, and their values, in arrays."""
    order, big = "<" if body[0] == 0x49 else ">", 0x2B in body[2:4]
    word, many, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    start = struct.unpack_from(order + word, body, 8 if big else 4)[0]
    entries = struct.unpack_from(order + many, body, start)[0]
    steps.take(entries)
    start += struct.calcsize(many)
    tags: dict[int, Any] = {}
    for at in range(start, start + entries * entry, entry):
        tag, kind, count = struct.unpack_from(f"{order}HH{word}", body, at)
        if tag not in _TAGS or kind not in _INTEGERS:
            continue
        if tag in tags:
            raise PictureError(reasons.UNDECODABLE, f"two tags {tag}")
        width, at = _INTEGERS[kind], at + 4 + struct.calcsize(word)
        if count * width > struct.calcsize(word):
            at = struct.unpack_from(order + word, body, at)[0]
        if at + count * width > len(body):
            raise UnreadableError("a tag is longer than the file")
        if count > _PARTS:
            raise PictureError(reasons.TOO_COSTLY, f"{count:,} tiles or strips")
        tags[tag] = np.frombuffer(body, f"{order}u{width}", count, at).astype(np.float64)
    return tags


# --- JPEG 2000 (ITU-T T.800) ---------------------------------------------------------------------------------------

_SIZ = b"\xff\x4f\xff\x51"
#: A tile costs the decoder 6 kB before anything of it is read.
_JP2_TILES = 4096


def jpeg2000(body: bytes, steps: Steps) -> Header:
    start, promised = 0, None
    if not body.startswith(_SIZ):
        for box in boxes(body, 0, len(body), steps):
            if box.kind == b"jp2h":
                inner = next((b for b in boxes(body, box.start, box.end, steps) if b.kind == b"ihdr"), None)
                promised = struct.unpack_from(">II", body, inner.start)[::-1] if inner else None
            elif box.kind == b"jp2c":
                start = box.start
                break
    if body[start : start + 4] != _SIZ:
        raise UnreadableError("no codestream")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = struct.unpack_from(">8I", body, start + 8)
    size = right - left, bottom - top
    if promised not in (None, size) or not tile_width or not tile_height:
        raise PictureError(reasons.UNDECODABLE, "a JPEG 2000 of two sizes")
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    if tiles > _JP2_TILES:
        raise PictureError(reasons.TOO_COSTLY, f"{tiles:,} tiles")
    return Header("JPEG2000", *size, apart=True)
