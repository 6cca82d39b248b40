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
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset import cluster, conditions, progress, shuffle, storage, tables, urls, wording
from geo_subset.errors import StageError, from_os_error
from geo_subset.manifests import Manifest, Record
from geo_subset.runfolder import StageFolder
from geo_subset.tables import MATCHES, SAMPLES, SOURCE_FIELDS

if TYPE_CHECKING:
    from geo_subset.settings import MergeSettings, Settings

#: Bytes of matches on storage up to which they are reduced in one go, about 2 million rows.
PARTITION_BYTES = 128 << 20
#: What each of several partitions holds of more, at most, and what a map task takes: two of them at a time, with all of
#: Ray beside them, stay below 2.5 GB.
SPLIT_BYTES = 20 << 20
MAP_BYTES = 32 << 20
MEMORY_LIMIT = "1GB"
"""DuckDB's memory per reduce task; above it, it spills to the node's scratch space."""
REDUCE_MEMORY = 2 << 30
"""Bytes that a reduce task has for itself on its node: that, its rows and what it hands out."""
MAX_THREADS = 8
"""For a single partition; more would each want their share of that memory."""

_OF_BEST = ["caption", *(field.name for field in SOURCE_FIELDS)]
_SLICE = 65_536
#: Counters of URLs that are left out -> why.
_LEFT_OUT = {
    "urls_blocked": "URL on a blocklist",
    "urls_of_blocked_domains": "domain on a blocklist",
    "urls_of_too_many_places": "more places than merge.max_places_per_url",
    "urls_not_where": "merge.where does not hold",
}


def content(settings: Settings) -> Any:
    """What decides the samples; the blocklists' contents come in through `inputs`."""
    return settings.merge.model_dump(mode="json", exclude={"blocklist"})


def inputs(settings: Settings) -> Sequence[str]:
    return settings.merge.blocklist


def check(settings: Settings) -> None:
    """Raises SettingsError if `where` is no condition over the columns of samples."""
    if settings.merge.where is not None:
        conditions.check("merge.where", settings.merge.where, SAMPLES, "samples")


@dataclass(frozen=True)
class Filters:
    """What [merge] says, as plain data: a worker that is sent settings has to import pydantic first."""

    min_similarity: float | None
    max_places_per_url: int | None
    where: str | None
    blocklist: tuple[str, ...]

    @classmethod
    def of(cls, settings: MergeSettings) -> Filters:
        return cls(settings.min_similarity, settings.max_places_per_url, settings.where, tuple(settings.blocklist))


