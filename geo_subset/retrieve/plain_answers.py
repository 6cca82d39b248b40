"""The answer as it nearly always is, read in one go: twice as fast as judging each value.

Only what needs no judgement is read here: strict JSON, every row with the known keys and no others, all of the right
types. For anything else there is `answers`, which must come to the same rows; a test holds the two against each other.
"""

from __future__ import annotations

import msgspec

from geo_subset.retrieve.answers import FLOAT32_MAX, MAX_TEXT, Rows, row_counters


class _Row(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    url: str
    id: int
    similarity: float
    caption: str | None
    NSFW: str | msgspec.UnsetType | None = msgspec.UNSET
    width: int | msgspec.UnsetType | None = msgspec.UNSET
    height: int | msgspec.UnsetType | None = msgspec.UNSET


_DECODER = msgspec.json.Decoder(list[_Row])


def read(body: bytes, limit: int) -> Rows | None:
    """The first `limit` rows of an answer with status 200, or None where it has to be judged."""
    try:
        rows = _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):  # the last one for bytes that are no UTF-8
        return None
    url = [row.url for row in rows]
    similarity = [row.similarity for row in rows]
    ids: list[int | None] = [row.id for row in rows]
    if not rows or not all(url) or any(map(str.isspace, url)) or not all(0 <= row.id < 2**63 for row in rows):
        return None
    if max(map(abs, similarity)) > FLOAT32_MAX or similarity != sorted(similarity, reverse=True):
        return None
    texts = (text for row in rows for text in (row.url, row.caption, row.NSFW) if isinstance(text, str))
    if len(body) > MAX_TEXT and max(map(len, texts)) > MAX_TEXT:
        return None
    source = {}
    for name, column in (("NSFW", "nsfw"), ("width", "width"), ("height", "height")):
        values = [getattr(row, name) for row in rows]
        if set(values) == {msgspec.UNSET}:
            continue
        if msgspec.UNSET in values or (column != "nsfw" and not all(v is None or 0 <= v < 2**31 for v in values)):
            return None
        source[column] = values[:limit]
    counters = row_counters(len(rows))
    counters["rows_over_limit"] = max(0, len(rows) - limit)
    url = url[:limit]
    counters["urls_repeated"] = len(url) - len(set(url))
    caption = [row.caption for row in rows[:limit]]
    return Rows(similarity[:limit], url, caption, ids[:limit], source, counters)
