"""What a run will cost before it is made: the arithmetic from places to shards, and the rates that go into it.

Rates come from what was measured elsewhere (their sources stand beside them), from a run that is there already, or from
the user. Without a measurement shares are 1, so that amounts are upper bounds.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from geo_subset import ownership, storage
from geo_subset.errors import SettingsError
from geo_subset.manifests import Manifest
from geo_subset.retrieve.captions import files
from geo_subset.retrieve.embeddings import workload
from geo_subset.runfolder import StageFolder
from geo_subset.settings import Settings, loads

_SHARES = ("distinct", "alive", "rows_per_caption")
_LAION = "measured on 10,000 rows of LAION"


@dataclass(frozen=True)
class Rate:
    """A number that goes into the arithmetic, and where it is from."""

    value: float
    source: str


@dataclass(frozen=True)
class Amount:
    """A line of the plan: how much of what, and how it comes about. `unit` is '', 'B' or 's'."""

    stage: str
    name: str
    value: float
    unit: str
    arithmetic: str


def known(settings: Settings, like: str | None, by_hand: tuple[str, ...]) -> dict[str, Rate]:
    """The rates that a plan needs: given by hand as `name=value`, else measured in the run `like`, else stated.

    Raises SettingsError for a text that is none of these, and as `measured` does.
    """
    rates = stated(settings)
    found = measured(like, settings.retrieve.num_images) if like else {}
    return set_by_hand(rates | {name: rate for name, rate in found.items() if name in rates}, by_hand)


def stated(settings: Settings) -> dict[str, Rate]:
    """The rates without any measurement of one's own."""
    cluster, size = settings.cluster, settings.download.image_size
    cpus = cluster.workers * cluster.cpus_per_worker if cluster.workers else float(os.cpu_count() or 1)
    pixels = (size / 256) ** 2
    return {
        **_of_retrieval(settings, cpus),
        "match_bytes": Rate(101, f"a row of parquet, {_LAION}"),
        "distinct": Rate(1.0, "at most: every row another URL"),
        "sample_bytes": Rate(140, f"a row of parquet, {_LAION}"),
        "alive": Rate(1.0, "at most: every URL still serves its image"),
        "images_per_second": Rate(170 * cpus, f"170 a CPU over https, benchmarks/download.py; {cpus:g} CPUs"),
        "image_bytes": Rate(27_000 * pixels, f"27 kB at 256 pixels (laion-prepro: 270 MB for 10,000) x {pixels:.3g}"),
    }


def _of_retrieval(settings: Settings, cpus: float) -> dict[str, Rate]:
    if settings.retrieve.strategy == "captions":
        return _of_captions(cpus)
    return _of_embeddings(cpus) if settings.retrieve.strategy == "embeddings" else _of_a_service(settings)


def _of_embeddings(cpus: float) -> dict[str, Rate]:
    source = f"60 G a CPU in float32, benchmarks/embeddings.py; {cpus:g} CPUs"
    return {"operations_per_second": Rate(60e9 * cpus, source)}


def _of_a_service(settings: Settings) -> dict[str, Rate]:
    backends = len(settings.retrieve.clip_service.url)
    return {
        "queries_per_second": Rate(20.0 * backends, "20 a backend: one approximate index"),
        "rows_per_query": Rate(settings.retrieve.num_images, "at most: retrieve.num_images"),
        "answer_bytes": Rate(234, f"a row of JSON, {_LAION}"),
    }


def _of_captions(cpus: float) -> dict[str, Rate]:
    return {
        "caption_bytes": Rate(90, f"a row of parquet, {_LAION}"),
        "captions_per_second": Rate(450_000 * cpus, f"450,000 a CPU, benchmarks/captions.py; {cpus:g} CPUs"),
        "rows_per_caption": Rate(0.016, f"US places, min_confidence 0.7, {_LAION}"),
    }


