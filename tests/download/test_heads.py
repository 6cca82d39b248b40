"""Heads of image files: read in little time whatever they are, and never other than the decoder reads them."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, features

from geo_subset.download import pixels, reasons
from geo_subset.download.picture import PictureError
from geo_subset.download.pixels import header
from geo_subset.settings import DownloadSettings

from . import bombs, dearest
from .dearest import encoded, flat

#: Seconds of CPU for any head: a hundred times what the dearest takes.
MOST = 0.3
_MANY = 16 << 20
_BOX = struct.pack(">I4s", 8, b"free")

FLOODS: dict[str, Callable[[], bytes]] = {
    "JPEG of empty segments": lambda: dearest.jpeg_of_segments(_MANY // 4),
    "JPEG of junk": lambda: b"\xff\xd8\xff\xe0\0\x02" + b"a" * _MANY,
    "JPEG of padding": lambda: b"\xff\xd8" + b"\xff" * _MANY,
    "JPEG of no markers": lambda: b"\xff\xd8" + b"\xff\0" * (_MANY // 2),
    "PNG of empty chunks": lambda: dearest.png_of_chunks(_MANY // 12),
    "GIF of a comment": lambda: dearest.gif_of_comments(_MANY // 2),
    "GIF of comments": lambda: b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b"\x21\xfe\x01x\0" * (_MANY // 5),
    "GIF of zeros": lambda: b"GIF89a" + bytes(_MANY),
    "PPM of a comment": lambda: dearest.ppm_of_comment(_MANY),
    "PPM of comments": lambda: b"P6" + b"\n#" * (_MANY // 2),
    "PPM of blanks": lambda: b"P6" + b" " * _MANY,
    "PPM of one number": lambda: b"P6 " + b"1" * _MANY,
    "WebP of empty chunks": lambda: (
        b"RIFF" + struct.pack("<I", 4 + _MANY // 8 * 8) + b"WEBP" + struct.pack("<4sI", b"junk", 0) * (_MANY // 8)
    ),
    "TIFF of tags": lambda: b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 279, 4, 1, 1) * (_MANY // 12),
    "TIFF of strips": lambda: bombs.tiff(9, 9)[:8] + bytes(_MANY),
    "BigTIFF of tags": lambda: b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * _MANY,
    "JPEG 2000 of boxes": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + _BOX * (_MANY // 8),
    "JPEG 2000 of boxes in a box": lambda: (
        b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 8 + _MANY, b"jp2h") + _BOX * (_MANY // 8)
    ),
    "AVIF of boxes": lambda: struct.pack(">I4s4sI", 16, b"ftyp", b"avif", 0) + _BOX * (_MANY // 8),
    "AVIF of frames": lambda: dearest.avif_of_frames(20_000),
    "AVIF of one run of units": lambda: dearest.avif_of_one_run(1990),
    "AVIF of tracks": lambda: dearest.avif_of_tracks(1990),
    "AVIF of a still and tracks": lambda: dearest.avif_read_twice(1990),
    "AVIF of properties": lambda: dearest.avif_of_properties(1990),
    "TIFF of long lists": lambda: dearest.tiff(
        9, 9, dict.fromkeys((258, 274, 279, 322, 323, 325), (1 << 20, 8)) | {259: 8}, bytes(_MANY)
    ),
    "PNG that nearly ends": lambda: b"\x89PNG\r\n\x1a\n" + b"IENX" * _MANY,
    "zeros": lambda: bytes(_MANY),
    "spaces": lambda: b" " * _MANY,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_head_takes_little_time_whatever_it_is(name: str) -> None:
    body = FLOODS[name]()
    began = time.process_time()
    try:
        header(body)
    except PictureError as error:
        assert error.reason in reasons.REASONS
    assert time.process_time() - began < MOST


FORMS: list[tuple[str, str, dict[str, Any]]] = [
    (form, mode, options)
    for form, modes, choices in [
        ("JPEG", ("L", "RGB", "CMYK"), ({}, {"progressive": True}, {"subsampling": 1})),
        ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), ({},)),
        ("GIF", ("L", "P"), ({"interlace": 0}, {"interlace": 1})),
        ("WEBP", ("RGB", "RGBA"), ({}, {"lossless": True})),
        ("BMP", ("1", "L", "P", "RGB", "RGBA"), ({},)),
        ("TIFF", ("1", "L", "P", "RGB", "RGBA"), ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"})),
        ("TIFF", ("1",), ({"compression": "group4"},)),
        ("TIFF", ("RGB",), ({"compression": "jpeg"}, {"compression": "packbits"}, {"big_tiff": True})),
        ("JPEG2000", ("L", "RGB"), ({}, {"no_jp2": True}, {"irreversible": True}, {"tile_size": (32, 32)})),
        ("PPM", ("1", "L", "RGB"), ({},)),
        ("AVIF", ("L", "RGB", "RGBA"), ({"speed": 10},)),
    ]
    for mode in modes
    for options in choices
]
if not features.check("avif"):
    FORMS = [form for form in FORMS if form[0] != "AVIF"]


def opencv_reads(body: bytes) -> bool:
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED) is not None


def made(form: tuple[str, str, dict[str, Any]], width: int, height: int) -> bytes:
    name, mode, options = form
    values = np.random.default_rng(width).integers(0, 255, (height, width), dtype=np.uint8)
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    return encoded(image, name, **options)


@hypothesis_settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(FORMS), width=st.integers(1, 90), height=st.integers(1, 90))
def test_what_a_head_promises_is_what_is_decoded(
    form: tuple[str, str, dict[str, Any]], width: int, height: int
) -> None:
    body = made(form, width, height)
    head = header(body)
    assert (head.width, head.height) == (width, height)
    if opencv_reads(body):
        picture = pixels.resized(body, head, DownloadSettings())
        assert (picture.original_width, picture.original_height) == (width, height)
    else:
        with pytest.raises(PictureError):
            pixels.resized(body, head, DownloadSettings())


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    part=st.floats(0, 1),
)
def test_a_damaged_head_is_a_size_or_a_reason(
    form: tuple[str, str, dict[str, Any]], changes: list[tuple[int, int]], part: float
) -> None:
    body = bytearray(made(form, 40, 30))
    for place, value in changes:
        body[place % len(body)] = value
    try:
        head = header(bytes(body[: int(part * len(body))]))
    except PictureError as error:
        assert error.reason in reasons.REASONS
    else:
        assert 0 < head.width * head.height <= pixels.MAX_PIXELS


def jpeg_with(inserted: bytes) -> bytes:
    """Right after its beginning."""
    body = encoded(flat(300, 200), "JPEG")
    return body[:2] + inserted + body[2:]


PASSED_OVER: dict[str, Callable[[], bytes]] = {
    "padding before a marker": lambda: jpeg_with(b"\xff" * 3000),
    "much padding before many markers": lambda: jpeg_with((b"\xff" * 1000 + b"\xfe\0\2") * 50),
    "restart markers before the first scan": lambda: jpeg_with(b"\xff\xd0\xff\xd7"),
    "a marker of no meaning": lambda: jpeg_with(b"\xff\x01"),
    "a comment of 20 kB": lambda: b"P6\n#" + b"x" * 20_000 + b"\n300 200\n255\n" + bytes(3 * 300 * 200),
}


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_decoders_pass_over_does_not_hide_the_picture(name: str) -> None:
    body = PASSED_OVER[name]()
    picture = pixels.resized(body, header(body), DownloadSettings())
    assert (picture.original_width, picture.original_height) == (300, 200)


def of_two_sizes() -> bytes:
    """A JPEG 2000 whose box says another size than what it holds."""
    body = bytearray(encoded(flat(1000), "JPEG2000"))
    at = body.index(b"ihdr") + 4
    body[at : at + 8] = struct.pack(">II", 100, 100)
    return bytes(body)


def of_tile(side: int) -> bytes:
    return dearest.tiff(100, 100, {259: 8, 322: side, 323: side, 324: 8, 325: 4}, b"data")


def of_two_frames() -> bytes:
    body = encoded(flat(64), "JPEG")
    at = body.index(b"\xff\xc0")
    frame = bytearray(body[at : at + 19])
    frame[5:9] = struct.pack(">HH", 9000, 9000)
    return body[:at] + bytes(frame) + body[at:]


def webp_in_another_canvas() -> bytes:
    return bombs.webp(300, 300)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "numbers with comments in them": (lambda: b"P4\n32000#1\n 16000\n" + bytes(4000), reasons.NOT_AN_IMAGE),
    "a number that ends in letters": (lambda: b"P6\n10x 10\n255\n" + bytes(300), reasons.NOT_AN_IMAGE),
    "a sign": (lambda: b"P6\n+10 10\n255\n" + bytes(300), reasons.NOT_AN_IMAGE),
    "a tile of 900 megapixels": (lambda: of_tile(30_000), reasons.TOO_MANY_PIXELS),
    "a tile of another size": (lambda: of_tile(8000), reasons.TOO_MANY_PIXELS),
    "two widths": (
        lambda: bombs.tiff(9, 9).replace(struct.pack("<HHI", 259, 4, 1), struct.pack("<HHI", 256, 4, 1)),
        reasons.UNDECODABLE,
    ),
    "a JPEG 2000 of two sizes": (of_two_sizes, reasons.UNDECODABLE),
    "a JPEG of two frames": (of_two_frames, reasons.UNDECODABLE),
    "a PNG of two heads": (
        lambda: bombs.png(64, 64, before=bombs.png(9000, 9000, 1)[8:33]), reasons.UNDECODABLE,
    ),
    "a WebP in another canvas": (webp_in_another_canvas, reasons.NOT_AN_IMAGE),
    "a bitmap of a negative width": (lambda: bombs.bmp(-30, 30), reasons.NOT_AN_IMAGE),
    "a JPEG of 12 bits": (
        lambda: encoded(flat(9), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), reasons.UNDECODABLE,
    ),
    "a lossless JPEG": (lambda: encoded(flat(9), "JPEG").replace(b"\xff\xc0", b"\xff\xc3"), reasons.UNDECODABLE),
    "floats": (lambda: b"PF\n9 9\n-1\n" + bytes(972), reasons.UNDECODABLE),
    "an icon": (lambda: encoded(flat(64), "ICO"), reasons.NOT_AN_IMAGE),
    "an icon of 65,535 pictures": (lambda: b"\0\0\1\0\xff\xff" + bytes(16 * 65_535), reasons.NOT_AN_IMAGE),
    "PAM": (lambda: b"P7\nWIDTH 9\nHEIGHT 9\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(243), reasons.NOT_AN_IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(name: str) -> None:
    body, reason = REFUSED[name][0](), REFUSED[name][1]
    with pytest.raises(PictureError) as caught:
        header(body)
    assert caught.value.reason == reason


def test_comments_between_the_numbers_of_a_pnm_are_read_over() -> None:
    body = b"P6 # a\n# another 99\r\n 12 #\n 7\t255\n" + bytes(252)
    picture = pixels.resized(body, header(body), DownloadSettings())
    assert (picture.original_width, picture.original_height) == (12, 7)


def test_a_bitmap_may_be_stored_from_the_top() -> None:
    body = bytearray(encoded(flat(20, 10), "BMP"))
    body[22:26] = struct.pack("<i", -10)
    assert header(bytes(body)).height == 10
    assert pixels.resized(bytes(body), header(bytes(body)), DownloadSettings()).height == 10


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF"])
def test_a_picture_of_another_size_than_its_head_promises_is_refused(form: str) -> None:
    promised = header(encoded(flat(64, 48), form))
    with pytest.raises(PictureError) as caught:
        pixels.resized(encoded(flat(65, 48), form), promised, DownloadSettings())
    assert caught.value.reason == reasons.UNDECODABLE


def test_a_tiff_on_its_side_has_the_size_that_it_is_decoded_with() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    out = io.BytesIO()
    flat(60, 40).save(out, "TIFF", exif=tags)
    picture = pixels.resized(out.getvalue(), header(out.getvalue()), DownloadSettings())
    assert {picture.original_width, picture.original_height} == {60, 40}


def test_profiles_and_previews_do_not_hide_the_head() -> None:
    """A photograph with 120 segments of a profile, a preview with a head of its own and an extended description."""
    image = flat(300, 200)
    body = encoded(
        image, "JPEG", icc_profile=zlib.compress(bytes(1 << 20)) + bytes(7 << 20), comment=encoded(flat(40), "JPEG")
    )
    head = header(body)
    assert (head.width, head.height) == (300, 200)
    assert body[head.scans : head.scans + 2] == b"\xff\xda"
