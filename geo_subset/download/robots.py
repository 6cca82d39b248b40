"""X-Robots-Tag: whether a host lets nobody, or just not us, use what it sends. Pure.

As Google and Bing document it: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag. A line is a
list of rules with commas between them. `name: rule` addresses the crawler of that name, and so do all rules after it,
up to the next name or the line's end. Where rules contradict one another, the strictest counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timezone

from geo_subset.retry_after import date_in

#: Rules with a value: what stands before their colon is no crawler's name.
_WITH_VALUE = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}
_SHORT_FOR = {"none": ("noindex", "nofollow")}
_EVERYBODY = "*"
#: A date may hold commas: what follows one belongs to it if it begins with a day or a year ('25-Jun-2030', 'June 25').
_REST_OF_DATE = re.compile(r"(?:[A-Za-z]{3,9}\.? )?[0-9]{1,4}(?![0-9A-Za-z])", re.ASCII)
_MOST_COMMAS = 3
#: In lower case, as all that is looked at.
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[t ][0-9:.+z-]{1,32})?", re.ASCII)
_BETWEEN_WORDS = re.compile(r"[\s;]+")


def refuses(lines: Iterable[str], names: Collection[str], unwanted: Collection[str], now: datetime) -> bool:
    """Whether one of the header's `lines` has a rule among `unwanted` for everybody or for one of `names` (ours).

    `names` and `unwanted` are in lower case. A date of `unavailable_after` that has gone by counts as noindex.
    """
    return any(rule in unwanted for line in lines for rule in _rules(line, names, now))


def _rules(line: str, names: Collection[str], now: datetime) -> Iterator[str]:
    """The rules of a line for everybody and for `names`, in lower case; those with a value by their name alone."""
    parts = [part.strip() for part in line.lower().split(",")]
    meant, at = True, 0
    while at < len(parts):
        rule, at = parts[at], at + 1
        name, colon, value = (word.strip() for word in rule.partition(":"))
        while colon and name not in _WITH_VALUE:
            meant = name == _EVERYBODY or name in names or name.partition("/")[0] in names
            rule = value
            name, colon, value = (word.strip() for word in rule.partition(":"))
        if name == "unavailable_after" and colon:
            start = at
            while at < len(parts) and at - start < _MOST_COMMAS and _REST_OF_DATE.match(parts[at]):
                at += 1
            date = _date(", ".join([value, *parts[start:at]]))
            if meant and date is not None and date < now:
                yield "noindex"
        if not meant:
            continue
        for word in [name] if colon else _BETWEEN_WORDS.split(rule):
            yield word
            yield from _SHORT_FOR.get(word, ())


def _date(text: str) -> datetime | None:
    """A date in the forms of RFC 822, RFC 850 or ISO 8601, in UTC where it names no zone; None if it is none."""
    if not _ISO_DATE.fullmatch(text):
        return date_in(text)
    try:
        date = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
    except ValueError:
        return None
    return date.replace(tzinfo=timezone.utc) if date.tzinfo is None else date