@dataclass(frozen=True)
class Reduction:
    """What a reduce task needs to know: where its rows are (`split`: in partitions of the shuffle) and the filters."""

    folder: StageFolder
    matches: tuple[str, ...]
    split: StageFolder | None
    partitions: int
    filters: Filters


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Reduces what is left. Raises StageError if a partition could not be reduced."""
    started = time.monotonic()
    manifest = StageFolder(folder.run_url, "retrieve").manifest()
    if manifest is None:
        raise StageError("the matches are not there; run the stage 'retrieve' first")
    files = [(entry.path, entry.bytes) for entry in manifest.files if entry.path.startswith("part-")]
    total = sum(size for _, size in files)
    partitions = 1 if total <= PARTITION_BYTES else math.ceil(total / min(SPLIT_BYTES, PARTITION_BYTES))
    records = folder.start(partitions)
    todo = [number for number in range(partitions) if _unit(number) not in records]
    split = StageFolder(folder.run_url, "shuffle", folder.fingerprint)
    if todo and partitions > 1:
        _split(settings, split, files, partitions)
    reduction = Reduction(
        folder,
        tuple(path for path, _ in files),
        split if partitions > 1 else None,
        partitions,
        Filters.of(settings.merge),
    )
    done = partitions - len(todo)
    with progress.track("merge", partitions, "partitions", done) as advance:
        for outcome in cluster.run_tasks(_reduce, todo, (reduction,), settings.cluster, memory=REDUCE_MEMORY):
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
    if not count["matches"]:
        return "nothing to merge: the retrieve stage found no row"
    rows = wording.chosen(count, {"matches_below_min_similarity": "similarity below merge.min_similarity"})
    images = wording.chosen(count, _LEFT_OUT)
    return (
        f"{wording.counted(count['samples'], 'distinct image')} from {wording.counted(count['matches'], 'row')}"
        f"{wording.because('left out', rows, 'row')}{wording.because('left out', images, 'image')}"
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
    with StageFolder(split.run_url, "retrieve").local(names) as paths, _database(1, paths) as database:
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
    pa.set_cpu_count(threads)  # Ray has told it of one
    if split is None:
        # Of memory that is touched for the first time Arrow's own allocator takes twice as much, in huge pages: a
        # quarter of this task's time. Where tasks follow one another, it has that time back.
        pa.set_memory_pool(pa.system_memory_pool())
    with ExitStack() as stack:
        if split is None:
            paths = stack.enter_context(StageFolder(folder.run_url, "retrieve").local(reduction.matches))
            parts = [pq.ParquetFile(path).read() for path in paths]
            rows = pa.concat_tables(parts) if parts else MATCHES.empty_table()
        else:
            manifest = split.manifest()
            names = manifest.paths("map-") if manifest else []
            streams = [stack.enter_context(split.open(name)) for name in names]
            rows = pa.concat_tables(shuffle.read_partition(streams, partition))
        (places,) = stack.enter_context(StageFolder(folder.run_url, "places").local(["places.parquet"]))
        database = stack.enter_context(_database(threads, [places]))
        merged = _merge(database, rows, places, reduction.filters)
        counters = dict(merged.counters)
        rows = rows.select(_OF_BEST)
        wide = _contiguous(rows)
        del rows
        name = f"{_unit(partition)}-{folder.tag}.parquet"
        try:
            slices = _samples(database, merged, wide, reduction.filters.where, counters)
            with closing(tables.ahead(slices, 1)) as coming:  # else an error would find the database busy
                entry = folder.write_batches(name, SAMPLES, coming)
        except OSError as error:
            raise from_os_error(error, f"writing {folder.url}") from error
        return folder.record(_unit(partition), [entry], counters)


@dataclass(frozen=True)
class Merged:
    """U distinct URLs, sorted by uid, and their N places, those of one URL after those of another, best first."""

    urls: pa.Table
    """(U,) uid, row (of the best match), place_id, similarity, url, name, latitude, longitude, domain."""
    dropped: npt.NDArray[np.integer]
    """(U,) Number of the reason for which a URL is left out; -1 for none."""
    ends: npt.NDArray[np.int64]
    """(U + 1,) URL i has the places [ends[i], ends[i + 1])."""
    place_ids: pa.Array
    """(N,)"""
    similarities: pa.Array
    """(N,) float32"""
    counters: dict[str, int]


def _merge(database: duckdb.DuckDBPyConnection, rows: pa.Table, places: str, filters: Filters) -> Merged:
    """Brings together what shows the same image. `rows` are MATCHES, with `uid` where they were split by it.

    Only what decides is sorted; what a sample has of its best match besides is picked when it is written.
    The counters add up: matches = matches_below_min_similarity + what the URLs stand for;
    urls_distinct = samples + every other urls_ counter.
    """
    least = "-infinity" if filters.min_similarity is None else repr(filters.min_similarity)
    uid = "uid" if "uid" in rows.column_names else "md5(url_key(url))"
    database.register("matches", rows.append_column("row", _column(np.arange(rows.num_rows))))
    # The best of a place's rows for the image, then the places by the same order: similarity, rank, place_id, url.
    found = database.sql(
        f"""
        WITH keyed AS (
            SELECT {uid} AS uid, place_id, similarity, rank, url, row FROM matches WHERE similarity >= '{least}'::FLOAT
        )
        SELECT uid, place_id, similarity, row, url FROM (
            SELECT * FROM keyed
            QUALIFY row_number() OVER (PARTITION BY uid, place_id ORDER BY similarity DESC, rank, url) = 1
        ) ORDER BY uid, similarity DESC, rank, place_id, url
        """
    ).to_arrow_table()
    below = database.sql(f"SELECT count(*) FROM matches WHERE similarity < '{least}'::FLOAT").fetchall()[0][0]
    database.unregister("matches")
    uids = found["uid"].combine_chunks()
    begins = _begins(uids)
    ends = np.append(begins, len(uids))
    urls_ = found.take(_column(begins))
    place_ids, similarities = found["place_id"].combine_chunks(), found["similarity"].combine_chunks()
    del found  # its URLs, above all
    database.register("best", urls_.select(["place_id", "url"]).append_column("n", _column(np.arange(len(begins)))))
    known = database.sql(
        f"""SELECT name, latitude, longitude, url_host(url) AS host
            FROM best LEFT JOIN {_parquet([places])} USING (place_id) ORDER BY n"""
    ).to_arrow_table()
    database.unregister("best")
    host = known["host"].combine_chunks().dictionary_encode()
    hosts = host.dictionary.to_pylist()
    of_host = np.frombuffer(host.indices.buffers()[1], np.int32, len(host), 4 * host.indices.offset)
    domains = _texts([urls.registered_domain(name) for name in hosts])
    blocked_uids, blocked_domains = _read_blocklists(filters.blocklist)
    blocked_hosts = np.array([_is_blocked(name, blocked_domains) for name in hosts], bool)
    reasons = {
        "urls_blocked": np.array([uid in blocked_uids for uid in urls_["uid"].to_pylist()] if blocked_uids else False),
        "urls_of_blocked_domains": blocked_hosts[of_host],
        "urls_of_too_many_places": np.diff(ends) > (filters.max_places_per_url or 2**31 - 1),
    }
    # The first one that holds is what counts.
    dropped = np.select(list(reasons.values()), range(len(reasons)), -1)
    for name in ("name", "latitude", "longitude"):
        urls_ = urls_.append_column(name, known[name])
    urls_ = urls_.append_column("domain", domains.take(host.indices))
    counters = {"matches": rows.num_rows, "matches_below_min_similarity": below, "urls_distinct": len(begins)}
    counters |= {reason: int((dropped == number).sum()) for number, reason in enumerate(reasons)}
    counters |= {"urls_not_where": 0, "samples": 0}
    return Merged(urls_, dropped, ends, place_ids, similarities, counters)


def _samples(
    database: duckdb.DuckDBPyConnection, merged: Merged, rows: pa.Table, where: str | None, counters: dict[str, int]
) -> Iterator[pa.Table]:
    """The samples in slices; `rows` has the matches' other columns. Counts samples, and urls_not_where."""
    for start in range(0, merged.urls.num_rows, _SLICE):
        urls_ = merged.urls.slice(start, _SLICE)
        ends = merged.ends[start : start + urls_.num_rows + 1]
        mine = slice(int(ends[0]), int(ends[-1]))
        offsets = _column((ends - ends[0]).astype(np.int32))
        columns = {name: urls_[name] for name in urls_.column_names if name != "row"}
        columns |= {name: rows[name].take(urls_["row"]) for name in rows.column_names}
        columns["place_ids"] = pa.ListArray.from_arrays(offsets, merged.place_ids[mine])
        columns["similarities"] = pa.ListArray.from_arrays(offsets, merged.similarities[mine])
        columns["place_count"] = _column(np.diff(ends).astype(np.int32))
        table = pa.table({name: columns[name] for name in SAMPLES.names}).cast(SAMPLES)
        kept = merged.dropped[start : start + _SLICE] < 0
        table = table if kept.all() else table.take(_column(np.flatnonzero(kept)))
        if where is not None:
            fitting = conditions.fitting(database, "merge.where", where, table, "samples")
            counters["urls_not_where"] += table.num_rows - fitting.num_rows
            table = fitting
        counters["samples"] += table.num_rows
        yield table


