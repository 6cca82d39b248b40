from __future__ import annotations

import datetime
import email.utils
import struct
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from geo_subset.download import fetch as fetching
from geo_subset.download.fetch import RedirectedError, Terms, fetch
from geo_subset.download.http_client import Client
from geo_subset.download.reasons import MAY_PASS, FetchError

from .asking import followed
from .conftest import Web, image_bytes

DIRECTIVES = ("noai", "noindex")


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(address_allowed=lambda _: True)
    yield client
    client.close()


def terms(timeout: float = 10.0, max_bytes: int = 64 << 20, token: str | None = None) -> Terms:
    return Terms(timeout, max_bytes, token, "bot@example.org", DIRECTIVES)


def failure(client: Client, url: str, on: Terms | None = None) -> FetchError:
    with pytest.raises(FetchError) as raised:
        followed(client, url, on or terms())
    return raised.value


def reason(client: Client, url: str, on: Terms | None = None) -> str:
    return failure(client, url, on).reason


def test_an_image_arrives_as_it_was_sent(web: Web, client: Client) -> None:
    body = image_bytes()
    assert fetch(client, web.serve("/a.jpg", body), terms())[0] == body


def test_paths_in_any_script_are_asked_for_as_browsers_do(web: Web, client: Client) -> None:
    body = image_bytes()
    web.serve("/caf%C3%A9%20%281%29.jpg", body)
    web.serve("/caf%C3%A9%20(1).jpg?x=%20", body)
    assert fetch(client, web.url + "/caf%C3%A9%20%281%29.jpg", terms())[0] == body
    assert fetch(client, web.url + "/café (1).jpg?x= ", terms())[0] == body


def test_the_user_agent_names_project_token_and_contact(web: Web, client: Client) -> None:
    url = web.serve("/a.jpg", image_bytes())
    fetch(client, url, terms(token="mytoken"))
    assert web.seen["User-Agent"].startswith("Mozilla/5.0 (compatible; geo-subset/")
    assert web.seen["User-Agent"].endswith("; mytoken; +bot@example.org)")
    fetch(client, url, Terms(10.0, 1 << 20, None, None, ()))
    assert ";" not in web.seen["User-Agent"].partition("geo-subset/")[2]


def test_nothing_in_the_user_agent_makes_another_header(web: Web, client: Client) -> None:
    fetch(client, web.serve("/a.jpg", image_bytes()), terms(token="a\r\nX-Forged: é"))
    assert "a??X-Forged: ?;" in web.seen["User-Agent"]
    assert "X-Forged" not in web.seen


@pytest.mark.parametrize("status", [206, 304, 401, 403, 404, 410, 408, 425, 429, 500, 503, 999])
def test_statuses_keep_their_number(web: Web, client: Client, status: int) -> None:
    error = failure(client, web.serve("/x", image_bytes() if status == 206 else b"", status=status))
    assert str(error) == f"http {status}"
    assert error.may_pass is (status in (408, 425, 429, 500, 503))


def test_whoever_asks_for_rest_is_heard(web: Web, client: Client) -> None:
    def after(value: str, status: int = 429) -> float | None:
        return failure(client, web.serve("/x", status=status, headers={"Retry-After": value})).retry_after

    assert after("17") == 17.0
    assert after("0", 503) == 0.0
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    seconds = after(email.utils.format_datetime(later, usegmt=True))
    assert seconds is not None
    assert 3500 < seconds <= 3600
    assert after("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0
    for nonsense in ("soon", "-3", "1e3", "²", "Sun, 99 Nov 9999999 08:49:37 GMT", ""):
        assert after(nonsense) is None
    assert failure(client, web.serve("/y", status=429)).retry_after is None


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:image/png;base64,AAAA", "", "http:///a.jpg", "no url"])
def test_only_http_urls_are_asked_for(client: Client, url: str) -> None:
    assert reason(client, url) == "unsupported url"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "javascript:alert(1)", "http://[::1/", "http://a..b/"])
def test_redirects_out_of_the_web_are_not_followed(web: Web, client: Client, location: str) -> None:
    assert reason(client, web.serve("/r", status=302, headers={"Location": location})) == "unsupported url"


