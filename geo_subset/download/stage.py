"""The download stage: one Ray task a shard, which fetches, checks and publishes it.

Its units are the shards, the lists of retry passes, and the index. A retry pass puts its list of samples beside the
shards and declares it finished; from then on the stage has more shards to make, as if it had been cut off, and whatever
runs it next makes them. The counters of a list are negative: its samples leave the counts of the shards they failed in.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset import cluster, progress, shortage, statefiles, storage, tables, wording
from geo_subset.download import index
from geo_subset.download.plan import Shard, plan_all
from geo_subset.errors import StageError, TooFewImagesError
from geo_subset.manifests import RETRY, Manifest, Record, add_counters
from geo_subset.runfolder import StageFolder
from geo_subset.settings import DownloadSettings, Settings

#: How hard the network is tried, which is not what is wanted of it.
_EFFORT = {"threads", "timeout", "retries", "requests_per_host", "rate_per_host", "contact", "min_success"}
#: Failed shards that an error message shows.
_SHOWN = 3
_INDEX = "index"


def content(settings: Settings) -> Any:
    return settings.download.model_dump(mode="json", exclude=_EFFORT)


def inputs(_settings: Settings) -> Sequence[str]:
    return ()


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Makes the shards that are not there yet, and the index. Counters: attempted = succeeded + all 'failed: REASON'.

    Raises StageError if shards failed, after all others are done: the next run makes only those. Raises
    TooFewImagesError if less than `min_success` of the images succeeded; what is done is kept.
    """
    started = time.monotonic()
    files = _sample_files(folder)
    records, shards, lists = _begin(folder, files, settings.download.samples_per_shard)
    waiting = [shard for shard in shards if shard.name not in records]
    failures: dict[str, str] = {}
    total = sum(shard.rows for shard in shards)
    done = total - sum(shard.rows for shard in waiting)
    with progress.track("download", total, "images", done) as advance:
        arguments = (settings.download, settings.cluster.cpus_per_worker, folder, lists)
        for outcome in cluster.run_tasks(make_shard, waiting, arguments, settings.cluster):
            if outcome.error is None:
                records[outcome.unit.name] = outcome.result
                advance(outcome.unit.rows)
            else:
                failures[outcome.unit.name] = outcome.error
                progress.log.warning("shard %s failed: %s", outcome.unit.name, outcome.error)
    if failures:
        raise StageError(_describe(failures, len(shards), folder.url))
    (made,) = cluster.run_tasks(make_index, [_INDEX], (shards, folder), settings.cluster)
    if made.error is not None:
        raise StageError(f"the index of {folder.url} could not be made: {made.error}")
    records[_INDEX], counted = made.result
    summed = _summed(records)
    if summed != counted:
        raise StageError(
            f"the shards in {folder.url} hold {counted}, their records say {summed}: some file was changed"
        )
    _check_success(summed, settings.download.min_success, folder)
    return folder.finish(records.values(), time.monotonic() - started, {"attempted": 0, "succeeded": 0})


def retry_failed(settings: Settings, folder: StageFolder, pattern: str | None = None) -> Manifest | None:
    """Tries again, in new shards, what failed for a reason that may pass, or that matches a regular expression.

    None: no sample did. The stage must be finished, or lack nothing but images (StageError). Cut off at any point, the
    next `run` completes the pass, or it has not begun. Raises StageError as `run` does.
    """
    manifest = folder.finished()
    if manifest is not None and not _any_wanted({unit.unit: unit for unit in manifest.units}, pattern, folder):
        return None
    files = _sample_files(folder)
    records, shards, lists = _begin(folder, files, settings.download.samples_per_shard)
    if manifest is None and not _is_complete(records, shards):
        raise StageError(f"{folder.url} is not finished: run the download stage first")
    if _INDEX not in records:
        raise StageError(f"{folder.path(index.FILE)} has gone: run the download stage again")
    if not _any_wanted(records, pattern, folder):
        return None
    arguments = ([name for name, _ in files], folder, pattern)
    (outcome,) = cluster.run_tasks(list_failed, [len(lists) + 1], arguments, settings.cluster)
    if outcome.error is not None:
        raise StageError(f"no retry pass was begun in {folder.url}: {outcome.error}")
    progress.log.info("download  trying %s samples again", f"{outcome.result.files[0].rows:,}")
    return run(settings, folder)


