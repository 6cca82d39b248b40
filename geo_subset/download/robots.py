"""X-Robots-Tag: whether a host lets nobody, or just not us, use what it sends. Pure.

As Google and Bing document it: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag. A line is
a list of rules with commas between them; semicolons are taken for commas. `name: rule` addresses the crawler of that
name, and so do all rules after it, up to the next name or the line's end. Where rules contradict one another, the
strictest counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from geo_subset.retry_after import date_in

#: Rules with a value.
_WITH_VALUE = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}
#: What stands before a colon and is one of these, or of `unwanted`, is a rule and no crawler's name.
_RULES = {
    "all", "none", "index", "noindex", "follow", "nofollow", "noarchive", "nocache", "nosnippet", "noimageindex",
    "notranslate", "indexifembedded", "noai", "noimageai",
}  # fmt: skip
_SHORT_FOR = {"none": ("noindex", "nofollow")}
_EVERYBODY = {"*", "robots", "x-robots-tag"}
#: Quotes, a byte order mark and whatever else is none of a rule's characters count as spaces.
_SPACES = re.compile(r"[^\x21-\x7e]+|[\"']")
_BETWEEN_RULES = re.compile("[,;]")
_WORD = re.compile(r"[a-z0-9_-]+")

#: A date may hold commas: what follows one belongs to it if it begins with a day or a year ('25-Jun-2030', 'June 25').
_REST_OF_DATE = re.compile(r"(?:[a-z]{3,9}\.? )?[0-9]{1,4}(?![0-9a-z])", re.ASCII)
_MOST_COMMAS = 3
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<name>{'|'.join(_MONTHS)})[a-z]{{0,6}}\.?"
_TIME_OF_DAY = r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?"
_DAYS = [
    re.compile(form, re.ASCII)
    for form in (
        r"(?<!\d)(?P<year>\d{4})(?P<dash>[-/]?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)(?!\d)",
        rf"(?<!\d)(?P<day>\d\d?)[ -]{_MONTH},?[ -](?P<year>\d{{4}}|\d\d)(?!\d)",
        rf"{_MONTH} (?P<day>\d\d?)(?:st|nd|rd|th)?,? (?:{_TIME_OF_DAY} )?(?P<year>\d{{4}})(?!\d)",
    )
]
_TIME = re.compile(
    rf"(?P<time>{_TIME_OF_DAY})(?:\.\d+)? ?(?P<half>[ap]\.?m\b\.?)? ?(?P<zone>[+-]\d\d:?\d\d|[a-z]{{1,5}}\b)?",
    re.ASCII,
)
_LONGEST_DATE = 100


def refuses(lines: Iterable[str], names: Collection[str], unwanted: Collection[str], now: datetime) -> bool:
    """Whether one of the header's `lines` has a rule among `unwanted` for everybody or for one of `names` (ours).

    `names` and `unwanted` are in lower case. A date of `unavailable_after` that has gone by counts as noindex.
    """
    return any(rule in unwanted for line in lines for rule in _rules(line, names, unwanted, now))


def _rules(line: str, names: Collection[str], unwanted: Collection[str], now: datetime) -> Iterator[str]:
    """The rules of a line for everybody and for `names`, in lower case."""
    parts = [" ".join(part.split()) for part in _BETWEEN_RULES.split(_SPACES.sub(" ", line.lower()))]
    meant, at = True, 0
    while at < len(parts):
        pieces, at = [piece.strip() for piece in parts[at].split(":")], at + 1
        words: list[str] = []
        first = 0
        while first < len(pieces) - 1 and (name := pieces[first]) not in _WITH_VALUE:
            if name in _RULES or name in unwanted:
                words += [name] if meant else []
            else:
                meant = name in _EVERYBODY or name in names or name.partition("/")[0] in names
            first += 1
        rule, value = pieces[first], ":".join(pieces[first + 1 :])
        if rule == "unavailable_after":
            start = at
            while at < len(parts) and at - start < _MOST_COMMAS and _REST_OF_DATE.match(parts[at]):
                at += 1
            date = _date(", ".join([value, *parts[start:at]]))
            words += ["noindex"] if meant and date is not None and date < now else []
        if meant:
            # What follows the value of a rule is a rule that lacks its comma.
            words += [*rule.split(), *_WORD.findall(rule), *value.split()[1:]]
        for word in words:
            yield word
            yield from _SHORT_FOR.get(word, ())


def _date(text: str) -> datetime | None:
    """The first date in a text: ISO 8601, RFC 822, RFC 850, asctime or American, with or without a time of day and a
    zone, in UTC where it names none; None if there is none."""
    text = text[:_LONGEST_DATE]
    day = next(filter(None, (form.search(text) for form in _DAYS)), None)
    if day is None:
        return None
    found = day.groupdict()
    if (number := int(found.get("month") or 1)) not in range(1, 13):
        return None
    month = found.get("name") or _MONTHS[number - 1]
    time, zone = _time(text)
    return date_in(f"{found['day']} {month} {found['year']} {time} {zone}")


def _time(text: str) -> tuple[str, str]:
    """The time of day in a date, and its zone; midnight and UTC if there is none."""
    found = _TIME.search(text)
    if found is None:
        return "00:00:00", "utc"
    hour, _, rest = found["time"].partition(":")
    if found["half"]:
        hour = str(int(hour) % 12 + (12 if found["half"].startswith("p") else 0))
    return f"{hour}:{rest}", {"z": "utc"}.get(found["zone"], (found["zone"] or "utc").replace(":", ""))
