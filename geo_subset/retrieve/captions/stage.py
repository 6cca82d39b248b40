"""Stage retrieve with strategy `captions`: metadata files, one a task, then a reduce by place.

The names of all places are compiled once, by the driver, and lie in Ray's object store: the workers of a node map the
same memory. A map task reads one file and writes the best rows of each place that the file names, split by place
(`shuffle`), and how many there were; a reduce task puts one partition together. Counters add up: captions +
rows_malformed are the rows of the files, captions_null are among the captions; mentions = mentions_accepted +
mentions_context + mentions_refused + mentions_in_a_region_name; mentions_accepted = matches + matches_null_url;
matches = rows + matches_same_url + matches_over_num_images.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset import cluster, progress, shuffle, tables, wording
from geo_subset.credentials import redact
from geo_subset.errors import StageError
from geo_subset.inputs import InputFile
from geo_subset.manifests import Manifest, Record
from geo_subset.progress import log
from geo_subset.retrieve.captions import best, files, matcher, model, names, plan, world
from geo_subset.runfolder import StageFolder
from geo_subset.settings import CaptionsSettings, Settings

#: How many of a place's images there were before the cap: what balancing a training set needs.
COUNTS = pa.schema([pa.field("place_id", pa.string()), pa.field("matches", pa.int64()), pa.field("rows", pa.int64())])
_MAP, _COUNTS, _NAMES = "map", "counts", "names"
#: Counters of mentions that make no row -> why.
_LEFT_OUT = {
    "mentions_context": "says only where a finer place is",
    "mentions_in_a_region_name": "part of a region's name",
    "matches_null_url": "no URL",
    "matches_same_url": "same URL again",
    "matches_over_num_images": "more than num_images",
}


@dataclass(frozen=True)
class Job:
    """What every task needs to know besides its unit and the names."""

    folder: StageFolder
    scan: StageFolder
    captions: CaptionsSettings
    num_images: int
    places: int
    partitions: int
    maps: int


def content(settings: Settings) -> Any:
    """What decides the matches: settings, model, and the files by name, size and version; not their many bytes."""
    captions = settings.retrieve.captions
    found = files.discover(captions.path)
    return {
        "strategy": "captions",
        "num_images": settings.retrieve.num_images,
        "captions": captions.model_dump(mode="json", exclude={"path"}),
        "files": [[redact(file.url).rpartition("/")[2], file.bytes, file.version] for file in found],
        "model": model.weights().tolist(),
    }


def check(settings: Settings) -> None:
    """Raises SettingsError if there is nothing to read."""
    files.discover(settings.retrieve.captions.path)


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Reads and reduces what is left. Raises StageError if a file or a partition could not be done."""
    started = time.monotonic()
    found = files.discover(settings.retrieve.captions.path)
    count = _place_count(folder)
    number = plan.partitions((file.bytes for file in found), count, settings.retrieve.num_images)
    scan = StageFolder(folder.run_url, "scan", folder.fingerprint)
    job = Job(folder, scan, settings.retrieve.captions, settings.retrieve.num_images, count, number, len(found))
    records = folder.start(number)
    todo = [partition for partition in range(number) if _unit(partition) not in records]
    read = _read_files(settings, job, found) if todo or scan.finished() else None
    with progress.track("retrieve", number, "partitions", number - len(todo)) as advance:
        for outcome in cluster.run_tasks(_reduce, todo, (job,), settings.cluster):
            if outcome.error is not None:
                raise StageError(f"partition {outcome.unit} of {number} could not be reduced: {outcome.error}")
            records[outcome.result.unit] = outcome.result
            advance(1)
    counters = {"places": count, **(read.counters if read else {})}
    manifest = folder.finish(records.values(), time.monotonic() - started, counters, [read] if read else [])
    scan.remove()
    return manifest


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    count = manifest.counters
    least = next((unit.extra["min_confidence"] for unit in manifest.units if "min_confidence" in unit.extra), None)
    unsure = "less sure than min_confidence" + ("" if least is None else f" = {least:g}")
    mentions, null = count.get("mentions", 0), count.get("captions_null", 0)
    captions = wording.counted(count["captions"], "caption") + (f" ({null:,} of them null)" if null else "")
    malformed = wording.chosen(count, {"rows_malformed": "malformed"})
    all_refused = count.get("mentions_refused") and not count["rows"]
    hint = "; a lower retrieve.captions.min_confidence may accept some" if all_refused else ""
    return (
        f"{wording.counted(count['rows'], 'row')} for {count['places_with_images']:,} of "
        f"{wording.counted(count['places'], 'place')} from {captions} with "
        f"{wording.counted(mentions, 'mention')} of places"
        f"{wording.because('left out', wording.chosen(count, {'mentions_refused': unsure, **_LEFT_OUT}), 'mention')}"
        f"{wording.because('of the files left out', malformed, 'row')}{hint}"
    )


