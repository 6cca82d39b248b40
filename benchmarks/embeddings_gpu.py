"""How fast a GPU searches image vectors, exactly: against torch's product and topk by blocks, which is not exact.

    pip install torch
    python benchmarks/embeddings_gpu.py [--queries 10000] [--rows 1000000] [--columns 512] [--k 1000] [--repeats 3]

Vectors are random unit vectors as float16 in memory. What is timed starts from prepared vectors on the host and ends
with results on the host, copies to the GPU included; making float32 unit vectors of what files hold, which is the
processor's work, is timed by itself. The peer multiplies float16 and merges the best of each block: what is usually
written. Its ranks differ from the exact ones, and the share is printed. The same results as on the processor, bit for
bit, are asserted for the first queries in each dtype.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def peer(queries: Any, blocks: list[Any], k: int) -> Any:
    """Row numbers (queries, k): float16 product and topk of each block, merged by another topk."""
    import torch

    asked = torch.from_numpy(queries).to("cuda", torch.float16)
    best, rows = None, None
    for first, block in blocks:
        scores = asked @ block.to("cuda", non_blocking=True).T
        value, row = torch.topk(scores, min(k, len(block)), dim=1)
        row = row + first
        if best is not None:
            value, row = torch.cat([best, value], 1), torch.cat([rows, row], 1)
            value, at = torch.topk(value, k, dim=1)
            row = torch.gather(row, 1, at)
        best, rows = value, row
    return rows.cpu().numpy()


def timed(function: Callable[[], Any], repeats: int) -> tuple[list[float], Any]:
    """Wall seconds, after one run to warm up, and the last result."""
    import torch

    function()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        result = function()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds, result


def told(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} s ({min(seconds):.3f}-{max(seconds):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("queries", 10_000), ("rows", 1_000_000), ("columns", 512), ("k", 1000), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--check", type=int, default=128, help="queries that are searched on the processor too")
    arguments = parser.parse_args()
    import numpy as np
    import torch

    from geo_subset.retrieve.embeddings import device, plan, search, vectors

    torch.manual_seed(0)
    made = torch.randn(arguments.rows, arguments.columns, device="cuda")
    raw = (made / made.norm(dim=1, keepdim=True)).half().cpu().numpy()
    asked = torch.randn(arguments.queries, arguments.columns, device="cuda")
    queries = vectors.prepare((asked / asked.norm(dim=1, keepdim=True)).cpu().numpy()).vectors
    del made, asked
    size = plan.block_rows(arguments.columns)
    starts = range(0, arguments.rows, size)
    vectors.prepare(raw[:1000])
    started = time.perf_counter()
    vectors.prepare(raw[:size])
    one = min(size, arguments.rows) / (time.perf_counter() - started)
    with ThreadPoolExecutor() as pool:
        prepared = list(pool.map(lambda start: vectors.prepare(raw[start : start + size]), starts))
    blocks = [search.Block(start, part.vectors, part.usable) for start, part in zip(starts, prepared, strict=True)]
    operations = 2 * arguments.queries * arguments.rows * arguments.columns
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"{arguments.queries:,} x {arguments.rows:,} x {arguments.columns}, k = {arguments.k}")
    print(f"  vectors prepared by one thread: {one / 1e6:.2f} M/s")

    square = torch.randn(8192, 8192, device="cuda").half()
    seconds, _ = timed(lambda: [square @ square for _ in range(50)], 3)
    print(f"  product alone: {50 * 2 * 8192**3 / statistics.median(seconds) / 1e12:.0f}e12 operations a second")

    pinned = [(start, torch.from_numpy(raw[start : start + size]).pin_memory()) for start in starts]
    seconds, approximate = timed(lambda: peer(queries, pinned, arguments.k), arguments.repeats)
    print(f"  torch: float16 product and topk, from pinned memory, not exact: {told(seconds)}")
    results = {}
    for dtype in ("float16", "bfloat16", "float32"):
        torch.cuda.reset_peak_memory_stats()

        def ours(dtype: str = dtype) -> search.Nearest:
            return device.nearest(queries, blocks, arguments.k, "cuda", dtype)

        seconds, results[dtype] = timed(ours, arguments.repeats)
        rate = operations / statistics.median(seconds) / 1e12
        held = torch.cuda.max_memory_allocated() / 1e9
        print(
            f"  exact, {dtype}: {told(seconds)}, {rate:.1f}e12 operations a second, {held:.1f} GB of the GPU's memory"
        )
    wrong = (approximate != results["float16"].rows).mean()
    missed = 1 - np.mean(
        [len(np.intersect1d(a, b)) for a, b in zip(approximate[:500], results["float16"].rows[:500], strict=True)]
    ) / arguments.k  # fmt: skip
    print(f"  of torch's ranks {wrong:.1%} hold another row than the exact ones; {missed:.2%} of the rows are missed")

    usual = device._exact_on
    device._exact_on = lambda _device, _width: device.exact  # type: ignore[assignment]
    seconds, result = timed(lambda: device.nearest(queries, blocks, arguments.k, "cuda", "float16"), 1)
    print(f"  exact, float16, without triton: {told(seconds)}")
    assert np.array_equal(result.rows, results["float16"].rows)
    device._exact_on = usual

    few = queries[: arguments.check]
    started = time.perf_counter()
    plain = search.nearest(few, blocks, arguments.k)
    print(f"  {len(few)} queries on the processor: {time.perf_counter() - started:.1f} s")
    for dtype, result in results.items():
        same = np.array_equal(plain.rows, result.rows[: len(few)]) and np.array_equal(
            plain.scores.view(np.uint32), result.scores[: len(few)].view(np.uint32)
        )
        print(f"  {dtype}: {'the same to the bit' if same else 'DIFFERENT'}")
        assert same, dtype

    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        device.nearest(queries, blocks, arguments.k, "cuda", "float16")
        torch.cuda.synchronize()
    print(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=18, max_name_column_width=60))


if __name__ == "__main__":
    main()
