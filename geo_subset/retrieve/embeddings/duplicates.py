"""Near-duplicates among a place's candidates: the same picture in another size, crop or compression. Pure.

A candidate is left out if its cosine with a better one that stays is over 0.94, clip-retrieval's own threshold (its
backend removes such images after the search). Greedy, best first, and not transitive: clip-retrieval takes whole
connected components of the graph of close pairs and keeps one image of each, so that A is removed for C though they
differ, when B lies between them; chains of similar pictures (a skyline at all hours) collapse into one image. Here
every image that is left out has one that stays within 0.94 of it, better ranked, and no two that stay are that close:
a maximal independent set in order of rank, as non-maximum suppression makes it. More stays, and nothing that stays is
a near-duplicate.

Rows with the URL of a better one are left out too. The caller hands in more candidates than it wants
(`plan.candidates`), so that a place is refilled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geo_subset.retrieve.embeddings import kernels
from geo_subset.retrieve.embeddings.vectors import Floats

THRESHOLD = 0.94
_BATCH = 256
#: A float32 product of unit vectors is within this of the exact one, whatever the library: cosines this close to the
#: threshold are computed as kernels.tree_dot does, so that every machine decides alike.
_DOUBT = 1e-3


@dataclass(frozen=True)
class Kept:
    """Numbers of the candidates that stay, best first, and how many of those before the last were left out."""

    numbers: npt.NDArray[np.int64]
    near_duplicates: int
    same_url: int


def remove(vectors: Floats, urls: npt.NDArray[np.int64], limit: int) -> Kept:
    """Up to `limit` of a place's candidates.

    `vectors` (n, d), padded and of length 1, and `urls` (n,), equal numbers for equal URLs, are of its candidates, best
    first. Candidates after the last that stays are not looked at, and not counted.
    """
    count = len(vectors)
    first_of_url = np.zeros(count, np.bool_)
    first_of_url[np.unique(urls, return_index=True)[1]] = True
    (numbers,) = np.nonzero(first_of_url)
    rows = vectors if len(numbers) == count else vectors[numbers]
    kept, staying, looked = np.empty(limit, np.int64), 0, 0
    work = np.empty(vectors.shape[1] // 2)
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        staying, seen = kernels.greedy(
            rows, batch @ rows[: start + len(batch)].T, start, kept, staying, limit, THRESHOLD, _DOUBT, work
        )
        looked += seen
        if staying == limit:
            break
    last = int(numbers[looked - 1]) + 1 if looked else 0
    if staying < limit:
        last = count
    return Kept(numbers[kept[:staying]], looked - staying, last - looked)
