"""From the parts of all sources to one table: each place once, those that are wanted, in order.

Everything is told by `position`, a number, so that what must be held for a decision is small beside the rows; and these
are handed out part by part, so that none has to be sorted but within its part.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from geo_subset import storage, tables
from geo_subset.places import same_place
from geo_subset.settings import PlacesSettings

MEMORY_LIMIT = "1GB"
"""DuckDB's; above it, it spills to the node's scratch space."""
MAX_THREADS = 4
_BATCH = 65_536

# Two GROUP BYs rather than count(DISTINCT), and hashes rather than texts where few rows are wanted: these can spill.
_DUPLICATES = """
    INSERT INTO gone
    WITH doubtful AS (SELECT id_hash FROM lean GROUP BY id_hash HAVING count(*) > 1)
    SELECT position, 'duplicate_id' FROM (
        SELECT position, row_number() OVER (PARTITION BY place_id ORDER BY source, position) AS nth
        FROM parts WHERE hash(place_id) IN (FROM doubtful)
    ) WHERE nth > 1
"""
# What stays with a limit.
_FIRST = "population DESC NULLS LAST, source, confidence DESC NULLS LAST, position"
# Of a place, a number that the seed alone decides on.
_DRAWN = "md5_number_lower('{seed} ' || place_id)"
# Of one part; what is not of it is put aside first, as there may be millions.
_TABLE = """
    SELECT place_id, name, kind, context, coalesce(part.admin1, merged.admin1) AS admin1,
        coalesce(part.admin2, merged.admin2) AS admin2, coalesce(part.country, merged.country) AS country, latitude,
        longitude, coalesce(part.population, merged.population) AS population, queries,
        CASE WHEN merged.ids IS NULL THEN part.alternate_names ELSE part.alternate_names || list_filter(
            merged.alternate_names, lambda other: other <> name AND NOT list_contains(part.alternate_names, other)
        ) END AS alternate_names,
        CASE WHEN merged.ids IS NULL THEN [place_id] ELSE [place_id] || merged.ids END AS source_ids,
        coalesce(shared.namesakes, 1)::INTEGER AS namesakes, dictionary_word
    FROM part
        ANTI JOIN (FROM gone WHERE position BETWEEN $first AND $last) AS gone ON gone.position = part.position
        LEFT JOIN (FROM merged WHERE position BETWEEN $first AND $last) AS merged ON merged.position = part.position
        LEFT JOIN (FROM shared WHERE position BETWEEN $first AND $last) AS shared ON shared.position = part.position
    ORDER BY part.position
"""


@contextmanager
def assembled(paths: Sequence[str], settings: PlacesSettings, counters: Counter[str]) -> Iterator[Iterator[pa.Table]]:
    """The places table (tables.PLACES), batch by batch, from some parts (gather.PART, local parquet files) in order.

    Counts places, and into dropped_<reason> what is left out: duplicate_id, same_place, over_limit, not_in_sample.
    """
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with storage.database(MEMORY_LIMIT, threads, paths, preserve_insertion_order=False) as database:
        database.read_parquet([storage.literal(path) for path in paths]).create_view("parts")
        _decide(database, settings)
        for reason, count in database.execute("SELECT reason, count(*) FROM gone GROUP BY 1").fetchall():
            counters[f"dropped_{reason}"] += count
        counters["places"] = _number(database, "SELECT count(*) FROM lean") - _number(
            database, "SELECT count(*) FROM gone"
        )
        with closing(tables.ahead(_rows(database, paths))) as rows:  # else an error would find the database busy
            yield rows


def _rows(database: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> Iterator[pa.Table]:
    # Otherwise parallel readers would hand even a sorted result out as pieces come.
    database.execute("SET preserve_insertion_order = true")
    for path in paths:
        database.read_parquet(storage.literal(path)).create_view("part", replace=True)
        first, last = database.execute("SELECT min(position), max(position) FROM part").fetchall()[0]
        rows: Any = database.sql(_TABLE, params={"first": first, "last": last})
        yield from (pa.Table.from_batches([batch]).cast(tables.PLACES) for batch in rows.to_arrow_reader(_BATCH))


def _decide(database: duckdb.DuckDBPyConnection, settings: PlacesSettings) -> None:
    """Makes the tables `gone` (position, reason), `merged` (position, ids, …) and `shared` (position, namesakes)."""
    sample = settings.filters.sample
    drawn = "NULL" if sample is None else _DRAWN.format(seed=settings.filters.seed)
    database.execute(
        f"""CREATE TABLE lean AS SELECT position, source, confidence, population, hash(place_id) AS id_hash,
            hash(keys[1]) AS key_hash, {drawn} AS drawn FROM parts"""
    )
    database.execute("CREATE TABLE gone (position BIGINT, reason VARCHAR)")
    database.execute(_DUPLICATES)
    database.execute("CREATE VIEW there AS SELECT * FROM parts ANTI JOIN gone USING (position)")
    database.execute("CREATE VIEW wanted AS SELECT * FROM lean ANTI JOIN gone USING (position)")
    database.execute("CREATE TABLE same (position BIGINT, of_position BIGINT)")
    for source in range(1, len(settings.source)):
        earlier, later = f"(FROM there WHERE source < {source})", f"(FROM there WHERE source = {source})"
        database.execute(f"CREATE OR REPLACE TABLE found AS {same_place.matches(earlier, later)}")
        database.execute("INSERT INTO same FROM found")
        database.execute("INSERT INTO gone SELECT position, 'same_place' FROM found")
    database.execute(
        """CREATE TABLE merged AS
            SELECT of_position AS position, list(place_id ORDER BY same.position) AS ids, max(population) AS population,
                first(admin1 ORDER BY same.position) FILTER (admin1 IS NOT NULL) AS admin1,
                first(admin2 ORDER BY same.position) FILTER (admin2 IS NOT NULL) AS admin2,
                first(country ORDER BY same.position) FILTER (country IS NOT NULL) AS country,
                list_sort(list_distinct(flatten(list(alternate_names)))) AS alternate_names
            FROM same JOIN parts ON parts.position = same.position GROUP BY of_position"""
    )
    database.execute(
        """CREATE TABLE shared AS SELECT position, namesakes FROM wanted JOIN (
            SELECT key_hash, count(*) AS namesakes FROM wanted GROUP BY 1 HAVING count(*) > 1) USING (key_hash)"""
    )
    database.execute(
        """CREATE VIEW ranked AS SELECT wanted.* REPLACE (coalesce(wanted.population, merged.population) AS population)
            FROM wanted LEFT JOIN merged ON merged.position = wanted.position"""
    )
    if settings.limit is not None:
        _keep(database, settings.limit, _FIRST, "over_limit")
    if sample is not None:
        _keep(database, sample, "drawn, position", "not_in_sample")


def _keep(database: duckdb.DuckDBPyConnection, count: int, order: str, reason: str) -> None:
    """Of what is wanted the first `count`."""
    database.execute(f"CREATE OR REPLACE TABLE first AS SELECT position FROM ranked ORDER BY {order} LIMIT {count}")
    database.execute(f"INSERT INTO gone SELECT position, '{reason}' FROM wanted ANTI JOIN first USING (position)")


def _number(database: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(database.execute(sql).fetchall()[0][0])
