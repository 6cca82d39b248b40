"""The tasks of the stage, each of which reads what the one before left on the run's storage and leaves its own part.

    texts     a chunk of places        -> their vectors (.npy)
    search    rows x places (a unit)   -> the best rows of each place, by partition of places
    rank      a partition of places    -> the best rows over all units, by range of rows
    look up   a range of rows          -> URLs, captions (vectors, crowding) of the rows wanted, by partition of places
    assemble  a partition of places    -> hubs put back, near-duplicates removed, matches

What is known of an image is read for the few rows that are among the best of all, and carried once for each partition.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geo_subset import shuffle, tables
from geo_subset.errors import SettingsError
from geo_subset.manifests import Record
from geo_subset.retrieve.captions.plan import partition_of, places_of
from geo_subset.retrieve.embeddings import (
    choice,
    duplicates,
    hubs,
    index,
    kernels,
    metadata,
    plan,
    search,
    sources,
    texts,
    vectors,
)
from geo_subset.retrieve.embeddings.choice import Choice
from geo_subset.retrieve.embeddings.plan import Piece, Unit
from geo_subset.retrieve.embeddings.sources import Source
from geo_subset.retrieve.embeddings.vectors import Floats
from geo_subset.runfolder import StageFolder
from geo_subset.settings import EmbeddingsSettings

FOUND = pa.schema(
    [pa.field("place", pa.int32()), pa.field("row", pa.int64()), pa.field("similarity", pa.float32())]
)  # fmt: skip
#: What is known of an image but for vectors and crowding. Offsets are of 64 bits: there may be more than two gigabytes.
TEXTS = pa.schema(
    [
        pa.field("row", pa.int64()),
        *(
            pa.field(field.name, pa.large_string() if pa.types.is_string(field.type) else field.type)
            for field in metadata.FIELDS
        ),
    ]
)
#: Places whose matches are made at a time.
_PLACES = 64


@dataclass(frozen=True)
class Job:
    """What every task needs to know besides its unit and the sources."""

    folder: StageFolder
    embeddings: EmbeddingsSettings
    choice: Choice
    num_images: int
    places: int
    columns: int = 0
    """How long vectors are."""
    partitions: int = 0
    units: int = 0
    rows: int = 0
    """Of all sources."""
    chunk: int = 0
    """Places whose vectors are made by one task."""
    range_rows: int = 0
    """Rows of a range, which is what a unit has of them."""
    block_rows: int = 0
    """Rows that are in memory at a time."""
    index: str = ""
    """An index to be asked instead of searching vectors."""
    half: bool = False
    """Whether vectors are float16 in all sources."""

    @property
    def dtype(self) -> str:
        return "<f2" if self.half else "<f4"

    @property
    def k(self) -> int:
        return plan.candidates(self.num_images, self.embeddings.deduplicate, self.corrects)

    @property
    def corrects(self) -> bool:
        return self.embeddings.hub_correction != "none"

    def beside(self, stage: str) -> StageFolder:
        return StageFolder(self.folder.run_url, stage, self.folder.fingerprint)

    @property
    def ranges(self) -> int:
        return -(-self.rows // self.range_rows)


def encode(start: int, job: Job) -> Record:
    """Task: the vectors of the places from `start` on."""
    stop = min(job.places, start + job.chunk)
    folder, unit = job.beside("texts"), f"texts-{start // job.chunk:06d}"
    if job.embeddings.query_vectors is not None:
        raw = texts.read_file(job.embeddings.query_vectors, start, stop)
        found = vectors.prepare(raw)
        if not found.usable.all():
            row = start + int(np.flatnonzero(~found.usable)[0])
            raise SettingsError(f"{texts.FILE}: the vector of row {row:,} is zero, or holds NaN or infinity")
        made = np.ascontiguousarray(found.vectors[:, : raw.shape[1]])
    else:
        with StageFolder(folder.run_url, "places").open("places.parquet") as stream:
            queries = tables.read_rows(pq.ParquetFile(stream), start, stop, ["queries"])["queries"].to_pylist()
        made = texts.of_places(queries, texts.load(job.embeddings.model or "", job.choice.device))
    data = io.BytesIO()
    np.save(data, made)
    entry = folder.write_bytes(data.getvalue(), f"{unit}-{folder.tag}.npy", len(made))
    return folder.record(unit, [entry], {}, columns=made.shape[1])


def _queries(job: Job, start: int, stop: int) -> Floats:
    """The places' vectors, padded, as `encode` left them."""
    folder, size = job.beside("texts"), job.chunk
    out = np.zeros((stop - start, vectors.padded(job.columns)), np.float32)
    for chunk in range(start // size, -(-stop // size)):
        with folder.open(f"texts-{chunk:06d}-{folder.tag}.npy") as stream:
            part = np.load(io.BytesIO(stream.read()), allow_pickle=False)
        first = chunk * size
        begin, end = max(start, first), min(stop, first + len(part))
        out[begin - start : end - start, : job.columns] = part[begin - first : end - first]
    return out


def find(unit: Unit, job: Job, given: Sequence[Source]) -> Record:
    """Task: the best rows of a unit for each of its places."""
    counters: Counter[str] = Counter()
    queries = _queries(job, unit.start, unit.stop)
    if job.index:
        found = index.nearest(job.index, queries, job.columns, job.k)
        counters["vectors"] = job.rows
    else:
        found = choice.nearest(job.choice, queries, _blocks(unit.pieces, given, job, counters), job.k)
    if unit.start:  # its rows are counted with those of the first places
        counters.clear()
    held = np.arange(job.k) < found.held[:, None]
    places = np.repeat(np.arange(unit.start, unit.stop), found.held)
    table = pa.table([pa.array(places, pa.int32()), found.rows[held], found.scores[held]], schema=FOUND)
    counters["candidates"] = table.num_rows
    return _write(job, "scan", unit.name, table, partition_of(places, job.places, job.partitions), counters)


def _blocks(
    pieces: Sequence[Piece], given: Sequence[Source], job: Job, counters: Counter[str]
) -> Iterator[search.Block]:
    """A unit's rows, prepared and counted; what comes next is read while a block is in work."""
    rows = job.block_rows
    out = np.empty((rows, vectors.padded(job.columns)), np.float32)
    raw = (
        (piece, start, array)
        for piece in pieces
        for start, array in _numbered(sources.read(given[piece.source], piece.start, piece.stop, rows), piece.start)
    )
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, raw, None)
        while (read := ahead.result()) is not None:
            ahead = reader.submit(next, raw, None)
            piece, start, array = read
            source = given[piece.source]
            prepared = vectors.prepare(array, out)
            vectors.count(prepared.status, counters)
            with_url = metadata.with_url(source.metadata, start, start + len(array))
            counters["vectors_without_url"] += int(np.count_nonzero(prepared.usable & ~with_url))
            yield search.Block(source.first + start, prepared.vectors, prepared.usable & with_url)