def _any_wanted(records: Mapping[str, Record], pattern: str | None, folder: StageFolder) -> bool:
    if _INDEX not in records or "ends" not in records[_INDEX].extra:
        raise StageError(f"{folder.url}/_manifest.json is damaged: remove it to make the stage again")
    return any(index.is_wanted(status, reason, pattern) for status, reason, _ in records[_INDEX].extra["ends"])


def _is_complete(records: Mapping[str, Record], shards: Sequence[Shard]) -> bool:
    """Whether all shards are there, and the index is of them all."""
    if _INDEX not in records or any(shard.name not in records for shard in shards):
        return False
    ends = {(status, reason): n for status, reason, n in records[_INDEX].extra.get("ends", ())}
    return _counts(ends) == _summed(records)


@shortage.told()
def make_shard(
    shard: Shard, settings: DownloadSettings, cpus: float, folder: StageFolder, lists: Sequence[str]
) -> Record:
    """Makes, checks, publishes and records one shard; `lists` are those of all retry passes. Runs on a worker."""
    # These take seconds to import: not on the driver.
    from geo_subset.download.pixels import silent_decoders
    from geo_subset.download.shard import download_shard

    samples = _read(shard, folder)
    # Made again after it got lost: what later passes have taken on must not be there twice.
    settled = index.settled_in(shard, folder, lists[shard.retry :])
    with storage.scratch_folder() as scratch:
        with silent_decoders():
            # Of the links that have failed before, none may live.
            again = shard.retry > 0
            made, counters = download_shard(samples, shard.index, scratch, settings, settled, cpus, all_dead=again)
        if (record := folder.recorded(shard.name)) is not None:
            return record
        files = [
            folder.put(made.tar, f"{shard.name}.tar", counters["succeeded"]),
            folder.put(made.parquet, f"{shard.name}.parquet", counters["attempted"]),
            folder.put(made.stats, f"{shard.name}_stats.json", 0),
        ]
    return folder.record(shard.name, files, counters)


@shortage.told()
def make_index(unit: str, shards: Sequence[Shard], folder: StageFolder) -> tuple[Record, dict[str, int]]:
    """Writes and records the index of all shards, and counts what it holds; runs on a worker."""
    entry, ends = index.write(shards, folder)
    listed = [[status, reason, count] for (status, reason), count in sorted(ends.items(), key=str)]
    return folder.record(unit, [entry], {}, ends=listed), _counts(ends)


def _counts(ends: Mapping[tuple[str, str | None], int]) -> dict[str, int]:
    """The counters of samples that ended so."""
    counters = Counter({"attempted": sum(ends.values())})
    for (_, reason), count in ends.items():
        counters["succeeded" if reason is None else f"failed: {reason}"] += count
    return {name: count for name, count in counters.items() if count}


def _summed(records: Mapping[str, Record]) -> dict[str, int]:
    """The counters of all records together, those that are not 0."""
    summed = add_counters(record.counters for record in records.values())
    return {name: count for name, count in summed.items() if count}


@shortage.told()
def list_failed(number: int, files: Sequence[str], folder: StageFolder, pattern: str | None) -> Record:
    """Writes and records the list of the samples that a retry pass takes; runs on a worker."""
    counters = Counter[str]()

    def chunks() -> Iterable[pa.Table]:
        for table in index.to_retry(folder, _samples(folder), files, pattern):
            counters.subtract(f"failed: {reason}" for reason in table["reason"].to_pylist())
            yield table

    entry = folder.write_batches(f"_{_list_name(number)}-{folder.tag}.parquet", index.RETRY_SCHEMA, chunks())
    return folder.record(_list_name(number), [entry], {"attempted": -entry.rows, **dict(sorted(counters.items()))})


