"""The pipeline's rows against ClipClient's, and what the real backend cannot do, told before work starts."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import backend
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# Building takes a minute, and the backend answers three queries a second at 1,000 images from parquet.
pytestmark = [pytest.mark.clip_retrieval, pytest.mark.timeout(1200)]

QUERIES = 200
#: At 1,000 images from parquet.
FEW_QUERIES = 25


def list_of_places(folder: Path, count: int) -> Path:
    """The most populous US cities, in a file."""
    path = folder / "names.txt"
    found = list(dict.fromkeys(name for name, _ in backend.cities()))[:count]
    path.write_text("\n".join(found), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return list_of_places(tmp_path_factory.mktemp("names"), QUERIES)


def retrieve(folder: Path, names: Path, url: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """`geo-subset retrieve` for the places of a file; settings of [retrieve.clip-service] as TOML values."""
    run_file = folder / "run.toml"
    num_images = settings.pop("num_images", 100)
    run_file.write_text(
        f'run = "{folder}/run"\n[places]\nsource = "list"\npath = "{names}"\ncontext = "united states"\n'
        f'[retrieve]\nnum_images = {num_images}\n[retrieve.clip-service]\nurl = "{url}"\n'
        + "".join(f"{key} = {value}\n" for key, value in settings.items())
    )
    command = [sys.executable, "-m", "geo_subset.cli", "retrieve", str(run_file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def matches(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("run/matches/part-*.parquet")))


def by_clip_client(url: str, index: str, texts: list[str], num_images: int, deduplicate: bool) -> list[list[Any]]:
    """What ClipClient with its defaults returns for each text."""
    from clip_retrieval.clip_client import ClipClient

    client = ClipClient(f"{url}/knn-service", index, num_images=num_images, deduplicate=deduplicate)
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(client.query, texts))


@pytest.mark.parametrize("deduplicate", [True, False])
@pytest.mark.parametrize("num_images", [100, 1000])
@pytest.mark.parametrize("index", ["main", "arrow"])
def test_rows_are_those_of_clip_client(backend_url, tmp_path, index, num_images, deduplicate):
    count = FEW_QUERIES if (index, num_images) == ("main", 1000) else QUERIES
    names = list_of_places(tmp_path, count)
    toml = {"indice_name": f'"{index}"', "deduplicate": str(deduplicate).lower(), "num_images": num_images}
    out = retrieve(tmp_path, names, backend_url, **toml)
    assert out.returncode == 0, out.stderr
    places = pq.read_table(tmp_path / "run/places/places.parquet").to_pylist()
    texts = [place["queries"][0] for place in places]
    assert len(set(texts)) == count
    answers = by_clip_client(backend_url, index, texts, num_images, deduplicate)
    expected = {name: [] for name in ("place_id", "rank", "similarity", "url", "caption", "image_id", "nsfw")}
    no_url = 0
    for place, answer in zip(places, answers, strict=True):
        usable = [row for row in answer if row["url"] is not None]
        no_url += len(answer) - len(usable)
        expected["place_id"] += [place["place_id"]] * len(usable)
        expected["rank"] += range(len(usable))
        expected["similarity"] += [np.float32(row["similarity"]) for row in usable]
        for column, key in (("url", "url"), ("caption", "caption"), ("image_id", "id"), ("nsfw", "NSFW")):
            expected[column] += [row[key] for row in usable]
    found = matches(tmp_path).select(list(expected)).to_pydict()
    for column, values in expected.items():
        assert found[column] == values, column
    # The comparison is worth something: answers differ from place to place and hold what a backend's may.
    assert len({tuple(row["id"] for row in answer[:10]) for answer in answers}) > 0.9 * count
    assert None in expected["caption"]
    if num_images == 1000:
        assert no_url > 0
    if deduplicate:
        assert min(map(len, answers)) < num_images
    else:
        assert {len(answer) for answer in answers} == {num_images}
        assert len({(place, url) for place, url in zip(expected["place_id"], expected["url"], strict=True)}) < len(
            expected["url"]
        ), "no URL came twice in an answer"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"indice_name": '"laion5B"'}, ["retrieve.clip-service.indice_name = 'laion5B'", "main, arrow, no_url"]),
        ({"indice_name": '"main"', "modality": '"text"'}, ["modality = 'text' needs an index of texts"]),
        ({"indice_name": '"main"', "use_mclip": "true"}, ["use_mclip = true needs"]),
        ({"indice_name": '"no_url"'}, ["without usable URLs", "'url' in columns_to_return"]),
    ],
    ids=["unknown index", "no text index", "no mclip", "no urls"],
)
def test_what_the_backend_cannot_do_is_one_line_before_work_starts(backend_url, names, tmp_path, settings, named):
    out = retrieve(tmp_path, names, backend_url, **settings)
    assert out.returncode == 1, out.stderr
    assert "Traceback" not in out.stderr
    last = out.stderr.strip().splitlines()[-1]
    assert last.startswith("geo-subset: "), out.stderr
    for words in named:
        assert words in last
    assert not list(tmp_path.glob("run/matches/part-*"))
