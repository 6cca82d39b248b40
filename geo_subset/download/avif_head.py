"""The head of an AVIF (ISO 14496-12, ISO 23008-12, AV1 in both). It is decoded apart, as the rest may cost anything."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from geo_subset.download import reasons
from geo_subset.download.boxes import Box, boxes, by_kind
from geo_subset.download.picture import Header, PictureError, Steps, UnreadableError

#: How much wider or higher than the picture its parts may be: a grid's last tiles stick out.
_MARGIN = 64
#: Pixels that are decoded, as times the picture's: transparency takes as many again, and so does each layer.
_TIMES, _LEAST = 4, 4_000_000
_FRAME_HEADER, _FRAME = 3, 6
#: Properties of an item that are looked at in one step.
_PROPERTIES = 8

_Size = tuple[int, int]


def avif(body: bytes, steps: Steps) -> Header:
    top = {box.kind: box for box in boxes(body, 0, len(body), steps, cut=True)}
    kinds = top[b"ftyp"]
    brands = body[kinds.start : min(kinds.end, kinds.start + 256)]
    if b"avif" not in brands and b"avis" not in brands:
        raise UnreadableError("no AVIF")
    still = _still(body, top.get(b"meta"), steps)
    # Where there are both, what comes first among the brands says which of them is decoded.
    sequence = _sequence(body, top.get(b"moov"), steps) if brands.startswith(b"avis") or not still else None
    size, parts = sequence or still or (None, [])
    if size is None:
        raise UnreadableError("no picture")
    pixels = 0
    for (width, height), frames in parts:
        if width > size[0] + _MARGIN or height > size[1] + _MARGIN:
            raise PictureError(reasons.UNDECODABLE, "parts of the AVIF are larger than the whole")
        pixels += width * height * frames
    if pixels > max(_LEAST, _TIMES * size[0] * size[1]):
        raise PictureError(reasons.TOO_COSTLY, f"{pixels:,} pixels in frames for {size[0]:,} x {size[1]:,}")
    return Header("AVIF", *size, apart=True)


def _still(body: bytes, meta: Box | None, steps: Steps) -> tuple[_Size, list[tuple[_Size, int]]] | None:
    """The size of the primary item, and of all items with how many frames they have."""
    found = by_kind(body, meta, steps, 4)
    primary, properties = found.get(b"pitm"), by_kind(body, found.get(b"iprp"), steps)
    if primary is None or b"iloc" not in found or not properties:
        return None
    item = int.from_bytes(body[primary.start + 4 : primary.start + (8 if body[primary.start] else 6)], "big")
    sizes = dict(_sizes(body, properties[b"ipco"], properties[b"ipma"], steps))
    size = sizes.get(item)
    if size is None:
        return None
    start = found[b"idat"].start if b"idat" in found else 0
    extents = _extents(body, found[b"iloc"], start, steps)
    return size, [(sizes[item], _frames(body, at, end, steps)) for item, at, end in extents if item in sizes]


def _sizes(body: bytes, container: Box, associations: Box, steps: Steps) -> Iterator[tuple[int, _Size]]:
    known: dict[int, _Size] = {}
    for number, box in enumerate(boxes(body, container.start, container.end, steps), 1):
        if box.kind == b"ispe":
            width, height = struct.unpack_from(">II", body, box.start + 4)
            known[number] = width, height
    version, wide = body[associations.start], body[associations.start + 3] & 1
    (entries,) = struct.unpack_from(">I", body, associations.start + 4)
    at = associations.start + 8
    for _ in range(entries):
        item, count = struct.unpack_from(">IB" if version else ">HB", body, at)
        steps.take(1 + count // _PROPERTIES)
        at += 5 if version else 3
        for value in struct.unpack_from(f">{count}{'H' if wide else 'B'}", body, at):
            if (number := value & (0x7FFF if wide else 0x7F)) in known:
                yield item, known[number]
        at += count << wide


def _extents(body: bytes, box: Box, data: int, steps: Steps) -> Iterator[tuple[int, int, int]]:
    """Each item's number and the bytes of the file that it consists of, part by part. `data`: where idat begins."""
    version, sizes = body[box.start], body[box.start + 4 : box.start + 6]
    offset_size, length_size, base_size = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_size = sizes[1] & 15 if version else 0
    at = box.start + 6

    def number(width: int) -> int:
        nonlocal at
        at += width
        if at > box.end:
            raise UnreadableError("a list of places ends early")
        return int.from_bytes(body[at - width : at], "big")

    for _ in range(number(4 if version == 2 else 2)):
        steps.take()
        item = number(4 if version == 2 else 2)
        base = data if version and number(2) & 15 == 1 else 0
        number(2)
        base += number(base_size)
        for _ in range(number(2)):
            steps.take()
            number(index_size)
            start = base + number(offset_size)
            yield item, start, start + number(length_size)


def _sequence(body: bytes, moov: Box | None, steps: Steps) -> tuple[_Size, list[tuple[_Size, int]]] | None:
    """The size of the first track, and of all tracks with how many frames are in their first picture."""
    parts = []
    for track in boxes(body, moov.start, moov.end, steps) if moov else ():
        if track.kind != b"trak":
            continue
        table = inner = by_kind(body, track, steps)
        for kind in (b"mdia", b"minf", b"stbl"):
            table = by_kind(body, table.get(kind), steps)
        if b"tkhd" not in inner or b"stsz" not in table:
            continue
        width, height = (side >> 16 for side in struct.unpack_from(">II", body, inner[b"tkhd"].end - 8))
        uniform, count, first = struct.unpack_from(">III", body, table[b"stsz"].start + 4)
        wide = b"co64" in table
        place = table[b"co64" if wide else b"stco"].start + 8
        start = struct.unpack_from(">Q" if wide else ">I", body, place)[0]
        parts.append(((width, height), _frames(body, start, start + (uniform or first), steps) if count else 0))
    return (parts[0][0], parts) if parts else None


def _frames(body: bytes, at: int, end: int, steps: Steps) -> int:
    """How many frames are coded in a part of a file, one that AV1's units are looked for in."""
    frames, end = 0, min(end, len(body))
    while at < end:
        steps.take()
        head, at = body[at], at + 1 + (body[at] >> 2 & 1)
        frames += (head >> 3 & 15) in (_FRAME_HEADER, _FRAME)
        if not head & 2:  # without a length it goes to the end
            return frames
        length = 0
        for n in range(8):
            byte, at = body[at], at + 1
            length |= (byte & 127) << 7 * n
            if byte < 128:
                break
        at += length
    return frames