def _read_files(settings: Settings, job: Job, found: list[InputFile]) -> Manifest:
    """The map side: every file's best rows by place, on the run's storage."""
    scan = job.scan
    if (manifest := scan.finished()) is not None:
        return manifest
    records = scan.start(len(found))
    todo = [unit for unit in enumerate(found) if _map_unit(unit[0]) not in records]
    errors: list[str] = []
    if todo:
        log.info("retrieve  compiling the names of %s places", f"{job.places:,}")
        compiled, counters = names.compile_names(_read_places(job.folder), world.load())
        counters.pop("places")
        records[_NAMES] = scan.record(_NAMES, [], counters)
        log.info("retrieve  %s names, %.0f MB on each node", f"{counters['names']:,}", compiled.bytes / 1e6)
        matcher.warm_up(compiled, job.captions.min_confidence)
        with progress.track("captions", len(found), "files", len(found) - len(todo)) as advance:
            for outcome in cluster.run_tasks(_map, todo, (job, compiled), settings.cluster):
                if outcome.error is None:
                    records[outcome.result.unit] = outcome.result
                else:
                    errors.append(outcome.error)
                advance(1)
    if errors:
        raise StageError(
            f"{len(errors)} of {len(found)} files could not be read, first {errors[0]}; run again to go on"
        )
    return scan.finish(records.values(), 0.0)


def _map(unit: tuple[int, InputFile], job: Job, compiled: names.Names) -> Record:
    """Task: one metadata file's matches, the best of each place, by partition."""
    index, file = unit
    counters: Counter[str] = Counter()
    reader = matcher.Matcher(compiled, job.captions.min_confidence)
    kept = best.Best(job.places, job.num_images)
    for table in reader.matches(files.read(file, job.captions.url_col, job.captions.caption_col, counters), counters):
        kept.add(table, counters)
    counters["captions"] = counters.pop("rows") - counters["rows_malformed"]
    tables_of = {_MAP: kept.table(counters), _COUNTS: kept.counts()}
    entries = []
    for name, table in tables_of.items():
        file_name = f"{name}-{index:06d}-{job.scan.tag}.parquet"
        partition = plan.partition_of(table["place"].to_numpy(), job.places, job.partitions)
        with job.scan.writing(file_name) as path:
            shuffle.write_partitioned(table, partition, job.partitions, path)
            entries.append(job.scan.entry(path, file_name, table.num_rows))
    return job.scan.record(_map_unit(index), entries, dict(counters))


def _reduce(partition: int, job: Job) -> Record:
    """Task: the best rows of the places of one partition, and how many there were before the cap."""
    counters: Counter[str] = Counter()
    start, stop = plan.places_of(partition, job.places, job.partitions)
    with StageFolder(job.folder.run_url, "places").open("places.parquet") as stream:
        ids = tables.read_rows(pq.ParquetFile(stream), start, stop, ["place_id"])["place_id"].combine_chunks()
    parts = list(_partition(job, _MAP, partition))
    found, rank = best.best(pa.concat_tables(parts), job.num_images, counters) if parts else (None, None)
    if found is None or rank is None:
        matches = tables.MATCHES.empty_table()
        places = np.zeros(0, np.int64)
    else:
        places = found["place"].to_numpy().astype(np.int64) - start
        columns = {
            "place_id": ids.take(pa.array(places)),
            "rank": pa.array(rank),
            "image_id": pa.nulls(len(rank), pa.int64()),
        }
        matches = pa.table(
            {name: columns[name] if name in columns else found[name] for name in tables.MATCHES.names}
        ).cast(tables.MATCHES)
    seen = np.zeros(stop - start, np.int64)
    for counts in _partition(job, _COUNTS, partition):
        np.add.at(seen, counts["place"].to_numpy().astype(np.int64) - start, counts["matches"].to_numpy())
    (any_,) = np.nonzero(seen)
    rows = np.bincount(places, minlength=stop - start)[any_]
    before = pa.table(
        {"place_id": ids.take(pa.array(any_)), "matches": pa.array(seen[any_]), "rows": pa.array(rows)}, schema=COUNTS
    )
    counters["rows"] = matches.num_rows
    counters["places_with_images"] = len(any_)
    entries = [
        job.folder.write_table(matches, f"part-{partition:06d}-{job.folder.tag}.parquet"),
        job.folder.write_table(before, f"counts-{partition:06d}-{job.folder.tag}.parquet"),
    ]
    return job.folder.record(_unit(partition), entries, dict(counters), min_confidence=job.captions.min_confidence)


def _partition(job: Job, name: str, partition: int) -> Iterator[pa.Table]:
    for index in range(job.maps):
        with job.scan.open(f"{name}-{index:06d}-{job.scan.tag}.parquet") as stream:
            yield from shuffle.read_partition([stream], partition)


def _read_places(folder: StageFolder) -> pa.Table:
    with StageFolder(folder.run_url, "places").open("places.parquet") as stream:
        file = pq.ParquetFile(stream)
        there = [name for name in names.COLUMNS if name in file.schema_arrow.names]
        return file.read(columns=there).combine_chunks()


def _place_count(folder: StageFolder) -> int:
    manifest = StageFolder(folder.run_url, "places").manifest()
    if manifest is None:
        raise StageError("the places are not there; run the stage 'places' first")
    return sum(entry.rows for entry in manifest.files)


def _unit(partition: int) -> str:
    return f"part-{partition:06d}"


def _map_unit(index: int) -> str:
    return f"map-{index:06d}"
