from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from geo_subset.manifests import Record
from geo_subset.retrieve import plan


@given(places=st.integers(0, 5000), num_images=st.integers(1, 100_000))
def test_chunks_cover_every_place_once(places, num_images):
    chunks = plan.chunks(places, num_images)
    assert [i for c in chunks for i in range(c.start, c.stop)] == list(range(places))
    assert all(c.stop - c.start <= plan.MAX_PLACES for c in chunks)
    assert len({c.unit for c in chunks}) == len(chunks)


def test_left_is_what_has_no_record_or_failed():
    chunks = plan.chunks(24, 1000)
    records = {
        chunks[0].unit: Record(chunks[0].unit, (), {}, {"failed": []}),
        chunks[1].unit: Record(chunks[1].unit, (), {}, {"failed": [{"place_id": "x"}]}),
    }
    again, new = plan.left(chunks, records)
    assert (again.index, again.again) == (1, ("x",))
    assert new == chunks[2]
