"""Source 'list': formats, headers, what is dropped or nulled, and that counts add up."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geo_subset import tables
from geo_subset.errors import SettingsError
from geo_subset.places import list_source

from .conftest import Made, make_places

Run = Callable[..., Made]
NAMES = ["Bryant Park", "Café d'Alsace", "中央公園", "Smith, Jones & Co", 'The "Met"']


def encoded(names: list[str], ending: str) -> bytes:
    """Names as a file of this ending, as the usual tools write it."""
    if ending == "txt":
        return "".join(f"{name}\n" for name in names).encode()
    if ending in ("csv", "tsv"):
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t" if ending == "tsv" else ",")
        writer.writerows([["name"], *([name] for name in names)])
        return text.getvalue().encode()
    if ending == "json":
        return json.dumps(names).encode()
    if ending == "jsonl":
        return "".join(json.dumps({"name": name}) + "\n" for name in names).encode()
    sink = io.BytesIO()
    pq.write_table(pa.table({"name": pa.array(names, pa.string())}), sink)
    return sink.getvalue()


@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_places(run_list: Run, ending: str) -> None:
    made = run_list(f"places.{ending}", encoded(NAMES, ending), context="nyc")
    assert made.table.schema.equals(tables.PLACES)
    assert made.column("name") == NAMES
    assert made.column("queries") == [[f"{name} in nyc"] for name in NAMES]
    assert set(made.column("context")) == {"nyc"}
    assert made.column("place_id") == run_list("again.txt", encoded(NAMES, "txt")).column("place_id")


lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(lines, max_size=8))
def test_round_trip_through_every_format(tmp_path_factory: pytest.TempPathFactory, drawn: list[str]) -> None:
    folder = tmp_path_factory.mktemp("lists")
    # Line ends cannot be part of a line of txt; the first name keeps any other from being taken for a header.
    names = ["Bryant Park", *(" ".join(name.split()) for name in drawn)]
    made = []
    for ending in ("txt", "csv", "json", "parquet"):
        path = folder / f"l.{ending}"
        path.write_bytes(encoded(names, ending))
        counters: Counter[str] = Counter()
        made.append((list(list_source.read([str(path)], "", counters)), counters))
    assert all(other == made[0] for other in made)
    places, counters = made[0]
    assert counters["rows"] == len(names)
    assert all(place.name == " ".join(place.name.split()) != "" for place in places)


def test_a_row_keeps_its_id_whatever_stands_around_it(run_list: Run) -> None:
    before = run_list("a.txt", "Bryant Park\nTudor City\n")
    after = run_list("b.txt", "Sutton Place\nTudor City\n\nBryant Park\n")
    assert set(before.column("place_id")) < set(after.column("place_id"))
    assert before.column("place_id")[0].startswith("list:bryant-park-")


def test_byte_order_mark_line_ends_and_white_space(run_list: Run) -> None:
    made = run_list(
        "l.txt",
        b"\xef\xbb\xbfBryant \t Park\r\n\r\n  \nTudor City\rSutton\xc2\xa0Place\n\xe2\x80\x8fUN Plaza\xe2\x80\x8b",
    )
    assert made.column("name") == ["Bryant Park", "Tudor City", "Sutton Place", "UN Plaza"]
    assert made.counters == {"rows": 6, "places": 4, "dropped_blank": 2}
    assert run_list("l.csv", b"\xef\xbb\xbfname,lat,lng\r\nBryant Park,40.75,-73.98\r\n").rows[0]["latitude"] == 40.75


def test_duplicates_are_what_no_search_could_tell_apart(run_list: Run) -> None:
    made = run_list("l.txt", "Café Luxe\nCafe\u0301 Luxe\nCAFÉ  LUXE\nＣafé Luxe\nCafe Luxe\n")
    assert made.column("name") == ["Café Luxe", "Cafe Luxe"]
    assert made.counters["dropped_duplicate"] == 3
    csv_rows = "name,state,lat,lon\nClinton,Iowa,,\nClinton,Iowa,,\nClinton,Ohio,,\nClinton,Ohio,1,2\n"
    made = run_list("l.csv", csv_rows)
    assert made.column("admin1") == ["Iowa", "Ohio", "Ohio"]
    assert made.counters["dropped_duplicate"] == 1


def test_ids_of_the_file_are_kept_and_unique(run_list: Run) -> None:
    made = run_list("l.csv", "id,name\n7,Bryant Park\n7,Tudor City\n,Sutton Place\n8,bryant park\n")
    assert made.column("place_id")[0] == "list:7"
    assert made.column("name") == ["Bryant Park", "Sutton Place"]
    assert made.counters == {"rows": 4, "places": 2, "dropped_duplicate_id": 1, "dropped_duplicate": 1}


def test_all_columns_by_any_of_their_names(run_list: Run) -> None:
    header = "Location Name,ID,LAT,Lng,Country,State,County,Type,Pop,context,rating"
    made = run_list("l.csv", f"{header}\nWrigley Field,w1,41.9,-87.6,United States,Illinois,Cook,stadium,5,cubs,4\n")
    assert made.rows == [
        {
            "place_id": "list:w1", "name": "Wrigley Field", "kind": "stadium", "context": "cubs", "admin1": "Illinois",
            "admin2": "Cook", "country": "US", "latitude": 41.9, "longitude": -87.6, "population": 5,
            "queries": ["Wrigley Field in cubs"], "alternate_names": [], "source_ids": ["list:w1"], "namesakes": 1,
            "dictionary_word": False,
        }
    ]  # fmt: skip
    columns = {"place": ["A", "B"], "lat": [1.0, float("nan")], "lon": [2.0, float("nan")], "pop": [3.0, None]}
    sink = io.BytesIO()
    pd.DataFrame(columns).to_parquet(sink)
    made = run_list("l.parquet", sink.getvalue())
    assert made.column("population") == [3, None]
    assert made.column("longitude") == [2.0, None]
    assert "nulled_coordinates" not in made.counters


def test_values_that_mean_nothing_become_null_and_are_counted(run_list: Run) -> None:
    made = run_list(
        "l.csv",
        "name,lat,lon,pop,country\nA,91,0,,\nB,abc,1,-5,Narnia\nC,1,,1e99,US\nD,nan,inf,x,usa\nE,-90,180,0,fr\nF,10,180.5,,\nG,4_0,1_0,1_000,\n",
    )
    assert made.column("latitude") == [None, None, None, None, -90.0, None, None]
    assert made.column("longitude") == [None, None, None, None, 180.0, None, None]
    assert made.column("population") == [None, None, None, None, 0, None, None]
    assert made.column("country") == [None, None, "US", "US", "FR", None, None]
    assert made.counters["places"] == 7
    assert {name: count for name, count in made.counters.items() if name.startswith("nulled_")} == {
        "nulled_coordinates": 6, "nulled_population": 4, "nulled_country": 1,
    }  # fmt: skip


def test_csv_without_a_header(run_list: Run) -> None:
    made = run_list("l.csv", '"Smith, Wollensky",10\nBryant Park,11\nA,1,2\n\n')
    assert made.column("name") == ["Smith, Wollensky", "Bryant Park"]
    assert made.counters == {"rows": 4, "places": 2, "dropped_too_many_cells": 1, "dropped_blank": 1}
    assert run_list("h.txt", "name\nBryant Park\n").column("name") == ["Bryant Park"]
    assert run_list("b.csv", "\n\nname\nBryant Park\n").column("name") == ["Bryant Park"]


def test_json_values_that_are_no_names(run_list: Run) -> None:
    made = run_list("l.json", '["A", 42, null, "", {"lat": 1}, {"name": ["x"]}, {"title": "B", "lat": 1, "lon": 2}]')
    assert made.column("name") == ["A", "B"]
    assert made.counters == {"rows": 7, "places": 2, "dropped_not_text": 2, "dropped_blank": 3}
    made = run_list("l.jsonl", b'\xef\xbb\xbf"A"\n\n{"place": "B"}\n')
    assert made.column("name") == ["A", "B"]
    assert made.counters == {"rows": 3, "places": 2, "dropped_blank": 1}


def test_compressed_and_remote_files(run_list: Run, tmp_path: Path) -> None:
    made = run_list("l.csv.gz", gzip.compress(encoded(NAMES, "csv")))
    assert made.column("name") == NAMES
    import fsspec

    with fsspec.open("memory://lists/l.txt", "wb") as stream:
        stream.write(encoded(NAMES, "txt"))
    assert make_places(tmp_path / "r", source="list", path="memory://lists/l.txt").table == made.table


def test_several_files_are_one_list(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Bryant Park\nTudor City\n")
    (tmp_path / "b.json").write_text('["tudor city", "Sutton Place"]')
    made = make_places(tmp_path / "run", source="list", path=[str(tmp_path / "a.txt"), str(tmp_path / "b.json")])
    assert made.column("name") == ["Bryant Park", "Tudor City", "Sutton Place"]
    assert made.counters == {"rows": 4, "places": 3, "dropped_duplicate": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", b"", "holds no place name"),
        ("l.txt", b"\n \n\xe2\x80\x8b\n", "holds no place name"),
        ("l.csv", b"", "holds no place name"),
        ("l.json", b"[]", "holds no place name"),
        ("l.doc", b"Bryant Park", "its ending must be one of txt, csv"),
        ("places", b"Bryant Park", "its ending must be one of txt, csv"),
        ("l.txt", b"Bryant Park\nCaf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        ("l.csv", "name\nBryant Park\n".encode("utf-16"), "is in UTF-16"),
        ("l.txt", b"A\nB\0C\n", "line 2: a NUL byte"),
        ("l.csv", b'name\nA\n"Bryant Park\nTudor City\n', "unexpected end of data"),
        ("l.csv", b'name\n"The "Met", NYC"\n', "line 2"),
        ("l.csv", b"id,lat,lon\n1,2,3\n", "no column for the name: call one of id, lat, lon 'name'"),
        ("l.json", b'{"places": []}', "must be an array"),
        ("l.json", b'["A",', "not valid JSON"),
        ("l.json", b'["Caf\xe9"]', "not valid JSON in UTF-8"),
        ("l.jsonl", b'"A"\n{"name": }\n', "line 2 is not valid JSON"),
        ("l.parquet", b"no parquet at all", "cannot be read"),
        ("l.txt.gz", b"no gzip at all", "cannot be read"),
        ("l.txt.gz", gzip.compress(b"Bryant Park\n" * 999, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_a_bad_file_is_one_clear_line(run_list: Run, name: str, content: bytes, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        run_list(name, content)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_without_a_name_column(run_list: Run) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"label": ["A"]}), sink)
    assert run_list("one.parquet", sink.getvalue()).column("name") == ["A"]
    sink = io.BytesIO()
    pq.write_table(pa.table({"label": ["A"], "score": [1]}), sink)
    with pytest.raises(SettingsError, match="no column for the name: call one of label, score 'name'"):
        run_list("two.parquet", sink.getvalue())


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.dictionaries(st.sampled_from(["name", "id", "lat", "lon", "pop", "state", "country", "kind"]),
    st.none() | st.booleans() | st.integers() | st.floats() | lines | st.lists(st.integers(), max_size=1), max_size=6),
    max_size=6))  # fmt: skip
def test_any_json_at_all_gives_a_valid_table(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("any")
    # JSON has no nan; integers beyond 64 bits are refused by the parser, as a file that is not valid.
    text = (
        json.dumps([*rows, "Bryant Park"]).replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "1")
    )
    (folder / "l.json").write_text(text)
    try:
        made = make_places(folder / "run", source="list", path=str(folder / "l.json"))
    except SettingsError as error:
        assert "JSON" in str(error)
        return
    for row in made.rows:
        assert (row["latitude"] is None) == (row["longitude"] is None)
        assert row["latitude"] is None or -90 <= row["latitude"] <= 90
