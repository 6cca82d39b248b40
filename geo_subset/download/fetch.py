"""Fetches one image from the open web: bounded in time and size, and never from the inside of one's own network.

One try: no retries and no waiting. Only http and https, redirects included.
"""

from __future__ import annotations

import datetime
import functools
import re
import time
import urllib.parse
from dataclasses import dataclass

from img2dataset.downloader import is_disallowed

import geo_subset
from geo_subset.download import reasons
from geo_subset.download.http_client import BeforeLarge, Client, Response
from geo_subset.download.http_wire import Headers
from geo_subset.download.pixels import Header, PictureError, header
from geo_subset.download.reasons import FetchError
from geo_subset.retry_after import seconds

MAX_REDIRECTS = 5
_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_NOT_IN_A_HEADER = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class Terms:
    """On what terms images are fetched: the same for all of a shard.

    `timeout`: seconds for one image as a whole, redirects included. `max_bytes`: of its body, also once the transfer's
    encoding is undone. `token`: the name by which X-Robots-Tag may address this crawler; `contact`: where its
    operator can be reached; both are part of the user agent. `directives`: of X-Robots-Tag, those that are obeyed.
    """

    timeout: float
    max_bytes: int
    token: str | None
    contact: str | None
    directives: tuple[str, ...]

    @functools.cached_property
    def headers(self) -> dict[str, str]:
        parts = [f"geo-subset/{geo_subset.__version__}", self.token, f"+{self.contact}" if self.contact else None]
        agent = f"Mozilla/5.0 (compatible; {'; '.join(filter(None, parts))})"
        return {"User-Agent": _NOT_IN_A_HEADER.sub("?", agent), "Accept": "image/*,*/*;q=0.5"}


def fetch(client: Client, url: str, terms: Terms, before_large: BeforeLarge | None = None) -> tuple[bytes, Header]:
    """The bytes of the image at `url` and what its header says; it was not decoded.

    `before_large`: see `Client.get`; called again if a redirect leads to another body.
    Raises FetchError; its `may_pass` tells whether it is worth another try, its `retry_after` after how long.
    """
    try:
        body = _body(client, url, terms, before_large)
        return body, header(body)
    except FetchError:
        raise
    except PictureError as error:
        raise FetchError(error.reason, str(error).partition(": ")[2]) from error
    except Exception as unexpected:  # one image must not end a shard; counted as 'other'
        raise FetchError(reasons.OTHER, repr(unexpected)) from unexpected


def _body(client: Client, url: str, terms: Terms, before_large: BeforeLarge | None) -> bytes:
    deadline = time.monotonic() + terms.timeout
    for _ in range(MAX_REDIRECTS + 1):
        response = client.get(
            url, deadline, terms.headers, terms.max_bytes, lambda headers: _allows(headers, terms), before_large
        )
        location = response.headers.get("Location")
        if response.status not in _REDIRECT_STATUSES or not location:
            return _accepted(response)
        try:
            # Headers are read as Latin-1; what servers send raw is UTF-8.
            url = urllib.parse.urljoin(url, location.encode("latin-1").decode("utf-8", "replace"))
        except ValueError as error:
            raise FetchError(reasons.UNSUPPORTED_URL, error) from error
    raise FetchError(reasons.REDIRECTS)


def _allows(headers: Headers, terms: Terms) -> bool:
    token = terms.token and terms.token.lower()  # img2dataset compares it with what it has put in lower case
    return not (terms.directives and is_disallowed(headers, token, terms.directives))


def _accepted(response: Response) -> bytes:
    # Part of an image was not asked for, and would pass for a whole one.
    if not 200 <= response.status < 300 or response.status == 206:
        now = datetime.datetime.now(datetime.timezone.utc)
        raise FetchError(f"http {response.status}", retry_after=seconds(response.headers.get("Retry-After"), now))
    if response.body is None:
        raise FetchError(reasons.ROBOTS, "X-Robots-Tag")
    return response.body
