"""Before any work: which backends there are, and whether they can answer what will be asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import orjson

from geo_subset import manual, wording
from geo_subset.errors import StageError
from geo_subset.printable import brief
from geo_subset.progress import log
from geo_subset.retrieve import answers, clip_service
from geo_subset.retrieve.answers import AnswerError
from geo_subset.settings import ClipServiceSettings

#: Seconds within which a backend must say which indices it has.
_PATIENCE = 30.0
#: A test question is put this often (half as often if it times out), since any single request may fail; with waits of
#: up to so many seconds between.
_ATTEMPTS, _WAIT = 6, 1.0
#: Characters of an index's name, and what messages show of names: so many, of so many characters.
_MOST_NAME, _SHOWN, _SHOWN_LETTERS = 200, 10, 60
QUESTION, _ROWS = "a photograph", 10
_WITHOUT = "{page} says how to host one; without a backend, retrieve.strategy = 'captions' or 'embeddings' reads files"


async def check(service: ClipServiceSettings, num_images: int) -> ClipServiceSettings:
    """Asks every backend for its indices and a test question; returns the settings with the index to use.

    Backends without the index are left out; those that do not answer now stay, as they may come back. Raises
    StageError: no backend answers, the index is unknown or several exist and none is named, or no backend can answer a
    question with these settings, or answers have no URLs.
    """
    async with clip_service.session(service) as session:
        listed = await asyncio.gather(*(_indices(session, url, service) for url in service.url))
        indices = {url: names for url, names in zip(service.url, listed, strict=True) if isinstance(names, list)}
        silent = {url: said for url, said in zip(service.url, listed, strict=True) if isinstance(said, AnswerError)}
        if not indices:
            said = "; ".join(f"{url}: {_said(error)}" for url, error in silent.items())
            raise StageError(
                f"no clip-retrieval backend answers ({said}): start it, or correct retrieve.clip-service.url; "
                + _WITHOUT.format(page=manual.page("hosting-a-backend.md"))
            )
        service = _with_index(service, indices)
        having = [url for url in service.url if url in indices]
        asked = await asyncio.gather(*(_ask(session, url, service, num_images) for url in having))
    replies = dict(zip(having, asked, strict=True))
    for url, error in [*silent.items(), *((u, r) for u, r in replies.items() if isinstance(r, AnswerError))]:
        log.warning("retrieve  %s does not answer well now (%s); it is tried again later", url, _said(error))
    _check_answers(service, replies)
    return service


def _with_index(service: ClipServiceSettings, indices: dict[str, list[str]]) -> ClipServiceSettings:
    names = list(dict.fromkeys(name for listed in indices.values() for name in listed))
    index = names[0] if service.indice_name is None and len(names) == 1 else service.indice_name
    if index is None or index not in names:
        said = "is not set" if index is None else f"= {index!r} is unknown"
        there = f"{', '.join(indices)} has {_listed(names) or 'none'}"
        raise StageError(f"retrieve.clip-service.indice_name {said}: {there}")
    without = {url for url, listed in indices.items() if index not in listed}
    for url in without:
        log.warning("retrieve  a backend is left out: %s has no index %r", url, index)
    return service.model_copy(
        update={"url": tuple(url for url in service.url if url not in without), "indice_name": index}
    )


def _check_answers(service: ClipServiceSettings, replies: dict[str, list[Any] | AnswerError]) -> None:
    good = {url: reply for url, reply in replies.items() if isinstance(reply, list)}
    if not good:
        said = "; ".join(f"{url}: {_said(reply)}" for url, reply in replies.items() if isinstance(reply, AnswerError))
        if not any(isinstance(reply, AnswerError) and reply.reason == "http 500" for reply in replies.values()):
            raise StageError(
                f"no clip-retrieval backend answers ({said}): see its log, or start it again; "
                + _WITHOUT.format(page=manual.page("hosting-a-backend.md"))
            )
        suspects = []
        if service.modality == "text":
            suspects.append("modality = 'text' needs an index of texts")
        if service.use_mclip:
            suspects.append("use_mclip = true needs a backend started with --enable_mclip_option=True")
        hint = " and ".join(suspects) or "see the backend's own log; its metadata may be shorter than its index"
        raise StageError(
            f"the backend has index {service.indice_name!r} but cannot answer a test question ({said}): {hint}"
        )
    for url, reply in good.items():
        if reply and not len(answers.rows(reply, _ROWS)) and not answers.bare_ids(reply):
            raise StageError(
                f"{url} answers without usable URLs (its rows have {_listed(_keys(reply)) or 'nothing'}): start it "
                "with 'url' in columns_to_return, from metadata with that column"
            )
    first, *others = good
    for url in others:
        if _identity(good[url]) != _identity(good[first]):
            log.warning(
                "retrieve  %s and %s answer the same question differently: which images a place gets depends on "
                "which of them is asked", first, url,
            )  # fmt: skip


async def _indices(session: aiohttp.ClientSession, url: str, service: ClipServiceSettings) -> list[str] | AnswerError:
    async def ask() -> list[Any]:
        limit = aiohttp.ClientTimeout(total=min(service.timeout, _PATIENCE))
        try:
            async with session.get(f"{url}/indices-list", timeout=limit, allow_redirects=False) as response:
                names = answers.parse(await clip_service.received(response, 0))
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            raise clip_service.lost(error) from None

        for name in names:
            if isinstance(name, str) and not (len(name) <= _MOST_NAME and name.isprintable()):
                raise AnswerError("odd name of an index", brief(name, _SHOWN_LETTERS))
        return names

    listed = await _patiently(ask, service)
    return listed if isinstance(listed, AnswerError) else [name for name in listed if isinstance(name, str)]


async def _ask(
    session: aiohttp.ClientSession, url: str, service: ClipServiceSettings, num_images: int
) -> list[Any] | AnswerError:
    question = orjson.dumps(clip_service.request(service, QUESTION, min(_ROWS, num_images)))

    async def ask() -> list[Any]:
        return answers.parse(await clip_service.post(session, f"{url}/knn-service", question, _ROWS))

    return await _patiently(ask, service)


async def _patiently(ask: Callable[[], Awaitable[list[Any]]], service: ClipServiceSettings) -> list[Any] | AnswerError:
    left = _ATTEMPTS
    while True:
        try:
            return await ask()
        except AnswerError as error:
            left -= 2 if error.reason == "timed out" else 1
            if not error.passing or error.reason == clip_service.NO_CONNECTION or left <= 0:
                return error
            await asyncio.sleep(max(_WAIT / left, min(error.retry_after, service.deadline)))


def _identity(rows: list[Any]) -> list[Any]:
    return [(row.get("id"), row.get("url")) for row in rows if isinstance(row, dict)]


def _keys(rows: list[Any]) -> list[str]:
    return sorted({key for row in rows if isinstance(row, dict) for key in row})


def _listed(names: list[str]) -> str:
    return wording.some([brief(name, _SHOWN_LETTERS) for name in names], _SHOWN)


def _said(error: AnswerError) -> str:
    return f"{error.reason}: {error.detail}".removesuffix(": ")
