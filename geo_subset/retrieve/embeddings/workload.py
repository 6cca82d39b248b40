"""How much work a search will be, from the sizes of its files and the header of the first."""

from __future__ import annotations

from dataclasses import dataclass

from geo_subset.retrieve.embeddings import hubs, index, plan, search, sources, texts
from geo_subset.settings import EmbeddingsSettings


@dataclass(frozen=True)
class Workload:
    """`rows` is exact where all files are .npy, else an estimate by bytes; sizes are in bytes. `corrected` is how many
    images are compared with all places once more, at most. `memory` is what a search or a look up holds, whichever
    takes more, besides the interpreter and its libraries."""

    files: int
    bytes: int
    rows: int
    columns: int
    k: int
    corrected: int
    groups: int
    units: int
    range_rows: int
    memory: int
    scratch: int


def of(embeddings: EmbeddingsSettings, num_images: int, places: int) -> Workload:
    """Raises SettingsError if the files are not there or the first cannot be read."""
    known = texts.describe_file(embeddings.query_vectors).columns if embeddings.query_vectors else None
    approximate = index.found(embeddings.path)
    if approximate:
        described = index.describe(approximate.url, index.discover(embeddings.path[0]), known)
        files, size = len(described), approximate.bytes
        rows, columns, half = sum(source.rows for source in described), described[0].columns, False
    else:
        pairs = sources.discover(embeddings.path)
        first = sources.describe(pairs[0], known)
        sizes = [(pair.vectors or pair.metadata).bytes for pair in pairs]
        files, size = len(pairs), sum(sizes)
        rows, columns, half = round(size * first.rows / sizes[0]), first.columns, first.is_half
    corrects = embeddings.hub_correction != "none"
    k = plan.candidates(num_images, embeddings.deduplicate, corrects)
    units = plan.units([rows], places, k, columns)
    ranges = len(plan.ranges([rows]))
    groups = len(units) // max(1, ranges)
    group = -(-places // max(1, groups))
    block = plan.block_rows(columns) * columns * (4 + 2 * 4)  # as float32, as it was read, and what is read ahead
    searched = block + group * plan.place_bytes(k, columns) + search.work_bytes(k, group)
    carried = (2 if half else 4) if embeddings.deduplicate or corrects else 0
    looked_up = plan.look_up_bytes(
        min(plan.unit_rows(rows), rows, places * k), places, columns, hubs.NEIGHBOURS if corrects else 0, carried
    )
    return Workload(
        files=files,
        bytes=size,
        rows=rows,
        columns=columns,
        k=k,
        corrected=min(rows, places * k) if corrects else 0,
        groups=groups,
        units=len(units),
        range_rows=plan.unit_rows(rows),
        memory=max(searched, looked_up + (search.work_bytes(hubs.NEIGHBOURS, places * k) if corrects else 0)),
        scratch=places
        * sum(min(k, sum(p.stop - p.start for p in unit)) for unit in plan.ranges([rows]))
        * plan.CANDIDATE_BYTES,
    )
