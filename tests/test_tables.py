"""Tables made ahead by another thread."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from geo_subset import tables


def test_tables_made_ahead_are_the_same_and_so_is_an_error():
    made = [pa.table({"x": [n]}) for n in range(9)]
    assert list(tables.ahead(iter(made))) == made

    def failing():
        yield made[0]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(tables.ahead(failing()))


def test_closed_early_nothing_of_what_they_are_made_of_is_in_use():
    connection = duckdb.connect()

    def rows():
        for _ in range(50):
            yield connection.sql("SELECT sum(a.range * b.range) FROM range(3000) a, range(3000) b").to_arrow_table()

    ahead = tables.ahead(rows())
    next(ahead)
    ahead.close()
    connection.close()  # refuses while another thread is using it
