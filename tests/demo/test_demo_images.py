"""Pictures: the same every time, of the kind their URL says, and telling places apart."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from geo_subset.demo import images


def _pixels(address: str, place: str) -> np.ndarray:
    data, _ = images.picture(address, (place,), "a caption")
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((32, 24)), np.float64)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("a.jpg", "image/jpeg"), ("a.png", "image/png"), ("a.WEBP?x=.png", "image/webp"), ("a", "image/jpeg")],
)
def test_bytes_depend_on_the_url_and_are_of_its_kind(path: str, kind: str) -> None:
    first, told = images.picture(f"127.0.0.2/{path}", ("Austin, Texas",), "Zoo")
    assert told == kind == Image.MIME[Image.open(io.BytesIO(first)).format or ""]
    assert images.picture(f"127.0.0.2/{path}", ("Austin, Texas",), "Zoo") == (first, told)
    assert images.picture(f"127.0.0.3/{path}", ("Austin, Texas",), "Zoo")[0] != first


def test_a_picture_is_most_like_others_of_its_place() -> None:
    cities = [f"City {number}, State" for number in range(12)]
    views = [(city, _pixels(f"127.0.0.2/{city}/{n}.jpg", city)) for city in cities for n in range(4)]
    told = 0
    for city, view in views:
        others = [(np.abs(view - other).mean(), name) for name, other in views if other is not view]
        told += min(others)[1] == city
    assert told > 0.95 * len(views)


def test_sizes_vary_and_any_caption_can_be_written() -> None:
    sizes = set()
    for number, caption in enumerate(["", "Zoo\nAustin", "中央駅 ☃ \x00", "x" * 5000] * 6):
        data, _ = images.picture(f"127.0.0.2/{number}.jpg", (), caption)
        sizes.add(Image.open(io.BytesIO(data)).size)
    assert len(sizes) > 3


def test_two_places_stand_side_by_side() -> None:
    data, _ = images.picture("127.0.0.2/both.jpg", ("Austin, Texas", "Boston, Massachusetts"), "Both")
    image = np.asarray(Image.open(io.BytesIO(data)), np.float64)
    middle, row = image.shape[1] // 2, image.shape[0] // 4
    assert np.abs(image[row, middle - 8] - image[row, middle + 8]).sum() > 40


def test_tiny_is_a_single_pixel() -> None:
    data, kind = images.tiny("127.0.0.2/t.gif")
    assert (Image.open(io.BytesIO(data)).size, kind) == ((1, 1), "image/png")
