"""One place as a source gives it, before its search texts are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from geo_subset.tables import PLACES

#: The columns of a Place but `variants`: sources of millions of rows give tables of these.
SCHEMA = pa.schema(
    [field for field in PLACES if field.name not in ("queries", "source_ids", "namesakes", "dictionary_word")]
    + [pa.field("confidence", pa.float64()), pa.field("known_as", pa.list_(pa.string()))]
)


class Place(NamedTuple):
    """What a source knows of a place; text that is not known is None.

    `alternate_names` are other names it is searched by, as 'New York' is for New York City. `confidence`, in [0, 1], is
    how sure the source is that the place exists. `known_as` are names that it may have in another gazetteer, be they
    searched for or not. `variants` are further ways to speak of the place: each replaces some of its columns when
    search texts are made, as {'admin1': 'D.C.'} does.
    """

    place_id: str
    name: str
    kind: str
    context: str | None = None
    admin1: str | None = None
    admin2: str | None = None
    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    population: int | None = None
    alternate_names: tuple[str, ...] = ()
    confidence: float | None = None
    known_as: tuple[str, ...] = ()
    variants: tuple[Mapping[str, Any], ...] = ()


def table(chunk: Sequence[Place] | pa.Table) -> pa.Table:
    """Some places, one by one or as a table of SCHEMA already, as a table of SCHEMA."""
    if isinstance(chunk, pa.Table):
        return chunk
    columns = dict(zip(Place._fields, zip(*chunk, strict=True), strict=True))
    return pa.table({field.name: columns[field.name] for field in SCHEMA}, schema=SCHEMA)


def places(rows: pa.Table) -> list[Place]:
    """The rows of a table of SCHEMA, one by one."""
    columns = {name: rows[name].to_pylist() for name in SCHEMA.names}
    for lists in ("alternate_names", "known_as"):
        columns[lists] = [tuple(names or ()) for names in columns[lists]]
    columns["variants"] = [()] * rows.num_rows
    return [Place(*row) for row in zip(*(columns[name] for name in Place._fields), strict=True)]