def test_a_file_is_not_read_through_a_redirect(web: Web, client: Client, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(image_bytes())
    assert reason(client, web.serve("/r", status=302, headers={"Location": secret.as_uri()})) == "unsupported url"


def test_redirects_are_followed(web: Web, client: Client) -> None:
    body = image_bytes()
    web.serve("/caf%C3%A9.jpg", body)
    web.serve("/2", status=301, headers={"Location": "/caf\u00e9.jpg#x".encode().decode("latin-1")})
    assert followed(client, web.serve("/1", status=307, headers={"Location": web.url + "/2"}), terms())[0] == body


def test_a_redirect_that_leads_nowhere_is_a_status(web: Web, client: Client) -> None:
    assert reason(client, web.serve("/r", status=302)) == "http 302"


def test_a_circle_of_redirects_ends(web: Web, client: Client) -> None:
    assert reason(client, web.serve("/r", status=302, headers={"Location": "/r"})) == "too many redirects"
    assert web.requests["/r"] == fetching.MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("//b.example/x", "b.example"), ("http://u:p@B.Example.:8080/x", "b.example"), ("HTTP://b.ex\tample/",
        "b.example"),
        ("http://bücher.example/x", "xn--bcher-kva.example"), ("http://[::1]:80/", "[::1]"), ("/x", "127.0.0.1"),
    ],
)  # fmt: skip
def test_whoever_is_redirected_is_told_where_to(web: Web, client: Client, location: str, host: str) -> None:
    headers = {"Location": location.encode().decode("latin-1")}
    with pytest.raises(RedirectedError) as raised:
        fetch(client, web.serve("/r", status=302, headers=headers), terms())
    assert (raised.value.host, raised.value.spent.redirects) == (host, 1)
    assert 0 < raised.value.spent.seconds < 10


@pytest.mark.parametrize("location", ["http://" + "a." * 127 + "example/", "/" + "a" * 5000])
def test_where_a_redirect_leads_is_bounded(web: Web, client: Client, location: str) -> None:
    assert reason(client, web.serve("/r", status=302, headers={"Location": location})) == "unsupported url"


def test_private_addresses_are_not_asked(web: Web) -> None:
    client = Client()
    web.serve("/a.jpg", image_bytes())
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433"):
        assert reason(client, f"http://{host}:{web.port}/a.jpg") == "private address"
    assert not web.requests


def test_a_redirect_to_a_private_address_is_not_followed(web: Web) -> None:
    client = Client(address_allowed=lambda address: address == "127.0.0.1")
    web.serve("/inside", image_bytes())
    location = f"http://127.0.0.2:{web.port}/inside"
    assert reason(client, web.serve("/r", status=302, headers={"Location": location})) == "private address"
    assert web.requests["/inside"] == 0


JPEG_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 ", b"x"),  # a status line without end
        (b"HTTP/1.1 200 OK\r\n", b"a"),  # a header without end
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (JPEG_HEAD, b"x"),  # a body without end
    ],
)
def test_dripping_answers_are_cut_at_the_deadline(web: Web, client: Client, head: bytes, piece: bytes) -> None:
    error = failure(client, web.drip("/drip", head, piece), terms(timeout=0.3))
    assert str(error) == "timed out"
    assert error.may_pass


