"""The tar that samples are put into, beside the one that webdataset writes of them."""

from __future__ import annotations

import io
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.download.tar import TarWriter

MTIME = 1_700_000_000
bodies = st.one_of(st.text(max_size=700), st.binary(max_size=1600))
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0."), min_size=1, max_size=20)


@given(st.lists(st.tuples(names, st.dictionaries(st.sampled_from(["jpg", "json", "txt"]), bodies)), max_size=5))
def test_the_same_bytes_as_webdataset(samples):
    mine, theirs = io.BytesIO(), io.BytesIO()
    writer = TarWriter(mine, MTIME)
    other = webdataset.TarWriter(theirs, mtime=MTIME, encoder=False)
    other.tarstream.format = tarfile.USTAR_FORMAT
    for key, files in samples:
        encoded = {name: body.encode() if isinstance(body, str) else body for name, body in files.items()}
        writer.write({"__key__": key, **files})
        other.write({"__key__": key, **encoded})
    writer.close()
    other.close()
    assert mine.getvalue() == theirs.getvalue()


def test_a_name_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="cannot be called"):
        TarWriter(io.BytesIO(), MTIME).write({"__key__": "k" * 97, "jpg": b""})
