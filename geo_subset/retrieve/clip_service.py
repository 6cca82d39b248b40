"""Strategy clip-service: ask a clip-retrieval backend, one search text a request, over its own wire protocol.

The protocol is posted directly: `clip_retrieval.clip_client` does the same but imports 935 MB for it, checks no
status and never tries again.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pyarrow as pa

from geo_subset.errors import StageError
from geo_subset.progress import log
from geo_subset.retrieve import answers
from geo_subset.retrieve.answers import AnswerError, Rows
from geo_subset.settings import ClipServiceSettings
from geo_subset.tables import MATCHES, SOURCE_FIELDS

#: Bytes of an answer that are read at most: 1,000 rows take about 250 kB.
MAX_BODY = 256 << 20
#: Seconds: retry i waits a random time up to min(MAX_WAIT, BASE_WAIT * 2^i), "full jitter"
#: (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
BASE_WAIT, MAX_WAIT = 0.25, 30.0


@dataclass(frozen=True)
class Failure:
    """A place that could not be retrieved, and why."""

    place_id: str
    query: str
    reason: str
    detail: str
    attempts: int


@dataclass(frozen=True)
class Retrieved:
    """The matches of a chunk of places (schema MATCHES, in the places' order), its failures, and counters."""

    matches: pa.Table
    failures: list[Failure]
    counters: dict[str, int]


async def check(service: ClipServiceSettings) -> ClipServiceSettings:
    """Asks every backend for its indices; returns the settings with the backends that answer and the index to use.

    Raises StageError: no backend answers, the index is unknown, or several exist and none is named.
    """
    problems: list[str] = []
    indices: dict[str, list[str]] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=min(service.timeout, 30))) as session:
        for url in service.url:
            try:
                async with session.get(f"{url}/indices-list") as response:
                    listed = answers.parse(response.status, await response.read())
                indices[url] = [name for name in listed if isinstance(name, str)]
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
                problems.append(f"{url}: {_reason(error)[1] or _reason(error)[0]}")
            except AnswerError as error:
                problems.append(f"{url}/indices-list: {error.reason}: {error.detail}")
    if not indices:
        raise StageError(
            f"no clip-retrieval backend answers ({'; '.join(problems)}): start it, or correct retrieve.clip-service.url"
        )
    names = list(dict.fromkeys(name for listed in indices.values() for name in listed))
    index = names[0] if service.indice_name is None and len(names) == 1 else service.indice_name
    having = tuple(url for url, listed in indices.items() if index in listed)
    if index is None or not having:
        said = "is not set" if index is None else f"= {index!r} is unknown"
        there = f"{', '.join(indices)} has {', '.join(names) or 'none'}"
        raise StageError(f"retrieve.clip-service.indice_name {said}: {there}")
    for problem in [*problems, *(f"{url} has no index {index!r}" for url in indices if url not in having)]:
        log.warning("retrieve  a backend is left out: %s", problem)
    return service.model_copy(update={"url": having, "indice_name": index})


