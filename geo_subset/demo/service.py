"""The clip service's protocol: what clip-retrieval 2.45 answers, quirks included, for an index that has images only.

It was written from recorded answers of the real server. Queries by image or image URL, which need a model that sees,
fail as they do there when the image cannot be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geo_subset.demo import search
from geo_subset.demo.features import DIMENSIONS, Vectors

#: The name of the one index; a request may also name null.
INDEX_NAME = "demo"
_BAD_REQUEST = {"message": "The browser (or proxy) sent a request that this server could not understand."}
_SERVER_ERROR = {"message": "Internal Server Error"}


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


@dataclass(frozen=True)
class Catalog:
    """The index and, by image number, the metadata that is returned: {url, caption, NSFW} (the last where known)."""

    index: search.Index
    metadata: Sequence[dict[str, Any]]


def indices_list() -> Answer:
    return _answer(200, [INDEX_NAME])


def knn(catalog: Catalog, body: bytes) -> Answer:
    """POST /knn-service."""
    return _answer_to(body, lambda request: _knn(catalog, request))


def metadata(catalog: Catalog, body: bytes) -> Answer:
    """POST /metadata."""
    return _answer_to(body, lambda request: _metadata(catalog, request))


def _answer_to(body: bytes, answer: Any) -> Answer:
    try:
        request = json.loads(body)
    except ValueError:
        return _answer(400, _BAD_REQUEST)
    try:
        return _answer(200, answer(request))
    except (KeyError, TypeError, ValueError, IndexError):
        return _answer(500, _SERVER_ERROR)


def _knn(catalog: Catalog, request: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = request["num_images"]
    searched = request.get("num_result_ids", wanted)
    _check_index(request)
    if not isinstance(wanted, int) or not isinstance(searched, int) or searched < 1:
        raise ValueError("num_images and num_result_ids are whole numbers above 0")
    if request["modality"] != "image" or request.get("use_mclip"):
        raise ValueError("there is neither a text index nor a multilingual model")
    for name, kind in (("aesthetic_score", int), ("aesthetic_weight", float)):
        if request.get(name, "") != "":  # the client sends '' for 'not wanted'
            kind(request[name])
    query = _query(catalog, request)
    if not np.isfinite(query).all():
        return []
    ids, similarities = search.nearest(catalog.index, query, searched)
    if request.get("deduplicate"):
        kept = search.without_duplicates(catalog.index, ids)
        ids, similarities = ids[kept], similarities[kept]
    return [
        {**(catalog.metadata[number] if rank < wanted else {}), "id": number, "similarity": similarity}
        for rank, (number, similarity) in enumerate(zip(ids.tolist(), similarities.tolist(), strict=True))
    ]


def _query(catalog: Catalog, request: dict[str, Any]) -> Vectors:
    """The vector asked for; a text goes before an embedding."""
    text, embedding = request.get("text"), request.get("embedding_input")
    if text is not None and text != "":
        if not isinstance(text, str):
            raise TypeError("text is a string")
        return search.text_vector(catalog.index, text)
    if not isinstance(embedding, list) or not all(isinstance(value, (int, float)) for value in embedding):
        raise TypeError("neither a text nor a list of numbers")
    if len(embedding) != DIMENSIONS:
        raise ValueError("the embedding is of another length than the index")
    return np.array([value if math.isfinite(value) else math.nan for value in embedding], np.float32)


def _metadata(catalog: Catalog, request: dict[str, Any]) -> list[dict[str, Any]]:
    _check_index(request)
    ids = request["ids"]
    if not all(0 <= number < len(catalog.metadata) for number in ids):
        raise IndexError("no such image")
    return [{"id": number, "metadata": catalog.metadata[number]} for number in ids]


def _check_index(request: dict[str, Any]) -> None:
    if request["indice_name"] not in (None, INDEX_NAME):
        raise KeyError(request["indice_name"])


def _answer(status: int, body: Any) -> Answer:
    return Answer(status, json.dumps(body).encode() + b"\n")
