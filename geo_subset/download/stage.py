"""The download stage: one Ray task a shard, which fetches, checks and publishes it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset import cluster, progress, storage, tables
from geo_subset.download.plan import Shard, plan
from geo_subset.errors import StageError
from geo_subset.manifests import Manifest, Record
from geo_subset.runfolder import StageFolder
from geo_subset.settings import DownloadSettings, Settings

#: How hard the network is tried, which is not what is wanted of it.
_EFFORT = {"threads", "timeout", "retries"}
#: Failed shards that an error message shows.
_SHOWN = 3


def content(settings: Settings) -> Any:
    return settings.download.model_dump(mode="json", exclude=_EFFORT)


def inputs(_settings: Settings) -> Sequence[str]:
    return ()


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Makes the shards that are not there yet. Counters: attempted = succeeded + all 'failed: REASON'.

    Raises StageError if shards failed, after all others are done: the next run makes only those.
    """
    started = time.monotonic()
    samples = _samples(folder).manifest()
    if samples is None:
        raise StageError(f"{_samples(folder).url} is not finished: run the merge stage first")
    files = [(entry.path, entry.rows) for entry in sorted(samples.files, key=lambda entry: entry.path)]
    shards = plan(files, settings.download.samples_per_shard, folder.tag)
    records = folder.start(len(shards))
    waiting = [shard for shard in shards if shard.name not in records]
    failures: dict[str, str] = {}
    total = sum(shard.rows for shard in shards)
    done = total - sum(shard.rows for shard in waiting)
    with progress.track("download", total, "images", done) as advance:
        for outcome in cluster.run_tasks(make_shard, waiting, (settings.download, folder), settings.cluster):
            if outcome.error is None:
                records[outcome.unit.name] = outcome.result
                advance(outcome.unit.rows)
            else:
                failures[outcome.unit.name] = outcome.error
                progress.log.warning("shard %s failed: %s", outcome.unit.name, outcome.error)
    if failures:
        raise StageError(_describe(failures, len(shards), folder.url))
    return folder.finish(records.values(), time.monotonic() - started, {"attempted": 0, "succeeded": 0})


def make_shard(shard: Shard, settings: DownloadSettings, folder: StageFolder) -> Record:
    """Makes, checks, publishes and records one shard; runs on a worker."""
    from geo_subset.download.img2dataset_adapter import download_shard  # takes seconds to import: not on the driver

    samples = _read(shard, _samples(folder))
    with storage.scratch_folder() as scratch:
        made, counters = download_shard(samples, shard.index, scratch, settings)
        files = [
            folder.put(made.tar, f"{shard.name}.tar", counters["succeeded"]),
            folder.put(made.parquet, f"{shard.name}.parquet", counters["attempted"]),
            folder.put(made.stats, f"{shard.name}_stats.json", 0),
        ]
    return folder.record(shard.name, files, counters)


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    count = manifest.counters
    tars = sum(entry.path.endswith(".tar") for entry in manifest.files)
    return f"{count['succeeded']:,} of {count['attempted']:,} images in {tars:,} shards"


def _samples(folder: StageFolder) -> StageFolder:
    return StageFolder(folder.run_url, "merge")


def _read(shard: Shard, samples: StageFolder) -> pa.Table:
    pieces = []
    for piece in shard.slices:
        with samples.open(piece.file) as stream:
            pieces.append(tables.read_rows(pq.ParquetFile(stream), piece.start, piece.stop))
    return pa.concat_tables(pieces)


def _describe(failures: dict[str, str], shards: int, url: str) -> str:
    shown = "; ".join(f"{name}: {error}" for name, error in list(failures.items())[:_SHOWN])
    more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    return (
        f"{len(failures)} of {shards} shards in {url} failed ({shown}{more}). "
        "The others are kept: run the same command again to make only those"
    )
