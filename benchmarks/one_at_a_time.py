"""One query after another, as a service answers them, against all queries in one batch, on the same vectors.

    pip install faiss-cpu
    python benchmarks/one_at_a_time.py [--queries 1000] [--rows 100000] [--columns 512] [--k 1000]

faiss' flat and HNSW indices are asked in this very process, one query at a time: what a service does besides (HTTP,
encoding the text, metadata) comes on top of that. Vectors are float16 in clusters, as the images of a real collection
lie, and queries lie about the same centres. One thread; seconds are of CPU. Recall is the share of the exact k best.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

CLUSTERS = 1000
#: Length of a vector's difference from its centre, whose own length is 1.
SPREAD = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--k", type=int, default=1000)
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if "avx512bw" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # as in embeddings.py, for faiss' sake

    import faiss
    import numpy as np

    from geo_subset.retrieve.embeddings import search, vectors

    k, columns, rng = arguments.k, arguments.columns, np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, columns), np.float32) / columns**0.5

    def around(count: int):  # type: ignore[no-untyped-def]
        made = centres[rng.integers(CLUSTERS, size=count)]
        made = made + SPREAD * rng.standard_normal((count, columns), np.float32) / columns**0.5
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)

    stored, queries = around(arguments.rows), around(arguments.queries).astype(np.float32)

    def batch():  # type: ignore[no-untyped-def]
        images = vectors.prepare(stored)
        block = search.Block(0, images.vectors, images.usable)
        return search.nearest(vectors.prepare(queries).vectors, [block], k).rows

    def one_by_one(index):  # type: ignore[no-untyped-def]
        return np.concatenate([index.search(queries[n : n + 1], k)[1] for n in range(len(queries))])

    def measured(name: str, work: Callable[[], object]):  # type: ignore[no-untyped-def]
        started = time.process_time()
        found = work()
        taken = time.process_time() - started
        exact = found if truth is None else truth
        recall = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, exact, strict=True)])
        print(f"  {name:34} {len(queries) / taken:8.1f} queries a CPU-second, recall {recall:.4f}", flush=True)
        return found

    truth = None
    few = vectors.prepare(stored[:64])
    search.nearest(few.vectors, [search.Block(0, few.vectors, few.usable)], 1)  # compiled before the clock runs
    print(f"  {len(queries):,} queries x {len(stored):,} x {columns}, k = {k}")
    truth = measured("all at once", batch)
    flat = faiss.IndexFlatIP(columns)
    flat.add(stored.astype(np.float32))
    measured("faiss flat, one at a time", lambda: one_by_one(flat))
    started = time.process_time()
    graph = faiss.IndexHNSWFlat(columns, 32, faiss.METRIC_INNER_PRODUCT)
    graph.add(stored.astype(np.float32))
    print(f"  (HNSW, 32 links: built in {time.process_time() - started:.0f} CPU-s)", flush=True)
    for depth in (k, 2 * k, 4 * k):
        graph.hnsw.efSearch = depth
        measured(f"HNSW (efSearch {depth}), one at a time", lambda: one_by_one(graph))


if __name__ == "__main__":
    main()
