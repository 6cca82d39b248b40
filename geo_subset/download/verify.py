"""Re-reads every shard: manifest, tar, images, json, parquet, stats, index and samples table must say the same.

Nothing is changed. That no image is there twice needs no table of all uids in memory. The uids of the samples table
rise from row to row; each shard holds exactly the uids of its slice of that table, or of a retry pass' list of rows of
it; the index has one row per sample, which is what the last of the shards that have the sample says; and the successes
of all shards add up to those of the index. A second image of a sample would make them one more.

What cannot be told: whether the stored image is the one its host sent. The sha256 in the json is that of the bytes that
were downloaded, which are not kept; that the stored bytes are those that were written is vouched for by the manifest.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from geo_subset import cluster, layout, progress, runfolder, storage
from geo_subset.download import index, inspection, stage
from geo_subset.download.inspection import Checked, Problems
from geo_subset.download.plan import Shard, plan_all
from geo_subset.errors import StageError
from geo_subset.manifests import FileEntry, Manifest, Record, add_counters
from geo_subset.runfolder import StageFolder
from geo_subset.settings import DownloadSettings, Settings

_LIST = re.compile(r"retry-[0-9]{1,9}\Z")
_INDEX = "index"


@dataclass(frozen=True)
class Part:
    """What one task reads: a file of samples, a retry pass' list, the index, or a shard. Hashable, as `cluster` wants.

    `counters` are those that the manifest gives it.
    """

    name: str
    kind: str
    rows: int
    files: tuple[FileEntry, ...]
    shard: Shard | None = None
    counters: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is to be read, and what can be told to be off before that."""

    folder: StageFolder
    parts: tuple[Part, ...]
    shards: tuple[Shard, ...]
    counters: dict[str, int]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What was read, and what is off: some lines, and the number of all problems."""

    shards: int
    samples: int
    images: int
    bytes: int
    seconds: float
    problems: tuple[str, ...]
    problem_count: int


def prepare(settings: Settings, run_url: str) -> Plan:
    """What there is to verify in a run folder, from its manifests and listings alone.

    Raises StageError if the download is not finished, or was made with other settings or from other samples.
    """
    folder, samples = StageFolder(run_url, "download"), StageFolder(run_url, "merge")
    manifest, merged = folder.manifest(), samples.manifest()
    if manifest is None or merged is None:
        done = folder.progress()
        so_far = f": {done.units_done:,} of {done.units:,} parts are there" if done.units is not None else ""
        raise StageError(f"the download in {folder.url} is not finished{so_far}. Finish it first: geo-subset download")
    expected = runfolder.fingerprint("download", stage.content(settings), merged, stage.inputs(settings))
    if manifest.fingerprint != expected:
        raise StageError(
            f"the shards in {folder.url} were made with other settings or from other samples than those there now: "
            "verify with the settings they were made with, or make them anew with geo-subset download"
        )
    files = sorted(merged.files, key=lambda entry: entry.path)
    units = {unit.unit: unit for unit in manifest.units}
    lists = sorted(
        (name for name in units if _LIST.match(name) and units[name].files),
        key=lambda name: int(name.partition("-")[2]),
    )
    planned = plan_all(
        [(entry.path, entry.rows) for entry in files],
        [(units[name].files[0].path, units[name].files[0].rows) for name in lists],
        settings.download.samples_per_shard,
        expected[:8],
    )
    wanted = {
        **{name: ("list", (units[name].files[0].path,), None) for name in lists},
        _INDEX: ("index", (index.FILE,), None),
        **{
            shard.name: ("shard", (f"{shard.name}.tar", f"{shard.name}.parquet", f"{shard.name}_stats.json"), shard)
            for shard in planned
        },
    }
    parts, problems = _match(wanted, units, storage.sizes(folder.url))
    problems += _disagreements(manifest, storage.sizes(folder.url))
    read = [Part(f"samples/{entry.path}", "samples", entry.rows, (entry,)) for entry in files]
    return Plan(
        StageFolder(run_url, "download", expected), (*read, *parts), tuple(planned), manifest.counters, tuple(problems)
    )


def run(made: Plan, settings: Settings) -> Report:
    """Reads all that `prepare` found, a Ray task for each part. Needs a connected cluster."""
    started = time.monotonic()
    lines, count, images = list(made.problems), len(made.problems), 0
    ends: list[tuple[str, str, str]] = []
    indexed: dict[str, int] | None = None
    arguments = (settings.download, made.folder, [part.files[0].path for part in made.parts if part.kind == "samples"],
                 made.shards)  # fmt: skip
    with progress.track("verify", sum(part.rows for part in made.parts), "rows") as advance:
        for outcome in cluster.run_tasks(verify_part, made.parts, arguments, settings.cluster):
            part: Part = outcome.unit
            checked: Checked = outcome.result or Checked(Problems([f"could not be checked: {outcome.error}"], 1))
            lines += [f"{part.name}: {line}" for line in checked.problems.lines]
            count += checked.problems.count
            advance(part.rows)
            if part.kind == "shard":
                images += checked.counters.get("succeeded", 0)
            elif part.kind == "index" and outcome.error is None:
                indexed = checked.counters
            elif part.kind == "samples" and checked.first:
                ends.append((part.name, checked.first, checked.last))
    more = _over_all(sorted(ends), images, indexed, made.counters, complete=not count)
    read = [part for part in made.parts if part.kind == "shard"]
    return Report(
        shards=len(read),
        samples=made.counters.get("attempted", 0),
        images=images,
        bytes=sum(entry.bytes for part in made.parts for entry in part.files),
        seconds=time.monotonic() - started,
        problems=tuple(sorted(lines + more)),
        problem_count=count + len(more),
    )


def verify_part(
    part: Part, settings: DownloadSettings, folder: StageFolder, sample_files: Sequence[str], planned: Sequence[Shard]
) -> Checked:
    """Reads one part; runs on a worker."""
    samples = StageFolder(folder.run_url, "merge")
    if part.shard is not None:
        return inspection.shard_files(part.shard, part.files, dict(part.counters), settings, folder)
    if part.kind == "samples":
        return inspection.samples_file(part.files[0], samples)
    if part.kind == "list":
        return inspection.retry_list(part.files[0], folder, samples, sample_files)
    return inspection.index_file(part.files[0], folder, planned)


def _match(
    wanted: dict[str, tuple[str, tuple[str, ...], Shard | None]], units: dict[str, Record], sizes: dict[str, int]
) -> tuple[list[Part], list[str]]:
    """The units that can be read, and in what the manifest's units and the folder's files are not those wanted."""
    parts: list[Part] = []
    problems = [f"shards/{name}: the samples have no such shard" for name in units.keys() - wanted.keys()]
    for name, (kind, names, shard) in wanted.items():
        unit = units.get(name)
        if unit is None:
            problems.append(f"shards/{name}: the manifest does not know it")
        elif sorted(entry.path for entry in unit.files) != sorted(names):
            problems.append(f"shards/{name}: the manifest gives it other files than {', '.join(names)}")
        elif gone := [file for file in names if file not in sizes]:
            problems += [f"shards/{file}: is missing" for file in gone]
        else:
            files = tuple(sorted(unit.files, key=lambda entry: names.index(entry.path)))
            rows = shard.rows if shard is not None else files[0].rows
            parts.append(Part(f"shards/{name}", kind, rows, files, shard, tuple(unit.counters.items())))
    return parts, problems


def _disagreements(manifest: Manifest, sizes: dict[str, int]) -> list[str]:
    """In what the manifest differs from itself and from the listing of its folder."""
    owned = {entry.path for unit in manifest.units for entry in unit.files}
    unowned = sorted({entry.path for entry in manifest.files} - owned)
    own = re.compile(layout.STAGES["download"][1])
    strays = sorted(name for name in sizes if own.fullmatch(name) and name not in owned)
    problems = [f"shards/{name}: the manifest lists it, but in no shard" for name in unowned]
    problems += [f"shards/{name}: the manifest does not know it, but who reads the folder would" for name in strays]
    if _counted(add_counters(unit.counters for unit in manifest.units)) != _counted(manifest.counters):
        problems.append("shards/_manifest.json: its counters are not the sum of the shards'")
    return problems


def _over_all(
    ends: Sequence[tuple[str, str, str]],
    images: int,
    indexed: dict[str, int] | None,
    recorded: dict[str, int],
    complete: bool,
) -> list[str]:
    """What no part can tell alone. `ends` are (name, first uid, last uid) of the files of samples in order.

    The sums are compared only if everything could be read: else they differ for reasons that were told.
    """
    problems = [
        f"{after}: begins with uid {first}, but {before} ends with {last}"
        for (before, _, last), (after, first, _) in itertools.pairwise(ends)
        if last >= first
    ]
    if complete and indexed is not None and _counted(indexed) != _counted(recorded):
        problems.append(f"shards/{index.FILE}: holds {_counted(indexed)}, the manifest says {_counted(recorded)}")
    if complete and indexed is not None and images != indexed.get("succeeded", 0):
        problems.append(
            f"shards: hold {images:,} images of {indexed.get('succeeded', 0):,} samples: some are there twice"
        )
    return problems


def _counted(counters: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in sorted(counters.items()) if count}
