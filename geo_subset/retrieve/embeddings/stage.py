"""Stage retrieve with strategy `embeddings`: the driver of what `passes` does on Ray.

Counters add up: vectors are the rows of the files; of them vectors_zero, vectors_not_finite and vectors_without_url are
not searched, vectors_normalised are searched but were not of length 1. candidates = candidates_of_other_units + rows +
matches_near_duplicate + matches_same_url + matches_over_num_images + matches_without_url (of an index).
images_not_refilled are missing from the places_not_refilled, whose candidates were used up before all images were.
operations are those of the products, with all vectors and with the images_corrected.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from geo_subset import cluster, progress, wording, workers
from geo_subset.credentials import redact
from geo_subset.errors import SettingsError, StageError
from geo_subset.manifests import Manifest
from geo_subset.progress import log
from geo_subset.retrieve.embeddings import choice, index, passes, plan, sources, texts
from geo_subset.retrieve.embeddings.passes import Job
from geo_subset.retrieve.embeddings.sources import Source
from geo_subset.runfolder import StageFolder
from geo_subset.settings import EmbeddingsSettings, Settings

#: Counters of vectors that are not searched, and of images that are found and left out -> why. More are looked for than
#: are wanted, so that others can take the place of these: those beyond num_images are not told.
_NOT_SEARCHED = {"vectors_without_url": "no URL", "vectors_zero": "all zero", "vectors_not_finite": "not finite"}
_LEFT_OUT = {
    "matches_near_duplicate": "near-duplicate of a better one",
    "matches_same_url": "same URL as a better one",
    "matches_without_url": "no URL",
}


def content(settings: Settings) -> Any:
    """What decides the matches: settings, and the files by name, size and version; not their many bytes. On what the
    search runs does not."""
    embeddings = settings.retrieve.embeddings
    approximate = index.found(embeddings.path)
    if approximate:
        files = [approximate, *index.discover(embeddings.path[0])]
    else:
        pairs = sources.discover(embeddings.path)
        files = [file for pair in pairs for file in (pair.vectors, pair.metadata) if file]
    if embeddings.query_vectors is not None and texts.is_there(embeddings.query_vectors):
        files.append(texts.find_file(embeddings.query_vectors))
    return {
        "strategy": "embeddings",
        "num_images": settings.retrieve.num_images,
        "embeddings": embeddings.model_dump(mode="json", include={"model", "deduplicate", "hub_correction"}),
        "files": [[redact(file.url).rpartition("/")[2], file.bytes, file.version] for file in files],
    }


def check(settings: Settings) -> None:
    """Raises SettingsError: there is nothing to search, the places' vectors are not as long as the others, or the model
    or the device is not there. Headers of the first pair of files are looked at, those of all before the search. A file
    of the places' vectors may still be made, once the places are known.
    """
    embeddings = settings.retrieve.embeddings
    choice.choose(embeddings.device, embeddings.dtype, float("inf"), bfloat16=False)
    waiting = embeddings.query_vectors is not None and not texts.is_there(embeddings.query_vectors)
    columns = None if waiting else _columns(embeddings)
    if index.found(embeddings.path):
        index.discover(embeddings.path[0])
    else:
        sources.describe(sources.discover(embeddings.path)[0], columns)


def _columns(embeddings: EmbeddingsSettings) -> int | None:
    """How long the places' vectors are, where that is known before they are made."""
    if embeddings.query_vectors is not None:
        return texts.describe_file(embeddings.query_vectors).columns
    return texts.check_model(embeddings.model or "")


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Does what is left. Raises SettingsError if the files do not fit together, StageError if a task failed."""
    started = time.monotonic()
    embeddings = settings.retrieve.embeddings
    places = _place_count(folder)
    columns = _columns(embeddings)
    if embeddings.query_vectors is not None:
        _check_rows(embeddings.query_vectors, places)
    picked = choice.choose(
        embeddings.device, embeddings.dtype, workers.gpu_count(), choice.processor_has_bfloat16()
    )  # fmt: skip
    approximate = index.found(embeddings.path)
    job = Job(
        folder, embeddings, picked, settings.retrieve.num_images, places, chunk=plan.ENCODE_PLACES,
        index=approximate.url if approximate else "",
    )  # fmt: skip
    found = _sources(job, columns) if columns is not None else None
    encoded = _pass(settings, job, "texts", passes.encode, list(range(0, places, job.chunk)), "texts")
    columns = next((unit.extra["columns"] for unit in encoded.units if "columns" in unit.extra), None)
    if columns is None:
        raise StageError(f"{job.beside('texts').url}/_manifest.json is damaged: remove it to make the vectors again")
    found = found or _sources(job, columns)
    job, units = _planned(job, columns, found)
    if job.index:
        log.warning(
            "retrieve  %s is asked: an index misses some of the nearest images, and its similarities are approximate",
            job.index,
        )
    log.info(
        "retrieve  %s vectors of %s numbers for %s places, the best %s of each: %s units, on %s in %s (%s)",
        f"{job.rows:,}", columns, f"{places:,}", f"{job.k:,}", len(units), picked.device, picked.dtype, picked.why,
    )  # fmt: skip
    records = folder.start(job.partitions)
    left = [number for number in range(job.partitions) if f"part-{number:06d}" not in records]
    if left:
        passes.warm_up()
    read = _pass(settings, job, "scan", passes.find, units, "vectors", found)
    ranked = _pass(settings, job, "best", passes.rank, list(range(job.partitions)), "rank")
    known = _pass(settings, job, "rows", passes.look_up, list(range(job.ranges)), "look up", found)
    with progress.track("retrieve", job.partitions, "partitions", job.partitions - len(left)) as advance:
        for outcome in cluster.run_tasks(passes.assemble, left, (job,), settings.cluster):
            if outcome.error is not None:
                raise StageError(f"partition {outcome.unit} of {job.partitions} could not be made: {outcome.error}")
            records[outcome.result.unit] = outcome.result
            advance(1)
    counters = {
        "places": places,
        "operations": 2 * places * (job.rows + known.counters.get("images_corrected", 0)) * columns,
        **read.counters,
        **known.counters,
        **ranked.counters,
    }
    passed = [encoded, read, ranked, known]
    manifest = folder.finish(records.values(), time.monotonic() - started, counters, passed)
    job.beside("scan").remove()
    return manifest


def _sources(job: Job, columns: int | None) -> list[Source]:
    path = job.embeddings.path
    if job.index:
        return index.describe(job.index, index.discover(path[0]), columns)
    return sources.describe_all(sources.discover(path), columns)


def _planned(job: Job, columns: int, found: Sequence[Source]) -> tuple[Job, list[plan.Unit]]:
    rows = [source.rows for source in found]
    if not sum(rows):
        raise SettingsError(f"{sources.KEY}: the files hold no rows")
    units = plan.units(rows, job.places, job.k, columns, whole=bool(job.index))
    half = all(source.is_half for source in found if source.rows)
    width = (2 if half else 4) * columns if job.embeddings.deduplicate else 0
    number = plan.partitions(units, job.places, job.k, sum(rows), width)
    planned = dataclasses.replace(
        job,
        columns=columns,
        partitions=number,
        units=len(units),
        rows=sum(rows),
        half=half,
        range_rows=plan.unit_rows(sum(rows)),
        block_rows=plan.block_rows(columns),
    )
    return planned, units


def _pass(
    settings: Settings,
    job: Job,
    stage: str,
    function: Callable[..., Any],
    units: Sequence[Any],
    label: str,
    found: Sequence[Source] | None = None,
) -> Manifest:
    """One of the passes before the last: what is left of it, each unit a task."""
    folder = job.beside(stage)
    if (manifest := folder.finished()) is not None:
        return manifest
    records = folder.start(len(units))
    left = [unit for unit in units if _name(stage, unit, job) not in records]
    errors: list[str] = []
    multiplies = stage in ("scan", "texts") or (stage == "rows" and job.corrects)
    gpus = 1.0 if job.choice.device == "cuda" and multiplies else 0.0
    arguments = (job,) if found is None else (job, found)
    with progress.track(label, len(units), "units", len(units) - len(left)) as advance:
        for outcome in cluster.run_tasks(function, left, arguments, settings.cluster, gpus):
            if outcome.error is None:
                records[outcome.result.unit] = outcome.result
            elif outcome.wrong_input:
                raise StageError(outcome.error)
            else:
                errors.append(outcome.error)
            advance(1)
    if errors:
        raise StageError(
            f"{len(errors)} of {len(units)} units could not be done, first {errors[0]}; run again to go on"
        )
    return folder.finish(records.values(), 0.0)


def _name(stage: str, unit: Any, job: Job) -> str:
    if isinstance(unit, plan.Unit):
        return unit.name
    return f"{stage}-{unit // job.chunk if stage == 'texts' else unit:06d}"


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    count = manifest.counters
    return (
        f"{wording.counted(count['rows'], 'row')} for {count['places_with_images']:,} of "
        f"{wording.counted(count['places'], 'place')} from {wording.counted(count['vectors'], 'vector')}"
        f"{wording.because('not searched', wording.chosen(count, _NOT_SEARCHED), 'vector')}"
        f"{wording.because('found and left out', wording.chosen(count, _LEFT_OUT), 'image')}"
    )


def _check_rows(path: str, places: int) -> None:
    rows = texts.describe_file(path).rows
    if rows != places:
        raise SettingsError(
            f"{texts.FILE}: {path} has {rows:,} rows, but there are {places:,} places: one row is needed for each, in "
            "the order of places.parquet"
        )


def _place_count(folder: StageFolder) -> int:
    manifest = StageFolder(folder.run_url, "places").manifest()
    if manifest is None:
        raise StageError("the places are not there; run the stage 'places' first")
    return sum(entry.rows for entry in manifest.files)