def measured(run: str, num_images: int) -> dict[str, Rate]:
    """The rates of a run, as far as its stages are done.

    Raises SettingsError if none of them is, or if it asked for another number of images a place: how fast answers come
    and how many of them are distinct depends on it.
    """
    url = ownership.open_run(run)
    try:
        text = storage.read_text(f"{url}/run.toml")
        asked = num_images if text is None else loads(text).retrieve.num_images
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{url}/run.toml is damaged ({error}): run there again to make it anew") from error
    if asked != num_images:
        raise SettingsError(
            f"{run} was made with retrieve.num_images = {asked}, not {num_images}: its rates do not hold here"
        )
    manifests = {stage: StageFolder(url, stage).manifest() for stage in ("retrieve", "merge", "download")}
    rates = dict[str, float | None]()
    if found := manifests["retrieve"]:
        rows, requests = found.counters.get("rows", 0), found.counters.get("requests", 0)
        rates["queries_per_second"] = _share(requests, found.seconds)
        rates["rows_per_query"] = _share(found.counters.get("rows_received", rows), requests)
        captions = found.counters.get("captions", 0)
        rates["captions_per_second"] = _share(captions, found.seconds)
        rates["rows_per_caption"] = _share(found.counters.get("matches", 0), captions)
        rates["operations_per_second"] = _share(found.counters.get("operations", 0), found.seconds)
        rates["match_bytes"] = _share(_bytes(found, "part-"), rows)
        if merged := manifests["merge"]:
            rates["distinct"] = _share(merged.counters.get("samples", 0), rows)
            rates["sample_bytes"] = _share(_bytes(merged, "part-"), merged.counters.get("samples", 0))
    if found := manifests["download"]:
        attempted, succeeded = found.counters.get("attempted", 0), found.counters.get("succeeded", 0)
        rates["images_per_second"] = _share(attempted, found.seconds)
        rates["alive"] = _share(succeeded, attempted)
        rates["image_bytes"] = _share(_bytes(found, ""), succeeded)
    known = {name: Rate(value, f"measured in {run}") for name, value in rates.items() if value is not None}
    if not known:
        raise SettingsError(f"{run} holds no finished stage of a run: there is nothing to measure by")
    return known


def set_by_hand(rates: Mapping[str, Rate], texts: tuple[str, ...]) -> dict[str, Rate]:
    """The rates with those of `name=value` texts in their place. Raises SettingsError for what is no such text."""
    result = dict(rates)
    for text in texts:
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in rates or not 0 < value < float("inf"):
            raise SettingsError(f"--rate {text}: write NAME=NUMBER, where NAME is one of {', '.join(rates)}")
        if name in _SHARES and value > 1:
            raise SettingsError(f"--rate {text}: it is a share, 1 at most")
        result[name] = Rate(value, "as given")
    return result


def counted(folder: StageFolder, file: str) -> tuple[int, int, int]:
    """Places, search texts and bytes of a finished places stage."""
    with folder.local([file]) as (path,), pq.ParquetFile(path) as table:
        batches = table.iter_batches(columns=["queries"])
        queries = sum(pc.sum(pc.list_value_length(batch.column(0))).as_py() or 0 for batch in batches)
        return table.metadata.num_rows, queries, Path(path).stat().st_size


def amounts(
    places: int, queries: int, places_bytes: int, settings: Settings, rates: Mapping[str, Rate]
) -> Iterator[Amount]:
    """The plan, line by line. A place's rows are its distinct images, retrieve.num_images at most."""

    def rate(name: str) -> float:
        return rates[name].value

    most = places * settings.retrieve.num_images
    yield Amount("places", "places", places, "", "places/places.parquet")
    yield Amount("places", "search texts", queries, "", f"{queries / max(places, 1):.2f} a place")
    yield Amount("places", "storage", places_bytes, "B", "places/places.parquet")
    if settings.retrieve.strategy == "captions":
        found = files.discover(settings.retrieve.captions.path)
        size = sum(file.bytes for file in found)
        captions = size / rate("caption_bytes")
        rows = min(captions * rate("rows_per_caption"), most)
        yield Amount("retrieve", "files", len(found), "", "retrieve.captions.path")
        yield Amount("retrieve", "read", size, "B", "bytes of the files")
        yield Amount("retrieve", "captions", captions, "", "bytes / caption_bytes")
        yield Amount("retrieve", "time", captions / rate("captions_per_second"), "s", "captions / captions_per_second")
        yield Amount("retrieve", "matches", rows, "", "captions x rows_per_caption, at most places x num_images")
    elif settings.retrieve.strategy == "embeddings":
        rows = yield from _search(places, settings, rates)
    else:
        received = queries * rate("rows_per_query")
        rows = min(received, most)
        yield Amount("retrieve", "queries", queries, "", "one a search text")
        yield Amount("retrieve", "time", queries / rate("queries_per_second"), "s", "queries / queries_per_second")
        yield Amount("retrieve", "rows received", received, "", "queries x rows_per_query")
        yield Amount("retrieve", "network", received * rate("answer_bytes"), "B", "rows received x answer_bytes")
        yield Amount("retrieve", "matches", rows, "", "rows received, at most places x num_images")
    yield Amount("retrieve", "storage", rows * rate("match_bytes"), "B", "matches x match_bytes")
    samples = rows * rate("distinct")
    yield Amount("merge", "samples", samples, "", "matches x distinct")
    yield Amount("merge", "storage", samples * rate("sample_bytes"), "B", "samples x sample_bytes")
    images = samples * rate("alive")
    yield Amount("download", "images", images, "", "samples x alive")
    yield Amount("download", "time", samples / rate("images_per_second"), "s", "samples / images_per_second")
    yield Amount("download", "storage", images * rate("image_bytes"), "B", "images x image_bytes")


