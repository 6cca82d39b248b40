"""The stage as a whole, on a local folder and on an object store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from geo_subset import settings
from geo_subset.errors import StageError
from geo_subset.report import stage
from geo_subset.runfolder import StageFolder

from .report_run import Outcome, colored, match, place, write

PLACES = [place("list:1", "Oslo", latitude=59.9, longitude=10.7), place("list:2", "Rome")]
MATCHES = [match("list:1", f"http://a.com/{n}.jpg", 0.3 - n / 100) for n in range(5)]


def of(**report: Any) -> settings.Settings:
    places = {"source": "list", "path": ["places.txt"], "context": "two capitals"}
    return settings.from_tree({"run": "unused", "places": places, "report": report})


def outcome(sample: dict[str, Any]) -> Outcome:
    return Outcome(reason="HTTP 404") if sample["url"].endswith("1.jpg") else Outcome(image=colored())


def test_the_report_is_written_and_recorded(tmp_path: Path) -> None:
    run = write(tmp_path, PLACES, MATCHES, outcome)
    manifest = stage.run(of(), run.folder())
    plots = [f"{name}.png" for name in ("map", "images_per_place", "similarity", "top_places", "top_domains")]
    expected = {"index.html", "summary.json", *plots, "download_outcomes.png", "image_sizes.png"}
    assert {entry.path for entry in manifest.files} == expected
    assert {path.name for path in (tmp_path / "report").iterdir()} == {*expected, "_manifest.json"}
    assert manifest.counters == {
        "plots": 7, "sheets": 1, "sheets_left_out": 0, "images_on_sheets": 4, "images_on_sheets_unreadable": 0,
        "unknown_sheet_places": 0,
    }  # fmt: skip
    numbers = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert numbers["download"] == {"attempted": 5, "succeeded": 4, "failed_by_reason": {"HTTP 404": 1}}
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<title>two capitals</title>" in page
    assert run.folder().finished() == manifest
    assert stage.describe(manifest) == "7 plots, 1 contact sheet"


def test_twice_the_same_bytes_and_nothing_done_again_while_recorded(tmp_path: Path) -> None:
    run = write(tmp_path, PLACES, MATCHES, outcome)
    first = stage.run(of(title="T"), run.folder())
    again = stage.run(of(title="other"), run.folder())  # the same fingerprint: the record counts
    other = stage.run(of(title="T"), StageFolder(run.url, "report", "e" * 64))
    assert first.files == again.files == other.files


def test_a_run_on_an_object_store(tmp_path: Path) -> None:
    write(tmp_path, PLACES, MATCHES, outcome)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/report-test", recursive=True)
    try:
        manifest = stage.run(of(), StageFolder("memory://report-test", "report", "f" * 64))
        assert manifest.counters["images_on_sheets"] == 4
        assert json.loads(memory.cat_file("/report-test/report/summary.json"))["images"] == 5
    finally:
        memory.rm("/report-test", recursive=True)


def test_only_the_report_settings_shape_the_report() -> None:
    assert stage.content(of(title="a")) != stage.content(of(title="b"))
    assert json.loads(json.dumps(stage.content(of()))) == stage.content(of())
    assert stage.inputs(of()) == ()


def test_a_damaged_table_is_an_error_in_one_line(tmp_path: Path) -> None:
    run = write(tmp_path, PLACES, MATCHES, outcome)
    (tmp_path / "places" / "places.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(StageError, match="cannot be summed up") as caught:
        stage.run(of(), run.folder())
    assert "\n" not in str(caught.value)
