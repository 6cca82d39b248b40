"""Against the definition: every pixel of the result is the mean of what it covers, weighed by how much of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from geo_subset.download.area import shrunk


def shares(length: int, pixels: int, factor: float) -> Any:
    """(pixels, length): how much of each source pixel belongs to a pixel of the result; rows add up to 1."""
    low = np.minimum(np.arange(pixels) * factor, length - 1)[:, None]
    high = np.minimum(low + factor, length)
    at = np.arange(length)
    covered = np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None)
    return covered / covered.sum(axis=1, keepdims=True)


def expected(image: Any, size: tuple[int, int], factors: tuple[float, float]) -> Any:
    down = shares(image.shape[0], size[1], factors[1])
    across = shares(image.shape[1], size[0], factors[0])
    return np.einsum("yh,xw,hw...->yx...", down, across, image.astype(float))


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    more=st.tuples(st.integers(0, 90), st.integers(0, 90)),
    channels=st.sampled_from([None, 1, 3, 4]),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_pixels_are_means_of_what_they_cover(
    seed: int, size: tuple[int, int], more: tuple[int, int], channels: int | None, cut: tuple[float, float]
) -> None:
    width, height = size[0] + more[0], size[1] + more[1]
    shape = (height, width) if channels is None else (height, width, channels)
    image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    # As where a JPEG was decoded reduced: the last pixel may stand for less than a whole one.
    factors = max(1.0, (width - cut[0]) / size[0]), max(1.0, (height - cut[1]) / size[1])
    result = shrunk(image, size, factors)
    assert result.dtype == np.uint8
    assert result.shape == (size[1], size[0], *shape[2:])
    assert np.abs(result - expected(image, size, factors)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_an_even_picture_stays_as_it_is(value: int) -> None:
    image = np.full((301, 457, 3), value, np.uint8)
    for size in ((457, 301), (456, 300), (97, 41), (1, 1)):
        assert (shrunk(image, size, (457 / size[0], 301 / size[1])) == value).all()
