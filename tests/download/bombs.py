"""Image files that are not what they seem: small to send and huge to decode, or cut off."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from .conftest import image_bytes


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, rows: int | None = None, before: bytes = b"", colour: int = 6, depth: int = 8
) -> bytes:
    """A PNG of zeros, RGBA, that holds only the first `rows` rows of what it promises."""
    row = bytes(1 + width * 4 * depth // 8)
    deflate = zlib.compressobj(1)
    data = b"".join(deflate.compress(row) for _ in range(height if rows is None else rows)) + deflate.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, 6, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png_of_36_megapixels() -> bytes:
    """144 MB once decoded; about 140 KB to send."""
    return png(6000, 6000)


def png_of_24_megapixels() -> bytes:
    """Below the cap, so that it is decoded: 96 MB."""
    return png(4899, 4899)


def png_of_16_bits() -> bytes:
    """Below the cap, 190 MB decoded."""
    return png(4899, 4899, depth=16)


def png_with_text(kind: bytes) -> bytes:
    """A small picture with a compressed text or colour profile of 200 MB."""
    deflate = zlib.compressobj(6)
    text = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(200)) + deflate.flush()
    return png(64, 64, before=chunk(kind, b"name\0\0" + text))


def jpeg(width: int, height: int) -> bytes:
    """A JPEG of 32 x 32 whose header promises another size."""
    body = bytearray(image_bytes(32, 32))
    at = body.index(b"\xff\xc0") + 5
    body[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(body)


def jpeg_of_90_megapixels() -> bytes:
    """A true one, below the cap: 270 MB decoded."""
    out = io.BytesIO()
    Image.new("RGB", (9486, 9486), (120, 10, 10)).save(out, "JPEG", quality=50)
    return out.getvalue()


def gif(width: int, height: int, frames: int = 1) -> bytes:
    """Frames of one pixel each on a canvas of any size."""
    frame = (
        b"\x21\xf9\x04\x00\x01\x00\x00\x00"
        b"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00"
        b"\x02\x02\x44\x01\x00"
    )  # fmt: skip
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0)
    return b"GIF89a" + screen + b"\0\0\0\xff\xff\xff" + frame * frames + b";"


def webp(width: int, height: int) -> bytes:
    """An extended WebP whose canvas is of any size (24 bits a side) around a picture of 16 x 16."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "WEBP", lossless=True)
    picture = out.getvalue()[12:]
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + picture
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_of_36_megapixels() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(out, "WEBP", quality=1, method=0)
    return out.getvalue()


def tiff(width: int, height: int) -> bytes:
    """A TIFF in RGB whose one strip is 4 bytes long."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 2), (273, 8), (277, 3), (278, height), (279, 4)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 12) + b"data" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def tiff_of_36_megapixels() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(out, "TIFF", compression="tiff_deflate")
    return out.getvalue()


def bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + head + bytes(6)


def noise(form: str, width: int = 240, height: int = 180) -> bytes:
    """A picture in which every part of the file matters, in a format of Pillow's."""
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def cut(form: str) -> bytes:
    """The first half of a file; its header is whole."""
    body = noise(form)
    return body[: len(body) // 2]
