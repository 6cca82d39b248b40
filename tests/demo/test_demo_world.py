"""Building the made-up world: the same every time, kept between runs, and with what a web crawl has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest

from geo_subset.demo import launch, synthetic, web
from geo_subset.errors import SettingsError


def test_equal_parameters_and_port_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        launch.build(tmp_path / name, 20, 200, 21390, None)
    for file in ("index.parquet", "truth.parquet"):
        assert (tmp_path / "a/world" / file).read_bytes() == (tmp_path / "b/world" / file).read_bytes()


def test_a_world_is_kept_with_its_port_until_parameters_change(tmp_path: Path) -> None:
    first = launch.build(tmp_path, 20, 200, 18391, None)
    written = (first.folder / "index.parquet").stat().st_mtime_ns
    assert launch.build(tmp_path, 20, 200, None, None) == first
    assert (first.folder / "index.parquet").stat().st_mtime_ns == written
    larger = launch.build(tmp_path, 20, 300, None, None)
    assert (larger.rows, larger.port) == (300, 18391)
    moved = launch.build(tmp_path, 20, 300, 18392, None)
    assert moved.port == 18392
    assert all(":18392/" in url for url in moved.index()["url"].to_pylist())


def test_port_changes_nothing_but_the_urls() -> None:
    here, there = (synthetic.content(20, 300, port) for port in (21390, 18391))
    assert here.index.drop_columns(["url"]) == there.index.drop_columns(["url"])
    assert [web.address(url) for url in here.index["url"].to_pylist()] == [
        web.address(url) for url in there.index["url"].to_pylist()
    ]


def test_the_world_has_what_the_web_has() -> None:
    content = synthetic.content(50, 2000, 21390)
    rows = content.index.to_pylist()
    urls = Counter(row["url"] for row in rows)
    captions = {(row["url"], row["caption"]) for row in rows}
    assert 40 < sum(count > 1 for count in urls.values()) < 300
    assert len(captions) > len(urls)  # a URL under several captions
    assert 40 < sum(row["look"] != row["image_id"] for row in rows) < 300  # near-duplicates
    assert all(rows[row["look"]]["caption"] == row["caption"] for row in rows)
    places = Counter(content.truth["url"].to_pylist())
    assert set(places) == set(urls)
    assert 20 < sum(count > 1 for count in places.values()) < 300  # two cities on one image
    true_names = set(content.truth["name"].to_pylist())
    named = sum(any(name.split(",")[0] in row["caption"] for name in true_names) for row in rows)
    assert 0.85 * len(rows) < named < 0.97 * len(rows)  # the others name no place
    hosts = Counter(web.address(url).partition("/")[0] for url in urls)
    assert hosts["127.0.0.2"] > 5 * hosts["127.0.0.33"]
    assert pc.count_distinct(content.index["nsfw"]).as_py() == 3


def test_most_urls_give_an_image() -> None:
    urls = set(synthetic.content(50, 3000, 21390).index["url"].to_pylist())
    kinds = Counter(web.expected_outcome(url).kind for url in urls)
    assert 0.85 < sum(kinds[kind] for kind in web.GOOD_KINDS) / len(urls) < 0.89
    assert set(kinds) >= {"not found", "gone", "reset", "closed", "forbidden", "server error", "html", "cut off"}


def test_an_address_is_the_same_however_it_is_quoted() -> None:
    assert web.address("http://127.0.0.9:1/a%20b/%7Ec?x=%5B1%5D") == web.address("http://127.0.0.9:2/a b/~c?x=[1]")


@pytest.mark.parametrize(
    ("places", "images", "port", "corpus", "told"),
    [
        (0, None, None, None, "at least 1"),
        (10, 0, None, None, "at least 1"),
        (10**6, 10, None, None, "US cities"),
        (10, 10, 80, None, "1024"),
        (10, 10, None, Path("nowhere.parquet"), "no such file"),
    ],
)
def test_bad_parameters_are_settings_errors(
    tmp_path: Path, places: int, images: int | None, port: int | None, corpus: Path | None, told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        launch.build(tmp_path, places, images, port, corpus)


def test_a_folder_that_cannot_be_written_to_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="cannot be"):
        launch.build(tmp_path / "file", 10, 10, None, None)
