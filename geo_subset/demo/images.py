"""Pictures that a person can tell apart: each place has its own sky, skyline and landmark, each URL its own view.

The bytes depend on nothing but the URL, the places it shows and its caption (and on the versions of Pillow).
"""

from __future__ import annotations

import colorsys
import io
import math
import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from geo_subset.demo.web import digest

_Color = tuple[int, int, int]
# PNG and WebP are slow to write, so only small pictures are.
_JPEG_SIZES = ((320, 240), (400, 300), (480, 360), (360, 480), (640, 480), (640, 426), (800, 600), (1024, 768))
_JPEG_WEIGHTS = (4, 5, 5, 3, 4, 3, 1, 1)
_SMALL_SIZES = ((320, 240), (240, 320), (300, 300))
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def picture(address: str, places: tuple[str, ...], caption: str) -> tuple[bytes, str]:
    """The picture at a URL (given by its `web.address`) and its content type.

    It shows `places` side by side, their names above and the caption below; with no place, what the caption tells.
    """
    dice = random.Random(digest(address))
    form = _format(address)
    if form == "JPEG":
        width, height = dice.choices(_JPEG_SIZES, _JPEG_WEIGHTS)[0]
    else:
        width, height = dice.choice(_SMALL_SIZES)
    shown = places or (caption,)
    image = _scene(shown[0], dice, width, height)
    for number, place in enumerate(shown[1:], 1):
        left = width * number // len(shown)
        image.paste(_scene(place, dice, width - left, height), (left, 0))
    _label(image, " | ".join(places), caption)
    return _encoded(image, form), _TYPES[form]


def tiny(address: str) -> tuple[bytes, str]:
    """A single pixel, as trackers and placeholders send it."""
    return _encoded(Image.new("RGB", (1, 1), _color(digest(address) % 100 / 100, 0.3, 0.9)), "PNG"), _TYPES["PNG"]


def _format(address: str) -> str:
    path = address.partition("?")[0].lower()
    if path.endswith((".png", ".webp")):
        return path.rpartition(".")[2].upper()
    return "JPEG"


def _scene(place: str, dice: random.Random, width: int, height: int) -> Image.Image:
    """The place as it always is (from `look`), seen from a place and at an hour of this picture (from `dice`)."""
    look = random.Random(digest(place))
    # A sky may be anything from turquoise over blue and violet to orange, not green.
    hue, ground_hue, wall_hue = look.uniform(0.48, 1.08), look.random(), look.random()
    light = dice.uniform(0.85, 1.0)
    top = _color(hue, 0.7, 0.5 * light + 0.1)
    bottom = _color(hue + look.uniform(0.05, 0.25), 0.35, 0.98 * light)
    image = _gradient(top, bottom, width, height)
    draw = ImageDraw.Draw(image)
    horizon = height * look.uniform(0.62, 0.76)
    shift = dice.uniform(-0.1, 0.1) * width
    sun, at = height * look.uniform(0.05, 0.1), (dice.uniform(0.1, 0.9) * width, dice.uniform(0.15, 0.4) * height)
    draw.ellipse((at[0] - sun, at[1] - sun, at[0] + sun, at[1] + sun), _color(hue + 0.5, 0.25, 1.0))

    far = [(x / 8, look.uniform(0.05, 0.3) * look.choice((0.3, 1.0))) for x in range(-1, 10)]
    ridge = [(x * width + shift / 2, horizon - rise * height) for x, rise in far]
    hill = _color(ground_hue, 0.35, 0.6 * light)
    draw.polygon([(ridge[0][0], horizon), *ridge, (ridge[-1][0], horizon)], hill)

    count = look.randrange(6, 15)
    for number in range(count):
        tall, wide = look.uniform(0.08, 0.5) * height, look.uniform(0.5, 1.0) * width / count
        left = (number + look.uniform(-0.2, 0.2)) * width / count + shift
        wall = _color(wall_hue + look.uniform(-0.06, 0.06), 0.45, look.uniform(0.3, 0.75) * light)
        draw.rectangle((left, horizon - tall, left + wide, horizon), wall)
        if look.random() < 0.3:
            draw.polygon(
                [(left, horizon - tall), (left + wide / 2, horizon - tall * 1.3), (left + wide, horizon - tall)], wall
            )
        window = _color(0.14, 0.5, 1.0)
        for floor in range(1, int(tall / (height / 14))):
            y = horizon - floor * height / 14
            draw.line((left + wide * 0.2, y, left + wide * 0.8, y), window)
    _landmark(draw, look, (look.uniform(0.2, 0.8) * width + shift, horizon), height, _color(wall_hue + 0.5, 0.8, light))
    draw.rectangle((0, horizon, width, height), _color(ground_hue, 0.55, 0.5 * light))
    return image


def _landmark(
    draw: ImageDraw.ImageDraw, look: random.Random, foot: tuple[float, float], height: int, color: _Color
) -> None:
    """A tower, an arch, a dome or a wheel, in the colour that its surroundings have not."""
    (x, y), size = foot, look.uniform(0.18, 0.28) * height
    shape = look.choice(("tower", "arch", "dome", "wheel"))
    if shape == "tower":
        draw.polygon([(x - size / 5, y), (x, y - 2.1 * size), (x + size / 5, y)], color)
    elif shape == "arch":
        draw.arc((x - size, y - 1.6 * size, x + size, y + 1.6 * size), 180, 360, color, max(3, height // 30))
    elif shape == "dome":
        draw.pieslice((x - size, y - 1.5 * size, x + size, y + 0.5 * size), 180, 360, color)
        draw.rectangle((x - size, y - 0.5 * size, x + size, y), color)
    else:
        middle = y - 1.1 * size
        draw.ellipse((x - size, middle - size, x + size, middle + size), outline=color, width=max(2, height // 60))
        for spoke in range(8):
            angle = spoke * math.pi / 4
            draw.line((x, middle, x + size * math.cos(angle), middle + size * math.sin(angle)), color, 2)


def _label(image: Image.Image, name: str, caption: str) -> None:
    draw = ImageDraw.Draw(image)
    size = max(12, image.height // 18)
    letters = int(image.width / (size * 0.5))
    draw.text((size // 2, size // 2), name[:letters], "white", _font(size))
    small = max(10, image.height // 26)
    draw.rectangle((0, image.height - 2 * small, image.width, image.height), (20, 20, 20))
    letters = int(image.width / (small * 0.5))
    shown = caption if len(caption) <= letters else f"{caption[: letters - 1]}…"
    draw.text((small // 2, image.height - 1.6 * small), shown.replace("\n", " "), "white", _font(small))


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _gradient(top: _Color, bottom: _Color, width: int, height: int) -> Image.Image:
    column = np.linspace(top, bottom, height).astype(np.uint8)[:, None, :]
    return Image.fromarray(column).resize((width, height), Image.Resampling.NEAREST)


def _color(hue: float, saturation: float, value: float) -> _Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, min(value, 1.0))
    return int(255 * red), int(255 * green), int(255 * blue)


def _encoded(image: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    if form == "JPEG":
        image.save(stream, form, quality=80)
    elif form == "PNG":
        image.save(stream, form, compress_level=1)
    else:
        image.save(stream, form, quality=75, method=0)
    return stream.getvalue()
