"""What the embedded world's web is like: its hosts, and what each URL answers.

A URL alone decides what it answers (the port aside), so that a second run, a resumed run and a run on another port meet
the same web. Nothing has to be kept, and tests can tell beforehand what a request must give.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

#: The clip service answers here; every other host serves images.
SERVICE_HOST = "127.0.0.1"
HOSTS = tuple(f"127.0.0.{number}" for number in range(2, 66))
SLOW_HOSTS = HOSTS[-4:]
#: Where redirects lead: /moved/<host>/<path> on another host serves what <host>/<path> was asked for.
MOVED = "/moved/"

Kind = Literal[
    "image",
    "redirect",
    "not found",
    "gone",
    "reset",
    "closed",
    "forbidden",
    "server error",
    "html",
    "cut off",
    "tiny",
]
STATUS: dict[Kind, int] = {"not found": 404, "gone": 410, "forbidden": 403, "server error": 500, "redirect": 302}

# Of 1000 URLs, how many answer so; the rest are images. About 86 % can be had ('image', 'redirect' and 'tiny').
_OF_1000: tuple[tuple[Kind, int], ...] = (
    ("not found", 58),
    ("gone", 8),
    ("reset", 8),
    ("closed", 8),
    ("forbidden", 20),
    ("server error", 10),
    ("html", 16),
    ("cut off", 10),
    ("tiny", 8),
    ("redirect", 20),
)
#: The kinds that give a downloader a picture, if it follows redirects and does not mind one of a single pixel.
GOOD_KINDS: frozenset[Kind] = frozenset({"image", "redirect", "tiny"})


@dataclass(frozen=True)
class Outcome:
    """What asking for a URL gives: what comes, after how many seconds."""

    kind: Kind
    delay: float

    @property
    def status(self) -> int:
        """The HTTP status; 0 where the connection ends without one."""
        return 0 if self.kind in ("reset", "closed") else STATUS.get(self.kind, 200)


def address(url: str) -> str:
    """What identifies a URL of the world, however a client quotes it: 'host/path?query', unquoted, without a port."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.hostname}{unquote(parts.path + query)}"


def expected_outcome(url: str) -> Outcome:
    """What the world's web answers to a GET of `url`, one of its URLs."""
    return outcome(address(url))


def outcome(place: str) -> Outcome:
    """The same for an `address`."""
    host, _, path = place.partition("/")
    number = digest(place)
    delay = 0.2 + 0.6 * ((number >> 32) % 1000) / 1000 if host in SLOW_HOSTS else 0.0
    if f"/{path}".startswith(MOVED):
        return Outcome("image", delay)
    draw = number % 1000
    for kind, share in _OF_1000:
        if draw < share:
            return Outcome(kind, delay)
        draw -= share
    return Outcome("image", delay)


def moved_to(place: str) -> tuple[str, str]:
    """Host and path (quoted) to which a redirecting `address` leads."""
    others = [host for host in HOSTS if host not in SLOW_HOSTS and host != place.partition("/")[0]]
    return others[digest(place) // 1000 % len(others)], MOVED + quote(place)


def moved_from(place: str) -> str:
    """The address whose image `address` shows: itself, unless a redirect led there."""
    _, _, path = place.partition("/")
    return f"/{path}".removeprefix(MOVED) if f"/{path}".startswith(MOVED) else place


def digest(text: str) -> int:
    """64 bits that depend on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")
