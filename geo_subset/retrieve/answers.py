"""What a clip-retrieval backend answers, judged: rows of matches, what was left out and why, or an error."""

from __future__ import annotations

import codecs
import json
import math
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import compress
from typing import Any

import orjson

from geo_subset.credentials import redact_text
from geo_subset.printable import brief
from geo_subset.retry_after import seconds
from geo_subset.tables import SOURCE_FIELDS

#: Keys of a row -> column, whatever their case.
_SOURCE_COLUMNS = {f.name: f.name for f in SOURCE_FIELDS} | {"original_width": "width", "original_height": "height"}
#: Seconds: a server may ask for more patience, but not for a day.
MAX_RETRY_AFTER = 3600.0
#: Values, keys and brackets of an answer, by the signs that come before or between them: so many a row asked for, and
#: some more. What has more of them takes gigabytes in memory; an honest row has ten, and its caption has commas.
MAX_SIGNS_PER_ROW, MAX_SIGNS = 512, 100_000
#: Characters of a text of a row.
MAX_TEXT = 64 << 10
#: Characters that an error shows of what a server said, and bytes of a body that are looked at for them: a URL that
#: the server repeats is to be seen whole where its credentials are hidden.
_MOST_DETAIL, _MOST_START, START = 500, 200, 4096
_INTEGERS = {"width", "height"}
FLOAT32_MAX = float.fromhex("0x1.fffffep+127")
#: The id by which faiss says that it found nothing.
_NOTHING = -1
#: Why rows have no use, and what is told of them besides.
_LEFT_OUT = ("rows_url_missing", "rows_url_null", "rows_url_no_text", "rows_no_similarity", "rows_id_negative")
_COUNTERS = (
    "rows_received", "rows_no_object", *_LEFT_OUT, "rows_over_limit", "rows_from_metadata", "urls_repeated",
    "captions_no_text", "images_dropped",
)  # fmt: skip


class AnswerError(Exception):
    """An answer that is no list of rows. `passing`: the same request may succeed later, or at another backend."""

    def __init__(self, reason: str, detail: str = "", passing: bool = False, retry_after: float = 0.0) -> None:
        detail = brief(redact_text(detail), _MOST_DETAIL)  # a server may repeat what it was sent
        super().__init__(reason, detail, passing, retry_after)
        self.reason, self.detail, self.passing, self.retry_after = reason, detail, passing, retry_after


@dataclass
class Rows:
    """Rows of one place, best first, as equally long columns; and how many rows were left out, by reason."""

    similarity: list[float] = field(default_factory=list)
    url: list[str] = field(default_factory=list)
    caption: list[str | None] = field(default_factory=list)
    image_id: list[int | None] = field(default_factory=list)
    source: dict[str, list[Any]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.url)


class _Filled(dict[str, Any]):
    """A row that held nothing but id and similarity until its metadata were fetched."""


def check_status(status: int, body: bytes, retry_after: str | None = None) -> None:
    """Raises AnswerError for any status but 200: passing for 5xx, 429 and 408.

    `retry_after`: the header of that name, if any.
    """
    if status != 200:
        passing = status >= 500 or status in (408, 429)
        raise AnswerError(
            f"http {status}", _start(body), passing, waiting_time(retry_after, datetime.now(timezone.utc))
        )


def check_size(body: bytes, rows: int) -> None:
    """Raises AnswerError if a body holds far more values than `rows` rows have; parsing it would be too dear."""
    signs = sum(map(body.count, (b",", b"[", b"{")))
    if signs > MAX_SIGNS + rows * MAX_SIGNS_PER_ROW:
        raise AnswerError("too many values", f"{len(body):,} bytes for {rows:,} rows: {_start(body)}")


