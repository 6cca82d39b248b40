"""Fetches one image from the open web: bounded in time and size, and never from the inside of one's own network.

One request: no retries and no waiting; whoever is redirected decides when to go on. Only http and https, redirects
included.
"""

from __future__ import annotations

import datetime
import functools
import re
import time
import urllib.parse
from dataclasses import dataclass

import geo_subset
from geo_subset import shortage
from geo_subset.download import reasons
from geo_subset.download.http_client import BeforeLarge, Client, OnceMore, Response, host_of
from geo_subset.download.http_wire import Headers
from geo_subset.download.pixels import Header, PictureError, header
from geo_subset.download.reasons import FetchError
from geo_subset.download.robots import refuses
from geo_subset.errors import ShortageError
from geo_subset.retry_after import seconds

MAX_REDIRECTS = 5
#: Characters of a URL that is led to: thousands may be kept until their hosts may be asked.
_LONGEST_URL = 1 << 12
_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_PRODUCT = "geo-subset"
_NOT_IN_A_HEADER = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class Spent:
    """What one try at an image has used up at the hosts that led on to another URL."""

    redirects: int = 0
    seconds: float = 0.0


class RedirectedError(FetchError):
    """The image is said to be at `url`. `spent`: with this request."""

    def __init__(self, url: str, spent: Spent) -> None:
        super().__init__(reasons.REDIRECTS, "not followed")
        self.url, self.host, self.spent = url, host_of(url), spent


@dataclass(frozen=True)
class Terms:
    """On what terms images are fetched: the same for all of a shard.

    `timeout`: seconds for one image as a whole, redirects included. `max_bytes`: of its body, also once the transfer's
    encoding is undone. `token`: the user's name for this crawler; `contact`: where its operator can be reached; both
    are part of the user agent. `directives`: of X-Robots-Tag, those that are obeyed.
    """

    timeout: float
    max_bytes: int
    token: str | None
    contact: str | None
    directives: tuple[str, ...]

    @functools.cached_property
    def headers(self) -> dict[str, str]:
        parts = [f"{_PRODUCT}/{geo_subset.__version__}", self.token, f"+{self.contact}" if self.contact else None]
        agent = f"Mozilla/5.0 (compatible; {'; '.join(filter(None, parts))})"
        return {"User-Agent": _NOT_IN_A_HEADER.sub("?", agent), "Accept": "image/*,*/*;q=0.5"}

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """By which X-Robots-Tag may address this crawler: what its user agent is called, with and without a version."""
        token = (self.token or "").strip().lower()
        return frozenset({_PRODUCT, token, token.partition("/")[0]} - {""})

    @functools.cached_property
    def unwanted(self) -> frozenset[str]:
        """The directives in lower case."""
        return frozenset(directive.strip().lower() for directive in self.directives)


def fetch(
    client: Client,
    url: str,
    terms: Terms,
    before_large: BeforeLarge | None = None,
    once_more: OnceMore = lambda: True,
    spent: Spent = Spent(),
) -> tuple[bytes, Header]:
    """The bytes of the image at `url` and what its header says; it was not decoded.

    `before_large` and `once_more`: see `Client.get`. `spent`: of the same try, before this request.
    Raises RedirectedError if the image is somewhere else; FetchError, whose `may_pass` tells whether it is worth
    another try, and `retry_after` after how long; ShortageError if it is this machine that lacks something.
    """
    try:
        body = _body(client, url, terms, before_large, once_more, spent)
        return body, header(body)
    except (FetchError, ShortageError):
        raise
    except PictureError as error:
        raise FetchError(error.reason, str(error).partition(": ")[2]) from error
    except Exception as unexpected:  # one image must not end a shard; counted as 'other'
        if (lacking := shortage.of(unexpected)) is not None:
            raise lacking from unexpected
        raise FetchError(reasons.OTHER, repr(unexpected)) from unexpected


def _body(
    client: Client, url: str, terms: Terms, before_large: BeforeLarge | None, once_more: OnceMore, spent: Spent
) -> bytes:
    began = time.monotonic()
    response = client.get(
        url, began + terms.timeout - spent.seconds, terms.headers, terms.max_bytes,
        lambda headers: _allows(headers, terms), before_large, once_more,
    )  # fmt: skip
    location = response.headers.get("Location")
    if response.status not in _REDIRECT_STATUSES or not location:
        return _accepted(response)
    if spent.redirects == MAX_REDIRECTS:
        raise FetchError(reasons.REDIRECTS)
    try:
        # Headers are read as Latin-1; what servers send raw is UTF-8.
        url = urllib.parse.urljoin(url, location.encode("latin-1").decode("utf-8", "replace"))
    except ValueError as error:
        raise FetchError(reasons.UNSUPPORTED_URL, error) from error
    if len(url) > _LONGEST_URL:
        raise FetchError(reasons.UNSUPPORTED_URL, f"redirected to one of {len(url)} characters")
    raise RedirectedError(url, Spent(spent.redirects + 1, spent.seconds + time.monotonic() - began))


def _allows(headers: Headers, terms: Terms) -> bool:
    lines = headers.get_all("X-Robots-Tag")
    return not (lines and refuses(lines, terms.names, terms.unwanted, datetime.datetime.now(datetime.timezone.utc)))


def _accepted(response: Response) -> bytes:
    # Part of an image was not asked for, and would pass for a whole one.
    if not 200 <= response.status < 300 or response.status == 206:
        now = datetime.datetime.now(datetime.timezone.utc)
        raise FetchError(f"http {response.status}", retry_after=seconds(response.headers.get("Retry-After"), now))
    if response.body is None:
        raise FetchError(reasons.ROBOTS, "X-Robots-Tag")
    return response.body
