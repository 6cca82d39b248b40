"""Text that is not UTF-8 costs its row alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa


def valid(batch: pa.RecordBatch, counters: Counter[str]) -> pa.RecordBatch:
    """The rows whose text is UTF-8, in all columns; the others are counted as dropped_not_utf8."""
    invalid = _invalid(batch)
    if not invalid:
        return batch
    counters["dropped_not_utf8"] += len(invalid)
    good = np.ones(batch.num_rows, dtype=bool)
    good[invalid] = False
    return batch.filter(pa.array(good))


def _invalid(batch: pa.RecordBatch) -> list[int]:
    """The numbers of the rows that hold other text, found by halving."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        middle = batch.num_rows // 2
        if not middle:
            return [0]
        halves = batch.slice(0, middle), batch.slice(middle)
        if any(map(pa.types.is_nested, batch.schema.types)):  # of these, the values beyond a slice are looked at too
            halves = tuple(half.take(pa.array(np.arange(half.num_rows))) for half in halves)
        return [*_invalid(halves[0]), *(middle + row for row in _invalid(halves[1]))]
    return []
