"""The run's tables as SQL views, under a memory limit: what the numbers and the contact sheets are drawn from."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from geo_subset import storage, tables
from geo_subset.errors import StageError
from geo_subset.manifests import Manifest
from geo_subset.report.text import LONGEST
from geo_subset.runfolder import StageFolder

STAGES = ("places", "retrieve", "merge", "download")
#: For DuckDB; what does not fit spills into scratch space.
MEMORY_LIMIT = "256MB"

#: These two trust the bounds in parquet files, which leave out NaN: a filter then lets NaN through, or loses it
#: (duckdb/duckdb#25521).
_DISTRUSTED = "statistics_propagation,filter_pushdown"

#: The columns of shards/*.parquet that the report reads, for a run that has no shard.
_IMAGES = pa.schema(
    [
        *(tables.SAMPLES.field(name) for name in ("uid", "url", "caption", "place_id", "name", "place_ids")),
        *(tables.SAMPLES.field(name) for name in ("similarities", "domain")),
        pa.field("key", pa.string()),
        pa.field("status", pa.string()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("filename", pa.string()),
    ]
)
#: Columns of shards/_index.parquet.
_DOWNLOADS = pa.schema([(name, pa.string()) for name in ("uid", "shard", "key", "status", "reason")])
_SHARD = re.compile(r"\d+-[0-9a-f]{8}\.parquet")


@dataclass(frozen=True)
class Database:
    """An open connection with the views `places`, `matches`, `failures`, `samples`, `downloads` and `images`.

    `downloads` has one row per sample with what became of it (`status`, `reason`). `images` holds the rows of all
    shards, and so the samples of a retry pass twice, of which at most one is a success; its column `filename` is a key
    of `shards`, whose values are the names of the shards ('00000-1a2b3c4d'). The table `place_images` has one row per
    place: place_id, name (its start), latitude, longitude and `images`, the distinct URLs among the place's matches.
    `short(text)` is as much of a text from outside as numbers and page hold of it.
    """

    connection: duckdb.DuckDBPyConnection
    manifests: dict[str, Manifest]
    shards: dict[str, str]

    def rows(self, sql: str, parameters: object = None) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, parameters).fetchall()

    def number(self, sql: str) -> int:
        """The one integer that a query gives."""
        return int(self.rows(sql)[0][0] or 0)


@contextlib.contextmanager
def opened(run_url: str) -> Iterator[Database]:
    """Opens the tables of a run whose first four stages are done. Raises StageError if one of them is not."""
    folders = {stage: StageFolder(run_url, stage) for stage in STAGES}
    manifests: dict[str, Manifest] = {}
    for stage, folder in folders.items():
        manifest = folder.manifest()
        if manifest is None:
            raise StageError(f"{folder.url} has no manifest: the report needs the {stage} stage to be done first")
        manifests[stage] = manifest
    shards = [name for name in manifests["download"].paths("") if _SHARD.fullmatch(name)]
    with contextlib.ExitStack() as stack:
        matches = manifests["retrieve"]
        wanted = {
            "places": ("places", manifests["places"].paths("places"), tables.PLACES),
            "matches": ("retrieve", matches.paths(), tables.MATCHES),
            "failures": ("retrieve", matches.paths("failures"), tables.FAILURES),
            "samples": ("merge", manifests["merge"].paths(), tables.SAMPLES),
            "downloads": ("download", manifests["download"].paths("_index"), _DOWNLOADS),
            "images": ("download", shards, _IMAGES),
        }
        local = {view: stack.enter_context(folders[stage].local(files)) for view, (stage, files, _) in wanted.items()}
        connection = stack.enter_context(
            storage.database(
                MEMORY_LIMIT, 2, list(itertools.chain.from_iterable(local.values())),
                preserve_insertion_order=False, disabled_optimizers=_DISTRUSTED,
            )
        )  # fmt: skip
        for view, (_, _, schema) in wanted.items():
            if local[view]:
                files = [storage.literal(path) for path in local[view]]
                connection.read_parquet(files, filename="filename" in schema.names).create_view(view)
            else:
                connection.register(view, schema.empty_table())
        connection.execute(f"CREATE MACRO short(text) AS left(text, {LONGEST})")
        connection.execute(_PLACE_IMAGES)
        names = (name.removesuffix(".parquet") for name in shards)
        yield Database(connection, manifests, dict(zip(local["images"], names, strict=True)))


# Two GROUP BYs rather than count(DISTINCT): only the former can spill.
_PLACE_IMAGES = """
CREATE TABLE place_images AS
SELECT place_id, short(name) AS name, latitude, longitude, coalesce(images, 0) AS images
FROM places LEFT JOIN (
    SELECT place_id, count(*) AS images
    FROM (SELECT DISTINCT place_id, url FROM matches WHERE url IS NOT NULL)
    GROUP BY place_id
) USING (place_id)
"""
