"""The Retry-After header: a number of seconds or a date (RFC 9110, 10.2.3)."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

#: Seconds: whoever asks for more asks for this.
MOST = 86_400.0

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?", re.ASCII)
_DATE = re.compile(r"[A-Za-z0-9 ,:+-]{1,64}", re.ASCII)
#: Characters of a number that are looked at: all beyond stand behind 31 other digits.
_DIGITS = 32


def seconds(header: str | None, now: datetime) -> float | None:
    """Seconds that are asked for, 0 for a date gone by, `MOST` at most; None if the header is missing or makes no
    sense. `now` is an aware datetime."""
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        return min(MOST, float(text[:_DIGITS]))
    date = date_in(text)
    return None if date is None else min(MOST, max(0.0, (date - now).total_seconds()))


def date_in(text: str) -> datetime | None:
    """The aware datetime that a header's text is (RFC 9110, 5.6.7: all three forms, and time zones), else None."""
    if not _DATE.fullmatch(text):
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # The form without a zone is in UTC.
    return date.replace(tzinfo=timezone.utc) if date.tzinfo is None else date
