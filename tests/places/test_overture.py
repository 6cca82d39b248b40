"""Source 'overture': GeoParquet files in both layouts, bad rows, filters, and what is not read at all."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geo_subset.errors import SettingsError

from .conftest import Made, make_places

_BBOX = pa.struct([(side, pa.float32()) for side in ("xmin", "xmax", "ymin", "ymax")])
_NAMES = pa.struct(
    [("primary", pa.string()), ("common", pa.map_(pa.string(), pa.string())), ("rules", pa.list_(pa.string()))]
)
_TEXTS = pa.list_(pa.string())
_ADDRESS = pa.struct([(part, pa.string()) for part in ("freeform", "locality", "postcode", "region", "country")])
_SHARED = [
    ("id", pa.string()), ("geometry", pa.binary()), ("bbox", _BBOX), ("version", pa.int32()), ("names", _NAMES),
    ("confidence", pa.float64()), ("websites", pa.list_(pa.string())), ("addresses", pa.list_(_ADDRESS)),
    ("operating_status", pa.string()),
]  # fmt: skip
BEFORE = pa.schema(
    [*_SHARED, ("categories", pa.struct([("primary", pa.string()), ("alternate", pa.list_(pa.string()))]))]
)
AFTER = pa.schema(
    [
        *_SHARED, ("basic_category", pa.string()),
        ("taxonomy", pa.struct([("primary", pa.string()), ("hierarchy", _TEXTS), ("alternates", _TEXTS)])),
    ]
)  # fmt: skip


def point(longitude: float, latitude: float) -> bytes:
    return struct.pack("<BIdd", 1, 1, longitude, latitude)


def row(number: Any = "a", name: str | None = "Grand Central Terminal", **other: Any) -> dict[str, Any]:
    """A station in Manhattan unless told otherwise, with what both layouts hold."""
    longitude, latitude = other.pop("at", (-73.9772, 40.7527))
    address = {"freeform": "89 E 42nd St", "locality": "New York", "postcode": "10017", "region": "NY", "country": "US"}
    made = {
        "id": number, "geometry": point(longitude, latitude), "version": 1, "websites": None, "confidence": 0.9,
        "bbox": {"xmin": longitude, "xmax": longitude, "ymin": latitude, "ymax": latitude},
        "names": {"primary": name, "common": None, "rules": None}, "addresses": [address], "operating_status": "open",
        "categories": {"primary": "train_station", "alternate": ["landmark_and_historical_building"]},
        "basic_category": "train_station",
        "taxonomy": {
            "primary": "train_station", "hierarchy": ["travel_and_transportation", "train_station"],
            "alternates": ["landmark_and_historical_building"],
        },
    }  # fmt: skip
    assert other.keys() <= made.keys()
    return made | other


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = AFTER, **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Made]:
    def run(rows: list[dict[str, Any]], schema: pa.Schema = AFTER, *, languages: Any = (), **filters: Any) -> Made:
        path = write(tmp_path / "part-00000.parquet", rows, schema, row_group_size=2)
        settings = {"source": "overture", "path": str(path), "filters": filters, "languages": list(languages)}
        return make_places(tmp_path / "run", **settings)

    return run


@pytest.mark.parametrize("schema", [BEFORE, AFTER], ids=["before", "after"])
def test_a_place_in_either_layout(run: Callable[..., Made], schema: pa.Schema) -> None:
    made = run([row()], schema)
    assert made.rows == [
        {
            "place_id": "overture:a", "name": "Grand Central Terminal", "kind": "train station",
            "context": "New York, New York, United States", "admin1": "New York", "admin2": None, "country": "US",
            "latitude": 40.7527, "longitude": -73.9772, "population": None,
            "queries": ["Grand Central Terminal, New York, New York, United States"], "alternate_names": [],
            "source_ids": ["overture:a"], "namesakes": 1, "dictionary_word": False,
        }
    ]  # fmt: skip


def test_every_bad_row_is_counted_by_its_reason(run: Callable[..., Made]) -> None:
    nowhere = row("b5")
    made = run(
        [
            row("good"), row(None), row("b2", None), row("b3", "  \u200b"), row("b4", geometry=None),
            nowhere | {"geometry": b"\x01\x02"}, row("b6", at=(-73.9, 95.0)), row("b7", at=(float("nan"), 40.0)),
            row("b8", "Main Office"), row("b9", "7"), row("good", "Again"),
            row("c1", operating_status="permanently_closed"),
            row("bare", names={"primary": "Old Mill"}, addresses=None, operating_status=None, confidence=None,
                taxonomy=None, basic_category=None),
            row("empty", "New Mill", addresses=[]),
        ]
    )  # fmt: skip
    assert made.counters == {
        "rows": 14, "places": 3, "dropped_no_id": 1, "dropped_no_name": 2, "dropped_impossible_coordinates": 4,
        "dropped_unsearchable_name": 2, "dropped_duplicate_id": 1, "dropped_closed": 1,
    }  # fmt: skip
    rows = {place["place_id"]: place for place in made.rows}
    assert list(rows) == ["overture:good", "overture:bare", "overture:empty"]
    assert rows["overture:good"]["name"] == "Grand Central Terminal"  # the first of the two
    assert (rows["overture:bare"]["kind"], rows["overture:bare"]["queries"]) == ("place", ["Old Mill"])


def test_points_that_are_none_cost_their_row(run: Callable[..., Made]) -> None:
    empty = struct.pack("<BIdd", 1, 1, float("nan"), float("nan"))
    line = struct.pack("<BII", 1, 2, 0)
    made = run([row("a"), row("b", geometry=empty), row("c", geometry=line)])
    assert made.counters == {"rows": 3, "places": 1, "dropped_impossible_coordinates": 2}


def test_rows_keep_the_order_of_the_file_and_a_limit_the_surest(tmp_path: Path) -> None:
    rows = [row(f"f{n}", f"Mill {n}", confidence=n / 10 if n else None) for n in (1, 4, 2, 5, 0, 3)]
    path = str(write(tmp_path / "p.parquet", rows, row_group_size=2))
    made, limited = (make_places(tmp_path / str(limit), source="overture", path=path, limit=limit) for limit in (6, 3))
    assert made.column("place_id") == [f"overture:f{n}" for n in (1, 4, 2, 5, 0, 3)]
    assert limited.column("place_id") == [f"overture:f{n}" for n in (4, 5, 3)]


@pytest.mark.parametrize("column", ["names", "addresses", "operating_status"])
def test_columns_of_other_types_are_told_with_the_file(tmp_path: Path, column: str, ray_session: None) -> None:
    table = pa.Table.from_pylist([row("a"), row("b")], AFTER)
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, column, pa.array([{"x": [1]}] * 2)), tmp_path / "odd.parquet")
    write(tmp_path / "good.parquet", [row("c")])
    for paths in (["odd.parquet"], ["good.parquet", "odd.parquet"]):
        with pytest.raises(SettingsError, match=r"odd\.parquet is not laid out as a release is"):
            make_places(tmp_path / "run", source="overture", path=[str(tmp_path / name) for name in paths])


def test_text_that_is_not_utf8_costs_its_row_alone(tmp_path: Path) -> None:
    names = pa.array([b"Old Mill", b"Caf\xe9 Luna", b"New Mill"]).view(pa.string())
    table = pa.Table.from_pylist([row(n) for n in "abc"], AFTER)
    column = table["names"].combine_chunks()
    bad = pa.StructArray.from_arrays([names, column.field(1), column.field(2)], fields=list(_NAMES))
    table = table.set_column(table.schema.get_field_index("names"), AFTER.field("names"), bad)
    pq.write_table(table, tmp_path / "p.parquet")
    made = make_places(tmp_path / "run", source="overture", path=str(tmp_path / "p.parquet"))
    assert made.column("name") == ["Old Mill", "New Mill"]
    assert made.counters == {"rows": 3, "places": 2, "dropped_not_utf8": 1}


def test_filters(run: Callable[..., Made]) -> None:
    cafe = {"primary": "coffee_shop", "hierarchy": ["eat_and_drink", "coffee_shop"], "alternates": None}
    abroad = [{"freeform": None, "locality": "Torino", "postcode": None, "region": "TO", "country": "IT"}]
    rows = [
        row("a"), row("b", "Joe's", taxonomy=cafe, basic_category="cafe"), row("c", "Stazione", addresses=abroad),
        row("d", "Doubtful", confidence=0.2),
        row("e", "Boston South", addresses=[{"region": "US-MA", "country": "US"}]),
        row("f", "Shut", operating_status="temporarily_closed"),
    ]  # fmt: skip

    def kept(**filters: Any) -> tuple[list[str], dict[str, int]]:
        made = run(rows, **filters)
        ids = sorted(place_id.removeprefix("overture:") for place_id in made.column("place_id"))
        return ids, {name: n for name, n in made.counters.items() if name.startswith("dropped_")}

    assert kept() == (list("abcdef"), {})
    assert kept(countries="it") == (["c"], {"dropped_other_country": 5})
    assert kept(admin1="ma") == (["e"], {"dropped_other_admin1": 5})
    assert kept(admin1=["New York", "Massachusetts"])[0] == list("abdef")
    assert kept(categories="Eat_and_drink") == (["b"], {"dropped_other_category": 5})
    assert kept(categories="landmark_and_historical_building")[0] == list("acdef")
    assert kept(min_confidence=0.5) == (list("abcef"), {"dropped_below_min_confidence": 1})
    assert kept(operating_status="open") == (list("abcde"), {"dropped_closed": 1})
    assert kept(operating_status=["temporarily_closed"])[0] == ["f"]


def test_names_in_other_languages_are_searched_for_too(run: Callable[..., Made]) -> None:
    common = [
        ("es", "Estación Grand Central"),
        ("zh", " 大中央總站\u200b "),
        ("en", "Grand Central Terminal"),
        ("fr", "7"),
    ]
    made = run(
        [row(names={"primary": "Grand Central Terminal", "common": common}), row("b", "Old Mill")],
        languages=["zh", "en", "fr"],
    )
    assert made.column("alternate_names") == [["大中央總站"], []]
    assert made.column("queries")[0][1] == "大中央總站, New York, New York, United States"


def test_row_groups_outside_the_box_are_counted_unread(tmp_path: Path) -> None:
    rows = [row(f"w{n}", at=(-120.0 + n, 40.0)) for n in range(4)] + [
        row(f"e{n}", at=(-75.0 + n / 10, 40.0)) for n in range(4)
    ]
    path = write(tmp_path / "p.parquet", rows, row_group_size=4)
    # What the first row group holds is made unreadable: whoever reads it fails.
    group = pq.ParquetFile(path).metadata.row_group(0)
    data = bytearray(path.read_bytes())
    first = group.column(0)
    data[first.dictionary_page_offset or first.data_page_offset :][:0] = b""
    start = first.dictionary_page_offset or first.data_page_offset
    data[start : start + first.total_compressed_size] = bytes(first.total_compressed_size)
    path.write_bytes(data)
    made = make_places(tmp_path / "run", source="overture", path=str(path), filters={"bbox": [-75.0, 39, -74.85, 41]})
    assert made.column("place_id") == ["overture:e0", "overture:e1"]
    assert made.counters == {"rows": 8, "places": 2, "dropped_outside_bbox": 6}
    with pytest.raises(SettingsError, match=r"p\.parquet cannot be read"):
        make_places(tmp_path / "run", source="overture", path=str(path))


def test_many_files_of_a_folder_give_the_same_whatever_the_workers(tmp_path: Path, ray_session: None) -> None:
    folder = tmp_path / "type=place"
    folder.mkdir()
    for n in range(3):
        write(folder / f"part-{n}.parquet", [row(f"{n}-{m}", f"Mill {m}", confidence=(m + n) / 20) for m in range(10)])
    (folder / "_SUCCESS").touch()
    one, two = (
        make_places(tmp_path / f"run{workers}", cluster={"workers": workers}, source="overture", path=path)
        for workers, path in ((1, str(folder)), (2, str(folder / "*.parquet")))
    )
    assert one.table.equals(two.table)
    assert one.counters == {"rows": 30, "places": 30}
    assert one.column("namesakes") == [3] * 30


def test_a_release_on_object_storage(tmp_path: Path, s3_bucket: str) -> None:
    write(tmp_path / "p.parquet", [row("a"), row("b", "Far Mill", at=(-120.0, 40.0))], row_group_size=1)
    url = f"{s3_bucket}/release/theme=places/type=place"
    fsspec.filesystem("s3").put(str(tmp_path / "p.parquet"), f"{url}/part-00000.zstd.parquet")
    made = make_places(tmp_path / "run", source="overture", path=url, filters={"bbox": [-75, 40, -73, 41]})
    assert made.column("place_id") == ["overture:a"]
    assert made.counters == {"rows": 2, "places": 1, "dropped_outside_bbox": 1}
    with pytest.raises(SettingsError, match=r"no such file or folder|no file that ends in"):
        make_places(tmp_path / "run", source="overture", path=f"{s3_bucket}/nothing")
    with pytest.raises(SettingsError, match=r"cannot be listed|no such file"):
        make_places(tmp_path / "run", source="overture", path="s3://no-such-bucket-here/x")


def test_what_is_no_file_of_places_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(SettingsError, match=r"x\.parquet is no file of Overture's places: it has no column id, names"):
        make_places(tmp_path / "run", source="overture", path=str(tmp_path / "x.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"there is no file that ends in \.parquet"):
        make_places(tmp_path / "run", source="overture", path=str(tmp_path / "empty"))
    (tmp_path / "y.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(SettingsError, match=r"y\.parquet cannot be read"):
        make_places(tmp_path / "run", source="overture", path=str(tmp_path / "y.parquet"))
