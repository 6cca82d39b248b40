"""Exact scores of pairs on a GPU by one kernel: `kernels.tree_dot`, to the bit.

A product of two float32 is exact in float64, so it makes no difference whether it and the addition after it are fused,
which the compiler decides. Imported only where there is a GPU: torch's builds for GPUs bring triton, others do not.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_PAIRS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _column(left, right, c, splits: tl.constexpr, levels: tl.constexpr, pairs: tl.constexpr):  # type: ignore[no-untyped-def]
    """The c-th of the numbers that are left when halves have been added `levels` times."""
    x = tl.load(left + c).to(tl.float64) * tl.load(right + c).to(tl.float64)
    for level in tl.static_range(levels):
        low, high = tl.split(tl.permute(tl.reshape(x, (pairs, 2, splits >> (level + 1))), (0, 2, 1)))
        x = low + high
    return tl.reshape(x, (pairs,))


@triton.jit  # type: ignore[untyped-decorator]
def _tree_dots(  # type: ignore[no-untyped-def]
    queries, vectors, query, row, out, count, width,
    last: tl.constexpr, splits: tl.constexpr, levels: tl.constexpr, pairs: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64) * pairs + tl.arange(0, pairs)
    there = pair < count
    at = tl.arange(0, splits) * last
    left = queries + tl.load(query + pair, mask=there, other=0)[:, None] * width + at[None, :]
    right = vectors + tl.load(row + pair, mask=there, other=0)[:, None] * width + at[None, :]
    total = _column(left, right, 0, splits, levels, pairs)
    for c in range(1, last):
        total += _column(left, right, c, splits, levels, pairs)
    tl.store(out + pair, total.to(tl.float32), mask=there)


def tree_dots(queries: Any, vectors: Any, query: Any, row: Any) -> Any:
    """Scores (n,) float32 of the pairs of rows `query` (n,) of `queries` and `row` (n,) of `vectors`, int64; both
    matrices are contiguous float32, padded."""
    width = queries.shape[1]
    levels, last = 1, width // 2
    while last > 16 and last % 2 == 0:
        levels, last = levels + 1, last // 2
    out = torch.empty(len(query), dtype=torch.float32, device=queries.device)
    if len(query):
        _tree_dots[(triton.cdiv(len(query), _PAIRS),)](
            queries,
            vectors,
            query.contiguous(),
            row.contiguous(),
            out,
            len(query),
            width,
            last,
            1 << levels,
            levels,
            _PAIRS,
            num_warps=4,
        )
    return out
