"""Makes what is stored of a downloaded image: img2dataset's geometry and encoding, for less CPU.

Images come out in the size and with the channels that `img2dataset.resizer.Resizer` gives them: shrunk by area,
enlarged by Lanczos, transparency on white, grey stays grey, CMYK becomes colour; the orientation and the colour profile
that a file may name are not applied. Two things differ on purpose: 16 bits a channel become 8 (the Resizer's JPEG of
such an image is all white), and a file that ends early is told from one that cannot be decoded.

Only pixels of images that are shrunk differ: by at most 1 (of 255) where the area mean is rounded, and JPEGs in two
more ways:

- Those that store colour at half the size get the same colour for all pixels of a pair instead of one between those of
  its neighbours (libjpeg-turbo's fast upsampling); when they are shrunk, it is averaged anyway.
- They are decoded at a half, a quarter or an eighth of their size where that leaves twice what is asked for: libjpeg's
  scaled transform does the first halvings.

Before encoding, photographs of 259 to 2,100 pixels shrunk to 64 and 256 were within a PSNR of 38 dB and a mean
difference of 2 of the Resizer's (median 50 dB where JPEGs were decoded whole, 45 where reduced; less margin costs more:
1.5 times from 33 dB, once from 28); lines of one pixel and coloured noise within 26 dB and 9.

All functions may be called by many threads at once; OpenCV lets go of the interpreter's lock while it works.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import simplejpeg

from geo_subset.download import apart, area, reasons
from geo_subset.download.effort import bounded
from geo_subset.download.heads import MAX_PIXELS, is_cut
from geo_subset.download.heads import header as header
from geo_subset.download.picture import Header as Header
from geo_subset.download.picture import PictureError as PictureError
from geo_subset.settings import DownloadSettings

#: Bytes that all pictures in work in this process may hold together, by an estimate from their headers.
MEMORY = 768 << 20

#: How many times the size asked for a JPEG decoded at reduced scale must still have.
_MARGIN = 2
#: Bytes a pixel while anything but a JPEG is decoded: 4 channels of 16 bits, their 8-bit copy, and the decoder's own.
_OTHER_BYTES = 16
#: As IMREAD_UNCHANGED reads a JPEG (grey or colour as it is, not turned), but smaller.
_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
_FLAGS = {
    1: cv2.IMREAD_UNCHANGED,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | _AS_STORED,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | _AS_STORED,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | _AS_STORED,
}
_QUALITY = {"jpg": cv2.IMWRITE_JPEG_QUALITY, "png": cv2.IMWRITE_PNG_COMPRESSION, "webp": cv2.IMWRITE_WEBP_QUALITY}
_END_OF_JPEG = b"\xff\xd9"

#: glibc's mallopt (malloc.h): which blocks are mapped on their own, and how much that is free is kept, in bytes.
_MALLOPT = {-3: 8 << 20, -1: 16 << 20}

cv2.setNumThreads(0)  # whole pictures are what runs in parallel
if hasattr(ctypes.CDLL(None), "mallopt"):
    # By default the memory of a picture goes back to the system and is taken anew for the next one: 500 page faults an
    # image of 512 x 384 pixels, a quarter of its CPU.
    for parameter, value in _MALLOPT.items():
        ctypes.CDLL(None).mallopt(parameter, value)


@dataclass(frozen=True)
class Picture:
    """What is stored of an image. Sizes are in pixels; the original ones are those of the file that was downloaded."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int


def resized(body: bytes, head: Header, settings: DownloadSettings) -> Picture:
    """Decodes an image (of an animation: its first), resizes and encodes it as `settings` say. `head`: its header.

    `keep_ratio` and `keep_ratio_largest` never enlarge: that adds no information. `center_crop` and `border` do, as
    they promise one shape for all images. Waits while other threads hold the memory that the image needs.

    Raises PictureError with TOO_MANY_PIXELS, TOO_COSTLY, TOO_SMALL, ASPECT_RATIO, TRUNCATED or UNDECODABLE, and
    MemoryError; where the picture is decoded apart, ShortageError and OSError too.
    """
    if not head.apart:
        return resized_here(body, head, settings)
    # Its pixels are held by another process, which has its own limit: nobody here waits for them.
    size = _scaled_size(head.width, head.height, settings)
    _bytes_needed(head, _decoded_part(head, *size), *size)
    data, sizes = apart.resized(body, head, settings)
    return Picture(data, *sizes)