def _search(places: int, settings: Settings, rates: Mapping[str, Rate]) -> Generator[Amount, None, int]:
    """The lines of strategy embeddings. Returns how many matches there are."""
    embeddings, num_images = settings.retrieve.embeddings, settings.retrieve.num_images
    work = workload.of(embeddings, num_images, places)
    operations = 2 * places * (work.rows + work.corrected) * work.columns
    k = f"{work.k:,} a place"
    yield Amount("retrieve", "files", work.files, "", "pairs in retrieve.embeddings.path")
    yield Amount(
        "retrieve", "read", work.bytes * work.groups, "B", f"bytes of vectors x {work.groups} groups of places"
    )
    yield Amount("retrieve", "vectors", work.rows, "", f"of {work.columns} numbers, by the first pair")
    yield Amount("retrieve", "units", work.units, "", f"ranges of {work.range_rows:,} vectors x groups of places")
    yield Amount("retrieve", "memory", work.memory, "B", f"a worker: vectors, places and candidates ({k}) at a time")
    yield Amount("retrieve", "scratch", work.scratch, "B", f"places x candidates ({k}) x ranges, in _scan till the end")
    if work.corrected:
        yield Amount("retrieve", "candidates", work.corrected, "", "images among the best of a place, at most")
    times = "(vectors + candidates)" if work.corrected else "vectors"
    yield Amount("retrieve", "operations", operations, "", f"2 x places x {times} x numbers")
    yield Amount("retrieve", "time", operations / rates["operations_per_second"].value, "s", "operations / their rate")
    rows = min(places * num_images, places * work.rows)
    yield Amount("retrieve", "matches", rows, "", "places x num_images")
    return rows


def lines(plan: list[Amount], rates: Mapping[str, Rate]) -> Iterator[str]:
    """What to print."""
    width = max(len(_shown(amount)) for amount in plan)
    for number, amount in enumerate(plan):
        stage = amount.stage if not number or plan[number - 1].stage != amount.stage else ""
        yield f"{stage:<9} {amount.name:<14} {_shown(amount):>{width}}   = {amount.arithmetic}"
    total = sum(amount.value for amount in plan if amount.name == "storage")
    time = sum(amount.value for amount in plan if amount.name == "time")
    yield f"{'in all':<9} {'storage':<14} {_size(total):>{width}}"
    yield f"{'':<9} {'time':<14} {_time(time):>{width}}   of retrieve and download"
    yield ""
    yield "with these rates:"
    for name, rate in rates.items():
        yield f"  {name:<19} {rate.value:>12,.6g}   {rate.source}"


def _shown(amount: Amount) -> str:
    if amount.unit == "B":
        return _size(amount.value)
    return _time(amount.value) if amount.unit == "s" else f"{round(amount.value):,}"


def _size(size: float) -> str:
    return f"{tqdm.format_sizeof(size, divisor=1000)}B"


def _time(seconds: float) -> str:
    days, rest = divmod(round(seconds), 86_400)
    return f"{days} d {tqdm.format_interval(rest)}" if days else str(tqdm.format_interval(rest))


def _bytes(manifest: Manifest, prefix: str) -> int:
    return sum(entry.bytes for entry in manifest.files if entry.path.startswith(prefix))


def _share(part: float, whole: float) -> float | None:
    return part / whole if part > 0 and whole > 0 else None