def test_the_deadline_holds_over_all_redirects(web: Web, client: Client) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        web.stopping.wait(0.2)
        handler.wfile.write(b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: /r\r\n\r\n")

    assert reason(client, web.on("/r", slow), terms(timeout=0.5)) == "timed out"
    assert web.requests["/r"] <= 3


def test_endless_and_huge_bodies_are_refused(web: Web, client: Client) -> None:
    small = terms(max_bytes=1 << 16)
    assert reason(client, web.drip("/endless", JPEG_HEAD, b"x" * 50_000), small) == "too large"
    assert reason(client, web.serve("/huge", headers={"Content-Length": str(1 << 40)}), small) == "too large"


def test_a_transfer_that_was_cut(web: Web, client: Client) -> None:
    error = failure(client, web.serve("/cut", image_bytes(), headers={"Content-Length": "1000000"}))
    assert error.reason == "truncated image"
    assert error.may_pass


def test_robots_directives_are_obeyed(web: Web, client: Client) -> None:
    values = {"/1": "noai", "/2": "otherbot: noai", "/3": "MyToken: noindex", "/4": "all"}
    got = {}
    for path, value in values.items():
        url = web.serve(path, image_bytes(), headers={"X-Robots-Tag": value})
        try:
            fetch(client, url, terms(token="mytoken"))
            got[path] = "image"
        except FetchError as error:
            got[path] = error.reason
            assert not error.may_pass
    assert got == {"/1": "robots", "/2": "image", "/3": "robots", "/4": "image"}
    no_directives = Terms(10.0, 1 << 20, None, None, ())
    assert fetch(client, web.url + "/1", no_directives)[0] == image_bytes()
    capitals = terms(token="MyToken")
    assert reason(client, web.url + "/3", capitals) == "robots"


def test_robots_rules_for_what_the_user_agent_is_called_count_without_a_token(web: Web, client: Client) -> None:
    url = web.serve("/x", image_bytes(), headers={"X-Robots-Tag": "otherbot: nofollow, geo-subset: noai"})
    assert reason(client, url, terms(token=None)) == "robots"
    web.serve("/x", image_bytes(), headers={"X-Robots-Tag": "mybot: noai"})
    assert reason(client, url, terms(token="MyBot/2.0 (tests)")) == "robots"
    assert fetch(client, url, terms(token=None))[0] == image_bytes()


def test_directives_are_obeyed_in_any_case_and_with_values_beside_them(web: Web, client: Client) -> None:
    url = web.serve("/x", image_bytes(), headers={"X-Robots-Tag": "noai, max-image-preview:large"})
    assert reason(client, url, Terms(10.0, 1 << 20, None, None, ("NoAI",))) == "robots"


def test_one_of_several_robots_headers_is_enough(web: Web, client: Client) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\nX-Robots-Tag: all\r\nx-robots-tag: other: all\r\nX-ROBOTS-TAG: max-snippet, NoAI\r\n\r\n"
    )
    url = web.on("/x", lambda handler: handler.wfile.write(head + image_bytes()) and None)
    assert reason(client, url) == "robots"


def test_pages_are_no_images(web: Web, client: Client) -> None:
    for path, body in {
        "/page": b"<html><body>not found</body></html>",
        "/empty": b"",
        "/svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }.items():
        error = failure(client, web.serve(path, body))
        assert error.reason == "not an image"
        assert not error.may_pass
    assert reason(client, web.serve("/none", status=204)) == "not an image"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_what_opencv_decodes_is_let_through(web: Web, client: Client, form: str) -> None:
    body = image_bytes(form=form)
    assert fetch(client, web.serve("/a", body), terms())[0] == body


def png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (head, data)
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [6_000, 12_000, 60_000])
def test_images_that_would_not_fit_into_memory_are_never_decoded(web: Web, client: Client, side: int) -> None:
    assert reason(client, web.serve("/bomb.png", png_header(side, side))) == "too many pixels"


def test_one_try_is_one_request(web: Web, client: Client) -> None:
    assert reason(client, web.serve("/x", status=503)) == "http 503"
    assert web.requests["/x"] == 1


def test_a_bug_is_a_reason_too(web: Web) -> None:
    def broken(address: str) -> bool:
        raise RuntimeError("a bug")

    error = failure(Client(address_allowed=broken), web.url)
    assert str(error) == "other: RuntimeError('a bug')"
    assert not error.may_pass


def test_details_are_bounded_and_on_one_line() -> None:
    error = FetchError("tls", "a\n b" * 1000)
    assert str(error).startswith("tls: a ba b")
    assert len(str(error)) < 300
    assert FetchError("dns").reason not in MAY_PASS


def test_a_large_body_asks_for_room_with_the_deadline_of_the_whole(web: Web, client: Client) -> None:
    body = image_bytes() + b"\0" * (3 << 20)
    asked: list[float] = []
    before = time.monotonic()
    assert fetch(client, web.serve("/a", body), terms(timeout=20.0), asked.append)[0] == body
    assert len(asked) == 1
    assert before + 20 <= asked[0] <= time.monotonic() + 20
