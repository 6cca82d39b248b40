"""Image files that are cheap to send and dear to decode: for each format, of any size.

Each is made of a number `n`, from which its length and its cost grow; `largest` finds what fits into so many bytes once
it is packed by gzip, as a host may send it, and into 64 MiB unpacked.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from .bombs import chunk

MAX_BYTES = 64 << 20
#: Made of noise: what is sent is as long as what is decoded.
Make = Callable[[int], bytes]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def flat(width: int, height: int | None = None, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (width, height or width), 100 if mode == "L" else (128, 100, 90))


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8))


# --- JPEG ----------------------------------------------------------------------------------------------------------


def jpeg_of_segments(n: int) -> bytes:
    """Empty comments, and no picture."""
    return b"\xff\xd8" + b"\xff\xfe\x00\x02" * n


def jpeg_of_scans(n: int, side: int = 5000, mode: str = "RGB") -> bytes:
    """A progressive JPEG whose last scan is there `n` times more."""
    body = encoded(flat(side, mode=mode), "JPEG", progressive=True, quality=50)
    return body[:-2] + body[body.rindex(b"\xff\xda") : -2] * n + b"\xff\xd9"


def jpeg_of_large_scans(n: int) -> bytes:
    """As many scans as there may be, of the largest picture that may be progressive."""
    return jpeg_of_scans(min(n, 5), 9000)


def jpeg_of_segments_between_scans(n: int) -> bytes:
    body = encoded(flat(64), "JPEG", progressive=True)
    at = body.rindex(b"\xff\xda")
    return body[:at] + b"\xff\xfe\x00\x02" * n + body[at:]


def jpeg_with_arithmetic(n: int) -> bytes:
    """A frame said to be coded arithmetically, of `n` bytes that are anything."""
    body = bytearray(encoded(flat(5000), "JPEG", quality=50))
    body[body.index(b"\xff\xc0") + 1] = 0xC9
    at = body.index(b"\xff\xda") + 14
    return bytes(body[:at]) + bytes(range(1, 250)) * n + b"\xff\xd9"


def jpeg_of_restarts(n: int) -> bytes:
    return encoded(flat(n), "JPEG", quality=50, restart_marker_blocks=1)


# --- PNG -----------------------------------------------------------------------------------------------------------


def png(
    width: int, height: int, data: bytes, before: bytes = b"", after: bytes = b"", interlaced: bool = False
) -> bytes:
    """RGBA of 16 bits."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


def _rows(width: int, height: int, row_filter: int = 0) -> bytes:
    packer = zlib.compressobj(9)
    row = bytes([row_filter]) + bytes(8 * width)
    return b"".join(packer.compress(row) for _ in range(height)) + packer.flush()


def png_of_paeth(n: int) -> bytes:
    return png(n, n, _rows(n, n, 4))


