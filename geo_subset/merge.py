"""Stage merge: from one row per place and image to one row per distinct URL, with every place that found it.

Few matches are reduced by one DuckDB process. Many are first split by hash of the URL key into partitions on the run's
storage (`shuffle`), then reduced partition by partition. A partition is a range of uids, and samples are sorted by
uid, so the table is the same whatever the number of partitions.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa

from geo_subset import cluster, progress, shuffle, storage, urls
from geo_subset.errors import SettingsError, StageError, from_os_error
from geo_subset.manifests import Manifest, Record
from geo_subset.runfolder import StageFolder
from geo_subset.settings import MergeSettings, Settings
from geo_subset.tables import MATCHES, SAMPLES, SOURCE_FIELDS

#: Bytes of matches on storage that one partition, and one map task, should hold at most: about 3 million rows.
PARTITION_BYTES = 256 << 20
MAP_BYTES = 64 << 20
MEMORY_LIMIT = "1GB"
"""DuckDB's memory per reduce task; above it, it spills to the node's scratch space."""
MAX_THREADS = 8
"""For a single partition; more would each want their share of that memory."""

_SOURCE = [field.name for field in SOURCE_FIELDS]


def content(settings: Settings) -> Any:
    """What decides the samples; the blocklists' contents come in through `inputs`."""
    return settings.merge.model_dump(mode="json", exclude={"blocklist"})


def inputs(settings: Settings) -> Sequence[str]:
    return settings.merge.blocklist


def check(settings: Settings) -> None:
    """Raises SettingsError if `where` is no condition over the columns of samples."""
    if settings.merge.where is None:
        return
    with duckdb.connect() as connection:
        try:
            condition = duckdb.SQLExpression(settings.merge.where)
            (kind,) = connection.from_arrow(SAMPLES.empty_table()).select(condition).types
        except duckdb.Error as error:
            problem = str(error).strip().splitlines()[0]
            raise SettingsError(f"merge.where = {settings.merge.where!r}: {problem}") from None
    if kind != "BOOLEAN":
        raise SettingsError(f"merge.where = {settings.merge.where!r}: a condition is wanted, this gives {kind}")


@dataclass(frozen=True)
class Reduction:
    """What a reduce task needs to know: where its rows are (`split`: in partitions of the shuffle) and the filters."""

    folder: StageFolder
    matches: tuple[str, ...]
    split: StageFolder | None
    partitions: int
    merge: MergeSettings


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Reduces what is left. Raises StageError if a partition could not be reduced."""
    started = time.monotonic()
    manifest = StageFolder(folder.run_url, "retrieve").manifest()
    if manifest is None:
        raise StageError("the matches are not there; run the stage 'retrieve' first")
    files = [(entry.path, entry.bytes) for entry in manifest.files if entry.path.startswith("part-")]
    partitions = max(1, math.ceil(sum(size for _, size in files) / PARTITION_BYTES))
    records = folder.start(partitions)
    todo = [number for number in range(partitions) if _unit(number) not in records]
    split = StageFolder(folder.run_url, "shuffle", folder.fingerprint)
    if todo and partitions > 1:
        _split(settings, split, files, partitions)
    reduction = Reduction(
        folder, tuple(path for path, _ in files), split if partitions > 1 else None, partitions, settings.merge
    )
    done = partitions - len(todo)
    with progress.track("merge", partitions, "partitions", done) as advance:
        for outcome in cluster.run_tasks(_reduce, todo, (reduction,), settings.cluster):
            if outcome.error is not None:
                raise StageError(f"partition {outcome.unit} of {partitions} could not be merged: {outcome.error}")
            records[_unit(outcome.unit)] = outcome.result
            advance(1)
    shuffled = split.manifest()
    split.remove()
    return folder.finish(records.values(), time.monotonic() - started, None, [shuffled] if shuffled else [])


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    count = manifest.counters
    left_out = sum(n for name, n in count.items() if name.startswith("urls_") and name != "urls_distinct")
    return f"{count['samples']:,} images from {count['matches']:,} rows" + (
        f", {left_out:,} left out" if left_out else ""
    )


def _unit(partition: int) -> str:
    return f"part-{partition:05d}"


def _split(settings: Settings, split: StageFolder, files: list[tuple[str, int]], partitions: int) -> None:
    """The shuffle's map side: the matches, split by partition, on the run's storage."""
    if split.finished():
        return
    groups = shuffle.grouped_by_bytes(files, MAP_BYTES)
    records = split.start(len(groups))
    todo = [(i, tuple(names)) for i, names in enumerate(groups) if f"map-{i:05d}" not in records]
    with progress.track("split", len(groups), "parts", len(groups) - len(todo)) as advance:
        for outcome in cluster.run_tasks(_map, todo, (split, partitions), settings.cluster):
            if outcome.error is not None:
                raise StageError(f"matches {outcome.unit[1][0]} and following could not be split: {outcome.error}")
            records[outcome.result.unit] = outcome.result
            advance(1)
    split.finish(records.values(), 0.0)


def _map(unit: tuple[int, tuple[str, ...]], split: StageFolder, partitions: int) -> Record:
    """Task: adds the uid to some parts' rows and writes them by partition."""
    number, names = unit
    with StageFolder(split.run_url, "retrieve").local(names) as paths, _database(1) as database:
        rows: pa.Table = database.sql(
            f"""WITH hashed AS (SELECT *, md5(url_key(url)) AS uid FROM {_parquet(paths)})
                SELECT *, ((('0x' || uid[:8])::UBIGINT * {partitions}) >> 32)::INTEGER AS partition FROM hashed"""
        ).to_arrow_table()
    name = f"map-{number:05d}-{split.tag}.parquet"
    partition = rows["partition"].to_numpy()
    rows = rows.drop(["partition"])
    with split.writing(name) as path:
        shuffle.write_partitioned(rows, np.asarray(partition), partitions, path)
        entry = split.entry(path, name, rows.num_rows)
    return split.record(f"map-{number:05d}", [entry], {"rows": rows.num_rows})