def _numbered(arrays: Iterator[npt.NDArray[np.floating]], start: int) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
    for array in arrays:
        yield start, array
        start += len(array)


def rank(partition: int, job: Job) -> Record:
    """Task: the best rows of the places of a partition, out of those of all units."""
    counters: Counter[str] = Counter()
    parts = list(_parts(job, "scan", "map", job.units, partition))
    table = pa.concat_tables([FOUND.empty_table(), *parts]).combine_chunks()
    place, row, similarity = (table[name].to_numpy() for name in FOUND.names)
    order = np.lexsort((row, -similarity, place))
    place = place[order]
    rank_of = np.arange(len(place)) - np.searchsorted(place, place, side="left")
    kept = order[rank_of < job.k]
    counters["candidates_of_other_units"] = len(order) - len(kept)
    return _write(
        job, "best", f"best-{partition:06d}", table.take(pa.array(kept)), row[kept] // job.range_rows, counters
    )


def look_up(number: int, job: Job, given: Sequence[Source]) -> Record:
    """Task: what is known of the rows of a range that are among the best, for each partition of places."""
    wanted = [
        (partition, np.unique(part["row"].to_numpy()))
        for partition in range(job.partitions)
        for part in _parts(job, "best", "best", 1, number, partition)
    ]
    rows = np.unique(np.concatenate([np.zeros(0, np.int64), *(rows for _, rows in wanted)]))
    firsts = np.array([source.first for source in given])
    source_of = np.searchsorted(firsts, rows, side="right") - 1
    found = [TEXTS.empty_table()]
    carries = job.embeddings.deduplicate or job.corrects
    held = np.empty((len(rows) if carries else 0, job.columns), job.dtype)
    for each in np.unique(source_of):
        source = given[each]
        there = source_of == each
        inside = rows[there]
        table = metadata.take(source.metadata, inside - source.first).add_column(0, "row", pa.array(inside))
        found.append(table.cast(TEXTS))
        if carries:
            held[there] = index.take(job.index, inside) if job.index else sources.take(source, inside - source.first)
    known = pa.concat_tables(found).combine_chunks()
    counters: Counter[str] = Counter()
    columns = known.columns
    if job.embeddings.deduplicate:
        kind = _known_schema(job).field("vector").type
        columns.append(pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(held)]))
    if job.corrects:
        columns.append(pa.array(_crowding(job, held)))
        counters["images_corrected"] = len(rows)
    known = pa.table(columns, schema=_known_schema(job))
    folder, name = job.beside("rows"), f"rows-{number:06d}-{job.folder.tag}.parquet"
    groups = (known.take(pa.array(np.searchsorted(rows, some))) for _, some in wanted)
    with folder.writing(name) as path:
        shuffle.write_groups(groups, [partition for partition, _ in wanted], known.schema, path)
        entry = folder.entry(path, name, sum(len(some) for _, some in wanted))
    return folder.record(f"rows-{number:06d}", [entry], dict(counters))


