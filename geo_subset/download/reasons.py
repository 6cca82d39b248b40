"""Why an image is missing: a bounded set of short reasons, under which failures are counted.

The fetch starts its error messages with one of them ('dns: Name or service not known'); what img2dataset's resizer
says is translated.
"""

from __future__ import annotations

import re

from geo_subset.printable import brief

TIMED_OUT = "timed out"
DNS = "dns"
DNS_UNANSWERED = "dns unanswered"
REFUSED = "connection refused"
RESET = "connection reset"
NO_CONNECTION = "connection failed"
TLS = "tls"
PRIVATE = "private address"
UNSUPPORTED_URL = "unsupported url"
REDIRECTS = "too many redirects"
BAD_RESPONSE = "bad response"
TOO_LARGE = "too large"
ROBOTS = "robots"
NOT_AN_IMAGE = "not an image"
TRUNCATED = "truncated image"
TOO_MANY_PIXELS = "too many pixels"
TOO_COSTLY = "too costly"
UNDECODABLE = "undecodable image"
TOO_SMALL = "image too small"
ASPECT_RATIO = "aspect ratio"
SHORTAGE = "shortage here"
OTHER = "other"

#: All reasons but 'http NNN', of which there is one for each status.
REASONS = frozenset(
    {
        TIMED_OUT, DNS, DNS_UNANSWERED, REFUSED, RESET, NO_CONNECTION, TLS, PRIVATE, UNSUPPORTED_URL, REDIRECTS,
        BAD_RESPONSE, TOO_LARGE, ROBOTS, NOT_AN_IMAGE, TRUNCATED, TOO_MANY_PIXELS, TOO_COSTLY, UNDECODABLE, TOO_SMALL,
        ASPECT_RATIO, SHORTAGE, OTHER,
    }
)  # fmt: skip

#: What may be over on another day, or in a minute: all else would fail again, and asking again would only be a burden.
MAY_PASS = frozenset(
    {TIMED_OUT, DNS_UNANSWERED, REFUSED, RESET, NO_CONNECTION, TRUNCATED, SHORTAGE}
    | {f"http {status}" for status in (408, 425, 429, *range(500, 600))}
)

#: How it ends where no host was reached: this, too, is what all hosts end with where there is no network.
UNREACHED = frozenset({TIMED_OUT, DNS, DNS_UNANSWERED, NO_CONNECTION})


class FetchError(Exception):
    """No image, and why: `reason` is one of REASONS or 'http NNN'; as text, 'reason: detail'."""

    def __init__(self, reason: str, detail: object = "", retry_after: float | None = None) -> None:
        text = brief(str(detail), 200)
        super().__init__(f"{reason}: {text}" if text else reason)
        self.reason = reason
        self.retry_after = retry_after
        """Seconds for which the host asked to be left alone."""
        self.unreached = False
        """Whether it ended before the host, or whoever stands for it, had said anything."""

    @property
    def may_pass(self) -> bool:
        return self.reason in MAY_PASS


_OF_RESIZER = {"image too small": TOO_SMALL, "aspect ratio too large": ASPECT_RATIO}
_HTTP = re.compile(r"http \d{3}\Z", re.ASCII)


def failure_reason(status: str | None, error_message: str | None) -> str:
    """The reason for a row of a shard's parquet whose `status` is not 'success': one of REASONS or 'http NNN'."""
    message = error_message or ""
    reason = message.partition(":")[0]
    if reason in REASONS or _HTTP.match(reason):
        return reason
    # All else that img2dataset's resizer says comes from a decoder that could not make sense of the image.
    return _OF_RESIZER.get(message, UNDECODABLE) if status == "failed_to_resize" else OTHER
