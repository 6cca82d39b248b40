"""The k best rows of every query with torch, on a GPU: the same result as `search`, bit for bit.

Blocks are copied to the device while the one before is being computed. Tiles of approximate scores (float16 or bfloat16
operands, float32 sums) stay on the device: only rows above a query's bound leave a tile, as (query, row) pairs, and are
scored exactly there by the same tree of float64 sums, so that nothing but results is ever copied back. The bounds are
those that `search` argues.

Pairs are collected over tiles and reduced when there are twice as many as can be among the best (and a million; and
after each tile until every query has k of them): so they are about k of a query for each doubling of the rows seen.
Blocks come in ascending order, and of a tile the pairs come by query and row: a stable sort by query and falling
score leaves equal scores by row.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from geo_subset import events
from geo_subset.retrieve.embeddings import search
from geo_subset.retrieve.embeddings.search import Block, Nearest
from geo_subset.retrieve.embeddings.vectors import Floats

#: Scores of a tile at most: 256 MB as float32.
TILE_SCORES = 64 << 20
#: Bytes that a score of a tile takes: the product as it comes, as float32 and masked, the comparison; but for pairs.
_SCORE_BYTES = 16
#: Pairs that are scored exactly at a time.
_EXACT = 1 << 16


def nearest(queries: Floats, blocks: Iterable[Block], k: int, device: str, dtype: str) -> Nearest:
    """As `search.nearest`, on torch's `device` with products of `dtype` ('float16', 'bfloat16' or 'float32')."""
    import torch

    kind = getattr(torch, dtype)
    count, width = queries.shape
    # Sums are to be of float32, in all of their parts: that is what the bound argues with.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    exact_queries = torch.from_numpy(queries).to(device)
    operand = exact_queries.to(kind)
    query_residual = _residual(exact_queries, operand)
    rounding = 0.0 if _sums_in_float32(device, kind) else float(torch.finfo(kind).eps) / 2
    floor = torch.full((count,), -torch.inf, device=device)
    pairs = _Pairs(count, k, device)
    step = max(1, int(min(TILE_SCORES, _memory(device) / 4 / _SCORE_BYTES)) // max(1, count))
    score_of = _exact_on(device, width)
    unknown = True  # whether some query has no floor yet
    for first, vectors, usable in _on_device(blocks, device):
        rows = vectors.to(kind)
        e = search.error(width, query_residual, _residual(vectors, rows))
        all_usable = bool(usable.all())
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores = _product(operand, rows[part], kind)
            if not all_usable:
                scores.masked_fill_(~usable[part], -torch.inf)
            bound = floor - _margin(floor, e, rounding)
            if unknown:
                bound = torch.maximum(bound, _bound_of_tile(scores, k, e, rounding))
            passes = scores >= bound[:, None]
            if not all_usable:
                passes &= usable[part]
            query, row = torch.nonzero(passes, as_tuple=True)
            score = score_of(exact_queries, vectors[part], query, row)
            above = score > floor[query]
            pairs.add(query[above], row[above] + (first + start), score[above])
            if unknown or pairs.full():
                floor = pairs.reduce()
                unknown = bool(torch.isinf(floor).any())
    return pairs.found()


def _memory(device: str) -> float:
    """Bytes that may be used."""
    import torch

    return 0.8 * torch.cuda.mem_get_info()[0] if device.startswith("cuda") else float(2 << 30)


def _margin(score: Any, e: float, rounding: float) -> Any:
    return e + rounding * score.abs().nan_to_num(posinf=0.0)


def exact(queries: Any, vectors: Any, query: Any, row: Any) -> Any:
    """Scores of pairs, float32: `kernels.tree_dot`, sum by sum, each a kernel of its own so that none is fused."""
    import torch

    found = []
    for start in range(0, len(query), _EXACT):
        part = slice(start, start + _EXACT)
        products = _halves_added(queries[query[part]].double() * vectors[row[part]].double())
        while products.shape[1] > 16 and products.shape[1] % 2 == 0:
            products = _halves_added(products)
        total = products[:, 0]
        for column in range(1, products.shape[1]):
            total = total + products[:, column]
        found.append(total.float())
    return torch.cat(found) if found else torch.zeros(0, device=queries.device)


def _halves_added(products: Any) -> Any:
    half = products.shape[1] // 2
    return products[:, :half] + products[:, half:]


@functools.cache
def _exact_on(device: str, width: int) -> Callable[[Any, Any, Any, Any], Any]:
    """`exact`, or what does the same in one kernel, if this machine can compile it."""
    if not device.startswith("cuda"):
        return exact
    try:
        import torch

        from geo_subset.retrieve.embeddings.triton_kernels import tree_dots

        one = torch.ones((1, width), device=device)
        first = torch.zeros(1, dtype=torch.int64, device=device)
        tree_dots(one, one, first, first)
    except Exception as error:  # noqa: BLE001
        # triton may be absent, too old, or without a C compiler (or Python's headers) for what launches its kernels;
        # each is an exception of its own kind.
        message = f"scores are computed without triton, which takes several times longer: {error}"
        events.event("without triton", message, level=logging.WARNING, error=str(error))
        return exact
    return tree_dots


class _Pairs:
    """(query, row, score) of what may be among the best, on the device."""

    def __init__(self, queries: int, k: int, device: str) -> None:
        import torch

        self._queries, self._k, self._device = queries, k, device
        self._most = max(2 * queries * k, 1 << 20)
        self._held: list[tuple[Any, Any, Any]] = []
        self._count = 0
        self.add(*(torch.zeros(0, dtype=kind, device=device) for kind in (torch.int64, torch.int64, torch.float32)))

    def add(self, query: Any, row: Any, score: Any) -> None:
        self._held.append((query, row, score))
        self._count += len(query)

    def full(self) -> bool:
        """Whether there are so many that they are worth reducing."""
        return self._count > self._most

    def reduce(self) -> Any:
        """Leaves the best k of each query, by query and best first. Returns what a later row must exceed, of each."""
        import torch

        query, row, score = (torch.cat([held[i] for held in self._held]) for i in range(3))
        self._held = []  # their memory is needed
        order = torch.sort((query << 32) + _falling(score), stable=True).indices
        query, row, score = query[order], row[order], score[order]
        del order
        starts = torch.searchsorted(query, torch.arange(self._queries, device=self._device))
        rank = torch.arange(len(query), device=self._device) - starts[query]
        kept = rank < self._k
        floor = torch.full((self._queries,), -torch.inf, device=self._device)
        last = rank == self._k - 1
        floor[query[last]] = score[last]
        self._held = [(query[kept], row[kept], score[kept])]
        self._count = len(self._held[0][0])
        return floor

    def found(self) -> Nearest:
        import torch

        self.reduce()
        query, row, score = self._held[0]
        edges = torch.searchsorted(query, torch.arange(self._queries + 1, device=self._device))
        rank = torch.arange(len(query), device=self._device) - edges[query]
        shape = self._queries, self._k
        scores = torch.full(shape, -torch.inf, dtype=torch.float32, device=self._device)
        rows = torch.full(shape, -1, dtype=torch.int64, device=self._device)
        scores[query, rank], rows[query, rank] = score, row
        return Nearest(*(part.cpu().numpy() for part in (scores, rows, edges.diff())))


def _falling(score: Any) -> Any:
    """Numbers in [0, 2**32), int64, that rise as scores (n,) fall, and are equal where they are (0.0 and -0.0 too)."""
    import torch

    bits = (score + 0.0).view(torch.int32).long()  # -0.0 + 0.0 is 0.0
    rising = torch.where(bits >= 0, bits, (-1 << 31) - bits - 1)
    return (1 << 31) - 1 - rising


def _on_device(blocks: Iterable[Block], device: str) -> Iterator[tuple[int, Any, Any]]:
    """Blocks as tensors, each copied on a stream of its own while the one before is in work."""
    import torch

    gpu = device.startswith("cuda")
    stream = torch.cuda.Stream() if gpu else None

    def copied(block: Block) -> tuple[int, Any, Any, Any]:
        vectors, usable = torch.from_numpy(block.vectors), torch.from_numpy(block.usable)
        if stream is None:
            return block.first, vectors.clone(), usable.clone(), None
        with torch.cuda.stream(stream):
            moved = vectors.pin_memory().to(device, non_blocking=True), usable.to(device)
            return block.first, *moved, stream.record_event()

    ahead = None
    for block in blocks:
        following = copied(block)
        if ahead is not None:
            yield _ready(ahead)
        ahead = following
    if ahead is not None:
        yield _ready(ahead)


def _ready(copy: tuple[int, Any, Any, Any]) -> tuple[int, Any, Any]:
    import torch

    first, vectors, usable, event = copy
    if event is not None:
        current = torch.cuda.current_stream()
        current.wait_event(event)
        vectors.record_stream(current)
        usable.record_stream(current)
    return first, vectors, usable


def _product(queries: Any, rows: Any, kind: Any) -> Any:
    """Approximate scores as float32."""
    import torch

    if _sums_in_float32(str(queries.device), kind) and kind is not torch.float32:
        return torch.mm(queries, rows.T, out_dtype=torch.float32)
    return (queries @ rows.T).float()


def _sums_in_float32(device: str, kind: Any) -> bool:
    """Whether products of `kind` come out unrounded: on a GPU they do, elsewhere as `kind`."""
    import torch

    return bool(device.startswith("cuda") or kind is torch.float32)


def _bound_of_tile(scores: Any, k: int, e: float, rounding: float) -> Any:
    """What a tile alone says of a query's bound: its k-th best approximate score less twice the error."""
    import torch

    if scores.shape[1] <= k:
        return torch.full((scores.shape[0],), -torch.inf, device=scores.device)
    kth = torch.topk(scores, k, dim=1, sorted=False).values.amin(1)
    return kth - 2 * _margin(kth, e, rounding)


def _residual(vectors: Any, operand: Any) -> float:
    return float((vectors - operand.float()).double().norm(dim=1).max()) if len(vectors) else 0.0
