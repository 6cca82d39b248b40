"""Stage retrieve: chunks of places through a pool of actors, one part file a chunk, written by the actor."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import math
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayError

from geo_subset import cluster, credentials, metrics, progress, tables, wording, work
from geo_subset.errors import SettingsError, StageError
from geo_subset.manifests import Manifest, Record, add_counters, add_usage, sums
from geo_subset.progress import log
from geo_subset.retrieve import backends, clip_service, plan
from geo_subset.retrieve.limits import Limits, Reply, Tally
from geo_subset.retrieve.plan import Chunk
from geo_subset.runfolder import StageFolder
from geo_subset.settings import ClipServiceSettings, Settings

#: The record that holds failures.parquet.
_FAILURES = "failures"
#: With so many failures beyond what is allowed, most of those asked, a backend is not worth asking further.
_HOPELESS = 200
#: A worker reads some 250 answers of 1,000 rows a second; with so many requests in flight it has less than that to do,
#: as a backend takes 30 ms and more for one.
REQUESTS_PER_WORKER = 8
#: How hard and how fast a backend is asked.
_EFFORT = {"concurrency", "timeout", "retries", "deadline", "rate_limit"}
#: Counters of rows that are left out -> why.
_LEFT_OUT = {
    "rows_url_null": "URL is null",
    "rows_url_missing": "no URL",
    "rows_url_no_text": "URL is not text",
    "rows_no_similarity": "no similarity",
    "rows_no_object": "not an object",
    "rows_over_limit": "more than num_images",
    "rows_of_other_prompts": "found by another search text of the place too",
}


def content(settings: Settings) -> Any:
    """What decides the matches. How hard and how fast a backend is asked does not."""
    retrieve = settings.retrieve
    if retrieve.strategy != "clip-service":
        return _other(retrieve.strategy).content(settings)
    service = retrieve.clip_service.model_dump(mode="json", exclude=_EFFORT)
    return {"strategy": retrieve.strategy, "num_images": retrieve.num_images, "service": service}


def shaping(settings: Settings) -> dict[str, Any]:
    """The settings that shape the stage, nested as in a run file; not where its files are."""
    retrieve = settings.retrieve
    if retrieve.strategy == "clip-service":
        table = retrieve.clip_service.model_dump(mode="json", exclude=_EFFORT)
    elif retrieve.strategy == "captions":
        table = retrieve.captions.model_dump(mode="json", exclude={"path"})
    else:
        table = retrieve.embeddings.model_dump(mode="json", include={"model", "deduplicate", "hub_correction"})
    tree = {"strategy": retrieve.strategy, "num_images": retrieve.num_images, retrieve.strategy: table}
    return {"retrieve": tree}


def check(settings: Settings) -> None:
    """Raises SettingsError where the strategy has something against the settings."""
    if settings.retrieve.strategy != "clip-service":
        _other(settings.retrieve.strategy).check(settings)


def inputs(_settings: Settings) -> Sequence[str]:
    return ()


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Retrieves what is left, then once more what failed. Raises StageError above `max_failures` or with no backend."""
    if settings.retrieve.strategy != "clip-service":
        return _other(settings.retrieve.strategy).run(settings, folder)  # type: ignore[no-any-return]
    started = time.monotonic()
    places = _place_count(folder)
    todo = plan.chunks(places, settings.retrieve.num_images)
    records = folder.start(len(todo))
    # The unit of failures is of a stage that was finished once, and is written anew.
    records = {unit: record for unit, record in records.items() if plan.is_whole(record)}
    for attempt in ("first", "again"):
        left = plan.left(todo, records)
        if not left:
            break
        if attempt == "again":
            log.info("retrieve  %s places failed; they are tried once more", _failed_places(records))
        _retrieve(settings, folder, left, places, records)
        if any(chunk.unit not in records for chunk in todo):
            break
    return _finish(settings, folder, records, places, time.monotonic() - started)


