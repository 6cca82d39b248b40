"""The k best rows of every query, exactly, on the processor: a matrix product as a filter, then exact scores.

For each block of rows and each group of queries a product gives approximate scores by tiles. What
may be among the k best of a query, the rest being most, is kept, and scored exactly at the end of the block, while its
vectors are still in memory. Scores are those of kernels.tree_dot: the float64 sum of the products of float32 numbers in
a fixed order, rounded to float32. So the result does not depend on how the product was made (numpy, torch; float32,
bfloat16), on its library, on threads, nor on how rows and queries are cut into blocks. Equal scores go by row number.

Why nothing is missed. Let s be a row's exact score, a its approximate one, and |a - s| <= e. If k rows are known whose
exact scores are all at least F (the floor), a row that scores more than F has a >= F - e. If k rows have approximate
scores of at least A, their exact ones are at least A - e, so the k-th best exact score is, and a row among the best has
a >= A - 2e. Only rows below these bounds are dropped without an exact score.

What e is. A product of operands rounded to q' = q + dq, x' = x + dx and added up in float32 differs from q.x by at most
|dq| |x| + |q'| |dx| (Cauchy-Schwarz; |dq| and |dx| are measured on the very vectors: 0.004 in all for bfloat16, nothing
for float32), and by the rounding of the sum itself, gamma |q'| |x'| with gamma = d u / (1 - d u), u = 2**-24, in
whatever order it is added (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). Where the
product comes out as bfloat16, 2**-8 of the score is added. So the bound rests on no measurement of errors (the largest
seen with bfloat16 was 0.0022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geo_subset.retrieve.embeddings import kernels
from geo_subset.retrieve.embeddings.vectors import Floats

#: Queries and rows that are multiplied at a time at most.
TILE = (2048, 2048)
#: The largest norm that a prepared vector can have.
_NORM = 1 + kernels.NORM_TOLERANCE


@dataclass(frozen=True)
class Block:
    """Consecutive rows, prepared; `first` is the number of the first."""

    first: int
    vectors: Floats
    usable: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Nearest:
    """The best rows of each query, best first: scores (queries, k) float32, rows (queries, k) int64; of a query only
    the first `held` (queries,) entries count."""

    scores: Floats
    rows: npt.NDArray[np.int64]
    held: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Product:
    """How approximate scores are made."""

    name: str
    tile: tuple[int, int]
    """Queries and rows that are multiplied at a time; no more than TILE."""
    operand: Callable[[Floats], Any]
    """From vectors (n, d) float32 to what is multiplied; slices of it are slices of rows."""
    multiply: Callable[[Any, Any], npt.NDArray[Any]]
    """Of operands of queries (m, d) and rows (n, d) the scores (m, n), which hold until the next call: float32, or the
    bits of bfloat16 as int16."""
    residual: Callable[[Floats, Any], float]
    """The largest norm of a row's difference from its operand."""
    rounding: float = 0.0
    """Relative rounding of the scores themselves."""


def single() -> Product:
    """numpy's own product, in float32.

    Smaller tiles are multiplied more slowly, as a product copies its operands first: by OpenBLAS, of 512 numbers,
    1024 x 1024 at four fifths of the speed.
    """
    room = np.empty(TILE[0] * TILE[1], np.float32)

    def multiply(queries: Any, rows: Any) -> Floats:
        out = room[: len(queries) * len(rows)].reshape(len(queries), len(rows))
        return np.dot(queries, rows.T, out=out)

    return Product("numpy float32", TILE, lambda vectors: vectors, multiply, lambda _vectors, _operand: 0.0)


def error(width: int, query_residual: float, row_residual: float) -> float:
    """e of the module's docstring, but for the rounding of the result, for vectors as `vectors.prepare` leaves them."""
    gamma = width * 2.0**-24 / (1 - width * 2.0**-24)
    query, row = _NORM + query_residual, _NORM + row_residual
    return query_residual * _NORM + query * row_residual + gamma * query * row


def norm(vectors: Floats) -> float:
    """The largest norm of a row."""
    return float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64).max(initial=0.0)))


def _capacity(k: int) -> int:
    """How many rows that may be among the k best are held of a query, until they are sifted. With bfloat16, not twice
    k of them are left: approximate scores leave the others in doubt."""
    return max(4 * k, 1024)


def work_bytes(k: int, queries: int) -> int:
    """What a search holds besides queries, results and vectors: a tile, and what it found for the queries of a tile."""
    return min(queries, TILE[0]) * (4 * TILE[1] + 12 * _capacity(k))


def nearest(queries: Floats, blocks: Iterable[Block], k: int, product: Product | None = None) -> Nearest:
    """The k best rows of each query (m, d), out of blocks that come in ascending order of their row numbers; by
    `single` if there is no other product."""
    product = product or single()
    count, width = queries.shape
    state = Nearest(np.empty((count, k), np.float32), np.empty((count, k), np.int64), np.zeros(count, np.int64))
    floor = np.full(count, -np.inf, np.float32)
    capacity = _capacity(k)
    group = min(product.tile[0], max(1, count))
    new_s, new_r = np.empty((group, capacity), np.float32), np.empty((group, capacity), np.int64)
    scores = np.empty(k + capacity, np.float32)
    at, work = np.empty(group, np.int64), np.empty(width // 2)
    operand = product.operand(queries)
    residual = product.residual(queries, operand)
    for block in blocks:
        vectors = product.operand(block.vectors)
        e = error(width, residual, product.residual(block.vectors, vectors))
        for start in range(0, count, group):
            part = slice(start, min(count, start + group))
            fill = np.zeros(part.stop - part.start, np.int64)
            best = state.scores[part], state.rows[part], state.held[part]
            lower = np.array([kernels.reach(value, e, product.rounding) for value in floor[part]], np.float32)
            for row in range(0, len(block.vectors), product.tile[1]):
                tile = product.multiply(operand[part], vectors[row : row + product.tile[1]])
                kernels.collect(
                    tile, row, block.first, block.usable, queries[part], block.vectors, e, product.rounding,
                    *best, lower, new_s, new_r, fill, scores, work,
                )  # fmt: skip
            kernels.close(
                block.first, queries[part], block.vectors, e, product.rounding,
                *best, floor[part], new_s, new_r, fill, lower, scores, at, work,
            )  # fmt: skip
    return in_order(state)


def in_order(found: Nearest) -> Nearest:
    """Best first; of equal scores the smaller row. Entries that are not held come last, as score -inf and row -1."""
    empty = np.arange(found.scores.shape[1]) >= found.held[:, None]
    scores, rows = np.where(empty, -np.inf, found.scores), np.where(empty, -1, found.rows)
    for q in range(len(scores)):
        order = np.lexsort((rows[q], -scores[q]))
        scores[q], rows[q] = scores[q][order], rows[q][order]
    return Nearest(scores.astype(np.float32), rows, found.held)
