"""Finished stage folders made of given rows, for tests of the stages after them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from geo_subset import settings, tables
from geo_subset.manifests import Manifest
from geo_subset.runfolder import StageFolder


def table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows that may leave columns out, as a table of the schema."""
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)


def places(run_url: str, rows: list[dict[str, Any]]) -> Manifest:
    folder = StageFolder(run_url, "places", "a" * 64)
    folder.start(1)
    entry = folder.write_table(table(rows, tables.PLACES), "places.parquet")
    return folder.finish([folder.record("places", [entry], {"places": len(rows)})], 1.0)


def matches(run_url: str, parts: list[list[dict[str, Any]]]) -> Manifest:
    folder = StageFolder(run_url, "retrieve", "b" * 64)
    folder.start(len(parts))
    records = []
    for number, rows in enumerate(parts):
        entry = folder.write_table(table(rows, tables.MATCHES), f"part-{number:06d}-{folder.tag}.parquet")
        records.append(folder.record(f"chunk-{number:06d}", [entry], {"rows": len(rows)}, failed=[]))
    return folder.finish(records, 1.0)


def run_settings(run_url: str, **sections: Any) -> settings.Settings:
    tree = {
        "run": run_url,
        "places": {"source": "list", "path": "unused.txt"},
        "retrieve": {"clip-service": {"url": "http://127.0.0.1:1"}},
        "cluster": {"workers": 2},
    }
    return settings.from_tree({**tree, **sections})