def _crowding(job: Job, raw: npt.NDArray[np.floating]) -> Floats:
    """How near images (n, columns) are to places anyway (n,): `find` with the two sides changed, and so as exact."""
    neighbours = min(hubs.NEIGHBOURS, job.places)
    size = plan.places_per_group(neighbours, job.columns)
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(raw), size):
        images = vectors.prepare(raw[start : start + size]).vectors
        found.append(hubs.crowding(choice.nearest(job.choice, images, _place_blocks(job), neighbours)))
    return np.concatenate(found)


def _place_blocks(job: Job) -> Iterator[search.Block]:
    for start in range(0, job.places, job.chunk):
        stop = min(job.places, start + job.chunk)
        yield search.Block(start, _queries(job, start, stop), np.ones(stop - start, np.bool_))


def _known_schema(job: Job) -> pa.Schema:
    vector = pa.field("vector", pa.binary(job.columns * np.dtype(job.dtype).itemsize))
    crowding = pa.field("crowding", pa.float32())
    return pa.schema(
        [*TEXTS, *([vector] if job.embeddings.deduplicate else []), *([crowding] if job.corrects else [])]
    )  # fmt: skip


def assemble(partition: int, job: Job) -> Record:
    """Task: the matches of the places of a partition."""
    counters: Counter[str] = Counter()
    start, stop = places_of(partition, job.places, job.partitions)
    with StageFolder(job.folder.run_url, "places").open("places.parquet") as stream:
        ids = tables.read_rows(pq.ParquetFile(stream), start, stop, ["place_id"])["place_id"].combine_chunks()
    parts = [part for each in range(job.ranges) for part in _parts(job, "best", "best", 1, each, partition)]
    best = pa.concat_tables([FOUND.empty_table(), *parts]).combine_chunks()
    place, row, similarity = (best[name].to_numpy() for name in FOUND.names)
    known = pa.concat_tables(
        [_known_schema(job).empty_table(), *_parts(job, "rows", "rows", job.ranges, partition)]
    ).combine_chunks()
    where = np.searchsorted(known["row"].to_numpy(), row)  # ranges come in order, so its rows ascend
    score = hubs.corrected(similarity, known["crowding"].to_numpy()[where]) if job.corrects else similarity
    order = np.lexsort((row, -score, place))
    where = where[order]
    edges = np.searchsorted(place[order], np.arange(start, stop + 1))
    counters["places_with_images"] = int(np.count_nonzero(np.diff(edges)))
    urls = known["url"].combine_chunks()
    number = urls.dictionary_encode().indices.fill_null(-1).to_numpy()
    with_url = pc.fill_null(pc.greater(pc.binary_length(urls), 0), False).to_numpy(zero_copy_only=False)

    def matches() -> Iterator[pa.Table]:
        for first in range(0, stop - start, _PLACES):
            kept, ranks, ordinals = [], [], []
            for each in range(first, min(stop - start, first + _PLACES)):
                inside = where[edges[each] : edges[each + 1]]
                there = np.flatnonzero(with_url[inside])  # all of them, but where an index was asked
                counters["matches_without_url"] += len(inside) - len(there)
                stays = there[_stays(job, known, inside[there], number, counters)]
                kept.append(np.arange(edges[each], edges[each + 1])[stays])
                ranks.append(np.arange(len(stays)))
                ordinals.append(np.full(len(stays), each))
            at = np.concatenate(kept)
            columns = {
                "place_id": ids.take(pa.array(np.concatenate(ordinals), pa.int64())),
                "rank": pa.array(np.concatenate(ranks), pa.int32()),
                "similarity": pa.array(similarity[order[at]]),
                "image_id": pa.array(row[order[at]]),
            }
            rows = known.drop(["row"]).take(pa.array(where[at]))
            counters["rows"] += len(at)
            names = tables.MATCHES.names
            yield pa.table({n: columns[n] if n in columns else rows[n] for n in names}).cast(tables.MATCHES)

    entry = job.folder.write_batches(
        f"part-{partition:06d}-{job.folder.tag}.parquet", tables.MATCHES, matches()
    )  # fmt: skip
    return job.folder.record(f"part-{partition:06d}", [entry], dict(counters))


