"""The example that feeds a training loop, on shards as the package writes them; without torch."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from geo_subset import tables, urls
from geo_subset.download.img2dataset_adapter import ShardWriter
from geo_subset.download.pixels import Picture
from geo_subset.download.splits import NAMES, with_splits

SCRIPT = Path(__file__).parent.parent / "examples" / "train_loader.py"


@pytest.fixture(scope="module")
def loader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_loader", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def image(n: int) -> Picture:
    """A picture whose red is its number, wide or high."""
    width, height = (320, 256) if n % 2 else (256, 300)
    out = io.BytesIO()
    Image.new("RGB", (width, height), (n % 250, 100, 200)).save(out, "JPEG", quality=95)
    return Picture(out.getvalue(), width, height, 2 * width, 2 * height)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two shards of 200 images each, and their rows; a tenth has no coordinates, a tenth was not downloaded."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "shards").mkdir()
    rows: list[dict[str, Any]] = []
    for shard in range(2):
        made = [
            {
                "uid": urls.uid(f"http://example.org/{shard}/{n}"),
                "url": f"http://example.org/{shard}/{n}",
                "place_id": f"list:{n % 40}",
                "latitude": None if n % 10 == 3 else 40.0 + n % 40 / 10,
                "longitude": None if n % 10 == 3 else -74.0,
            }
            for n in range(200)
        ]
        table = pa.Table.from_pylist([{c: row.get(c) for c in tables.SAMPLES.names} for row in made], tables.SAMPLES)
        table = with_splits(table)
        writer = ShardWriter(table, shard, folder / "shards", 200, "jpg")
        for n, row in enumerate(table.to_pylist()):
            if n % 10 == 7:
                writer.failure(n, "failed_to_download", "timed out")
            else:
                writer.success(n, image(n), "0" * 64)
                rows.append(row | {"red": n % 250})
        writer.close()
    return folder, rows


def tars(folder: Path) -> list[str]:
    return sorted(map(str, (folder / "shards").glob("*.tar")))


@pytest.mark.parametrize("by", ["split", "split_place"])
def test_each_split_holds_its_samples_as_arrays(
    loader: ModuleType, run: tuple[Path, list[dict[str, Any]]], by: str
) -> None:
    folder, rows = run
    found = {}
    for split in NAMES:
        for batch in loader.batches(tars(folder), split, by, size=16):
            assert batch["image"].shape == (len(batch["uid"]), loader.SIDE, loader.SIDE, 3)
            assert batch["image"].dtype == np.uint8
            for uid, picture, place in zip(batch["uid"], batch["image"], batch["place"], strict=True):
                assert uid not in found
                found[uid] = (split, round(float(picture[..., 0].mean())), tuple(place))
    wanted = {
        row["uid"]: (row[by], row["red"], (row["latitude"], row["longitude"]))
        for row in rows
        if row["latitude"] is not None
    }
    assert found.keys() == wanted.keys()
    for uid, (split, red, place) in found.items():
        assert (split, place) == (wanted[uid][0], wanted[uid][2])
        assert abs(red - wanted[uid][1]) <= 3  # JPEG


def test_the_order_is_that_of_the_seed(loader: ModuleType, run: tuple[Path, list[dict[str, Any]]]) -> None:
    def order(seed: int | None) -> list[str]:
        return [uid for batch in loader.batches(tars(run[0]), "train", seed=seed) for uid in batch["uid"]]

    assert order(None) == order(None)
    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2)) == sorted(order(None))


def test_it_runs_as_a_script(run: tuple[Path, list[dict[str, Any]]]) -> None:
    out = subprocess.run([sys.executable, SCRIPT, run[0], "--by", "split"], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    trained = sum(row["split"] == "train" and row["latitude"] is not None for row in run[1])
    assert out.stdout.splitlines()[:2] == [f"epoch {n}: {trained} images" for n in range(2)]
    assert "median error" in out.stdout


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    out = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False)
    assert out.returncode == 1
    assert "has no shard" in out.stderr