def effort(body: bytes, head: Header, settings: DownloadSettings) -> int:
    """The work of `resized` at most, counted in pixels of an ordinary JPEG. Raises PictureError as `resized` does."""
    made = math.prod(_scaled_size(head.width, head.height, settings))
    return head.effort + 2 * len(body) + head.width * head.height + made


def resized_here(body: bytes, head: Header, settings: DownloadSettings) -> Picture:
    """The same in this process, whatever the decoder then takes."""
    size = _scaled_size(head.width, head.height, settings)
    if head.scans and body.rfind(_END_OF_JPEG, head.scans) < 0:
        raise PictureError(reasons.TRUNCATED)
    part = _decoded_part(head, *size)
    with _memory.held(_bytes_needed(head, part, *size)):
        body = bounded(body, head)
        image = _decoded_jpeg(body, head, part, shrunk=math.prod(size) < head.width * head.height)
        if image is None:
            image = _decoded(body, part)
        height, width = image.shape[:2]
        if head.turned and (width, height) == (head.height, head.width):
            head = replace(head, width=width, height=height)
            size = _scaled_size(width, height, settings)
        if (width, height) != (-(-head.width // part), -(-head.height // part)):
            raise PictureError(reasons.UNDECODABLE, f"{width:,} x {height:,}, not as its head says")
        image = _fitted(_scaled(image, head, part, size), settings)
        height, width = image.shape[:2]
        return Picture(_encoded(image, settings), width, height, head.width, head.height)


@contextlib.contextmanager
def silent_decoders() -> Iterator[None]:
    """Sends what the decoders' C code prints about bad images nowhere; Python's own messages still come.

    For the whole process, so it belongs around the work on many images and not around each.
    """
    python_stderr, standard_error, nowhere = sys.stderr, os.dup(2), os.open(os.devnull, os.O_WRONLY)
    python_stderr.flush()
    try:
        os.dup2(nowhere, 2)
        with os.fdopen(os.dup(standard_error), "w", buffering=1, encoding="utf-8", errors="replace") as sys.stderr:
            yield
    finally:
        sys.stderr = python_stderr
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.close(nowhere)


def _scaled_size(width: int, height: int, settings: DownloadSettings) -> tuple[int, int]:
    """Width and height after scaling and before cropping and padding, rounded as albumentations 1.4 does."""
    if min(width, height) < settings.min_image_size:
        raise PictureError(reasons.TOO_SMALL, f"{width:,} x {height:,}")
    if max(width, height) / min(width, height) > (settings.max_aspect_ratio or float("inf")):
        raise PictureError(reasons.ASPECT_RATIO, f"{width:,} x {height:,}")
    mode = settings.resize_mode
    side = min(width, height) if mode in ("keep_ratio", "center_crop") else max(width, height)
    if mode == "no" or (side <= settings.image_size and mode in ("keep_ratio", "keep_ratio_largest")):
        return width, height
    scale = settings.image_size / side
    scaled = max(1, round(width * scale)), max(1, round(height * scale))
    # A line of 1 x 10,000 pixels would be enlarged to 256 x 2,560,000 before its centre is cut out.
    if math.prod(scaled) > max(MAX_PIXELS, settings.image_size**2):
        raise PictureError(reasons.ASPECT_RATIO, f"{width:,} x {height:,}")
    return scaled


def _decoded_part(head: Header, width: int, height: int) -> int:
    """1, 2, 4 or 8: a JPEG that is to be shrunk to `width` x `height` is decoded at this part of its size."""
    for part in (8, 4, 2):
        if head.scans and head.width >= _MARGIN * part * width and head.height >= _MARGIN * part * height:
            return part
    return 1


def _bytes_needed(head: Header, part: int, width: int, height: int) -> int:
    """An estimate of what decoding, scaling to `width` x `height` and encoding hold at one time."""
    pixel = 3 if head.is_jpeg else _OTHER_BYTES
    decoded = head.decoder_bytes + pixel * (head.width // part + 1) * (head.height // part + 1)
    if (width, height) != (head.width, head.height):
        decoded += area.bytes_needed(head.width // part + 1, 3)
    if decoded > MEMORY:
        raise PictureError(reasons.TOO_MANY_PIXELS, f"{head.width:,} x {head.height:,}, {decoded:,} bytes")
    return decoded + 6 * width * height


def _decoded_jpeg(body: bytes, head: Header, part: int, shrunk: bool) -> Any:
    """An array as from `_decoded`, in two thirds of the time if it is to be `shrunk`. None: no JPEG, or an unusual one.

    Raises PictureError: TRUNCATED, which OpenCV would fill up with grey.
    """
    if head.channels not in (1, 3):
        return None
    try:
        image = simplejpeg.decode_jpeg(
            body, "GRAY" if head.channels == 1 else "BGR", fastupsample=shrunk,
            min_height=-(-head.height // part), min_width=-(-head.width // part),
        )  # fmt: skip
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise PictureError(reasons.TRUNCATED) from error
        return None  # whatever libjpeg-turbo warns of: OpenCV passes over some of it
    return image[:, :, 0] if head.channels == 1 else image


def _decoded(body: bytes, part: int) -> Any:
    """An array of 8-bit values, height x width (grey) or height x width x 3 (blue, green, red)."""
    try:
        image = cv2.imdecode(np.frombuffer(body, np.uint8), _FLAGS[part])
        if image is not None and image.dtype == np.uint16:
            image = cv2.convertScaleAbs(image, alpha=1 / 257)
        if image is not None and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 4:
            image = _on_white(image)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        image = None
    # Values of other types have no known range, and no format is stored with two or five channels.
    if image is None or image.dtype != np.uint8 or (image.ndim == 3 and image.shape[2] != 3):
        raise PictureError(reasons.TRUNCATED if is_cut(body) else reasons.UNDECODABLE)
    return image


def _on_white(image: Any) -> Any:
    """Rounded to the nearest, as `alpha / 255 * image + 255 - alpha` is; no value lies halfway between two."""
    colour = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    alpha = cv2.cvtColor(cv2.extractChannel(image, 3), cv2.COLOR_GRAY2BGR)
    cv2.multiply(colour, alpha, dst=colour, scale=1 / 255)
    cv2.bitwise_not(alpha, dst=alpha)
    return cv2.add(colour, alpha, dst=colour)


def _scaled(image: Any, head: Header, part: int, size: tuple[int, int]) -> Any:
    """`image` is the picture that `head` tells of, at a `part` of its size."""
    width, height = size
    if size == (head.width, head.height):
        return image
    if width > head.width or height > head.height:
        return cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4)
    # Where the file's size is no multiple of the part, the last pixels decoded stand for fewer of the file's than the
    # others do: the factors do not follow from the sizes of the arrays.
    return area.shrunk(image, size, (head.width / part / width, head.height / part / height))


def _fitted(image: Any, settings: DownloadSettings) -> Any:
    """Cut, or filled up with white, to a square where the mode says so; the odd pixel is one right or below."""
    height, width = image.shape[:2]
    side = settings.image_size
    if settings.resize_mode == "center_crop":
        top, left = (height - side) // 2, (width - side) // 2
        return image[top : top + side, left : left + side]
    if settings.resize_mode == "border":
        top, left = (side - height) // 2, (side - width) // 2
        edges = top, side - height - top, left, side - width - left
        return cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    return image


def _encoded(image: Any, settings: DownloadSettings) -> bytes:
    try:
        quality = [_QUALITY[settings.encode_format], settings.encode_quality]
        done, data = cv2.imencode(f".{settings.encode_format}", image, quality)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        done = False
    if not done:  # sides are limited: to 65,500 pixels in a JPEG, to 16,383 in a WebP
        height, width = image.shape[:2]
        raise PictureError(reasons.TOO_MANY_PIXELS, f"{width:,} x {height:,} for {settings.encode_format}")
    return bytes(data)


class _Memory:
    """Lets threads hold at most `limit` bytes together, or one alone more. They are let in one by one, so that those
    who need little do not keep out one who needs much."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._door, self._changed = threading.Lock(), threading.Condition()

    @contextlib.contextmanager
    def held(self, size: int) -> Iterator[None]:
        with self._door, self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


_memory = _Memory(MEMORY)