def _check_success(counters: Mapping[str, int], min_success: float, folder: StageFolder) -> None:
    """Raises TooFewImagesError."""
    attempted, succeeded = counters.get("attempted", 0), counters.get("succeeded", 0)
    if not attempted or succeeded / attempted >= min_success:
        return
    reasons = wording.most_frequent(wording.prefixed(counters, "failed: "))
    raise TooFewImagesError(
        f"{succeeded:,} of {attempted:,} images succeeded ({succeeded * 1000 // attempted / 10}%), less than "
        f"download.min_success = {min_success} asks for (failed: {reasons}). All is kept in {folder.url}. "
        "Check the network, then try again what failed with geo-subset download RUN.toml --retry-failed "
        "(add --reason . for all reasons), or accept it with --set download.min_success=0",
        folder.fingerprint,
        succeeded,
    )


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    count = manifest.counters
    if not count["attempted"]:
        return "nothing to download: the merge stage kept no image"
    tars = sum(entry.path.endswith(".tar") for entry in manifest.files)
    return (
        f"{count['succeeded']:,} of {wording.counted(count['attempted'], 'image')} in {wording.counted(tars, 'shard')}"
        f"{wording.because('failed', wording.prefixed(count, 'failed: '))}"
    )


def _sample_files(folder: StageFolder) -> list[tuple[str, int]]:
    """(name, rows) of the files of the samples, in order."""
    samples = _samples(folder).manifest()
    if samples is None:
        raise StageError(f"{_samples(folder).url} is not finished: run the merge stage first")
    return [(entry.path, entry.rows) for entry in sorted(samples.files, key=lambda entry: entry.path)]


def _begin(
    folder: StageFolder, files: Sequence[tuple[str, int]], samples_per_shard: int
) -> tuple[dict[str, Record], list[Shard], list[str]]:
    """Makes the folder ready. Returns the records that count, all shards of all passes, and the passes' lists."""
    units = len(plan_all(files, (), samples_per_shard, folder.tag)) + 1
    records = folder.start(units)
    names = itertools.takewhile(
        lambda name: name in records and records[name].files, map(_list_name, itertools.count(1))
    )
    lists = [(records[name].files[0].path, records[name].files[0].rows) for name in names]
    shards = plan_all(files, lists, samples_per_shard, folder.tag)
    if lists:
        records = folder.start(len(shards) + len(lists) + 1)
    known = {_INDEX, *(shard.name for shard in shards), *(_list_name(n) for n in range(1, len(lists) + 1))}
    given_up = sorted(records.keys() - known)
    statefiles.remove_records(folder.url, given_up)
    for name in given_up:
        progress.log.warning("%s is given up: the list of the retry pass it belongs to has gone", name)
        for entry in records.pop(name).files:
            storage.remove(folder.path(entry.path))
    return records, shards, [path for path, _ in lists]


def _list_name(number: int) -> str:
    return f"{RETRY}{number:03d}"


def _samples(folder: StageFolder) -> StageFolder:
    return StageFolder(folder.run_url, "merge")


def _read(shard: Shard, folder: StageFolder) -> pa.Table:
    source = folder if shard.retry else _samples(folder)
    pieces = []
    for piece in shard.slices:
        with source.open(piece.file) as stream:
            rows = tables.read_rows(pq.ParquetFile(stream), piece.start, piece.stop, tables.SAMPLES.names)
            pieces.append(rows)
    return pa.concat_tables(pieces)


def _describe(failures: dict[str, str], shards: int, url: str) -> str:
    shown = "; ".join(f"{name}: {error}" for name, error in list(failures.items())[:_SHOWN])
    more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    return (
        f"{len(failures)} of {shards} shards in {url} failed ({shown}{more}). "
        "The others are kept: run the same command again to make only those"
    )
