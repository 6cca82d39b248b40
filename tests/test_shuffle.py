from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_subset import shuffle


@given(
    files=st.lists(st.lists(st.integers(0, 6), max_size=30), min_size=1, max_size=4),
    partitions=st.integers(7, 12),
)
@settings(max_examples=40)
def test_every_row_comes_back_in_its_partition_in_order(tmp_path_factory, files, partitions):
    folder = tmp_path_factory.mktemp("shuffle")
    paths = []
    for number, assigned in enumerate(files):
        table = pa.table({"row": pa.array(range(len(assigned)), pa.int64()), "file": [number] * len(assigned)})
        paths.append(folder / f"{number}.parquet")
        shuffle.write_partitioned(table, np.asarray(assigned, dtype=np.int32), partitions, paths[-1])
    for partition in range(partitions):
        streams = [path.open("rb") for path in paths]
        got = [(r["file"], r["row"]) for t in shuffle.read_partition(streams, partition) for r in t.to_pylist()]
        expected = [(f, r) for f, rows in enumerate(files) for r, p in enumerate(rows) if p == partition]
        assert got == expected
        for stream in streams:
            stream.close()


@given(sizes=st.lists(st.integers(0, 100), max_size=20), most=st.integers(1, 150))
def test_groups_hold_all_files_in_order_within_the_limit(sizes, most):
    files = [(f"f{i}", size) for i, size in enumerate(sizes)]
    groups = shuffle.grouped_by_bytes(files, most)
    assert [name for group in groups for name in group] == [name for name, _ in files]
    size_of = dict(files)
    assert all(len(group) == 1 or sum(size_of[n] for n in group) <= most for group in groups)
