"""Reads what the head of an image file promises: the format and the size. Nothing is decoded.

Nothing else parses a head, and it takes milliseconds whatever the bytes are: at most `STEPS` segments, chunks, boxes or
tags of a file are looked at, counted as often as the file makes us look, and what a length says is skipped. A head that
decoders could understand in two ways is refused, and what they make of a file must have the size that was read here
(`pixels`). Of the work of decoding, what the head does not tell is counted before it begins (`effort`), or has limits
while it is done (`apart`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from geo_subset.download import avif_head, common_heads, rare_heads, reasons
from geo_subset.download.picture import Header, PictureError, Steps, UnreadableError

#: JPEGs can be decoded reduced, and hold no transparency; other formats get a quarter.
MAX_PIXELS = 100_000_000
#: Zeros after the end of a GIF that are looked over; bytes at the end of a PNG in which its last chunk is looked for.
_PADDING, _LAST = 4096, 1 << 16

_READERS: list[tuple[re.Pattern[bytes], Callable[[bytes, Steps], Header]]] = [
    (re.compile(signature, re.DOTALL), read)
    for signature, read in [
        (rb"\xff\xd8\xff", common_heads.jpeg),
        (rb"\x89PNG\r\n\x1a\n", common_heads.png),
        (rb"GIF8[79]a", common_heads.gif),
        (rb"RIFF....WEBP", common_heads.webp),
        (rb"BM", common_heads.bmp),
        (rb"P[1-6][ \t\n\v\f\r#]", common_heads.pnm),
        (rb"P[fF][ \t\n\v\f\r]", common_heads.pfm),
        (rb"II[*+]\0|MM\0[*+]", rare_heads.tiff),
        (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", rare_heads.jpeg2000),
        (rb"....ftyp", avif_head.avif),
    ]
]


def header(body: bytes) -> Header:
    """Tells what is no image or would not fit into memory.

    Raises PictureError with NOT_AN_IMAGE, UNDECODABLE, TOO_MANY_PIXELS, TOO_COSTLY or TRUNCATED.
    """
    read = next((read for signature, read in _READERS if signature.match(body)), None)
    if read is None:
        raise PictureError(reasons.NOT_AN_IMAGE)
    try:
        head = read(body, Steps())
    except (UnreadableError, LookupError, struct.error) as error:
        reason = reasons.TRUNCATED if is_cut(body) else reasons.NOT_AN_IMAGE
        raise PictureError(reason, str(error) if isinstance(error, UnreadableError) else "") from error
    if head.width <= 0 or head.height <= 0:
        raise PictureError(reasons.NOT_AN_IMAGE, f"{head.width} x {head.height}")
    if head.width * head.height > (MAX_PIXELS if head.is_jpeg else MAX_PIXELS // 4):
        raise PictureError(reasons.TOO_MANY_PIXELS, f"{head.width:,} x {head.height:,}")
    return head


def is_cut(body: bytes) -> bool:
    """Whether a file that could not be decoded, or not even opened, ends before its format says so."""
    if body.startswith(b"\x89PNG"):
        return b"IEND" not in body[-_LAST:]
    if body.startswith(b"GIF8"):
        return not body[-_PADDING:].rstrip(b"\0").endswith(b";")
    return body.startswith(b"RIFF") and int.from_bytes(body[4:8], "little") + 8 > len(body)
