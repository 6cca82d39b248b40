"""Vectors and the metadata of their images: which files belong together, and what is in them.

A clip-retrieval inference folder (img_emb/img_emb_0.npy, metadata/metadata_0.parquet), a DataComp metadata folder
(<hex>.npz, <hex>.parquet), other pairs of .npy and .parquet files named alike, and parquet files with a column of
vectors. Files are paired by their names, never by their place in a list, and every pair must have as many rows on both
sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from geo_subset import inputs
from geo_subset.errors import SettingsError
from geo_subset.inputs import InputFile
from geo_subset.retrieve.embeddings import arrays, metadata
from geo_subset.retrieve.embeddings.arrays import Matrix
from geo_subset.retrieve.embeddings.metadata import Metadata

KEY = "retrieve.embeddings.path"
#: Parts of paths in which the two files of a pair differ, and files of text vectors, which are not searched.
_PARTS = re.compile(r"(?<![a-z0-9])(img_emb|metadata)[_-]?", re.IGNORECASE)
_OTHERS = re.compile(r"(^|/)text_emb(/|_)")


@dataclass(frozen=True)
class Pair:
    """Files that belong together; `vectors` is None where they are in a column of the metadata."""

    vectors: InputFile | None
    metadata: InputFile


@dataclass(frozen=True)
class Source:
    """What the files of a pair hold, row by row."""

    matrix: Matrix | None
    metadata: Metadata
    first: int = 0
    """Number of the first row among the rows of all sources, which are counted in the order of the files' names."""

    @property
    def rows(self) -> int:
        return self.metadata.rows

    @property
    def columns(self) -> int:
        return self.matrix.columns if self.matrix else self.metadata.columns

    @property
    def is_half(self) -> bool:
        """Whether its vectors are float16."""
        return self.matrix.dtype.endswith("f2") if self.matrix else self.metadata.half

    @property
    def name(self) -> str:
        """The file of the vectors."""
        return self.matrix.url if self.matrix else self.metadata.url


def discover(paths: Sequence[str]) -> list[Pair]:
    """The pairs that files, folders and patterns stand for, in the order of their names.

    Raises SettingsError: a path stands for nothing or cannot be listed; a file of vectors has no metadata, or the other
    way round.
    """
    found = [f for f in inputs.find(KEY, paths, [".npy", ".npz", ".parquet"]) if not _OTHERS.search(f.url)]
    vectors, tables = dict[str, InputFile](), dict[str, InputFile]()
    for file in found:
        stem, _, ending = file.url.rpartition(".")
        if ending.lower() not in ("npy", "npz", "parquet"):
            raise SettingsError(f"{KEY}: {file.url} is neither .npy nor .npz nor .parquet")
        files, key = (tables if ending.lower() == "parquet" else vectors), _PARTS.sub("", stem).replace("//", "/")
        if key in files:
            raise SettingsError(f"{KEY}: {files[key].url} and {file.url} would both belong to the files named {key!r}")
        files[key] = file
    if alone := sorted(set(vectors) - set(tables)):
        raise SettingsError(
            f"{len(alone)} files of vectors have no metadata, first {vectors[alone[0]].url}: a .parquet file must be "
            "named alike (img_emb/img_emb_0.npy and metadata/metadata_0.parquet, or 0.npy and 0.parquet)"
        )
    if vectors and (alone := sorted(set(tables) - set(vectors))):
        raise SettingsError(
            f"{len(alone)} metadata files have no vectors, first {tables[alone[0]].url}: an .npy or .npz file must be "
            "named alike"
        )
    return [Pair(vectors.get(key), tables[key]) for key in sorted(tables)]


def describe(pair: Pair, columns: int | None) -> Source:
    """Reads the headers of a pair's files; `columns` is how long the places' vectors are, where that is known.

    Raises SettingsError: a file is not what it should be, the two have different numbers of rows, or the vectors are
    not as long as the places'.
    """
    meta = metadata.describe(pair.metadata.url)
    matrix = arrays.describe(pair.vectors.url, pair.vectors.bytes, columns) if pair.vectors else None
    source = Source(matrix, meta)
    if matrix and matrix.rows != meta.rows:
        raise SettingsError(
            f"{matrix.url} has {matrix.rows:,} rows and {meta.url} {meta.rows:,}: they must be of the same images, row "
            "by row; make both again"
        )
    if not matrix and not meta.embedding:
        raise SettingsError(
            f"{meta.url} has no column of vectors (a list of floats; of several, one called "
            f"{', '.join(metadata.EMBEDDING_COLUMNS)}), and no .npy or .npz file is named alike"
        )
    if columns is not None and source.rows and source.columns != columns:
        raise SettingsError(
            f"{source.name} has vectors of {source.columns} numbers, the places' have {columns}: they must come "
            "from the same model"
        )
    return source


def describe_all(pairs: Sequence[Pair], columns: int | None) -> list[Source]:
    """All sources, rows numbered through. Raises SettingsError as `describe` does, or if vectors differ in length."""
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda pair: describe(pair, columns), pairs))
    lengths = {source.columns: source.name for source in reversed(found) if source.rows}
    if len(lengths) > 1:
        (one, first), (other, second) = sorted((name, length) for length, name in lengths.items())[:2]
        raise SettingsError(
            f"{one} has vectors of {first} numbers, {other} of {second}: search them in runs of their own"
        )
    firsts = np.cumsum([0, *(source.rows for source in found)])
    return [replace(source, first=int(first)) for source, first in zip(found, firsts[:-1], strict=True)]


def read(source: Source, start: int, stop: int, rows: int) -> Iterator[npt.NDArray[np.floating]]:
    """Vectors of the source's rows [start, stop), in arrays of at most `rows`."""
    if source.matrix:
        return arrays.read(source.matrix, start, stop, rows)
    return metadata.vectors(source.metadata, start, stop, rows)


def take(source: Source, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
    """Vectors of the given rows, in ascending order: (n, columns)."""
    if source.matrix:
        return arrays.take(source.matrix, rows)
    if len(rows) == 0:
        return np.empty((0, source.columns), np.float32)
    found, done = [], int(rows[0])
    for piece in metadata.vectors(source.metadata, done, int(rows[-1]) + 1, 8192):
        inside = rows[np.searchsorted(rows, done) : np.searchsorted(rows, done + len(piece))] - done
        found.append(piece[inside])
        done += len(piece)
    return np.concatenate(found)
