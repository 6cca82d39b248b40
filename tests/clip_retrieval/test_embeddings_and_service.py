"""Strategy embeddings on the folder that the real backend's index was made of, against the backend itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import backend
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.clip_retrieval, pytest.mark.timeout(1200)]

PLACES, IMAGES = 100, 60


def retrieve(folder: Path, strategy: str) -> pa.Table:
    """The matches of a run with a table of settings for its strategy."""
    names = list(dict.fromkeys(name for name, _ in backend.cities()))[:PLACES]
    folder.mkdir()
    (folder / "names.txt").write_text("\n".join(names), encoding="utf-8")
    (folder / "run.toml").write_text(
        f'run = "{folder}/run"\n[places]\nsource = "list"\npath = "{folder}/names.txt"\ncontext = "united states"\n'
        f"[retrieve]\nnum_images = {IMAGES}\n{strategy}"
    )
    command = [sys.executable, "-m", "geo_subset.cli", "retrieve", str(folder / "run.toml")]
    started = time.perf_counter()
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    print(f"{folder.name}: {time.perf_counter() - started:.1f} s\n{out.stderr}")
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("run/matches/part-*.parquet")))


def urls(table: pa.Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for place, url in zip(table["place_id"].to_pylist(), table["url"].to_pylist(), strict=True):
        found.setdefault(place, []).append(url)
    return found


def test_the_same_images_as_the_service(backend_folder: Path, backend_url: str, tmp_path: Path) -> None:
    asked = retrieve(
        tmp_path / "service",
        f'[retrieve.clip-service]\nurl = "{backend_url}"\nindice_name = "main"\ndeduplicate = false\n',
    )
    searched = retrieve(
        tmp_path / "search",
        'strategy = "embeddings"\n[retrieve.embeddings]\ndeduplicate = false\n'
        f'path = "{backend_folder}/embeddings"\nmodel = "hf_clip:{backend_folder}/model"\n',
    )
    one, other = urls(asked), urls(searched)
    assert len(one) == PLACES
    # The service's rows without a URL have taken places of its answer, so that ours go on where it ends.
    assert all(other[place][: len(found)] == found for place, found in one.items())
    assert all(len(found) == IMAGES for found in other.values())
    ids = dict(
        zip(
            zip(asked["place_id"].to_pylist(), asked["rank"].to_pylist(), strict=True),
            asked["image_id"].to_pylist(),
            strict=True,
        )
    )
    same = [
        ids.get(key, number) == number
        for key, number in zip(
            zip(searched["place_id"].to_pylist(), searched["rank"].to_pylist(), strict=True),
            searched["image_id"].to_pylist(),
            strict=True,
        )
    ]
    assert all(same)
