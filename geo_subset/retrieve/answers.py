"""What a clip-retrieval backend answers, judged: rows of matches, what was left out and why, or an error."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

from geo_subset.tables import SOURCE_FIELDS

#: Keys of a row -> column, whatever their case.
_SOURCE_COLUMNS = {f.name: f.name for f in SOURCE_FIELDS} | {"original_width": "width", "original_height": "height"}
#: Seconds: a server may ask for more patience, but not for a day.
MAX_RETRY_AFTER = 300.0
_INTEGERS = {"width", "height"}
_INT32_MAX = 2**31 - 1


class AnswerError(Exception):
    """An answer that is no list of rows. `passing`: the same request may succeed later."""

    def __init__(self, reason: str, detail: str = "", passing: bool = False, retry_after: float = 0.0) -> None:
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


def parse(status: int, body: bytes, retry_after: str | None = None) -> list[Any]:
    """The list that an answer holds. Raises AnswerError for any other answer.

    A 5xx, 429 or 408 may pass, and so may a body that is cut off; any other status, or JSON that is no list (the
    backend's errors are dicts), will not.
    """
    if status != 200:
        passing = status >= 500 or status in (408, 429)
        wait = min(MAX_RETRY_AFTER, float(retry_after)) if retry_after and retry_after.isdecimal() else 0.0
        raise AnswerError(f"http {status}", _start(body), passing, wait)
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            answer = json.loads(body)  # bare NaN, which the backend's JSON may hold, is not strict JSON
        except (ValueError, RecursionError) as error:
            raise AnswerError("broken json", f"{error}: {_start(body)}", passing=True) from None
    if not isinstance(answer, list):
        raise AnswerError("not a list", _start(body))
    return answer


def rows(answer: list[Any], limit: int) -> Rows:
    """The first `limit` usable rows of an answer, by falling similarity, and counters that add up:

    received = rows + no_object + no_url + no_similarity + over_limit.
    """
    objects = [row for row in answer if isinstance(row, dict)]
    usable = [row for row in objects if (url := _text(row.get("url"))) is not None and url.strip()]
    judged = [(similarity, row) for row in usable if (similarity := _number(row.get("similarity"))) is not None]
    if any(a[0] < b[0] for a, b in pairwise(judged)):
        judged.sort(key=lambda pair: -pair[0])
    kept = judged[:limit]
    found = [row for _, row in kept]
    result = Rows(
        similarity=[similarity for similarity, _ in kept],
        url=[row["url"] for row in found],
        caption=[_text(row.get("caption")) for row in found],
        image_id=[_integer(row.get("id")) for row in found],
    )
    # In an order of its own, not the set's: of 'width' and 'original_width' the same one must win everywhere.
    for key in sorted(set().union(*found), key=lambda key: (key not in _SOURCE_COLUMNS.values(), key)):
        column = _SOURCE_COLUMNS.get(key.lower())
        if column is not None and column not in result.source:
            result.source[column] = [_source_value(column, row.get(key)) for row in found]
    result.counters = {
        "rows_received": len(answer),
        "rows_no_object": len(answer) - len(objects),
        "rows_no_url": len(objects) - len(usable),
        "rows_no_similarity": len(usable) - len(judged),
        "rows_over_limit": len(judged) - len(kept),
        "urls_repeated": len(found) - len(set(result.url)),
    }
    return result


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


def _number(value: Any) -> float | None:
    """A finite number that float32 can hold, else None (booleans are no numbers)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and abs(value) < 3.4e38 else None


def _integer(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -(2**63) <= value < 2**63 else None
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**63 else None


def _text(value: Any) -> str | None:
    """A string that UTF-8 can hold; one with lone surrogates, which JSON escapes can spell, is none."""
    if not isinstance(value, str):
        return None
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return None
    return value


def _source_value(column: str, value: Any) -> Any:
    if column == "nsfw":
        return _text(value)
    if column in _INTEGERS:
        integer = _integer(value)
        return integer if integer is not None and 0 <= integer <= _INT32_MAX else None
    return _number(value)


def _start(body: bytes) -> str:
    return " ".join(body[:200].decode(errors="replace").split())