def png_interlaced(n: int) -> bytes:
    return png(n, n, _rows(n, n + n // 100), interlaced=True)


def png_of_chunks(n: int) -> bytes:
    return png(64, 64, _rows(64, 64), before=chunk(b"teSt", b"") * n)


def png_of_empty_data(n: int) -> bytes:
    return png(64, 64, b"\x78\x01" + b"\0\0\0\xff\xff" * n + _rows(64, 64)[2:])


def png_of_texts(n: int) -> bytes:
    """Texts of 7 MB each, just below what libpng takes at a time."""
    return png(64, 64, _rows(64, 64), before=chunk(b"zTXt", b"name\0\0" + zlib.compress(bytes(7 << 20))) * n)


def png_of_late_texts(n: int) -> bytes:
    return png(64, 64, _rows(64, 64), after=chunk(b"iTXt", b"name\0\1\0\0\0" + zlib.compress(bytes(7 << 20))) * n)


# --- GIF, WebP, BMP, PNM -------------------------------------------------------------------------------------------


def gif(side: int, blocks: bytes, before: bytes = b"") -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + before
    return head + b"\x2c\0\0\0\0" + struct.pack("<HH", side, side) + b"\0\2" + blocks + b"\0;"


def gif_of_clear_codes(n: int) -> bytes:
    return gif(5000, (b"\xff" + b"\x24\x49\x92" * 85) * n)


def gif_of_few_clear_codes(n: int) -> bytes:
    """As many as there may be."""
    return gif_of_clear_codes(min(n, 117))


def gif_of_comments(n: int) -> bytes:
    return gif(64, b"\x01\0", b"\x21\xfe" + b"\x01x" * n + b"\0")


def webp_of_trees(n: int) -> bytes:
    """A lossless picture with a group of Huffman trees for every 16 pixels, each of them as short as can be."""
    side = min(256, max(1, int(n**0.5)))
    bits = _Bits()
    bits.put(0x2F, 8)
    bits.put(4 * side - 1, 14)
    bits.put(4 * side - 1, 14)
    for value, width in ((0, 4), (0, 1), (0, 1), (1, 1), (0, 3), (0, 1)):  # no transform, no cache, groups of 4 x 4
        bits.put(value, width)
    for is_green in (True, False):  # green and red: 256 values of 8 bits each; green has others, left out by number
        for value, width in ((0, 1), (8, 4), *((position == 11, 3) for position in range(12)), (is_green, 1)):
            bits.put(value, width)
        if is_green:
            bits.put(3, 3)
            bits.put(254, 8)
    for _ in range(3):
        bits.put(1, 4)
    for group in range(side * side):
        for value in (group & 255, group >> 8):
            bits.put(int(f"{value:08b}"[::-1], 2), 8)
    for _ in range(side * side):
        for _ in range(5):
            bits.put(1, 4)
    return _riff(b"VP8L", bits.done())


class _Bits:
    def __init__(self) -> None:
        self._held, self._count, self._out = 0, 0, bytearray()

    def put(self, value: int, width: int) -> None:
        self._held |= value << self._count
        self._count += width
        while self._count >= 8:
            self._out.append(self._held & 255)
            self._held >>= 8
            self._count -= 8

    def done(self) -> bytes:
        self.put(0, 7)
        return bytes(self._out) + bytes(16)


def _riff(kind: bytes, data: bytes) -> bytes:
    data += bytes(len(data) & 1)
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_flat(n: int) -> bytes:
    return encoded(flat(n), "WEBP", quality=1, method=0)


def webp_of_frames(n: int) -> bytes:
    frames = [Image.new("RGB", (2000, 2000), (i % 256, 0, 0)) for i in range(min(n, 40))]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=1, method=0)


def bmp_of_runs(n: int) -> bytes:
    """Lines that end where they begin."""
    head = struct.pack("<IiiHHIIiiII", 40, 5000, 5000, 1, 8, 1, 2 * n, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + 2 * n, 0, 0, 1078) + head + bytes(1024) + b"\0\0" * n


def bmp_flat(n: int) -> bytes:
    return encoded(flat(n), "BMP")


def ppm_of_comment(n: int) -> bytes:
    return b"P6\n#" + b"a" * n


def ppm_of_zeros(n: int) -> bytes:
    return b"P3\n200 200\n255\n" + b"0" * n + b" 1" * 120_000


def pbm_of_letters(n: int) -> bytes:
    return b"P1\n%d %d\n" % (n, n) + b"1" * n * n


# --- TIFF ----------------------------------------------------------------------------------------------------------


def tiff(width: int, height: int, tags: dict[int, Any], data: bytes, after: bytes = bytes(4)) -> bytes:
    """`tags`: a value, or how many there are and where. `after`: what follows the first directory's tags."""
    whole = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1} | tags
    entries = b"".join(
        struct.pack("<HHII", tag, 4, *(value if isinstance(value, tuple) else (1, value)))
        for tag, value in sorted(whole.items())
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(whole)) + entries + after


