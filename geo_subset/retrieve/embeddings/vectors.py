"""Vectors as the search takes them: float32, padded, of unit length, with a word on each row. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geo_subset.retrieve.embeddings import kernels

Floats = npt.NDArray[np.float32]
_ROWS = 1024


@dataclass(frozen=True)
class Prepared:
    """Rows ready for the search."""

    vectors: Floats
    """(n, d) float32, d padded by zeros to a multiple of kernels.PAD; rows that do not count are zeros."""
    usable: npt.NDArray[np.bool_]
    """(n,)"""
    status: npt.NDArray[np.uint8]
    """(n,): kernels.GOOD, NORMALISED, ZERO or NOT_FINITE."""


def padded(columns: int) -> int:
    return -(-columns // kernels.PAD) * kernels.PAD


def prepare(raw: npt.NDArray[np.floating], out: Floats | None = None) -> Prepared:
    """Rows (n, columns), float16 or float32, as `Prepared`; written to `out`, whose first n rows are used, if given.

    A vector whose norm differs from 1 by more than kernels.NORM_TOLERANCE is divided by it; the others stay as they
    are, so that their products are those that any other search over the same file computes.
    """
    rows, columns = raw.shape
    width = padded(columns)
    target = np.empty((rows, width), np.float32) if out is None else out[:rows]
    status, work = np.full(rows, kernels.GOOD, np.uint8), np.empty(width // 2)
    for start in range(0, rows, _ROWS):  # what one kernel writes, the next finds in cache
        part = slice(start, start + _ROWS)
        into = target[part]
        if raw.dtype == np.float16:
            halves = np.ascontiguousarray(raw[part]).view(np.uint16)
            kernels.widen(halves, into, into.view(np.uint32), status[part])
        else:
            into[:, :columns], into[:, columns:] = raw[part], 0.0
        kernels.normalise(into, status[part], work)
    return Prepared(target, status <= kernels.NORMALISED, status)


def count(status: npt.NDArray[np.uint8], counters: Counter[str]) -> None:
    """Adds what was found about rows: vectors, vectors_normalised, vectors_zero, vectors_not_finite."""
    counters["vectors"] += len(status)
    for name, value in (
        ("normalised", kernels.NORMALISED), ("zero", kernels.ZERO), ("not_finite", kernels.NOT_FINITE)
    ):  # fmt: skip
        counters[f"vectors_{name}"] += int(np.count_nonzero(status == value))


def exact(queries: Floats, vectors: Floats) -> Floats:
    """Scores of pairs of rows, (n, d) and (n, d) -> (n,): what the whole strategy calls the similarity of two."""
    work = np.empty(queries.shape[1] // 2)
    return np.array(
        [kernels.tree_dot(a, b, work) for a, b in zip(queries, vectors, strict=True)], np.float32
    )  # fmt: skip