def _reduce(partition: int, reduction: Reduction) -> Record:
    """Task: one row per URL key of a partition, written and recorded."""
    folder, split = reduction.folder, reduction.split
    threads = 1 if split else min(MAX_THREADS, os.cpu_count() or 1)
    with ExitStack() as stack:
        database = stack.enter_context(_database(threads))
        if split is None:
            paths = stack.enter_context(StageFolder(folder.run_url, "retrieve").local(reduction.matches))
            source = _parquet(paths) if paths else "no_matches"
            database.register("no_matches", MATCHES.empty_table())
            database.execute(f"CREATE VIEW matches AS SELECT *, md5(url_key(url)) AS uid FROM {source}")
        else:
            manifest = split.manifest()
            names = manifest.paths("map-") if manifest else []
            streams = [stack.enter_context(split.open(name)) for name in names]
            rows = pa.concat_tables(shuffle.read_partition(streams, partition))
            database.register("matches", rows)
        places = stack.enter_context(StageFolder(folder.run_url, "places").local(["places.parquet"]))
        database.execute(f"CREATE VIEW places AS SELECT place_id, name, latitude, longitude FROM {_parquet(places)}")
        counters = _merge(database, reduction.merge)
        # Without insertion order kept, parallel readers would hand even a sorted result out in pieces as they come.
        database.execute("SET preserve_insertion_order = true")
        columns = ", ".join(SAMPLES.names)
        kept: Any = database.execute(f"SELECT {columns} FROM merged WHERE dropped IS NULL ORDER BY uid")
        try:
            entry = folder.write_batches(
                f"{_unit(partition)}-{folder.tag}.parquet",
                SAMPLES,
                (pa.Table.from_batches([batch]).cast(SAMPLES) for batch in kept.to_arrow_reader(65_536)),
            )
        except OSError as error:
            raise from_os_error(error, f"writing {folder.url}") from error
        return folder.record(_unit(partition), [entry], counters)