def tiff_of_one_strip_for_all(n: int) -> bytes:
    """Each of a thousand rows is unpacked from the same bytes, all but a few of which say nothing."""
    packed = b"\x78\x01" + b"\0\0\0\xff\xff" * n
    places = struct.pack("<1000I", *[8] * 1000) + struct.pack("<1000I", *[len(packed)] * 1000)
    where, lengths = (1000, 8 + len(packed)), (1000, 8 + len(packed) + 4000)
    return tiff(100, 1000, {259: 8, 273: where, 278: 1, 279: lengths}, packed + places)


def tiff_of_scans(n: int) -> bytes:
    """A progressive JPEG of many scans within a TIFF."""
    body = jpeg_of_scans(n, 4000, "L")
    return tiff(4000, 4000, {259: 7, 273: 8, 278: 4000, 279: len(body)}, body)


def tiff_of_directories(n: int) -> bytes:
    chain = b"".join(struct.pack("<HI", 0, 8 + 64 + 114 + 6 * (i + 1)) for i in range(n))
    first = struct.pack("<I", 8 + 64 + 114)
    return tiff(8, 8, {273: 8, 278: 8, 279: 64}, bytes(64), first + chain + struct.pack("<HI", 0, 0))


def tiff_flat(n: int) -> bytes:
    return encoded(flat(n), "TIFF", compression="tiff_lzw")


def tiff_of_tile(n: int) -> bytes:
    packed = zlib.compress(bytes(n * n), 9)
    return tiff(100, 100, {259: 8, 322: n, 323: n, 324: 8, 325: len(packed)}, packed)


# --- JPEG 2000 and AVIF --------------------------------------------------------------------------------------------


def jpeg2000_flat(n: int) -> bytes:
    return encoded(flat(n), "JPEG2000")


def jpeg2000_of_small_blocks(n: int) -> bytes:
    """Larger ones take gigabytes to make."""
    return encoded(flat(n), "JPEG2000", codeblock_size=(4, 4), precinct_size=(64, 64))


def jpeg2000_of_tiles(n: int) -> bytes:
    return encoded(flat(n), "JPEG2000", tile_size=(64, 64), num_resolutions=1)


def jpeg2000_of_noise(n: int) -> bytes:
    return encoded(noise(n), "JPEG2000")


def avif_flat(n: int) -> bytes:
    return encoded(flat(n), "AVIF", speed=10, quality=10)


def avif_of_noise(n: int) -> bytes:
    return encoded(noise(n), "AVIF", speed=10, quality=95)


def avif_of_frames(n: int, side: int = 2000) -> bytes:
    """A still whose one picture is coded `n` times more."""
    body = encoded(flat(side), "AVIF", speed=10, quality=10)
    start = body.index(b"mdat") + 4
    data = body[start:]
    data += data[data.index(b"\x32") :] * n  # 0x32: a frame that says how long it is
    places = struct.pack(">II", start, len(body) - start)
    head = body[: start - 8].replace(places, struct.pack(">II", start, len(data)))
    return head + struct.pack(">I", 8 + len(data)) + b"mdat" + data


def _box(kind: bytes, *content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, content)), kind) + b"".join(content)


def _avif(*boxes: bytes, brand: bytes = b"avif") -> bytes:
    return _box(b"ftyp", brand, bytes(4), b"avifmif1") + b"".join(boxes)


def _still(extents: list[tuple[int, int]], associations: bytes = struct.pack(">IHBB", 1, 1, 1, 1)) -> bytes:
    size = _box(b"ispe", bytes(4), struct.pack(">II", 64, 64))
    properties = _box(b"iprp", _box(b"ipco", size), _box(b"ipma", bytes(4), associations))
    places = struct.pack(">BBHHHH", 0x44, 0, 1, 1, 0, len(extents)) + b"".join(struct.pack(">II", *e) for e in extents)
    return _box(
        b"meta", bytes(4), _box(b"pitm", bytes(4), b"\0\1"), _box(b"iloc", bytes(4), places), properties
    )  # fmt: skip