def _retrieve(
    settings: Settings, folder: StageFolder, left: list[Chunk], places: int, records: dict[str, Record]
) -> None:
    for url in settings.retrieve.clip_service.url:
        if missing := credentials.lacking(url):
            raise SettingsError(f"retrieve.clip-service.url = {url!r}: {missing}")
    service = asyncio.run(backends.check(settings.retrieve.clip_service, settings.retrieve.num_images))
    done = places - sum(len(chunk.again) or chunk.stop - chunk.start for chunk in left)
    errors: list[str] = []
    asked = failed = 0
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(progress.track("retrieve", places, "places", done))
        limiter, useful = stack.enter_context(_limiter(service))
        arguments = (folder, service, settings.retrieve.num_images, limiter)
        outcomes = cluster.run_actors(Worker, arguments, left, settings.cluster, service.concurrency, useful)
        for outcome in stack.enter_context(contextlib.closing(outcomes)):  # workers end before the limiter
            chunk = outcome.unit
            if outcome.error is None:
                records[chunk.unit] = outcome.result
                asked += len(chunk.again) or chunk.stop - chunk.start
                failed += len(outcome.result.extra["failed"])
                advance(len(chunk.again) or chunk.stop - chunk.start)
                if failed > settings.retrieve.max_failures * places + _HOPELESS and failed > asked / 2:
                    log.info("retrieve  %s of %s places asked have failed: the rest is not tried", failed, asked)
                    return
            elif gone := ray.get(limiter.gone.remote()):
                raise StageError(f"{gone}; run again to go on from here")
            else:
                errors.append(f"{chunk.unit}: {outcome.error}")
    if errors:
        raise StageError(f"{len(errors)} of {len(left)} chunks could not be done, first {errors[0]}")


class Limiter:
    """An actor: says to all workers how many requests they may have in flight."""

    def __init__(self, service: ClipServiceSettings) -> None:
        self._limits = Limits(service.url, service.concurrency, service.rate_limit, service.deadline, time.monotonic())
        self._gone = ""

    def exchange(self, worker: int, incarnation: str, wanted: int, tallies: Sequence[Tally], tokens: int) -> Reply:
        """As `Limits.exchange`."""
        reply = self._limits.exchange(worker, incarnation, wanted, tallies, tokens, time.monotonic())
        self._gone = self._gone or reply.gone
        return reply

    def news(self) -> list[str]:
        """What there is to log and was not told yet."""
        told, self._limits.news = self._limits.news, []
        return told

    def load(self) -> list[tuple[str, int, int]]:
        """As `Limits.load`."""
        return self._limits.load(time.monotonic())

    def gone(self) -> str:
        """Why no backend is worth waiting for, if so."""
        return self._gone

    def useful(self) -> int | None:
        """How many workers have something to do; None while it is being found out what the backends take."""
        taken = self._limits.taken(time.monotonic())
        return None if taken is None else math.ceil(taken / REQUESTS_PER_WORKER)

    def summary(self) -> list[str]:
        """A line for each backend."""
        return [
            f"{b.url} {'is still set aside' if b.aside else f'took {b.limit.now} requests at a time'} at the end"
            for b in self._limits.backends
        ]


@contextlib.contextmanager
def _limiter(service: ClipServiceSettings) -> Iterator[tuple[Any, Callable[[], int | None]]]:
    """A Limiter, what it has to say sent to the log; and how many workers it found to be useful when last asked."""
    limiter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Limiter).remote(service)
    ended = threading.Event()
    useful: int | None = None

    def follow() -> None:
        nonlocal useful
        last = False
        while not last:
            last = ended.wait(1.0)
            with contextlib.suppress(RayError):  # it is being started again
                useful, load, *lines = ray.get(
                    [
                        limiter.useful.remote(), limiter.load.remote(), limiter.news.remote(),
                        *([limiter.summary.remote()] if last else []),
                    ],
                    timeout=10,
                )  # fmt: skip
                for backend, requests, allowed in load:
                    metrics.in_flight(credentials.redact(backend), *((0, 0) if last else (requests, allowed)))
                for line in itertools.chain.from_iterable(lines):
                    log.info("retrieve  %s", line)

    follower = threading.Thread(target=follow, name="limiter-news", daemon=True)
    follower.start()
    try:
        yield limiter, lambda: useful
    finally:
        ended.set()
        follower.join()
        ray.kill(limiter)


class Worker:
    """An actor: one client, kept over all its chunks; several chunks at a time share the client's room."""

    def __init__(self, index: int, folder: StageFolder, service: ClipServiceSettings, num: int, limiter: Any) -> None:
        self._index, self._incarnation = index, uuid.uuid4().hex
        self._folder, self._service, self._num_images, self._limiter = folder, service, num, limiter
        self._client: clip_service.ClipService | None = None

    async def run(self, chunk: Chunk) -> Record:
        """Retrieves a chunk, writes its part and records it."""
        if self._client is None:  # needs the actor's running event loop
            self._client = clip_service.ClipService(self._service, self._num_images, self._exchange)
        places = await asyncio.to_thread(_read_places, self._folder, chunk)
        ids, queries = places["place_id"].to_pylist(), places["queries"].to_pylist()
        asked = [i for i, place_id in enumerate(ids) if not chunk.again or place_id in chunk.again]
        found = await self._client.retrieve([ids[i] for i in asked], [queries[i] for i in asked])
        return await asyncio.to_thread(_write, self._folder, chunk, ids, found)

    async def _exchange(self, wanted: int, tallies: Sequence[Tally], tokens: int) -> Reply:
        while True:
            try:
                exchange = self._limiter.exchange.remote(self._index, self._incarnation, wanted, tallies, tokens)
                return await exchange  # type: ignore[no-any-return]
            except RayError:  # lost with its node; it is being started elsewhere, and begins low
                await asyncio.sleep(1)