def _merge(database: duckdb.DuckDBPyConnection, merge: MergeSettings) -> dict[str, int]:
    """Makes table `merged` (columns of SAMPLES, and why a row is `dropped`) from `matches` and `places`.

    The counters add up: matches = matches_below_min_similarity + what the merged rows stand for;
    urls_distinct = samples + every other urls_ counter.
    """
    least = "-infinity" if merge.min_similarity is None else repr(merge.min_similarity)
    # The best of a place's rows for the image, then the places by the same order: similarity, rank, place_id, url.
    database.execute(
        f"""
        CREATE TEMP TABLE found AS
        WITH by_place AS (
            SELECT * FROM matches WHERE similarity >= '{least}'::FLOAT
            QUALIFY row_number() OVER (PARTITION BY uid, place_id ORDER BY similarity DESC, rank, url) = 1
        )
        SELECT *, row_number() OVER (PARTITION BY uid ORDER BY similarity DESC, rank, place_id, url) AS nth
        FROM by_place
        """
    )
    blocked_uids, blocked_domains = _read_blocklists(merge.blocklist)
    hosts = [row[0] for row in database.execute("SELECT DISTINCT url_host(url) FROM found WHERE nth = 1").fetchall()]
    database.register(
        "hosts",
        pa.table(
            {
                "host": pa.array(hosts, pa.string()),
                "domain": pa.array([urls.registered_domain(host) for host in hosts], pa.string()),
                "blocked": pa.array([_is_blocked(host, blocked_domains) for host in hosts], pa.bool_()),
            }
        ),
    )
    database.register("blocked_uids", pa.table({"uid": pa.array(sorted(blocked_uids), pa.string())}))
    database.execute(
        f"""
        CREATE TEMP TABLE merged AS
        WITH lists AS (
            SELECT uid, list(place_id ORDER BY nth) AS place_ids, list(similarity ORDER BY nth) AS similarities,
                count(*)::INTEGER AS place_count
            FROM found GROUP BY uid
        ), samples AS (
            SELECT uid, url, caption, place_id, name, latitude, longitude, similarity, place_ids, similarities,
                place_count, domain, blocked, {", ".join(_SOURCE)}
            FROM (SELECT * FROM found WHERE nth = 1)
            JOIN lists USING (uid)
            LEFT JOIN places USING (place_id)
            LEFT JOIN hosts ON hosts.host = url_host(url)
        )
        SELECT * EXCLUDE (blocked), CASE
            WHEN uid IN (SELECT uid FROM blocked_uids) THEN 'urls_blocked'
            WHEN blocked THEN 'urls_of_blocked_domains'
            WHEN place_count > {merge.max_places_per_url or 2**31 - 1} THEN 'urls_of_too_many_places'
            WHEN ({merge.where or "true"}
            ) IS NOT true THEN 'urls_not_where'
            END AS dropped
        FROM samples
        """
    )
    matches, below = _one(
        database, f"SELECT count(*), count(*) FILTER (WHERE similarity < '{least}'::FLOAT) FROM matches"
    )
    dropped = dict(
        database.execute("SELECT dropped, count(*) FROM merged WHERE dropped IS NOT NULL GROUP BY ALL").fetchall()
    )
    (distinct,) = _one(database, "SELECT count(*) FROM merged")
    return {
        "matches": matches,
        "matches_below_min_similarity": below,
        "urls_distinct": distinct,
        **{f: dropped.get(f, 0) for f in ("urls_blocked", "urls_of_blocked_domains", "urls_of_too_many_places")},
        "urls_not_where": dropped.get("urls_not_where", 0),
        "samples": distinct - sum(dropped.values()),
    }


def _read_blocklists(paths: Sequence[str]) -> tuple[set[str], set[str]]:
    """uids of URLs and domains of the blocklists: a line with '://' is a URL, '#' starts a comment."""
    uids: set[str] = set()
    domains: set[str] = set()
    for path in paths:
        with fsspec.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = line.strip()
                if "://" in text:
                    uids.add(urls.uid(text))
                elif text and not text.startswith("#"):
                    domains.add(text.lower().strip("."))
    return uids, domains


def _is_blocked(host: str, domains: set[str]) -> bool:
    """Whether the host or a domain above it is listed."""
    labels = host.split(".")
    return bool(domains) and any(".".join(labels[i:]) in domains for i in range(len(labels)))


@contextmanager
def _database(threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    with storage.scratch_folder() as scratch:
        config: dict[str, Any] = {
            "threads": threads,
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(scratch),
            "preserve_insertion_order": False,
        }
        with duckdb.connect(config=config) as database:
            urls.define_sql(database)
            yield database


def _parquet(paths: Sequence[str]) -> str:
    quoted = ", ".join("'" + str(Path(path)).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{quoted}])"


def _one(database: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    row = database.execute(query).fetchone()
    return row if row is not None else ()
