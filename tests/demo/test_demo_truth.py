"""The run file of a demo, and the share of right rows, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from geo_subset import settings
from geo_subset.demo import launch, truth
from geo_subset.runfolder import StageFolder
from geo_subset.tables import MATCHES, PLACES


def _table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)


def _stage(run: Path, stage: str, parts: dict[str, pa.Table]) -> None:
    folder = StageFolder(str(run), stage, "f" * 64)
    folder.start(1)
    files = [folder.write_table(table, name) for name, table in parts.items()]
    folder.finish([folder.record("0", files, {})], 1.0)


def _run(run: Path, places: list[dict[str, Any]], *parts: list[dict[str, Any]]) -> str:
    _stage(run, "places", {"places.parquet": _table(PLACES, places)})
    tables = {f"part-{n}-ffffffff.parquet": _table(MATCHES, rows) for n, rows in enumerate(parts)}
    _stage(run, "retrieve", tables)
    return str(run)


def test_rows_are_right_within_25_km_of_any_place_shown(tmp_path: Path) -> None:
    world = launch.build(tmp_path, 30, 400, 21390, None)
    shown = world.truth().to_pandas()
    twice = shown.groupby("url").filter(lambda rows: len(rows) > 1)
    first, second = twice[twice["url"] == twice["url"].iloc[0]].itertuples(index=False)
    away = shown[(shown["name"] != first.name) & (shown["name"] != second.name)].iloc[0]
    places = [
        {"place_id": "t:1", "latitude": first.latitude + 0.1, "longitude": first.longitude},  # 11 km
        {"place_id": "t:2", "latitude": second.latitude, "longitude": second.longitude},
        {"place_id": "t:3", "latitude": first.latitude + 0.3, "longitude": first.longitude},  # 33 km
        {"place_id": "t:4"},
    ]
    rows = [{"place_id": f"t:{n}", "url": first.url, "rank": n // 2} for n in (1, 2, 3, 4)]
    run = _run(tmp_path / "run", places, rows, [{"place_id": "t:1", "url": away["url"], "rank": 5}])
    counted = launch.truth_share(world, run)
    assert counted is not None
    assert counted.rows == truth.Counts(right=2, wrong=2, unknown=1)
    assert counted.best == truth.Counts(right=1)
    assert counted.best_five == truth.Counts(right=2, wrong=1, unknown=1)
    assert counted.sentence() == (
        "2 of 4 rows show the right place (truth within 25 km): precision at 1 100%, at 5 67%, over all 50%; "
        "the truth about 1 more row is not known"
    )


def test_a_world_without_coordinates_has_no_share(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.csv"
    pd.DataFrame({"url": ["http://a.org/1"], "text": ["Austin, Texas"]}).to_csv(corpus, index=False)
    world = launch.build(tmp_path, 5, None, 21390, corpus)
    places = [{"place_id": "t:1", "latitude": 30.0, "longitude": -97.0}]
    url = world.index()["url"][0].as_py()
    assert launch.truth_share(world, _run(tmp_path / "run", places, [{"place_id": "t:1", "url": url}])) is None
    assert launch.truth_share(world, str(tmp_path / "never")) is None


def test_distance_is_that_of_the_great_circle() -> None:
    points = ([40.7128, 0.0, 0.0], [-74.006, 0.0, 179.5], [34.0522, 0.0, 0.0], [-118.2437, 180.0, -179.5])
    found = truth.distance(*(np.array(values) for values in points))
    assert found == pytest.approx([3936, np.pi * 6371.0088, 111.195], rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "places", "wanted"),
    [(1, 12, 1), (50, 5, 10), (50, 200, 1), (3000, 300, 10), (3000, 10, 100)],
)
def test_a_run_on_a_corpus_asks_for_no_more_rows_than_there_are(
    tmp_path: Path, rows: int, places: int, wanted: int
) -> None:
    corpus = tmp_path / "corpus.csv"
    urls = [f"http://a.org/{n}" for n in range(rows)]
    pd.DataFrame({"url": urls, "text": "Austin, Texas"}).to_csv(corpus, index=False)
    world = launch.build(tmp_path, places, None, 21390, corpus)
    assert settings.load(launch.write_run_file(world, tmp_path)).retrieve.num_images == wanted


@pytest.mark.parametrize(("images", "wanted"), [(20, 1), (600, 25)])
def test_the_run_file_is_a_run_on_the_world(tmp_path: Path, images: int, wanted: int) -> None:
    world = launch.build(tmp_path, 12, images, 21390, None)
    loaded = settings.load(launch.write_run_file(world, tmp_path))
    assert loaded == settings.from_tree(launch.run_tree(world, tmp_path))
    assert loaded.run == str(tmp_path)
    assert loaded.places.limit == 12
    assert loaded.retrieve.num_images == wanted
    assert loaded.retrieve.clip_service.url == ("http://127.0.0.1:21390",)
    assert loaded.download.allow_private_hosts
