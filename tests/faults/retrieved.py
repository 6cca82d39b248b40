"""What a run retrieved, in a form that does not depend on the address of the backend it came from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from retrieve.service import rows_for


def parts(run: Path) -> dict[str, str]:
    """SHA-256 of every part file by its number; the rest of the name follows from settings, the backend's URL too."""
    paths = sorted(run.glob("matches/part-*.parquet"))
    return {path.name.split("-")[1]: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def matches(run: Path) -> pa.Table:
    """The whole table, part after part."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(run.glob("matches/part-*.parquet"))])


def failures(run: Path) -> list[dict[str, object]]:
    return pq.read_table(run / "matches/failures.parquet").to_pylist()


def is_what_the_service_has(run: Path, num_images: int) -> bool:
    """Whether the table holds just what the stub answers for the search texts of the run, in their order."""
    places = pq.read_table(run / "places/places.parquet", columns=["place_id", "queries"]).to_pylist()
    expected = [
        (place["place_id"], rank, row["url"], row["caption"], row["id"])
        for place in places
        for rank, row in enumerate(rows_for(*place["queries"], num_images))
    ]
    table = matches(run).select(["place_id", "rank", "url", "caption", "image_id"])
    return list(zip(*table.to_pydict().values(), strict=True)) == expected
