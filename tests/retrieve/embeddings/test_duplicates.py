"""Near-duplicates: what stays is apart, what goes is near something better that stays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from images import unit

from geo_subset.retrieve.embeddings import duplicates, vectors


def one_by_one(rows, urls, limit):
    """The rule, as it is told."""
    kept: list[int] = []
    near = same = 0
    for number in range(len(rows)):
        if len(kept) == limit:
            break
        if urls[number] in set(urls[:number]):
            same += 1
        elif any(float(rows[number].astype(np.float64) @ rows[k].astype(np.float64)) > 0.94 for k in kept):
            near += 1
        else:
            kept.append(number)
    return kept, near, same


@hypothesis_settings(max_examples=60)
@given(st.integers(0, 700), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_as_told(count, limit, seed):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((30, 32))
    rows = vectors.prepare(unit(centres[rng.integers(30, size=count)] + 0.25 * rng.standard_normal((count, 32))))
    urls = rng.integers(max(1, 2 * count), size=count)
    found = duplicates.remove(rows.vectors, urls, limit)
    kept, near, same = one_by_one(rows.vectors, urls, limit)
    assert found.numbers.tolist() == kept
    assert (found.near_duplicates, found.same_url) == (near, same)


def test_a_chain_is_not_one_image():
    """0, 17, 34 degrees: neighbours are near, the ends are not. clip-retrieval's components would leave one."""
    angles = np.deg2rad([0, 17, 34, 51])
    rows = np.zeros((4, 16), np.float32)
    rows[:, 0], rows[:, 1] = np.cos(angles), np.sin(angles)
    found = duplicates.remove(rows, np.arange(4), 4)
    assert found.numbers.tolist() == [0, 2]
    assert found.near_duplicates == 2


def test_places_taken_by_near_duplicates_are_refilled():
    rng = np.random.default_rng(0)
    rows = np.repeat(unit(rng.standard_normal((40, 64))), 3, axis=0)
    found = duplicates.remove(rows, np.arange(120), 30)
    assert found.numbers.tolist() == list(range(0, 90, 3))
    assert found.near_duplicates == 58  # of those before the last that stays