def _begins(uids: pa.Array) -> npt.NDArray[np.int64]:
    """Where a uid differs from the one before it."""
    if not len(uids):
        return np.zeros(0, np.int64)
    texts = np.frombuffer(uids.buffers()[2], "S32", len(uids), 32 * uids.offset)
    return np.flatnonzero(np.concatenate([[True], texts[1:] != texts[:-1]]))


def _column(numbers: npt.NDArray[np.integer]) -> pa.Array:
    """`pa.array` of them. That would import pandas, as `to_numpy` does: half a second in a worker."""
    numbers = np.ascontiguousarray(numbers)
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers)])


def _texts(values: Sequence[str]) -> pa.Array:
    """The same for strings."""
    encoded = [value.encode() for value in values]
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in encoded], dtype=np.int64)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def _contiguous(table: pa.Table) -> pa.Table:
    """The same with one chunk a column, so that rows can be picked at random; texts may exceed 2 GB."""
    columns = {}
    for field in table.schema:
        column = table[field.name]
        column = column.cast(pa.large_string()) if field.type == pa.string() else column
        columns[field.name] = column.combine_chunks()
    return pa.table(columns)


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
def _database(threads: int, files: Sequence[str] = ()) -> Iterator[duckdb.DuckDBPyConnection]:
    with storage.database(MEMORY_LIMIT, threads, files) as database:
        urls.define_sql(database)
        database.execute("SET lock_configuration = true")  # a user's condition runs here
        yield database


def _parquet(paths: Sequence[str]) -> str:
    quoted = ", ".join("'" + storage.literal(path).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{quoted}])"
