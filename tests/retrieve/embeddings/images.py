"""Vectors and metadata of images that nobody took, in the layouts that are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset.retrieve.embeddings import search, vectors


def unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(rng: np.random.Generator, rows: int, columns: int, clusters: int = 20) -> npt.NDArray[np.float32]:
    """Unit vectors close to few centres, some of them the same several times: scores crowd, and tie."""
    centres = rng.standard_normal((clusters, columns))
    found = centres[rng.integers(clusters, size=rows)] + 0.05 * rng.standard_normal((rows, columns))
    again = rng.integers(rows, size=rows // 5)
    found[again] = found[rng.integers(rows, size=rows // 5)]
    return unit(found)


def blocks(rows: npt.NDArray[Any], size: int, first: int = 0) -> list[search.Block]:
    made = vectors.prepare(rows)
    return [
        search.Block(first + start, made.vectors[start : start + size], made.usable[start : start + size])
        for start in range(0, len(rows), size)
    ]


def brute_force(queries: npt.NDArray[Any], rows: npt.NDArray[Any], k: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Scores and row numbers of the k best of each query, equal scores by row number, by sums in float64."""
    scores = (queries.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    order = np.stack([np.lexsort((np.arange(len(rows)), -line))[:k] for line in scores])
    return np.take_along_axis(scores, order, 1), order


def metadata(first: int, rows: int, **columns: Any) -> pa.Table:
    numbers = range(first, first + rows)
    table = {"url": [f"http://x/{n}.jpg" for n in numbers], "caption": [f"image {n}" for n in numbers], **columns}
    return pa.table(table)


def inference_folder(folder: Path, parts: list[npt.NDArray[Any]]) -> Path:
    """What `clip-retrieval inference` writes."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "text_emb").mkdir()
    (folder / "metadata").mkdir()
    first = 0
    for number, part in enumerate(parts):
        np.save(folder / f"img_emb/img_emb_{number}.npy", part)
        np.save(folder / f"text_emb/text_emb_{number}.npy", part)
        pq.write_table(metadata(first, len(part)), folder / f"metadata/metadata_{number}.parquet")
        first += len(part)
    return folder
