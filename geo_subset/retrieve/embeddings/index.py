"""A clip-retrieval index folder instead of vectors: a faiss index, asked for all places. Approximate, and said so.

    image.index            (or image.index/populated.index with merged_index.ivfdata beside it)
    metadata/*.parquet     the index' row numbers count through them in the order of their names

What such an index holds is compressed, or searched in part: it misses some of the nearest, and its similarities are
about right. It is for those who have no more than an index; vectors, where they are there, give the exact answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
from fsspec.implementations.local import LocalFileSystem

from geo_subset import inputs, storage
from geo_subset.errors import SettingsError
from geo_subset.inputs import InputFile
from geo_subset.retrieve.embeddings import metadata
from geo_subset.retrieve.embeddings.search import Nearest
from geo_subset.retrieve.embeddings.sources import KEY, Source
from geo_subset.retrieve.embeddings.vectors import Floats

_INNER_PRODUCT = 0
"""faiss.METRIC_INNER_PRODUCT"""


def found(paths: Sequence[str]) -> InputFile | None:
    """The index, if `paths` are an index folder. Raises SettingsError if faiss, which reads it, is not installed."""
    if len(paths) != 1 or any(sign in paths[0] for sign in "*?["):
        return None
    for name in ("image.index/populated.index", "image.index"):
        with contextlib.suppress(SettingsError):
            file = inputs.find(KEY, [f"{paths[0].rstrip('/')}/{name}"], [".index"])[0]
            break
    else:
        return None
    if find_spec("faiss") is None:
        raise SettingsError(f"{KEY} = {paths[0]!r} is an index folder: pip install faiss-cpu, or name vectors instead")
    return file


def discover(path: str) -> list[InputFile]:
    """The metadata files of an index folder, in the order of their rows. Raises SettingsError if there are none."""
    return inputs.find(KEY, [f"{path.rstrip('/')}/metadata"], [".parquet"])


def describe(url: str, files: Sequence[InputFile], columns: int | None) -> list[Source]:
    """The metadata files as sources whose vectors are in the index.

    Raises SettingsError: index and metadata have different numbers of rows, or the places' vectors another length.
    """
    with opened(url) as index:
        rows, length, metric = int(index.ntotal), int(index.d), int(index.metric_type)
    if metric != _INNER_PRODUCT:
        raise SettingsError(f"{url} is no index of inner products, as clip-retrieval makes them")
    if columns not in (None, length):
        raise SettingsError(
            f"{url} has vectors of {length} numbers, the places' have {columns}: they must come from the same model"
        )
    sources: list[Source] = []
    first = 0
    for file in files:
        meta = metadata.describe(file.url)
        sources.append(Source(None, replace(meta, columns=length, half=False), first))
        first += meta.rows
    if first != rows:
        raise SettingsError(
            f"{url} has {rows:,} rows and its metadata, {files[0].url} and on, {first:,}: they must be of the same "
            "images"
        )
    return sources


@contextlib.contextmanager
def opened(url: str) -> Iterator[Any]:
    """The index; one on a network is copied to this node's disk first."""
    fs, path = fsspec.core.url_to_fs(url)
    with contextlib.ExitStack() as stack:
        if not isinstance(fs, LocalFileSystem):
            folder = stack.enter_context(storage.scratch_folder())
            fs.get(path.rpartition("/")[0] if path.endswith("populated.index") else path, str(folder), recursive=True)
            path = str(next(folder.rglob(path.rpartition("/")[2])))
        yield _read(path)


@lru_cache(maxsize=1)
def _read(path: str) -> Any:
    """Mapped where its kind can be, and kept for the next unit of the same process."""
    import faiss

    flags = faiss.IO_FLAG_ONDISK_SAME_DIR if path.endswith("populated.index") else faiss.IO_FLAG_MMAP
    try:
        return faiss.read_index(path, flags | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise SettingsError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def nearest(url: str, queries: Floats, columns: int, k: int) -> Nearest:
    """What the index finds for each query, best first (of equal similarities, the smaller row number)."""
    with opened(url) as index:
        scores, rows = index.search(np.ascontiguousarray(queries[:, :columns]), k)
    rows = rows.astype(np.int64)
    scores = np.where(rows < 0, -np.inf, scores).astype(np.float32)
    for line, numbers in zip(scores, rows, strict=True):
        order = np.lexsort((numbers, -line))
        line[:], numbers[:] = line[order], numbers[order]
    return Nearest(scores, rows, np.count_nonzero(rows >= 0, axis=1).astype(np.int64))


def take(url: str, rows: npt.NDArray[np.int64]) -> Floats:
    """The vectors of rows as the index holds them. Raises SettingsError if it cannot tell them."""
    with opened(url) as index:
        try:
            if hasattr(index, "make_direct_map"):
                index.make_direct_map()
            return np.asarray(index.reconstruct_batch(rows), np.float32)
        except RuntimeError as error:
            raise SettingsError(
                f"{url} does not hold the vectors that near-duplicates and hubs are told by; set "
                "retrieve.embeddings.deduplicate = false and leave out hub_correction"
            ) from error