def _stays(
    job: Job, known: pa.Table, where: npt.NDArray[np.int64], urls: npt.NDArray[np.int64], counters: Counter[str]
) -> npt.NDArray[np.int64]:
    """Which of a place's candidates, best first, are its matches; the others are counted."""
    if not job.embeddings.deduplicate:
        counters["matches_over_num_images"] += max(0, len(where) - job.num_images)
        return np.arange(min(len(where), job.num_images))
    if len(where) == 0:
        return np.arange(0)
    data = known["vector"].take(pa.array(where)).combine_chunks()
    held = np.frombuffer(data.buffers()[1], job.dtype, len(where) * job.columns, data.offset * data.type.byte_width)
    prepared = vectors.prepare(held.reshape(len(where), job.columns))
    kept = duplicates.remove(prepared.vectors, urls[where], job.num_images)
    counters["matches_near_duplicate"] += kept.near_duplicates
    counters["matches_same_url"] += kept.same_url
    stay = len(kept.numbers)
    counters["matches_over_num_images"] += len(where) - stay - kept.near_duplicates - kept.same_url
    if stay < job.num_images and len(where) == job.k:  # there would be more, but they were not kept for it
        counters["places_not_refilled"] += 1
        counters["images_not_refilled"] += job.num_images - stay
    return kept.numbers


def _write(
    job: Job, stage: str, unit: str, table: pa.Table, partition: npt.NDArray[np.integer], counters: Counter[str]
) -> Record:
    folder, name = job.beside(stage), f"{unit}-{job.folder.tag}.parquet"
    number = job.ranges if stage == "best" else job.partitions
    with folder.writing(name) as path:
        shuffle.write_partitioned(table, partition, number, path)
        entry = folder.entry(path, name, table.num_rows)
    return folder.record(unit, [entry], dict(counters))


def _parts(job: Job, stage: str, prefix: str, files: int, partition: int, first: int = 0) -> Iterator[pa.Table]:
    folder = job.beside(stage)
    for number in range(first, first + files):
        with folder.open(f"{prefix}-{number:06d}-{folder.tag}.parquet") as stream:
            yield from shuffle.read_partition([stream], partition)


def warm_up() -> None:
    """Makes the machine code that searching needs, so that not every worker of a node makes it at the same time."""
    few = vectors.prepare(np.eye(2, kernels.PAD, dtype=np.float16))
    search.nearest(few.vectors, [search.Block(0, few.vectors, few.usable)], 1)
    duplicates.remove(vectors.prepare(np.eye(2, kernels.PAD, dtype=np.float32)).vectors, np.arange(2), 1)
