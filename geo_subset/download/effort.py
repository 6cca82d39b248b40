"""Bounds the work of decoding by what a head does not tell: a JPEG's scans, a GIF's clear codes, a PNG's texts.

Each is counted as the decoder would come to it, at a billion bytes a second or so, without Python's lock.
"""

from __future__ import annotations

import struct

import numpy as np

from geo_subset.compiled import compiled
from geo_subset.download import reasons
from geo_subset.download.common_heads import ALONE, END, SCAN, segment_length
from geo_subset.download.picture import STEPS, Header, PictureError, UnreadableError

#: A progressive JPEG has ten scans, each of one channel or of a few values of all three: some 14 for each pixel.
_SCANS, _SCANS_OF_EACH, _SAMPLES, _MOST_SAMPLES = 100, 30, 100_000_000, 1_200_000_000
#: Clear codes of a GIF: each costs its decoder 4 us. There is one for 3,800 codes or more, and one for 126 pixels in
#: files made without compression, of which 10 megapixels may be.
_CLEARS, _PIXELS_A_CLEAR, _MOST_CLEARS = 25_000, 100, 80_000
#: Chunks of a PNG with texts that may be unpacked; they are left out, as nothing of a picture is in them.
_TEXTS, _CHUNKS, _CHUNK = (b"zTXt", b"iTXt"), 100_000, struct.Struct(">I4s")


def bounded(body: bytes, head: Header) -> bytes:
    """What to decode of a file: all of it, or all but what costs work and holds no pixels.

    Raises PictureError with TOO_COSTLY.
    """
    if head.is_jpeg and head.decoder_bytes:
        _check_scans(body, head)
    elif head.form == "GIF":
        most = min(_MOST_CLEARS, _CLEARS + head.width * head.height // _PIXELS_A_CLEAR)
        if _clears(np.frombuffer(body, np.uint8), most) > most:
            raise PictureError(reasons.TOO_COSTLY, f"more than {most:,} clear codes")
    elif head.form == "PNG":
        return _without_texts(body)
    return body


def _check_scans(body: bytes, head: Header) -> None:
    """Scan after scan, the values that the decoder would go over are added up."""
    values, words = np.frombuffer(body, np.uint8), np.frombuffer(body, np.uint64, len(body) // 8)
    at, scans, samples = head.scans, 0, 0
    most = min(_MOST_SAMPLES, _SAMPLES + _SCANS_OF_EACH * head.width * head.height)
    for _ in range(STEPS):
        at = _next_marker(values, words, at) + 2
        if at > len(body) or body[at - 1] == END:
            return
        if body[at - 1] in ALONE:
            continue
        try:
            length = segment_length(body, at)
        except UnreadableError:  # the decoder will say so
            return
        if body[at - 1] == SCAN:
            scans += 1
            samples += sum(head.samples.get(channel, 0) for channel in body[at + 3 : at + 3 + 2 * body[at + 2] : 2])
            if scans > _SCANS or samples > most:
                raise PictureError(reasons.TOO_COSTLY, f"{scans} scans of {head.width:,} x {head.height:,}")
        at += length
    raise PictureError(reasons.TOO_COSTLY, f"more than {STEPS:,} segments between scans")


@compiled
def _next_marker(values, words, at):  # type: ignore[no-untyped-def]
    """Where the next marker of a JPEG that ends coded data begins; the file's length if there is none. `words`: the
    same bytes, eight at a time, as most hold none of a marker."""
    low, high = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
    while at + 1 < len(values):
        if at % 8 == 0:
            word = at // 8
            while word < len(words) and not ((~words[word] - low) & words[word] & high):
                word += 1
            at = word * 8
            if at + 1 >= len(values):
                break
        if values[at] == 255:
            code = values[at + 1]
            if code != 0 and code != 255 and (code < 0xD0 or code > 0xD7):
                return at
        at += 1
    return len(values)


def _without_texts(body: bytes) -> bytes:
    kept, at, since = [], 8, 0
    for _ in range(_CHUNKS):
        if at + 12 > len(body):
            break
        length, kind = _CHUNK.unpack_from(body, at)
        if kind in _TEXTS:
            kept.append(body[since:at])
            since = at + 12 + length
        elif kind == b"IEND":
            break
        at += 12 + length
    else:
        raise PictureError(reasons.TOO_COSTLY, f"more than {_CHUNKS:,} chunks")
    return b"".join([*kept, body[since:]]) if kept else body


@compiled
def _clears(values, most):  # type: ignore[no-untyped-def]
    """How often the decoder of a GIF's first picture starts anew; a little more than `most` at most."""
    length = len(values)
    at = 13 + (3 << ((values[10] & 7) + 1) if values[10] & 0x80 else 0)
    while at + 2 < length and values[at] == 0x21:
        at += 2
        while at < length and values[at]:
            at += 1 + values[at]
        at += 1
    if at + 11 >= length or values[at] != 0x2C:
        return 0
    flags = values[at + 9]
    at += 10 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    if at + 1 >= length or values[at] < 2 or values[at] > 11:
        return 0
    first = np.int64(values[at]) + 1
    clear = np.int64(1) << (first - 1)
    at += 1
    size, table, grows, bits, held, clears = first, clear + 1, clear << 1, np.int64(0), np.int64(0), 0
    block = np.int64(values[at])
    at += 1
    while block and at < length and clears <= most:
        held |= np.int64(values[at]) << bits
        bits += 8
        at += 1
        block -= 1
        while bits >= size:
            code = held & (grows - 1)
            held >>= size
            bits -= size
            if code | 1 == clear + 1:  # clear, or the end
                clears += 1
                size, table, grows = first, clear + 1, clear << 1
                if code != clear:
                    break
            elif table < 4096:
                table += 1
                if table == grows and size < 12:
                    size += 1
                    grows <<= 1
        if block == 0:
            block = np.int64(values[at]) if at < length else np.int64(0)
            at += 1
    return clears
