"""Strategy clip-service: ask a clip-retrieval backend, one search text a request, over its own wire protocol.

The protocol is posted directly: `clip_retrieval.clip_client` does the same but imports 935 MB for it, checks no
status and never tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import numpy as np
import orjson
import pyarrow as pa

from geo_subset import shortage, work
from geo_subset.retrieve import answers, limits, plain_answers
from geo_subset.retrieve.answers import AnswerError, Rows
from geo_subset.retrieve.gate import Exchange, Gate
from geo_subset.settings import ClipServiceSettings
from geo_subset.tables import MATCHES, SOURCE_FIELDS

_Answer = TypeVar("_Answer")

#: Bytes of an answer that are read at most, and at least: a row takes about 250 bytes, one with its image in it more.
MAX_BODY_PER_ROW, MIN_BODY = 64 << 10, 16 << 20
#: Encodings that are unpacked, and what tells zlib to look which of them it is.
_PACKED, _ANY_HEADER = ("gzip", "x-gzip", "deflate"), 47
#: Seconds: retry i waits a random time up to min(MAX_WAIT, BASE_WAIT * 2^i), "full jitter"
#: (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
BASE_WAIT, MAX_WAIT = 0.25, 30.0
#: Seconds of rest for a backend that answers 429 without saying for how long.
REST = 1.0
#: What is wrong with the way to the backend, not with what was asked: not counted as one of a request's retries.
NO_CONNECTION = "no connection"
_WEIGHTS = {NO_CONNECTION: limits.NO_CONNECTION, "timed out": limits.TIMED_OUT}


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
    """The matches of a chunk of places (schema MATCHES, in the places' order), its failures, and counters.

    Counters: requests = those answered + the sum of all requests_failed_*; and those of `answers.rows`, added up.
    """

    matches: pa.Table
    failures: list[Failure]
    counters: dict[str, int]


class ClipService:
    """A client for one worker: as many requests in flight as it is allowed, pooled connections, retries.

    To be made and used within one event loop; `close` it there.
    """

    def __init__(self, service: ClipServiceSettings, num_images: int, exchange: Exchange) -> None:
        self._service, self._num_images = service, num_images
        self._gate = Gate(len(service.url), exchange)
        self._session = session(service)

    async def close(self) -> None:
        await self._gate.close()
        await self._session.close()

    async def retrieve(self, place_ids: list[str], queries: list[list[str]]) -> Retrieved:
        """Asks for all the places at once, as far as there is room. No place's failure stops the others.

        Raises StageError when no backend has answered for too long.
        """
        counters: Counter[str] = Counter(requests=0, retries=0)
        tasks = [
            asyncio.ensure_future(self._place(_Place(place_id, counters), texts))
            for place_id, texts in zip(place_ids, queries, strict=True)
        ]
        try:
            results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        found = [(place_id, rows) for place_id, rows in zip(place_ids, results, strict=True) if isinstance(rows, Rows)]
        for _, rows in found:
            counters.update(rows.counters)
        counters["rows"] = sum(len(rows) for _, rows in found)
        counters["places_no_rows"] = sum(not len(rows) for _, rows in found)
        return Retrieved(to_table(found), [r for r in results if isinstance(r, Failure)], dict(counters))

    async def _place(self, place: _Place, texts: list[str]) -> Rows | Failure:
        parts = []
        for text in texts:
            if not text.strip():  # the backend would answer 500
                return Failure(place.place_id, text, "empty search text", "", 0)
            try:
                parts.append(await self._rows(place, text))
            except AnswerError as error:
                return Failure(place.place_id, text, error.reason, error.detail, place.attempts)
        if not parts:
            return Failure(place.place_id, "", "no search text", "", 0)
        return answers.merged(parts, self._num_images)

    async def _rows(self, place: _Place, text: str) -> Rows:
        limit = self._num_images

        def read(body: bytes) -> Rows | list[Any]:
            return plain_answers.read(body, limit) or answers.parse(body)

        answer = await self._ask(place, "knn-service", request(self._service, text, limit), read)
        if isinstance(answer, Rows):
            return answer
        if ids := answers.bare_ids(answer):
            wanted = {"ids": ids, "indice_name": self._service.indice_name}
            answer = answers.with_metadata(answer, await self._ask(place, "metadata", wanted, answers.parse))
        return answers.rows(answer, limit)

    async def _ask(
        self, place: _Place, path: str, payload: dict[str, Any], read: Callable[[bytes], _Answer]
    ) -> _Answer:
        """What a backend answers, after as many tries as are allowed. Raises the AnswerError of the last one."""
        body = orjson.dumps(payload)
        place.attempts = lost = 0
        avoid: int | None = None
        while True:
            visit = await self._gate.enter(avoid)
            place.begun = place.begun or time.monotonic()
            place.counters["requests"] += 1
            place.attempts += 1
            error: AnswerError | None = None
            try:
                url = f"{self._service.url[visit.backend]}/{path}"
                answer = await post(self._session, url, body, self._num_images)
                work.add("bytes_fetched", len(answer))
                return read(answer)
            except AnswerError as problem:
                error = problem
            finally:
                if error is not None and error.passing:
                    weight = _WEIGHTS.get(error.reason, limits.OTHER)
                    rest = error.retry_after or (REST if error.reason == "http 429" else 0.0)
                    self._gate.leave(visit, f"{error.reason}: {error.detail}".removesuffix(": "), weight, rest)
                else:
                    self._gate.leave(visit)
            place.counters[f"requests_failed_{error.reason.replace(' ', '_')}"] += 1
            lost += error.reason == NO_CONNECTION
            wait = random.uniform(0, min(MAX_WAIT, BASE_WAIT * 2.0 ** min(place.attempts, 10)))
            too_late = time.monotonic() + wait > place.begun + self._service.deadline
            if not error.passing or place.attempts - lost > self._service.retries or too_late:
                raise error
            avoid = visit.backend
            place.counters["retries"] += 1
            await asyncio.sleep(wait)


@dataclass
class _Place:
    """A place while it is asked for."""

    place_id: str
    counters: Counter[str]
    begun: float = 0.0
    attempts: int = 0


def session(service: ClipServiceSettings) -> aiohttp.ClientSession:
    """Connections to the backends; to be made within the event loop that uses it."""
    shortage.raise_limit()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),  # what a backend sets is nothing to be kept
        timeout=aiohttp.ClientTimeout(total=service.timeout),
        auto_decompress=False,  # of which 1 MB can become 1 GB in one go: see `received`
        read_bufsize=1 << 20,  # an answer of 1,000 rows has 240 kB: not to be read by dribs and drabs
    )


async def post(client: aiohttp.ClientSession, url: str, body: bytes, num_images: int) -> bytes:
    """The body of the backend's answer with status 200. Raises AnswerError for any other, and without one;
    ShortageError if this machine lacks something."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    try:
        async with client.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return await received(response, num_images)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
        raise lost(error) from None


async def received(response: aiohttp.ClientResponse, rows: int) -> bytes:
    """The body of an answer with status 200, no larger than `rows` rows can be. Raises AnswerError for any other.

    No more than that is ever read or held: reading ends there, and so does unpacking (some proxies pack without being
    asked). Of an answer with another status the start is read.
    """
    if response.status != 200:
        await _refuse(response)
    most = max(MIN_BODY, rows * MAX_BODY_PER_ROW)
    if (response.content_length or 0) > most:
        raise AnswerError("body too large", f"{response.content_length} bytes")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity", *_PACKED):
        raise AnswerError("unknown encoding", encoding[:100])
    unpacker = zlib.decompressobj(_ANY_HEADER) if encoding in _PACKED else None
    blocks, size, packed = [], 0, 0
    async for block in response.content.iter_any():
        packed += len(block)
        try:
            blocks.append(block if unpacker is None else unpacker.decompress(block, most - size + 1))
        except zlib.error as error:
            raise AnswerError("broken encoding", str(error), passing=True) from None
        size += len(blocks[-1])
        if max(size, packed) > most:
            raise AnswerError("body too large", f"over {most} bytes")
        if unpacker is not None and unpacker.unused_data:
            raise AnswerError("broken encoding", f"{encoding} that goes on after its end", passing=True)
    if unpacker is not None and not unpacker.eof:
        raise AnswerError("answer cut off", f"{encoding} that does not end", passing=True)
    content = b"".join(blocks)
    answers.check_size(content, rows)
    return content


async def _refuse(response: aiohttp.ClientResponse) -> None:
    """Raises the AnswerError of an answer with another status than 200, whatever its body is."""
    if 300 <= response.status < 400:
        raise AnswerError(f"http {response.status}", f"it points to {response.headers.get('Location')}")
    start = bytearray()
    while len(start) < answers.START and (block := await response.content.read(answers.START)):
        start += block
    if response.headers.get("Content-Encoding", "").strip().lower() in _PACKED:
        with contextlib.suppress(zlib.error):
            start = bytearray(zlib.decompressobj(_ANY_HEADER).decompress(start, answers.START))
    answers.check_status(response.status, bytes(start), response.headers.get("Retry-After"))


def lost(error: Exception) -> AnswerError:
    """A request that got no whole answer, as an AnswerError with a short, stable reason.

    Raises ShortageError if it is this machine that lacks something.
    """
    if (lacking := shortage.of(getattr(error, "os_error", error))) is not None:
        raise lacking from error
    if isinstance(error, asyncio.TimeoutError):
        reason, detail = "timed out", ""
    elif isinstance(error, aiohttp.ClientConnectorError):
        reason, detail = NO_CONNECTION, str(error)
    elif isinstance(error, aiohttp.ClientPayloadError):
        reason, detail = "answer cut off", str(error)
    else:
        reason, detail = "connection lost", str(error) or type(error).__name__
    return AnswerError(reason, detail, passing=True)


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
    counts = [len(rows) for _, rows in found]
    owners = pa.array(np.repeat(np.arange(len(found)), counts))
    columns: dict[str, pa.Array] = {
        "place_id": pa.array([place_id for place_id, _ in found], pa.string()).take(owners),
        "rank": pa.array(np.concatenate([np.empty(0, np.int32), *(np.arange(n, dtype=np.int32) for n in counts)])),
    }
    for name in ("similarity", "url", "caption", "image_id"):
        values = itertools.chain.from_iterable(getattr(rows, name) for _, rows in found)
        columns[name] = pa.array(list(values), MATCHES.field(name).type)
    for column in SOURCE_FIELDS:
        if any(column.name in rows.source for _, rows in found):
            parts = (rows.source.get(column.name) or [None] * len(rows) for _, rows in found)
            columns[column.name] = pa.array(list(itertools.chain.from_iterable(parts)), column.type)
        else:
            columns[column.name] = pa.nulls(len(owners), column.type)
    return pa.table([columns[column.name] for column in MATCHES], schema=MATCHES)
