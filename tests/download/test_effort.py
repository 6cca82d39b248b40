"""Pictures whose heads are harmless and whose rest is not: the work is bounded before it begins."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from geo_subset.download import pixels, reasons
from geo_subset.download.picture import PictureError
from geo_subset.download.pixels import Picture, header
from geo_subset.settings import DownloadSettings

from . import dearest
from .dearest import encoded, flat

#: Seconds of CPU, a few times what the dearest picture takes on a slow machine.
MOST = 5.0


def resized(body: bytes) -> Picture:
    return pixels.resized(body, header(body), DownloadSettings())


COSTLY: dict[str, Callable[[], bytes]] = {
    "JPEG of 200 scans": lambda: dearest.jpeg_of_scans(200, 3000),
    "JPEG of 60 large scans": lambda: dearest.jpeg_of_scans(60, 6000),
    "small JPEG of 5,000 scans": lambda: dearest.jpeg_of_scans(5000, 64),
    "JPEG of segments between its scans": lambda: dearest.jpeg_of_segments_between_scans(4_000_000),
    "GIF of clear codes": lambda: dearest.gif_of_clear_codes(20_000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_picture_that_costs_too_much_is_refused_before_it_is_decoded(name: str) -> None:
    body = COSTLY[name]()
    began = time.process_time()
    with pytest.raises(PictureError) as caught:
        resized(body)
    if header(body).form != "GIF" or opencv_reads_gifs():
        assert caught.value.reason == reasons.TOO_COSTLY
    assert time.process_time() - began < MOST


def opencv_reads_gifs() -> bool:
    body = encoded(Image.new("P", (9, 9)), "GIF")
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED) is not None


@pytest.mark.parametrize("make", [dearest.png_of_texts, dearest.png_of_late_texts])
def test_texts_of_a_png_are_not_unpacked(make: Callable[[int], bytes]) -> None:
    """1,500 texts of 7 MB: 15 s."""
    body = make(1500)
    plain = make(0)
    began = time.process_time()
    assert resized(body) == resized(plain)
    assert time.process_time() - began < MOST


def test_a_png_without_its_texts_is_the_same_picture() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "short")
    texts.add_text("b", "IDAT zTXt IEND" * 300, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "<x/>" * 300, zip=True)
    image = Image.linear_gradient("L").convert("RGB")
    assert resized(encoded(image, "PNG", pnginfo=texts)) == resized(encoded(image, "PNG"))


@pytest.mark.parametrize("subsampling", [0, 2])
def test_an_ordinary_progressive_jpeg_of_any_size_stays(subsampling: int) -> None:
    for side in (40, 700, 3000):
        body = encoded(flat(side), "JPEG", progressive=True, subsampling=subsampling)
        assert resized(body).original_width == side


def test_the_scans_of_what_follows_a_picture_do_not_count() -> None:
    """As in the files of cameras that store two pictures in one."""
    one = encoded(flat(300), "JPEG", progressive=True)
    assert resized(one + one * 40) == resized(one)


def gif_without_compression(width: int, height: int) -> bytes:
    """Codes of 8 bits, with a clear code before each 126."""
    pixels_ = bytes(n % 100 for n in range(width * height))
    codes = b"".join(b"\x80" + pixels_[n : n + 126] for n in range(0, len(pixels_), 126)) + b"\x81"
    blocks = b"".join(bytes([len(part)]) + part for part in (codes[n : n + 255] for n in range(0, len(codes), 255)))
    palette = bytes(n // 3 * 2 for n in range(3 * 128))
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xE6, 0, 0) + palette
    return head + b"\x2c\0\0\0\0" + struct.pack("<HH", width, height) + b"\0\x07" + blocks + b"\0;"


@pytest.mark.skipif(not opencv_reads_gifs(), reason="this OpenCV reads no GIF")
def test_a_gif_without_compression_stays() -> None:
    assert resized(gif_without_compression(1500, 1200)).original_width == 1500