def _write(folder: StageFolder, chunk: Chunk, ids: list[str], found: clip_service.Retrieved) -> Record:
    name = f"part-{chunk.index:06d}-{folder.tag}.parquet"
    matches, counters, more = found.matches, found.counters, dict[str, Any]()
    if chunk.again:
        earlier = folder.recorded(chunk.unit)
        more = {"usage": add_usage([earlier.extra.get("usage", {}) if earlier else {}, work.taken()])}
        with folder.open(name) as stream:
            kept = pq.read_table(stream)
        kept = kept.filter(pc.invert(pc.is_in(kept["place_id"], pa.array(chunk.again))))
        matches = _in_order(pa.concat_tables([kept, matches]), ids)
        counters = {**add_counters([dict(chunk.before), counters]), "rows": matches.num_rows}
    entry = folder.write_table(matches, name)
    return folder.record(
        chunk.unit, [entry], counters, failed=[dataclasses.asdict(f) for f in found.failures], places=len(ids), **more
    )


def _in_order(matches: pa.Table, ids: list[str]) -> pa.Table:
    """Rows by the places' order, then rank: as if no place had failed at first."""
    order = pc.index_in(matches["place_id"], pa.array(ids))
    return (
        matches.append_column("order", order).sort_by([("order", "ascending"), ("rank", "ascending")]).drop(["order"])
    )


def _read_places(folder: StageFolder, chunk: Chunk) -> pa.Table:
    with StageFolder(folder.run_url, "places").open("places.parquet") as stream:
        return tables.read_rows(pq.ParquetFile(stream), chunk.start, chunk.stop, ["place_id", "queries"])


def _place_count(folder: StageFolder) -> int:
    manifest = StageFolder(folder.run_url, "places").manifest()
    if manifest is None:
        raise StageError("the places are not there; run the stage 'places' first")
    return sum(entry.rows for entry in manifest.files)


def _failed_places(records: dict[str, Record]) -> int:
    return sum(len(record.extra["failed"]) for record in records.values())


def _finish(
    settings: Settings, folder: StageFolder, records: dict[str, Record], places: int, seconds: float
) -> Manifest:
    failed = [failure for unit in sorted(records) for failure in records[unit].extra["failed"]]
    entry = folder.write_table(pa.Table.from_pylist(failed, tables.FAILURES), "failures.parquet")
    done = sum(record.extra["places"] for record in records.values())
    if len(failed) > settings.retrieve.max_failures * places:
        reasons = wording.most_frequent(Counter(f["reason"] for f in failed))
        raise StageError(
            f"{len(failed)} of {done} places failed ({reasons}; listed in {folder.path(entry.path)}), more than "
            f"max_failures = {settings.retrieve.max_failures:g} allows; run again to try only these once more"
        )
    counters = {"places": places, "places_failed": len(failed)}
    return folder.finish([*records.values(), Record(_FAILURES, (entry,), {})], seconds, counters)


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    count = manifest.counters
    for strategy, counter in (("captions", "captions"), ("embeddings", "vectors")):
        if counter in count:
            return _other(strategy).describe(manifest)  # type: ignore[no-any-return]
    rows, received = count.get("rows", 0), count.get("rows_received", 0)
    answers = count.get("requests", 0) - sum(n for name, n in count.items() if name.startswith("requests_failed_"))
    found = count["places"] - count.get("places_no_rows", 0) - count["places_failed"]
    return (
        f"{wording.counted(rows, 'row')} for {found:,} of {wording.counted(count['places'], 'place')} from "
        f"{wording.counted(answers, 'answer')}{'' if received or not answers else ' that hold no row'}"
        f"{wording.because(f'of {received:,} rows received left out', wording.chosen(count, _LEFT_OUT))}"
        f"{wording.because('failed', sums(manifest.units).failures, 'place')}"
    )


def _other(strategy: str) -> ModuleType:
    return import_module(f"geo_subset.retrieve.{strategy}.stage")  # late: they import a compiler
