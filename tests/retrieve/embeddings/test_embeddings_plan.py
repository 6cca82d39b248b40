"""How work is cut: all rows for all places once, in units that fit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.retrieve.embeddings import plan


@given(
    st.lists(st.integers(0, 3_000_000), min_size=1, max_size=30), st.integers(1, 3_000_000), st.integers(1, 4000),
    st.sampled_from([64, 512, 1024]),
)  # fmt: skip
def test_every_row_for_every_place_once(rows, places, k, columns):
    units = plan.units(rows, places, k, columns)
    assert [unit.index for unit in units] == list(range(len(units)))
    size, firsts = plan.unit_rows(sum(rows)), np.cumsum([0, *rows])
    done: dict[tuple[int, int], int] = {}
    for unit in units:
        assert plan.place_bytes(k, columns) * (unit.stop - unit.start) <= max(
            plan.GROUP_BYTES, plan.place_bytes(k, columns)
        )
        begin = int(firsts[unit.pieces[0].source]) + unit.pieces[0].start
        assert begin % size == 0
        at = begin
        for piece in unit.pieces:  # one after the other, none empty
            assert int(firsts[piece.source]) + piece.start == at
            assert piece.start < piece.stop <= rows[piece.source]
            at += piece.stop - piece.start
        assert at == min(begin + size, sum(rows))
        assert done.get((begin, at), 0) == unit.start
        done[begin, at] = unit.stop
    assert all(stop == places for stop in done.values())
    assert len(done) == -(-sum(rows) // size)


@given(st.integers(1, 10**10))
def test_units_are_neither_small_nor_large(total):
    least, most = plan.UNIT_ROWS
    assert least <= plan.unit_rows(total) <= most
    assert plan.unit_rows(total) in (least, most) or -(-total // plan.unit_rows(total)) <= plan.UNITS


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 2000), st.integers(0, 2048))
def test_partitions_fit_into_memory(rows, places, k, vector_bytes):
    units = plan.units([rows], places, k, 512)
    number = plan.partitions(units, places, k, rows, vector_bytes)
    assert 1 <= number <= places
    a_place = len(plan.ranges([rows])) * min(k, rows) * plan.CANDIDATE_BYTES
    assert places * a_place / number <= max(plan.PARTITION_BYTES, a_place)


def test_a_block_is_a_quarter_of_a_gigabyte():
    assert plan.block_rows(512) == 131_072
    assert plan.block_rows(10**6) == 1024
