"""Running the stage on a temporary run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geo_subset import settings
from geo_subset.places import stage
from geo_subset.runfolder import StageFolder, fingerprint


@dataclass(frozen=True)
class Made:
    """What the stage made: the table, its rows, and the counters."""

    table: pa.Table
    counters: dict[str, int]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.table.to_pylist()  # type: ignore[no-any-return]

    def column(self, name: str) -> list[Any]:
        return self.table[name].to_pylist()  # type: ignore[no-any-return]


def make_places(folder: Path, cluster: dict[str, Any] | None = None, **places: Any) -> Made:
    """Runs the stage with the given [places] settings and checks what holds for every run."""
    tree = {"run": str(folder), "places": places, "cluster": cluster or {}}
    resolved = settings.from_tree(tree)
    stage.check(resolved)
    digest = fingerprint("places", stage.content(resolved), None, stage.inputs(resolved))
    manifest = stage.run(resolved, StageFolder(str(folder), "places", digest))
    table = pq.read_table(folder / "places" / "places.parquet")
    counters = manifest.counters
    dropped = sum(count for name, count in counters.items() if name.startswith("dropped_"))
    assert counters["rows"] == counters["places"] + dropped
    assert table.num_rows == counters["places"] == manifest.files[0].rows
    assert len(set(table["place_id"].to_pylist())) == table.num_rows
    return Made(table, counters)


@pytest.fixture
def run_places(tmp_path: Path) -> Callable[..., Made]:
    return lambda **places: make_places(tmp_path / "run", **places)


@pytest.fixture
def run_list(tmp_path: Path) -> Callable[..., Made]:
    """Runs source 'list' on one file of the given name and content."""

    def run(name: str, content: bytes | str, **places: Any) -> Made:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return make_places(tmp_path / "run", source="list", path=str(path), **places)

    return run
