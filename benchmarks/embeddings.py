"""How fast image vectors are searched: against faiss.knn by blocks with a ResultHeap, on the same vectors in one run.

    pip install faiss-cpu                       # the peer; torch too, for bfloat16
    python benchmarks/embeddings.py [--queries 10000] [--rows 1000000] [--columns 512] [--k 1000] [--threads 1]
    python benchmarks/embeddings.py --scaling   # a table: these queries, a tenth and a hundredth; these rows, half, an
                                                # eighth
    python benchmarks/embeddings.py --workers   # the whole stage on Ray with one worker and with two

Vectors are random unit vectors as float16 in .npy files of 131,072 rows, read from disk by both. Seconds are of CPU, of
all threads, so that other work on the machine disturbs little. The peak of the product is measured in the same run:
float32 by numpy, of tiles as the search multiplies them. Peak memory is that of a process of its own, which
does nothing but the search, libraries and queries included. Some wheels of faiss bring an OpenBLAS that does not know
newer processors and falls back to slow code: where there is AVX512, OPENBLAS_CORETYPE=SkylakeX is set for it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

PART = 131_072


def write(folder: Path, rows: int, columns: int) -> None:
    """Vectors and metadata, and the queries."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, PART)):
        count = min(PART, rows - start)
        made = rng.standard_normal((count, columns), np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        np.save(folder / f"{number:04d}.npy", made.astype(np.float16))
        urls = pa.array([f"https://images.example/{start + n}.jpg" for n in range(count)])
        pq.write_table(pa.table({"url": urls}), folder / f"{number:04d}.parquet", compression="zstd")


def queries_of(count: int, columns: int):  # type: ignore[no-untyped-def]
    import numpy as np

    made = np.random.default_rng(1).standard_normal((count, columns), np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def ours(folder: Path, queries: int, rows: int, columns: int, k: int, dtype: str):  # type: ignore[no-untyped-def]
    """Seconds of CPU and the result, from files to the best of the first `rows` rows for every query, as a unit of the
    stage does it."""
    from geo_subset.retrieve.embeddings import choice, passes, plan, sources, vectors

    passes.warm_up()
    choice.nearest(choice.Choice("cpu", dtype, ""), queries_of(1, columns), [], 1)  # imports what it needs
    found = sources.describe_all(sources.discover([str(folder)]), columns)[: -(-rows // PART)]
    pieces = [plan.Piece(number, 0, source.rows) for number, source in enumerate(found)]
    job = passes.Job(None, None, None, k, queries, columns, block_rows=plan.block_rows(columns))  # type: ignore[arg-type]
    asked = vectors.prepare(queries_of(queries, columns)).vectors
    started = time.process_time()
    result = choice.nearest(
        choice.Choice("cpu", dtype, ""), asked, passes._blocks(pieces, found, job, Counter()), k
    )  # fmt: skip
    return time.process_time() - started, result.rows


def faiss_knn(folder: Path, queries: int, rows: int, columns: int, k: int):  # type: ignore[no-untyped-def]
    """The same with faiss: what its own searches over files that do not fit into memory do."""
    import faiss
    import numpy as np

    asked = queries_of(queries, columns)
    started = time.process_time()
    heap = faiss.ResultHeap(queries, k, keep_max=True)
    for number, path in enumerate(sorted(folder.glob("*.npy"))[: -(-rows // PART)]):
        block = np.load(path).astype(np.float32)
        scores, ids = faiss.knn(asked, block, k, metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(scores, ids + number * PART)
    heap.finalize()
    return time.process_time() - started, heap.I


def peak(columns: int, dtype: str) -> float:
    """Operations a CPU-second of the product alone."""
    import numpy as np

    from geo_subset.retrieve.embeddings import choice, search

    product = choice._bfloat16() if dtype == "bfloat16" else search.single()
    one, other = (
        product.operand(np.random.default_rng(n).standard_normal((size, columns), np.float32))
        for n, size in enumerate(product.tile)
    )
    product.multiply(one, other)
    times = 40
    started = time.process_time()
    for _ in range(times):
        product.multiply(one, other)
    return times * 2 * product.tile[0] * product.tile[1] * columns / (time.process_time() - started)


def memory(folder: Path) -> float:
    """Peak of the resident set of a process that only searches, in bytes."""
    command = [sys.executable, __file__, "--only-search", str(folder), *sys.argv[1:]]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return float(out.stdout.split()[-1])


def workers(folder: Path, arguments: argparse.Namespace) -> None:
    import numpy as np

    from geo_subset import cluster, settings
    from geo_subset.retrieve import stage
    from geo_subset.runfolder import StageFolder

    np.save(folder / "q.bin", queries_of(arguments.queries, arguments.columns))
    (folder / "q.bin.npy").rename(folder.parent / "queries.npy")
    names = folder.parent / "names.txt"
    names.write_text("".join(f"Place {n}\n" for n in range(arguments.queries)))
    run = str(folder.parent / "run")
    tree = {
        "run": run,
        "places": {"source": "list", "path": str(names)},
        "retrieve": {
            "strategy": "embeddings",
            "num_images": arguments.k,
            "embeddings": {"path": str(folder), "query_vectors": str(folder.parent / "queries.npy")},
        },
    }
    from geo_subset import pipeline

    pipeline.run(settings.from_tree(tree), last="places")
    for number in (1, 2):
        loaded = settings.from_tree({**tree, "cluster": {"workers": number}})
        with cluster.connect(loaded.cluster):
            started = time.perf_counter()
            manifest = stage.run(loaded, StageFolder(run, "retrieve", str(number) * 64))
            taken = time.perf_counter() - started
        print(f"  {number} workers: {taken:.1f} s, {manifest.counters['rows']:,} rows, near-duplicates looked for")


def compare(arguments: argparse.Namespace, folder: Path, queries: int, rows: int, dtype: str) -> None:
    operations = 2 * queries * rows * arguments.columns
    cpu, ids = ours(folder, queries, rows, arguments.columns, arguments.k, dtype)
    line = f"  {queries:,} x {rows:,} x {arguments.columns}, k = {arguments.k}, {dtype}: {cpu:.1f} CPU-s"
    line += f", {operations / cpu / 1e9:.0f} G/s, {operations / cpu / peak(arguments.columns, dtype):.0%} of the peak"
    if not arguments.skip_faiss:
        theirs, expected = faiss_knn(folder, queries, rows, arguments.columns, arguments.k)
        same = (ids == expected).mean()
        line += f"; faiss {theirs:.1f} CPU-s, ratio {theirs / cpu:.2f}, {same:.5%} of the ranks the same"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--skip-faiss", action="store_true")
    parser.add_argument("--only-search", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    if "avx512bw" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    if arguments.only_search:
        ours(
            arguments.only_search, arguments.queries, arguments.rows, arguments.columns, arguments.k, arguments.dtype
        )  # fmt: skip
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "vectors"
        folder.mkdir()
        write(folder, arguments.rows, arguments.columns)
        if arguments.workers:
            workers(folder, arguments)
            return
        sizes = [(arguments.queries, arguments.rows)]
        if arguments.scaling:
            queries, rows = arguments.queries, arguments.rows
            some = sorted(
                {min(rows, -(-share // PART) * PART) for share in (rows // 8, rows // 2, rows)}
            )  # whole files
            sizes = [(q, r) for r in some for q in (queries // 100, queries // 10, queries)]
        for queries, rows in sizes:
            compare(arguments, folder, queries, rows, arguments.dtype)
        print(f"  peak memory of a search: {memory(folder) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
