"""The search gives what comparing every query with every row gives, to the bit, however it is cut and multiplied."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from images import blocks, brute_force, clustered, unit

from geo_subset.retrieve.embeddings import choice, device, kernels, search, vectors
from geo_subset.retrieve.embeddings.choice import Choice

CPU = Choice("cpu", "float32", "")
BFLOAT16 = Choice("cpu", "bfloat16", "")


def queries_of(rng, count, columns):
    return vectors.prepare(unit(rng.standard_normal((count, columns)))).vectors


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("scores", "rows", "held"))


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize("columns", [48, 512, 770])
def test_as_by_brute_force(kind, columns):
    rng = np.random.default_rng(columns)
    rows = unit(rng.standard_normal((4000, columns))) if kind == "random" else clustered(rng, 4000, columns)
    rows = rows.astype(np.float16)
    queries = queries_of(rng, 30, columns)
    found = search.nearest(queries, blocks(rows, 1500), 150)
    held = np.concatenate([block.vectors for block in blocks(rows, 1500)])
    scores, order = brute_force(queries, held, 150)
    assert np.array_equal(found.rows, order)
    assert np.array_equal(found.scores, scores)
    assert (found.held == 150).all()


@pytest.mark.parametrize("kind", ["random", "clustered"])
def test_as_faiss_finds_them(kind):
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(5)
    rows = unit(rng.standard_normal((5000, 512))) if kind == "random" else clustered(rng, 5000, 512)
    queries = queries_of(rng, 40, 512)
    scores, ids = faiss.knn(queries, rows, 100, metric=faiss.METRIC_INNER_PRODUCT)
    found = search.nearest(queries, blocks(rows, 2000), 100)
    assert np.abs(found.scores - scores).max() < 1e-6
    # faiss sums in float32 and in another order: ranks differ only where scores are equal to within that.
    by_score = np.take_along_axis(queries @ rows.T, found.rows, 1)
    for query in range(40):
        for rank in np.flatnonzero(found.rows[query] != ids[query]):
            assert abs(by_score[query, rank] - scores[query, rank]) < 1e-6
    if kind == "random":
        assert (found.rows == ids).mean() > 0.999


@hypothesis_settings(max_examples=40)
@given(
    st.integers(1, 400), st.integers(1, 8), st.integers(1, 40), st.integers(1, 500), st.integers(0, 2**32 - 1),
    st.booleans(),
)  # fmt: skip
def test_neither_blocks_nor_groups_of_queries_change_a_bit(rows, queries, k, size, seed, crowded):
    rng = np.random.default_rng(seed)
    held = clustered(rng, rows, 32, 3) if crowded else unit(rng.standard_normal((rows, 32)))
    held[rng.random(rows) < 0.1] = 0.0  # left out
    asked = queries_of(rng, queries, 32)
    whole = search.nearest(asked, blocks(held, rows, 7), k)
    assert same(search.nearest(asked, blocks(held, size, 7), k), whole)
    alone = [search.nearest(asked[i : i + 1], blocks(held, size, 7), k) for i in range(queries)]
    assert np.array_equal(np.concatenate([one.rows for one in alone]), whole.rows)
    usable = int((held != 0).any(axis=1).sum())
    assert (whole.held == min(k, usable)).all()
    assert ((whole.rows == -1) == (np.arange(k) >= whole.held[:, None])).all()


def halved(queries, rows):
    """Scores as the bits of bfloat16, rounded to nearest even, as torch makes them."""
    bits = (queries @ rows.T).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(np.int16)


@hypothesis_settings(max_examples=60)
@given(
    st.integers(1, 700), st.integers(1, 9), st.integers(1, 30), st.integers(1, 300), st.integers(0, 2**32 - 1),
    st.sampled_from(["random", "clustered", "opposite"]),
)  # fmt: skip
def test_scores_as_bfloat16_change_no_bit(rows, queries, k, tile, seed, kind):
    """Without torch: also scores that are all negative, where nothing can be told from their bits."""
    rng = np.random.default_rng(seed)
    held = clustered(rng, rows, 32, 3) if kind == "clustered" else unit(rng.standard_normal((rows, 32)))
    asked = queries_of(rng, queries, 32)
    if kind == "opposite":
        held, asked = -np.abs(held), np.abs(asked)
    product = search.Product("bits", (4, tile), lambda vectors: vectors, halved, lambda _vectors, _operand: 0.0, 2**-8)
    whole = search.nearest(asked, blocks(held, rows), k)
    assert same(search.nearest(asked, blocks(held, 1 + rows // 2), k, product), whole)


def test_the_best_of_parts_hold_the_best_of_the_whole():
    rng = np.random.default_rng(0)
    rows, asked = clustered(rng, 900, 64), queries_of(rng, 9, 64)
    whole = search.nearest(asked, blocks(rows, 300), 40)
    parts = [search.nearest(asked, blocks(rows[start : start + 300], 300, start), 40) for start in (0, 300, 600)]
    for query in range(9):
        scores = np.concatenate([part.scores[query] for part in parts])
        numbers = np.concatenate([part.rows[query] for part in parts])
        assert np.array_equal(numbers[np.lexsort((numbers, -scores))][:40], whole.rows[query])


def test_thousands_of_equal_rows_go_by_number():
    """More rows tie, and come within the filter's error of one another, than are held at a time."""
    rng = np.random.default_rng(1)
    rows = np.repeat(unit(rng.standard_normal((1, 64))), 9000, axis=0)
    rows[::3] = unit(rng.standard_normal((3000, 64)))
    asked = vectors.prepare(rows[1:2]).vectors
    found = search.nearest(asked, blocks(rows, 4000), 50)
    assert found.rows[0].tolist() == [n for n in range(9000) if n % 3][:50]
    pytest.importorskip("torch")
    assert same(choice.nearest(BFLOAT16, asked, blocks(rows, 4000), 50), found)


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize("columns", [50, 512])
def test_with_torch_to_the_bit(kind, columns):
    """bfloat16 on the processor, and the path of GPUs in all its numbers (on the processor where there is no GPU)."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    rows = unit(rng.standard_normal((6000, columns))) if kind == "random" else clustered(rng, 6000, columns)
    rows[rng.random(6000) < 0.01] = np.nan
    asked = queries_of(rng, 33, columns)
    cut = blocks(rows.astype(np.float16), 2500)
    plain = choice.nearest(CPU, asked, cut, 120)
    assert same(choice.nearest(BFLOAT16, asked, cut, 120), plain)
    for dtype in ("float32", "bfloat16", "float16"):
        where = "cuda" if torch.cuda.is_available() else "cpu"
        assert same(device.nearest(asked, cut, 120, where, dtype), plain), (where, dtype)


@pytest.mark.parametrize("columns", [16, 48, 512, 784])
def test_the_kernel_for_gpus_adds_as_torch_does(monkeypatch, columns):
    """On a GPU, or where is none by triton's interpreter."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    gpu = torch.cuda.is_available()
    if not gpu:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    from geo_subset.retrieve.embeddings import triton_kernels

    where = torch.device("cuda" if gpu else "cpu")
    rng = np.random.default_rng(columns)
    asked, rows = (torch.from_numpy(rng.standard_normal((n, columns), np.float32)).to(where) for n in (5, 300))
    pairs = [torch.from_numpy(rng.integers(0, n, 41)).to(where) for n in (5, 300)]
    found = triton_kernels.tree_dots(asked, rows, *pairs)
    assert torch.equal(found.view(torch.int32), device.exact(asked, rows, *pairs).view(torch.int32))
    plain = vectors.exact(*(held[at].cpu().numpy() for held, at in zip((asked, rows), pairs, strict=True)))
    assert np.array_equal(found.cpu().numpy(), plain)
    assert len(triton_kernels.tree_dots(asked, rows, pairs[0][:0], pairs[1][:0])) == 0


