"""Fetches one image from the open web: bounded in time and size, and never from the inside of one's own network.

Only http and https. Proxies of the environment are not used: a proxy would look up and connect on its own, past the
check of the address.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import ipaddress
import socket
import ssl
import time
import urllib.parse
import warnings
from collections.abc import Callable, Collection

from img2dataset.downloader import is_disallowed
from PIL import Image

import geo_subset
from geo_subset.download import reasons

MAX_BYTES = 64 << 20
MAX_REDIRECTS = 5
#: Decoded, a JPEG takes 3 bytes a pixel. Formats with transparency take 80 in img2dataset: they get a quarter.
MAX_PIXELS = 100_000_000
#: Seconds before the first retry; doubled for each further one.
BACKOFF = 0.5

_BLOCK = 1 << 18
#: What OpenCV can decode, as far as this build of Pillow can read its headers.
Image.init()
_FORMATS: list[str] = [
    name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF") if name in Image.OPEN
]
_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_QUOTE_SAFE = "%/:=&?~#+!$,;'@()*[]|"

# Pillow warns below the limit set here, once for each worker, into logs that nobody reads.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

AddressCheck = Callable[[str], bool]


class _FetchError(Exception):
    """No image. `may_pass`: whether it is worth another try."""

    def __init__(self, reason: str, detail: object = "", may_pass: bool = False) -> None:
        text = " ".join(str(detail).split())[:200]
        super().__init__(f"{reason}: {text}" if text else reason)
        self.may_pass = may_pass


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet: not loopback, private, link-local, reserved or multicast."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


def fetch_image(
    row: tuple[int, str],
    timeout: float,
    retries: int,
    user_agent_token: str | None,
    disallowed_header_directives: Collection[str] | None,
    address_allowed: AddressCheck = is_public,
) -> tuple[int, io.BytesIO | None, str | None]:
    """Takes the place of `img2dataset.downloader.download_image_with_retry`: (key, url) -> (key, image, error).

    Either image or error is None; an error starts with one of `reasons.REASONS` or 'http NNN'. `timeout` bounds one
    try as a whole, redirects included, except for the look-up of names, which the system's resolver bounds. Only
    failures that may pass are tried again, up to `retries` times. Never raises: img2dataset would hang.
    """
    key, url = row
    for attempt in range(retries + 1):
        try:
            image = _fetch(url, time.monotonic() + timeout, user_agent_token, disallowed_header_directives or (),
                           address_allowed)  # fmt: skip
            return key, image, None
        except _FetchError as failure:
            error = str(failure)
            if not failure.may_pass:
                break
        except Exception as unexpected:  # noqa: BLE001 - see above; counted as 'other'
            error = str(_FetchError(reasons.OTHER, repr(unexpected)))
            break
        if attempt < retries:
            time.sleep(BACKOFF * 2**attempt)
    return key, None, error


def _fetch(
    url: str, deadline: float, token: str | None, directives: Collection[str], allowed: AddressCheck
) -> io.BytesIO:
    agent = f"Mozilla/5.0 (compatible; geo-subset/{geo_subset.__version__}{f'; {token}' if token else ''})"
    try:
        with contextlib.closing(_follow(url, deadline, agent, allowed)) as response:
            if not 200 <= response.status < 300:
                raise _FetchError(
                    f"http {response.status}", may_pass=response.status in (408, 429) or response.status >= 500
                )
            if directives and is_disallowed(response.headers, token, directives):
                raise _FetchError(reasons.ROBOTS, "X-Robots-Tag")
            body = _read(response)
    except TimeoutError as error:
        raise _FetchError(reasons.TIMED_OUT, may_pass=True) from error
    except socket.gaierror as error:
        raise _FetchError(reasons.DNS, error.strerror, may_pass=error.errno == socket.EAI_AGAIN) from error
    except ConnectionRefusedError as error:
        raise _FetchError(reasons.REFUSED, may_pass=True) from error
    except (ConnectionError, ssl.SSLEOFError) as error:
        raise _FetchError(reasons.RESET, error, may_pass=True) from error
    except ssl.SSLError as error:
        raise _FetchError(reasons.TLS, error) from error
    except OSError as error:
        raise _FetchError(reasons.NO_CONNECTION, error, may_pass=True) from error
    except http.client.IncompleteRead as error:
        raise _FetchError(reasons.TRUNCATED, error, may_pass=True) from error
    except http.client.HTTPException as error:
        raise _FetchError(reasons.BAD_RESPONSE, repr(error)) from error
    _check_image(body)
    return body


def _follow(url: str, deadline: float, agent: str, allowed: AddressCheck) -> http.client.HTTPResponse:
    for _ in range(MAX_REDIRECTS + 1):
        response = _get(url, deadline, agent, allowed)
        location = response.headers.get("Location")
        if response.status not in _REDIRECT_STATUSES or not location:
            return response
        response.close()
        # http.client reads headers as Latin-1; what servers send raw is UTF-8.
        url = _joined(url, location.encode("latin-1").decode("utf-8", "replace"))
    raise _FetchError(reasons.REDIRECTS)


def _joined(url: str, location: str) -> str:
    try:
        return urllib.parse.urljoin(url, location)
    except ValueError as error:
        raise _FetchError(reasons.UNSUPPORTED_URL, error) from error


def _get(url: str, deadline: float, agent: str, allowed: AddressCheck) -> http.client.HTTPResponse:
    """One request, without following redirects; the response's head is read, its body is not."""
    try:
        parts = urllib.parse.urlsplit(url or "")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _FetchError(reasons.UNSUPPORTED_URL, parts.scheme)
        host = parts.hostname.encode("idna").decode()
        host_header = parts.netloc.rpartition("@")[2].encode("idna").decode()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        target = urllib.parse.quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", _QUOTE_SAFE)
        connection = http.client.HTTPConnection(host, port)
    except (ValueError, http.client.InvalidURL) as error:
        raise _FetchError(reasons.UNSUPPORTED_URL, error) from error
    sock = _connect(host, port, deadline, allowed)
    try:
        if parts.scheme == "https":
            sock.settimeout(_left(deadline))
            sock = _tls_context().wrap_socket(sock, server_hostname=host)
        sock.settimeout(_left(deadline))
        connection.sock = sock
        connection.response_class = functools.partial(_Response, deadline)  # type: ignore[assignment]
        headers = {"Host": host_header, "User-Agent": agent, "Accept": "image/*,*/*;q=0.5", "Connection": "close"}
        connection.request("GET", target, headers=headers)
        return connection.getresponse()
    finally:
        sock.close()  # what the response still reads from stays open until the response is closed


