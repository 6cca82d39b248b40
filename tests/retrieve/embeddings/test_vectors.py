"""float16 and float32 into unit vectors, with a word on every row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from images import unit

from geo_subset.retrieve.embeddings import kernels, vectors


def test_every_float16_is_the_number_that_numpy_says():
    halves = np.arange(65_536, dtype=np.uint16).view(np.float16)
    finite = np.where(np.isfinite(halves), halves, np.float16(0)).reshape(-1, 16)
    out, status = np.empty((len(finite), 16), np.float32), np.zeros(len(finite), np.uint8)
    kernels.widen(finite.view(np.uint16), out, out.view(np.uint32), status)
    assert np.array_equal(out.view(np.uint32), finite.astype(np.float32).view(np.uint32))
    assert not status.any()
    kernels.widen(halves.reshape(-1, 16).view(np.uint16), out, out.view(np.uint32), status)
    assert np.array_equal(status == kernels.NOT_FINITE, ~np.isfinite(halves.reshape(-1, 16)).all(axis=1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_done_with_rows_is_counted(dtype):
    rows = unit(np.random.default_rng(0).standard_normal((6, 20))).astype(dtype)
    rows[1] *= 4
    rows[2] = 0
    rows[3, 5] = np.nan
    rows[4, 19] = -np.inf
    made, counters = vectors.prepare(rows), Counter[str]()
    vectors.count(made.status, counters)
    assert counters == {"vectors": 6, "vectors_normalised": 1, "vectors_zero": 1, "vectors_not_finite": 2}
    assert made.usable.tolist() == [True, True, False, False, False, True]
    assert made.vectors.shape == (6, 32)
    assert not made.vectors[:, 20:].any()
    assert not made.vectors[2:5].any()
    assert np.array_equal(made.vectors[0, :20], rows[0].astype(np.float32))  # as it was
    assert abs(np.linalg.norm(made.vectors[1].astype(np.float64)) - 1) < 1e-6


def test_large_and_small_numbers_do_not_overflow():
    made = vectors.prepare(np.array([[3e38] * 16, [1e-30] * 16], np.float32))
    assert made.status.tolist() == [kernels.NORMALISED] * 2
    assert np.allclose(made.vectors, 0.25)


def test_rows_go_where_they_are_wanted():
    rows, out = unit(np.random.default_rng(0).standard_normal((5, 16))), np.full((9, 16), 7, np.float32)
    made = vectors.prepare(rows, out)
    assert made.vectors.base is out
    assert (out[5:] == 7).all()
