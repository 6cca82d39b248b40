from __future__ import annotations

from collections import Counter

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.retrieve.captions import plan
from geo_subset.retrieve.captions.best import Best, best
from geo_subset.retrieve.captions.matcher import FOUND

rows = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0.5, 0.75, 1.0]), st.integers(0, 6), st.integers(0, 2)), max_size=40
)


def table(found):
    columns = zip(*found, strict=True) if found else ([], [], [], [])
    place, similarity, order, tie = map(list, columns)
    given = {"place": place, "similarity": similarity, "order": order, "tie": tie, "url": [f"u{o}" for o in order],
             "caption": [f"c{t}" for t in tie]}  # fmt: skip
    return pa.table({f.name: given.get(f.name, [None] * len(found)) for f in FOUND}, schema=FOUND)


@given(rows, st.integers(1, 4), st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_best_of_parts_in_any_order_are_the_best_of_all(found, num_images, random, size):
    whole, rank = best(table(found), num_images, Counter())
    shuffled = list(found)
    random.shuffle(shuffled)
    counters: Counter[str] = Counter()
    kept = Best(4, num_images)
    kept.PRUNE = 2
    for start in range(0, len(shuffled), size):
        kept.add(table(shuffled[start : start + size]), counters)
    assert kept.table(counters).to_pylist() == whole.to_pylist()
    assert len(found) == whole.num_rows + counters["matches_same_url"] + counters["matches_over_num_images"]
    assert int(kept.seen.sum()) == len(found)
    by_place: dict[int, list[tuple[float, int]]] = {}
    for row in whole.to_pylist():
        by_place.setdefault(row["place"], []).append((-row["similarity"], row["order"]))
    assert all(places == sorted(places) and len(places) <= num_images for places in by_place.values())
    assert all(len({order for _, order in places}) == len(places) for places in by_place.values())
    assert rank.tolist() == [i for places in by_place.values() for i in range(len(places))]


@given(st.integers(1, 500), st.lists(st.integers(0, 1 << 40), min_size=1, max_size=5), st.integers(1, 1000))
def test_every_place_is_in_one_partition(places, sizes, num_images):
    import numpy as np

    number = plan.partitions(sizes, places, num_images)
    partition = plan.partition_of(np.arange(places), places, number)
    ranges = [plan.places_of(i, places, number) for i in range(number)]
    assert [p for start, stop in ranges for p in range(start, stop)] == list(range(places))
    assert all((partition[start:stop] == i).all() for i, (start, stop) in enumerate(ranges))
