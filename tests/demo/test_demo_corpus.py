"""A world out of a metadata file: columns found, hosts mapped, rows left out counted, bad files refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_subset import urls
from geo_subset.demo import corpus, launch, web
from geo_subset.errors import SettingsError

_DATA = Path(__file__).parents[3] / "shared" / "data"
_FRAME = pd.DataFrame(
    {
        "URL": [
            "https://a.org/1.jpg",
            "http://a.org/1.jpg",
            "https://b.org/1.jpg",
            "https://a.org/2.jpg?s=1",
            None,
            "x",
        ],
        "TEXT": ["one", "two, again", "three", "four", "no url", "no url either"],
        "lat": [40.0, 41.0, 42.0, None, 1.0, 1.0],
        "lon": [-74.0, -75.0, -76.0, -77.0, 1.0, 1.0],
    }
)


def _parquet(folder: Path, frame: pd.DataFrame) -> Path:
    frame.to_parquet(folder / "corpus.parquet")
    return folder / "corpus.parquet"


def test_rows_become_images_on_loopback_hosts(tmp_path: Path) -> None:
    content = corpus.content(_parquet(tmp_path, _FRAME), None, 21390)
    assert content.index["caption"].to_pylist() == ["one", "two, again", "three", "four"]
    assert content.index["url"].to_pylist() == [
        "http://127.0.0.2:21390/a.org/1.jpg",
        "http://127.0.0.2:21390/a.org/1.jpg",
        "http://127.0.0.3:21390/b.org/1.jpg",
        "http://127.0.0.2:21390/a.org/2.jpg?s=1",
    ]
    assert content.skipped == {"no http(s) URL or no caption": 2}
    assert content.truth.to_pylist() == [
        {"url": "http://127.0.0.2:21390/a.org/1.jpg", "name": "40.00, -74.00", "latitude": 40.0, "longitude": -74.0},
        {"url": "http://127.0.0.3:21390/b.org/1.jpg", "name": "42.00, -76.00", "latitude": 42.0, "longitude": -76.0},
        {"url": "http://127.0.0.2:21390/a.org/2.jpg?s=1", "name": None, "latitude": None, "longitude": None},
    ]


def test_images_caps_the_rows_and_counts_the_rest(tmp_path: Path) -> None:
    content = corpus.content(_parquet(tmp_path, _FRAME), 3, 21390)
    assert content.index.num_rows == 3
    assert content.skipped == {"no http(s) URL or no caption": 2, "beyond --images": 1}


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_text_files_are_read_too(tmp_path: Path, suffix: str, separator: str) -> None:
    path = tmp_path / f"corpus.{suffix}"
    _FRAME.rename(columns={"TEXT": "Caption"}).drop(columns=["lat"]).to_csv(path, sep=separator, index=False)
    content = corpus.content(path, None, 21390)
    assert content.index.num_rows == 4
    assert content.truth["latitude"].null_count == content.truth.num_rows == 3


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.from_regex(r"https?://[a-d]\.(org|com)/[a-c]{1,2}(\?[ab])?", fullmatch=True), min_size=1, max_size=30)
)
def test_different_images_keep_different_urls(originals: list[str]) -> None:
    mapped = corpus.loopback_urls(originals, 21390)
    keys = [urls.url_key(url).partition("://")[2] for url in originals]
    assert len(set(mapped)) == len(set(keys))
    assert {urls.host(url) for url in mapped} <= set(web.HOSTS)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"URL": ["http://a.org/1"], "height": [1]}, "no column of captions .* URL, height"),
        ({"link": ["http://a.org/1"], "TEXT": ["x"]}, "no column of URLs .* link, TEXT"),
        ({"URL": ["http://a.org/1"], "TEXT": [" "]}, "none of its 1 rows"),
        ({"URL": ["http://a.org/1"], "TEXT": ["x"], "lat": ["north"], "lon": [1.0]}, "coordinates numbers"),
        ({"URL": [["http://a.org/1"]], "TEXT": ["x"]}, "have to be text"),
    ],
)
def test_unfit_files_are_settings_errors(tmp_path: Path, columns: dict[str, list[Any]], told: str) -> None:
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(SettingsError, match=told):
        launch.build(tmp_path / "out", 10, None, 21390, path)


def test_a_file_that_is_no_table_is_a_settings_error(tmp_path: Path) -> None:
    for name in ("corpus.parquet", "corpus.csv"):
        (tmp_path / name).write_bytes(b"\x00\xff" * 50 + b'\n"')
        with pytest.raises(SettingsError, match=r"corpus\.(parquet|csv)"):
            launch.build(tmp_path / "out", 10, None, 21390, tmp_path / name)


@pytest.mark.parametrize(("name", "rows"), [("fsa_owi.parquet", 49_009), ("laion_10k.parquet", 9_999)])
def test_real_metadata_becomes_a_world(tmp_path: Path, name: str, rows: int) -> None:
    if not (_DATA / name).exists():
        pytest.skip(f"{_DATA / name} is not there")
    world = launch.build(tmp_path, 10, None, 21390, _DATA / name)
    assert world.rows == rows
    assert sum(world.skipped.values()) == pq.read_metadata(_DATA / name).num_rows - rows