class ClipService:
    """A client for one worker: bounded requests in flight, pooled connections, retries.

    To be made and used within one event loop; `close` it there.
    """

    def __init__(self, service: ClipServiceSettings, num_images: int, concurrency: int, rate: float | None) -> None:
        self._service, self._num_images = service, num_images
        self._room = asyncio.Semaphore(concurrency)
        self._pace, self._next_start = (1 / rate if rate else 0.0), 0.0
        self._next_url = 0
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=service.timeout)
        )

    async def close(self) -> None:
        await self._session.close()

    async def retrieve(self, place_ids: list[str], queries: list[list[str]]) -> Retrieved:
        """Asks for all the places at once, as far as there is room. No place's failure stops the others."""
        counters = {"requests": 0, "retries": 0}
        tasks = [
            asyncio.ensure_future(self._place(place_id, texts, counters))
            for place_id, texts in zip(place_ids, queries, strict=True)
        ]
        results = await asyncio.gather(*tasks)
        found = [(place_id, rows) for place_id, rows in zip(place_ids, results, strict=True) if isinstance(rows, Rows)]
        for _, rows in found:
            for name, count in rows.counters.items():
                counters[name] = counters.get(name, 0) + count
        counters["rows"] = sum(len(rows) for _, rows in found)
        counters["places_no_rows"] = sum(not len(rows) for _, rows in found)
        return Retrieved(to_table(found), [r for r in results if isinstance(r, Failure)], counters)

    async def _place(self, place_id: str, texts: list[str], counters: dict[str, int]) -> Rows | Failure:
        parts = []
        for text in texts:
            answer = await self._ask(place_id, text, counters)
            if isinstance(answer, Failure):
                return answer
            parts.append(answers.rows(answer, self._num_images))
        if not parts:
            return Failure(place_id, "", "no search text", "", 0)
        return answers.merged(parts, self._num_images)

    async def _ask(self, place_id: str, text: str, counters: dict[str, int]) -> list[Any] | Failure:
        if not text.strip():
            return Failure(place_id, text, "empty search text", "", 0)
        body = orjson.dumps(request(self._service, text, self._num_images))
        attempt = 0
        while True:
            attempt += 1
            wait = 0.0
            try:
                async with self._room:
                    await self._paced()
                    counters["requests"] += 1
                    return await self._post(body)
            except AnswerError as error:
                reason, detail, passing, wait = error.reason, error.detail, error.passing, error.retry_after
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                (reason, detail), passing = _reason(error), True
            if not passing or attempt > self._service.retries:
                return Failure(place_id, text, reason, detail[:500], attempt)
            counters["retries"] += 1
            backoff = random.uniform(0, min(MAX_WAIT, BASE_WAIT * 2**attempt))
            await asyncio.sleep(max(wait, backoff))

    async def _post(self, body: bytes) -> list[Any]:
        urls = self._service.url
        url = urls[self._next_url % len(urls)]
        self._next_url += 1
        async with self._session.post(f"{url}/knn-service", data=body, headers=_HEADERS) as response:
            if (response.content_length or 0) > MAX_BODY:
                raise AnswerError("body too large", f"{response.content_length} bytes")
            content = bytearray()
            async for block in response.content.iter_any():
                content += block
                if len(content) > MAX_BODY:
                    raise AnswerError("body too large", f"over {MAX_BODY} bytes")
            return answers.parse(response.status, bytes(content), response.headers.get("Retry-After"))

    async def _paced(self) -> None:
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + self._pace
        if start > now:
            await asyncio.sleep(start - now)


_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


def request(service: ClipServiceSettings, text: str, num_images: int) -> dict[str, Any]:
    """The fourteen fields that clip_retrieval's ClipClient posts to /knn-service."""
    return {
        "text": text,
        "image": None,
        "image_url": None,
        "embedding_input": None,
        "deduplicate": service.deduplicate,
        "use_safety_model": service.use_safety_model,
        "use_violence_detector": service.use_violence_detector,
        "indice_name": service.indice_name,
        "use_mclip": service.use_mclip,
        "aesthetic_score": service.aesthetic_score,
        "aesthetic_weight": service.aesthetic_weight,
        "modality": service.modality,
        "num_images": num_images,
        "num_result_ids": num_images,
    }


def to_table(found: list[tuple[str, Rows]]) -> pa.Table:
    """Matches (schema MATCHES) of places in the given order, rank 0 first."""
    columns: dict[str, list[Any]] = {
        "place_id": [place_id for place_id, rows in found for _ in range(len(rows))],
        "rank": [rank for _, rows in found for rank in range(len(rows))],
    }
    for name in ("similarity", "url", "caption", "image_id"):
        columns[name] = [value for _, rows in found for value in getattr(rows, name)]
    for name in (field.name for field in SOURCE_FIELDS):
        if any(name in rows.source for _, rows in found):
            columns[name] = [v for _, rows in found for v in rows.source.get(name) or [None] * len(rows)]
        else:
            columns[name] = [None] * len(columns["rank"])
    return pa.table([pa.array(columns[f.name], f.type) for f in MATCHES], schema=MATCHES)


def _reason(error: Exception) -> tuple[str, str]:
    """A short, stable reason and the detail of a failed request."""
    if isinstance(error, asyncio.TimeoutError):
        return "timed out", ""
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection", str(error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return "answer cut off", str(error)
    return "connection lost", str(error) or type(error).__name__
