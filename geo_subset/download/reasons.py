"""Why an image is missing: a bounded set of short reasons, under which failures are counted.

The fetch starts its error messages with one of them ('dns: Name or service not known'); what img2dataset's resizer
says is translated.
"""

from __future__ import annotations

import re

TIMED_OUT = "timed out"
DNS = "dns"
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
UNDECODABLE = "undecodable image"
TOO_SMALL = "image too small"
ASPECT_RATIO = "aspect ratio"
OTHER = "other"

#: All reasons but 'http NNN', of which there is one for each status.
REASONS = frozenset(
    {
        TIMED_OUT, DNS, REFUSED, RESET, NO_CONNECTION, TLS, PRIVATE, UNSUPPORTED_URL, REDIRECTS, BAD_RESPONSE,
        TOO_LARGE, ROBOTS, NOT_AN_IMAGE, TRUNCATED, TOO_MANY_PIXELS, UNDECODABLE, TOO_SMALL, ASPECT_RATIO, OTHER,
    }
)  # fmt: skip

_OF_RESIZER = {"image too small": TOO_SMALL, "aspect ratio too large": ASPECT_RATIO}
_HTTP = re.compile(r"http \d{3}\Z", re.ASCII)


def failure_reason(status: str | None, error_message: str | None) -> str:
    """The reason for a row of a shard's parquet whose `status` is not 'success': one of REASONS or 'http NNN'."""
    message = error_message or ""
    if status == "failed_to_resize":
        # All else the resizer says comes from a decoder that could not make sense of the image.
        return _OF_RESIZER.get(message, UNDECODABLE)
    reason = message.partition(":")[0]
    return reason if reason in REASONS or _HTTP.match(reason) else OTHER
