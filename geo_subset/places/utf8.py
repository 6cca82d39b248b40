"""Text that is not UTF-8 costs its row alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa


def valid(batch: pa.RecordBatch, counters: Counter[str]) -> pa.RecordBatch:
    """The rows whose text is UTF-8, in all columns; the others are counted as dropped_not_utf8."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        if batch.num_rows == 1:
            counters["dropped_not_utf8"] += 1
            return batch.slice(0, 0)
        # `take` copies, where a slice would still be held by the whole batch's text.
        middle = batch.num_rows // 2
        halves = [batch.take(pa.array(np.arange(*ends))) for ends in ((0, middle), (middle, batch.num_rows))]
        table = pa.Table.from_batches([valid(half, counters) for half in halves], schema=batch.schema)
        whole = table.combine_chunks().to_batches()
        return whole[0] if whole else batch.slice(0, 0)
    return batch
