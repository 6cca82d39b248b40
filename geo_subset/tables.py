"""Arrow schemas of the tables that stages hand to one another.

They are a contract with users: names, types and order are fixed. One schema serves every source: a column that a
source does not have is null throughout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)

#: Columns that some backends or metadata files carry for every image.
SOURCE_FIELDS: list[pa.Field] = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("nsfw", pa.string()),
    pa.field("punsafe", pa.float32()),
    pa.field("pwatermark", pa.float32()),
    pa.field("aesthetic", pa.float32()),
]

#: One row per place. `place_id` is `source:id`, unique. Coordinates are WGS84 degrees, null if unknown. `source_ids`
#: are the ids by which the sources know the place, its own first; `namesakes` is how many places share its name, limit
#: and sample put aside (itself included; see places.names.key), `dictionary_word` whether the name is an English word.
PLACES = pa.schema(
    [
        pa.field("place_id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("context", pa.string()),
        pa.field("admin1", pa.string()),
        pa.field("admin2", pa.string()),
        pa.field("country", pa.string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("population", pa.int64()),
        pa.field("queries", pa.list_(pa.string())),
        pa.field("alternate_names", pa.list_(pa.string())),
        pa.field("source_ids", pa.list_(pa.string())),
        pa.field("namesakes", pa.int32()),
        pa.field("dictionary_word", pa.bool_()),
    ]
)

#: One row per place and image. `rank` 0 is the place's best image.
MATCHES = pa.schema(
    [
        pa.field("place_id", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("similarity", pa.float32()),
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("image_id", pa.int64()),
        *SOURCE_FIELDS,
    ]
)

#: One row per distinct URL key, sorted by `uid`. `place_id`, `name`, coordinates, `url`, `caption` and `similarity`
#: are those of the best match; `place_ids` and `similarities` hold every place that found the image, best first.
SAMPLES = pa.schema(
    [
        pa.field("uid", pa.string()),
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("place_id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("similarity", pa.float32()),
        pa.field("place_ids", pa.list_(pa.string())),
        pa.field("similarities", pa.list_(pa.float32())),
        pa.field("place_count", pa.int32()),
        pa.field("domain", pa.string()),
        *SOURCE_FIELDS,
    ]
)

#: One row per place whose retrieval failed for good.
FAILURES = pa.schema(
    [
        pa.field("place_id", pa.string()),
        pa.field("query", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("attempts", pa.int32()),
    ]
)


def read_rows(file: pq.ParquetFile, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
    """Rows [start, stop) of a parquet file, reading no row group that holds none of them."""
    groups: list[int] = []
    first = offset = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if offset < stop and offset + rows > start:
            if not groups:
                first = offset
            groups.append(group)
        offset += rows
    return file.read_row_groups(groups, columns=columns).slice(start - first, stop - start)


def ahead(rows: Iterator[Rows], number: int = 4) -> Generator[Rows, None, None]:
    """The same tables or batches; up to `number` of them are made by another thread while one is in use.

    Closed early, it waits for the one in the making: until then what they are made of is in use.
    """
    pool = ThreadPoolExecutor(1)
    try:
        coming = deque(pool.submit(next, rows, None) for _ in range(number))
        while (some := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, rows, None))
            yield some
    finally:
        pool.shutdown(cancel_futures=True)


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows as contiguous tables of exactly `rows` rows (the last may be shorter; none for no rows)."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += table.num_rows
        while count >= rows:
            joined = pa.concat_tables(held)
            yield joined.slice(0, rows).combine_chunks()
            held, count = [joined.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(held).combine_chunks()
