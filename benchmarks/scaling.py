"""Scaling on paper: all of the United States by each strategy on 1, 16 and 100 machines; time, cost, storage, limits.

The arithmetic and the rates are those of `geo-subset plan` (geo_subset/costs.py says where each rate was measured), for
corpora that are made here as empty files of the right sizes. Prices are arguments: their defaults are list prices of
AWS, us-west-2, 2024, and stand for yours. Prints what docs/cluster.md holds.

    python benchmarks/scaling.py [--spot 0.128] [--on-demand 0.096] [--gb-month 0.023]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from geo_subset import costs, settings
from geo_subset.settings import Settings

PLACES = {"GeoNames": 2_200_000, "Overture": 13_000_000}
MACHINES = (1, 16, 100)
CPUS = 8
NUM_IMAGES = 100
#: LAION-2B-en's English rows as Re-LAION has them, in as many files of captions; vectors as of ViT-L/14.
ROWS, CAPTION_FILES, VECTOR_FILES, COLUMNS = 2_100_000_000, 128, 2_100, 768
#: Requests to S3 for a shard of 10,000 images: a tar of 270 MB in parts of 50 MB, parquet, stats, record.
REQUESTS_A_SHARD = 12
#: Dollars an hour for the disk (100 GB of gp3 at 0.08 a month) and the public address of a machine.
DISK_AND_ADDRESS = 100 * 0.08 / 730 + 0.005


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--spot", type=float, default=0.128, help="dollars an hour: m6i.2xlarge (8 vCPU), a third of 0.384"
    )
    parser.add_argument("--on-demand", type=float, default=0.096, help="dollars an hour: the head, m6i.large")
    parser.add_argument("--gb-month", type=float, default=0.023, help="dollars: S3 standard")
    parser.add_argument("--request", type=float, default=0.005 / 1000, help="dollars: a PUT to S3")
    prices = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_corpora(Path(folder))
        for line in (*a_million_images(Path(folder), prices), "", *tables(Path(folder), prices)):
            print(line)


def make_corpora(folder: Path) -> None:
    """Files that take no room: holes of the sizes that real ones would have."""
    caption_bytes = costs.stated(asked(folder, "captions", 1))["caption_bytes"].value
    (folder / "captions").mkdir()
    for number in range(CAPTION_FILES):
        with (folder / f"captions/{number:03}.parquet").open("wb") as file:
            file.truncate(round(ROWS * caption_bytes / CAPTION_FILES))
    (folder / "vectors").mkdir()
    rows = ROWS // VECTOR_FILES
    first = folder / "vectors/0000"
    np.lib.format.open_memmap(first.with_suffix(".npy"), "w+", np.float16, (rows, COLUMNS)).flush()
    pq.write_table(pa.table({"url": pa.DictionaryArray.from_arrays(pa.array([0] * rows), ["u"])}), f"{first}.parquet")
    for number in range(1, VECTOR_FILES):
        for ending in (".npy", ".parquet"):
            os.link(first.with_suffix(ending), folder / f"vectors/{number:04}{ending}")


def asked(folder: Path, strategy: str, workers: int) -> Settings:
    return settings.loads(f"""
        run = "{folder}/run"
        [places]
        source = "geonames"
        path = "US.zip"
        [retrieve]
        strategy = "{strategy}"
        num_images = {NUM_IMAGES}
        clip-service.url = "http://127.0.0.1:1234"
        captions.path = "{folder}/captions"
        embeddings.path = "{folder}/vectors"
        embeddings.model = "ViT-L-14/openai"
        [cluster]
        workers = {workers}
        """)


def planned(folder: Path, strategy: str, places: int, machines: int) -> dict[tuple[str, str], float]:
    """Lines of the plan by stage and name. No more workers read captions than there are files."""
    run = asked(folder, strategy, machines * CPUS)
    rates = costs.stated(run)
    readers = costs.stated(asked(folder, strategy, min(machines * CPUS, CAPTION_FILES)))
    rates |= {name: readers[name] for name in ("captions_per_second",) if name in readers}
    return {(line.stage, line.name): line.value for line in costs.amounts(places, places, 0, run, rates)}


def dollars(machines: int, seconds: float, prices: argparse.Namespace) -> float:
    """Of so many machines and the head for so long."""
    return seconds / 3600 * (machines * (prices.spot + DISK_AND_ADDRESS) + prices.on_demand + DISK_AND_ADDRESS)


def requests(images: float, prices: argparse.Namespace) -> float:
    return images / 10_000 * REQUESTS_A_SHARD * float(prices.request)


def a_million_images(folder: Path, prices: argparse.Namespace) -> Iterator[str]:
    rates = costs.stated(asked(folder, "clip-service", CPUS))
    seconds = 1e6 / rates["images_per_second"].value
    size = 1e6 * rates["image_bytes"].value / 1e9
    head = dollars(0, seconds, prices)
    machine = dollars(1, seconds, prices) - head
    a_cpu, puts = rates["images_per_second"].value / CPUS, requests(1e6, prices)
    yield "A million images, on one machine:"
    yield ""
    yield f"    time       1,000,000 / ({a_cpu:g} images/s x {CPUS} CPUs) = {seconds:.0f} s"
    yield f"    machine    {seconds:.0f} s x ${prices.spot + DISK_AND_ADDRESS:.3f}/h = ${machine:.3f}"
    yield f"    head       {seconds:.0f} s x ${prices.on_demand + DISK_AND_ADDRESS:.3f}/h = ${head:.3f}"
    yield f"    requests   100 shards x {REQUESTS_A_SHARD} x ${prices.request * 1000:g} / 1,000 = ${puts:.3f}"
    yield f"    in all     ${machine + head + puts:.2f}"
    yield f"    storage    {size:.0f} GB x ${prices.gb_month:g} = ${size * prices.gb_month:.2f} a month"


def tables(folder: Path, prices: argparse.Namespace) -> Iterator[str]:
    yield f"All of the United States, {NUM_IMAGES} images a place at most:"
    yield ""
    yield "| places | strategy | matches | machines | retrieve | download | cost | first limit of retrieve |"
    yield "|---|---|---|---|---|---|---|---|"
    kept = ["| places | strategy | images | storage | a month | scratch |", "|---|---|---|---|---|---|"]
    for name, places in PLACES.items():
        for strategy in ("clip-service", "captions", "embeddings"):
            for machines in MACHINES:
                plan = planned(folder, strategy, places, machines)
                retrieve, download = plan["retrieve", "time"], plan["download", "time"]
                busy, limit = limits(strategy, machines)
                cost = dollars(busy, retrieve, prices) + dollars(machines, download, prices)
                cost += requests(plan["download", "images"], prices)
                yield (
                    f"| {name}, {places:,} | {strategy} | {short(plan['retrieve', 'matches'])} | {machines} | "
                    f"{duration(retrieve)} | {duration(download)} | ${cost:,.0f} | {limit} |"
                )
            size = sum(value for (_, line), value in plan.items() if line == "storage")
            scratch = plan.get(("retrieve", "scratch"))
            kept.append(
                f"| {name} | {strategy} | {short(plan['download', 'images'])} | {short(size)}B | "
                f"${size / 1e9 * prices.gb_month:,.0f} | {f'{short(scratch)}B' if scratch else '-'} |"
            )
    yield ""
    yield from kept


def limits(strategy: str, machines: int) -> tuple[int, str]:
    """How many machines are busy while retrieving, and what keeps it from being faster."""
    if strategy == "clip-service":
        return 1, "the backend: 20 queries/s, whatever asks it"
    if strategy == "captions" and machines * CPUS > CAPTION_FILES:
        return CAPTION_FILES // CPUS, f"{CAPTION_FILES} files: a worker reads one at a time"
    return machines, "CPUs"


def short(number: float) -> str:
    return str(tqdm.format_sizeof(number, divisor=1000))


def duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