def avif_of_one_run(n: int, brand: bytes = b"avif") -> bytes:
    """Its list of places names one run of `n` empty units `n` times."""
    data = _box(b"mdat", b"\x7a\0" * n)
    return _avif(data, _still([(len(_avif()) + 8, 2 * n)] * n), brand=brand)


def _track(place: int, length: int) -> bytes:
    head = _box(b"tkhd", bytes(76), struct.pack(">II", 64 << 16, 64 << 16))
    sizes = _box(b"stsz", bytes(4), struct.pack(">III", length, 1, 0))
    places = _box(b"stco", bytes(4), struct.pack(">II", 1, place))
    return _box(b"trak", head, _box(b"mdia", _box(b"minf", _box(b"stbl", sizes, places))))


def avif_of_tracks(n: int) -> bytes:
    """A sequence of `n` tracks, the first pictures of which are one run of `n` empty units."""
    data = _box(b"mdat", b"\x7a\0" * n)
    return _avif(data, _box(b"moov", _track(len(_avif()) + 8, 2 * n) * n), brand=b"avis")


def avif_read_twice(n: int) -> bytes:
    """A still and a sequence: heads of both are read."""
    return avif_of_tracks(n) + avif_of_one_run(n)[len(_avif()) :]


def avif_of_properties(n: int) -> bytes:
    """`n` times 255 properties of items."""
    return _avif(_still([], struct.pack(">I", n) + (struct.pack(">HB", 1, 255) + b"\1" * 255) * n))


def avif_of_few_frames(n: int) -> bytes:
    """As many as there may be."""
    return avif_of_frames(min(n, 3), 5000)


DEAREST: dict[str, list[Make]] = {
    "JPEG": [
        jpeg_of_segments, jpeg_of_scans, jpeg_of_large_scans, jpeg_of_segments_between_scans, jpeg_with_arithmetic,
        jpeg_of_restarts,
    ],
    "PNG": [png_of_paeth, png_interlaced, png_of_chunks, png_of_empty_data, png_of_texts, png_of_late_texts],
    "GIF": [gif_of_clear_codes, gif_of_few_clear_codes, gif_of_comments],
    "WebP": [webp_of_trees, webp_flat, webp_of_frames],
    "BMP": [bmp_of_runs, bmp_flat],
    "PNM": [ppm_of_comment, ppm_of_zeros, pbm_of_letters],
    "TIFF": [tiff_of_one_strip_for_all, tiff_of_scans, tiff_of_directories, tiff_flat, tiff_of_tile],
    "JPEG 2000": [jpeg2000_flat, jpeg2000_of_small_blocks, jpeg2000_of_tiles, jpeg2000_of_noise],
    "AVIF": [avif_flat, avif_of_noise, avif_of_frames, avif_of_few_frames, avif_of_one_run, avif_of_tracks],
}  # fmt: skip
#: Makers of pictures of n x n: more than 25 megapixels would be refused by their size alone.
_SIDES = {
    jpeg_of_restarts: 9000, png_of_paeth: 5000, png_interlaced: 5000, webp_flat: 5000, webp_of_trees: 65_536,
    bmp_flat: 4700, pbm_of_letters: 5000, tiff_flat: 5000, tiff_of_tile: 30_000, jpeg2000_flat: 5000,
    jpeg2000_of_small_blocks: 1500, jpeg2000_of_tiles: 4096, jpeg2000_of_noise: 2048, avif_flat: 5000,
    avif_of_noise: 2048,
}  # fmt: skip


def largest(make: Make, packed: int) -> bytes:
    """What `make` makes of the largest number, but for a factor of two, whose file takes `packed` bytes to send."""
    most = _SIDES.get(make, MAX_BYTES)
    n = min(16, most)
    body = make(n)
    while n < most:
        n = min(2 * n, most)
        more = make(n)
        if len(more) > MAX_BYTES or len(gzip.compress(more, 6)) > packed:
            break
        body, before = more, body
        if len(more) == len(before) and make not in _SIDES:  # it grows no more
            break
    return body
