from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from geo_subset.download.plan import Slice, plan, plan_all

FILES = st.lists(st.integers(0, 40), max_size=8).map(lambda rows: [(f"part-{i}", n) for i, n in enumerate(rows)])


@given(FILES, st.integers(1, 30))
def test_every_row_is_in_exactly_one_shard_in_order(files: list[tuple[str, int]], size: int) -> None:
    shards = plan(files, size, "0123abcd")
    planned = [(s.file, row) for shard in shards for s in shard.slices for row in range(s.start, s.stop)]
    assert planned == [(file, row) for file, rows in files for row in range(rows)]


@given(FILES, st.integers(1, 30))
def test_all_shards_but_the_last_are_full_and_none_is_empty(files: list[tuple[str, int]], size: int) -> None:
    rows = [shard.rows for shard in plan(files, size, "0123abcd")]
    assert all(n == size for n in rows[:-1])
    assert all(0 < n <= size for n in rows)


@given(FILES, st.integers(1, 30))
def test_a_shard_depends_on_rows_alone_not_on_how_they_are_cut_into_files(
    files: list[tuple[str, int]], size: int
) -> None:
    whole = plan([("all", sum(rows for _, rows in files))], size, "0123abcd")
    assert [(s.index, s.name, s.rows) for s in whole] == [
        (s.index, s.name, s.rows) for s in plan(files, size, "0123abcd")
    ]


def test_names_carry_index_and_tag_and_slices_cross_files() -> None:
    first, second = plan([("a", 3), ("b", 2)], 4, "0123abcd")
    assert (first.name, second.name) == ("00000-0123abcd", "00001-0123abcd")
    assert first.slices == (Slice("a", 0, 3), Slice("b", 0, 1))
    assert second.slices == (Slice("b", 1, 2),)


def test_no_rows_make_no_shards() -> None:
    assert plan([], 10, "0123abcd") == plan([("a", 0)], 10, "0123abcd") == []


@given(FILES, st.lists(st.integers(1, 40), max_size=4), st.integers(1, 30))
def test_the_shards_of_retry_passes_come_after_all_others(
    files: list[tuple[str, int]], retried: list[int], size: int
) -> None:
    lists = [(f"retry-{n}", rows) for n, rows in enumerate(retried, start=1)]
    shards = plan_all(files, lists, size, "0123abcd")
    first = plan(files, size, "0123abcd")
    assert shards[: len(first)] == first
    assert [shard.index for shard in shards] == list(range(len(shards)))
    for number, (name, rows) in enumerate(lists, start=1):
        slices = [piece for shard in shards if shard.retry == number for piece in shard.slices]
        assert [(piece.file, row) for piece in slices for row in range(piece.start, piece.stop)] == [
            (name, row) for row in range(rows)
        ]