def parse(body: bytes) -> list[Any]:
    """The list that an answer with status 200 holds. Raises AnswerError for any other.

    A body that is no JSON is passing, for it was cut off or comes from something in between (a proxy's login page).
    JSON that is no list (the backend's errors are dicts) and JSON nested too deep are not.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = _lenient(body)
    if not isinstance(answer, list):
        raise AnswerError("not a list", _start(body))
    return answer


def waiting_time(retry_after: str | None, now: datetime) -> float:
    """Seconds that a Retry-After header asks to wait: 0 if it makes no sense, at most MAX_RETRY_AFTER."""
    return min(MAX_RETRY_AFTER, seconds(retry_after, now) or 0.0)


def bare_ids(answer: list[Any]) -> list[int]:
    """Ids, each once, of the rows that carry nothing but id and similarity: what to ask /metadata for.

    Such are the rows past num_images of an answer that was asked for more num_result_ids. Negative ids, with which
    faiss fills up, are left out: a backend answers them with an error.
    """
    ids = _integers([row["id"] for row in answer if _is_bare(row)], 0, 2**63 - 1)
    return [i for i in dict.fromkeys(ids) if i is not None]


def with_metadata(answer: list[Any], metadata_answer: list[Any]) -> list[Any]:
    """The answer, with its bare rows filled from what /metadata says of their ids: [{"id": 0, "metadata": {...}}, ...].

    A row that it says nothing of stays bare. A row's own id and similarity stay as they are.
    """
    found: dict[int | None, dict[str, Any]] = {
        _integer(entry.get("id")): entry["metadata"]
        for entry in metadata_answer
        if isinstance(entry, dict) and isinstance(entry.get("metadata"), dict)
    }
    found.pop(None, None)
    return [
        _Filled({**metadata, **row})
        if _is_bare(row) and (metadata := found.get(_integer(row["id"]))) is not None
        else row
        for row in answer
    ]


def rows(answer: list[Any], limit: int) -> Rows:
    """The first `limit` usable rows of an answer, by falling similarity, and counters that add up:

    received = rows + no_object + url_missing + url_null + url_no_text + no_similarity + over_limit (each `rows_...`).

    Besides: rows_from_metadata (filled by `with_metadata`), rows_id_negative (among those whose URL is missing),
    urls_repeated and captions_no_text (both among the rows kept; such a caption becomes null), images_dropped (rows
    that held an image itself).
    """
    # Column by column, for speed: values are looked at one by one only where a column holds something odd.
    objects: list[dict[str, Any]] = answer
    if set(map(type, answer)) != {dict}:
        objects = [row for row in answer if isinstance(row, dict)]
    keys = set().union(*objects)
    counters = row_counters(len(answer)) | {"rows_no_object": len(answer) - len(objects)}

    found = objects
    url = _texts([row.get("url") for row in objects])
    similarity = _numbers([row.get("similarity") for row in objects])
    if not all(url) or any(map(str.isspace, url)) or None in similarity:
        counters |= _left_out(objects, url, similarity)
        usable = [_is_usable(*pair) for pair in zip(url, similarity, strict=True)]
        found, url, similarity = (list(compress(column, usable)) for column in (objects, url, similarity))
    if similarity != sorted(similarity, reverse=True):
        order = sorted(range(len(found)), key=similarity.__getitem__, reverse=True)
        found, url, similarity = ([column[i] for i in order] for column in (found, url, similarity))
    counters["rows_over_limit"] = max(0, len(found) - limit)
    found, url, similarity = found[:limit], url[:limit], similarity[:limit]

    captions = [row.get("caption") for row in found]
    result = Rows(
        similarity=similarity,
        url=url,
        caption=_texts(captions),
        image_id=_integers([row.get("id") for row in found], -(2**63), 2**63 - 1),
        source=_source(found, keys),
        counters=counters,
    )
    if _NOTHING in result.image_id:
        result.image_id = [None if i == _NOTHING else i for i in result.image_id]
    counters["rows_from_metadata"] = 0 if objects is answer else sum(isinstance(row, _Filled) for row in objects)
    counters["urls_repeated"] = len(url) - len(set(url))
    counters["captions_no_text"] = result.caption.count(None) - captions.count(None)
    counters["images_dropped"] = sum("image" in row for row in objects) if "image" in keys else 0
    return result


def row_counters(received: int) -> dict[str, int]:
    """The counters of an answer of `received` rows in which nothing was amiss."""
    return dict.fromkeys(_COUNTERS, 0) | {"rows_received": received}


def merged(answers: list[Rows], limit: int) -> Rows:
    """The answers to several search texts of one place as one: each image once, with its best similarity.

    Images are told apart by id, or by URL where the backend gives none. Ties keep the order of the search texts.
    """
    if len(answers) == 1:
        return answers[0]
    order = sorted(
        ((-answer.similarity[i], a, i) for a, answer in enumerate(answers) for i in range(len(answer))),
    )
    taken: dict[object, tuple[int, int]] = {}
    for _, a, i in order:
        image_id = answers[a].image_id[i]
        taken.setdefault(answers[a].url[i] if image_id is None else image_id, (a, i))
    best = list(taken.values())[:limit]
    columns = {name for answer in answers for name in answer.source}
    counters = {name: sum(a.counters[name] for a in answers) for name in answers[0].counters}
    counters |= {
        "rows_of_other_prompts": len(order) - len(taken),
        "rows_over_limit": counters["rows_over_limit"] + len(taken) - len(best),
    }
    return Rows(
        similarity=[answers[a].similarity[i] for a, i in best],
        url=[answers[a].url[i] for a, i in best],
        caption=[answers[a].caption[i] for a, i in best],
        image_id=[answers[a].image_id[i] for a, i in best],
        source={
            name: [answers[a].source[name][i] if name in answers[a].source else None for a, i in best]
            for name in columns
        },
        counters=counters,
    )


def _is_bare(row: Any) -> bool:
    return isinstance(row, dict) and row.keys() == {"id", "similarity"}


def _is_usable(url: str | None, similarity: float | None) -> bool:
    return bool(url and not url.isspace()) and similarity is not None


def _left_out(objects: list[dict[str, Any]], url: list[Any], similarity: list[Any]) -> dict[str, int]:
    """Why rows are not usable, each counted once; `url` and `similarity`: as judged, null where there is none."""
    count = dict.fromkeys(_LEFT_OUT, 0)
    for row, text, number in zip(objects, url, similarity, strict=True):
        if "url" not in row:
            count["rows_url_missing"] += 1
            count["rows_id_negative"] += (_integer(row.get("id")) or 0) < 0
        elif row["url"] is None:
            count["rows_url_null"] += 1
        elif not text or text.isspace():
            count["rows_url_no_text"] += 1
        elif number is None:
            count["rows_no_similarity"] += 1
    return count


def _source(found: list[dict[str, Any]], keys: set[str]) -> dict[str, list[Any]]:
    """Columns that the source has, of those that MATCHES knows."""
    source: dict[str, list[Any]] = {}
    # In an order of its own, not the set's: of 'width' and 'original_width' the same one must win everywhere.
    for key in sorted(keys, key=lambda key: (key not in _SOURCE_COLUMNS.values(), key)):
        column = _SOURCE_COLUMNS.get(key.lower())
        if column is None or column in source:
            continue
        values = [row.get(key) for row in found]
        if column == "nsfw":
            source[column] = _texts(values)
        elif column in _INTEGERS:
            source[column] = _integers(values, 0, 2**31 - 1)
        else:
            source[column] = _numbers(values)
    return source


# The three below give the values themselves, null for each that is not what is wanted.


def _texts(values: list[Any]) -> list[Any]:
    if set(map(type, values)) == {str} and max(map(len, values)) <= MAX_TEXT and _is_utf8("".join(values)):
        return values
    return [_text(value) for value in values]


def _numbers(values: list[Any]) -> list[Any]:
    if set(map(type, values)) == {float} and max(map(abs, values)) <= FLOAT32_MAX and not math.isnan(sum(values)):
        return values
    return [_number(value) for value in values]


def _integers(values: list[Any], low: int, high: int) -> list[Any]:
    if set(map(type, values)) == {int} and low <= min(values) and max(values) <= high:
        return values
    integers = [_integer(value) for value in values]
    return [value if value is not None and low <= value <= high else None for value in integers]


def _text(value: Any) -> str | None:
    """A string that UTF-8 can hold and that is no longer than MAX_TEXT, else None."""
    return value if isinstance(value, str) and len(value) <= MAX_TEXT and _is_utf8(value) else None


def _is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold it: not lone surrogates, which JSON escapes can spell."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def _number(value: Any) -> float | None:
    """A finite number that float32 can hold, else None (booleans are no numbers)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= FLOAT32_MAX else None


def _integer(value: Any) -> int | None:
    """A whole number, which may be written as 7.0, else None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _lenient(body: bytes) -> Any:
    """JSON as backends write it: NaN and Infinity, lone surrogates, numbers of any length, strings of broken UTF-8.

    Odd strings come out with lone surrogates, odd numbers as infinite: the rows they are in are judged, not the whole.
    """
    try:
        return json.loads(body.decode(errors="surrogateescape"), parse_int=_wide_integer)
    except RecursionError:
        raise AnswerError("json too deep", _start(body)) from None
    except ValueError as error:
        start = body[:100].lstrip()
        reason = "empty answer" if not body.strip() else "html page" if start.startswith(b"<") else "broken json"
        raise AnswerError(reason, f"{error}: {_start(body)}", passing=True) from None


def _wide_integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 20 else float(digits)


def _start(body: bytes) -> str:
    """The first characters of a body, fit for one line."""
    return brief(redact_text(body[:START].decode(errors="replace")), _MOST_START)