def _connect(host: str, port: int, deadline: float, allowed: AddressCheck) -> socket.socket:
    """Connects to the first of the host's addresses that answers.

    Each address is checked and then used as it stands: the name is not looked up a second time.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [entry for entry in found if allowed(str(entry[4][0]))]
    if not addresses:
        raise _FetchError(reasons.PRIVATE, ", ".join(str(entry[4][0]) for entry in found))
    for tried, (family, kind, protocol, _, address) in enumerate(addresses, start=1):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline) / (len(addresses) - tried + 1))
            sock.connect(address)
            return sock
        except OSError:
            sock.close()
            if tried == len(addresses):
                raise
    raise AssertionError("unreachable")


def _read(response: http.client.HTTPResponse) -> io.BytesIO:
    if (response.length or 0) > MAX_BYTES:
        raise _FetchError(reasons.TOO_LARGE, f"{response.length:,} bytes")
    body = io.BytesIO()
    while block := response.read(_BLOCK):
        body.write(block)
        if body.tell() > MAX_BYTES:
            raise _FetchError(reasons.TOO_LARGE, f"more than {MAX_BYTES:,} bytes")
    if response.length:
        raise _FetchError(reasons.TRUNCATED, f"{response.length:,} bytes are missing", may_pass=True)
    return body


def _check_image(body: io.BytesIO) -> None:
    """Reads the header only: what is no image, or would not fit into memory, never reaches the decoder."""
    body.seek(0)
    try:
        with Image.open(body, formats=_FORMATS) as image:
            pixels, kind = image.width * image.height, image.format
    except Image.DecompressionBombError as error:
        raise _FetchError(reasons.TOO_MANY_PIXELS) from error
    except Exception as error:  # decoders raise all kinds of errors on bytes that are no image
        raise _FetchError(reasons.NOT_AN_IMAGE) from error
    if pixels > (MAX_PIXELS if kind in ("JPEG", "MPO") else MAX_PIXELS // 4):
        raise _FetchError(reasons.TOO_MANY_PIXELS, f"{pixels:,}")
    body.seek(0)


@functools.lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """One for the process: building one, with all its root certificates, takes longer than fetching an image."""
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Response(http.client.HTTPResponse):
    """A response whose head and body must have arrived by a deadline, however slowly they drip."""

    def __init__(self, deadline: float, sock: socket.socket, method: str | None = None) -> None:
        super().__init__(sock, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock, deadline))


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        self._sock.settimeout(_left(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