def test_sixteen_numbers_are_added_in_the_same_order():
    """Their halves cancel, but for what is lost when they are added from left to right."""
    torch = pytest.importorskip("torch")
    query, row = np.zeros((1, 16), np.float32), np.zeros((1, 16), np.float32)
    query[0, [0, 1, 8]] = row[0, [0, 1, 8]] = 0.7, 2.0**-30, 0.7
    row[0, 8] = -0.7
    zero = torch.zeros(1, dtype=torch.int64)
    found = device.exact(torch.from_numpy(query), torch.from_numpy(row), zero, zero)
    assert found.tolist() == vectors.exact(query, row).tolist() == [2.0**-60]


def test_small_tiles_on_a_device(monkeypatch):
    """Many tiles a block, so that pairs are reduced on the way."""
    pytest.importorskip("torch")
    monkeypatch.setattr(device, "TILE_SCORES", 5 * 64)
    rng = np.random.default_rng(3)
    rows, asked = clustered(rng, 3000, 64), queries_of(rng, 5, 64)
    assert same(
        device.nearest(asked, blocks(rows, 1000), 30, "cpu", "float16"), search.nearest(asked, blocks(rows, 3000), 30)
    )
    few = blocks(rows[:20], 7)
    assert same(device.nearest(asked, few, 30, "cpu", "float32"), search.nearest(asked, few, 30))


def test_the_bound_holds_for_vectors_that_are_hard_to_round():
    torch = pytest.importorskip("torch")
    # 488 equal numbers: each is 185.42 steps of bfloat16 there, and all are rounded down.
    hard = unit(np.where(np.arange(512) < 488, np.random.default_rng(4).choice([-1, 1], (40, 512)), 0))
    back = torch.from_numpy(hard).to(torch.bfloat16).float().numpy()
    residual = search.norm(hard - back)
    e = search.error(512, residual, residual)
    exact = hard.astype(np.float64) @ hard.astype(np.float64).T
    off = np.abs((back.astype(np.float64) @ back.astype(np.float64).T) - exact).max()
    assert 0.004 < off <= e
    assert off > 0.9 * e
    asked = vectors.prepare(hard).vectors
    cut = blocks(hard, 13)
    assert same(choice.nearest(BFLOAT16, asked, cut, 5), choice.nearest(CPU, asked, cut, 5))


@pytest.mark.parametrize("k", [1, 2, 7, 50])
def test_the_kth_largest(k):
    rng = np.random.default_rng(k)
    for _ in range(50):
        values = (rng.integers(-10, 10, 50) / 10).astype(np.float32)
        assert kernels.kth_largest(values, 50, k) == np.sort(values)[::-1][k - 1]
        assert kernels.kth_largest(np.sort(values), k, k) == values.min()


def test_what_is_chosen():
    assert choice.choose("cpu", "auto", 0, False).dtype == "float32"
    assert choice.choose("auto", "float32", 0, True).device == "cpu"
    assert choice.choose("cpu", "float32", 8, True).device == "cpu"
