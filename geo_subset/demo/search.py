"""The world's image vectors, exact search among them, and removal of near-duplicates from what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geo_subset.demo import features
from geo_subset.demo.features import Vectors

Ids = npt.NDArray[np.int64]

#: Cosine above which clip-retrieval takes two images for one.
DUPLICATE = 0.94
_SEED = 2022
# Lengths beside a caption's vector of length 1: how far an image is from its caption, a near-duplicate from its image.
_NOISE, _NEAR = 0.35, 0.1


@dataclass(frozen=True)
class Index:
    """Image vectors as columns, shape (DIMENSIONS, images): a query of few words then reads few rows of it."""

    weights: features.Weights
    vectors: Vectors


def build(captions: Sequence[str], looks: Ids) -> Index:
    """An index over images that look like their caption, each in its own way.

    `looks[i]` is i, or the number of an earlier image that image i is a near-duplicate of.
    """
    weights = features.learn(captions)
    rows = features.embed(weights, captions)
    random = np.random.default_rng(_SEED)
    rows = features.normalised(rows + _noise(random, len(rows), _NOISE))
    copies = np.flatnonzero(looks != np.arange(len(looks)))
    rows[copies] = features.normalised(rows[looks[copies]] + _noise(random, len(copies), _NEAR))
    return Index(weights, np.ascontiguousarray(rows.T))


def text_vector(index: Index, text: str) -> Vectors:
    """Unit vector of a query, shape (DIMENSIONS,)."""
    vector: Vectors = features.embed(index.weights, [text])[0]
    return vector


def nearest(index: Index, query: Vectors, count: int) -> tuple[Ids, Vectors]:
    """The `count` images of highest dot product with `query` (all, if there are fewer), best first, ties by number.

    A query of text has few dimensions that are not zero; only those are read, which changes nothing but the time.
    """
    used = np.flatnonzero(query)
    scores = query[used] @ index.vectors[used]
    count = min(count, len(scores))
    worst = np.partition(scores, len(scores) - count)[len(scores) - count]
    found = np.flatnonzero(scores >= worst)
    found = found[np.lexsort((found, -scores[found]))][:count]
    return found, scores[found]


def without_duplicates(index: Index, ids: Ids) -> npt.NDArray[np.bool_]:
    """Which of `ids` to keep: the first of every group that a chain of cosines above DUPLICATE holds together."""
    vectors = index.vectors[:, ids]
    near = vectors.T @ vectors > DUPLICATE
    np.fill_diagonal(near, True)
    group = np.arange(len(ids))
    while True:
        smallest = np.where(near, group, len(ids)).min(axis=1, initial=len(ids))
        if np.array_equal(smallest, group):
            first: npt.NDArray[np.bool_] = group == np.arange(len(ids))
            return first
        group = smallest


def _noise(random: np.random.Generator, rows: int, length: float) -> Vectors:
    scale = np.float32(length / features.DIMENSIONS**0.5)
    noise: Vectors = random.standard_normal((rows, features.DIMENSIONS), np.float32) * scale
    return noise
