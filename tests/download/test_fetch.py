from __future__ import annotations

import datetime
import inspect
import io
import socket
import ssl
import struct
import zlib
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from img2dataset import downloader

from geo_subset.download import fetch
from geo_subset.download.fetch import fetch_image, is_public
from geo_subset.download.reasons import failure_reason

from .conftest import Web, image_bytes

DIRECTIVES = {"noai", "noindex"}


def get(
    url: str,
    timeout: float = 5.0,
    retries: int = 0,
    token: str | None = None,
    allowed: fetch.AddressCheck | None = None,
) -> bytes | str:
    """The image, or the reason why there is none."""
    key, image, error = fetch_image((7, url), timeout, retries, token, DIRECTIVES, allowed or (lambda _: True))
    assert key == 7
    if image is None:
        return failure_reason("failed_to_download", error)
    assert error is None
    assert image.tell() == 0
    return image.read()


def test_it_fits_where_img2dataset_calls_its_own() -> None:
    theirs = inspect.signature(downloader.download_image_with_retry).parameters
    ours = list(inspect.signature(fetch_image).parameters.values())
    assert [p.name for p in ours[: len(theirs)]] == list(theirs)
    assert all(p.default is not p.empty for p in ours[len(theirs) :])


def test_an_image_arrives_as_it_was_sent(web: Web) -> None:
    body = image_bytes()
    assert get(web.serve("/a.jpg", body)) == body


def test_an_image_in_chunks_arrives_whole(web: Web) -> None:
    body = image_bytes()

    def chunked(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (body[:1000], body[1000:]):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    assert get(web.on("/chunked", chunked)) == body


def test_paths_in_any_script_are_asked_for_as_browsers_do(web: Web) -> None:
    body = image_bytes()
    web.serve("/caf%C3%A9%20%281%29.jpg", body)
    web.serve("/caf%C3%A9%20(1).jpg?x=%20", body)
    assert get(web.url + "/caf%C3%A9%20%281%29.jpg") == body
    assert get(web.url + "/café (1).jpg?x= ") == body


def test_the_user_agent_names_project_and_token(web: Web) -> None:
    get(web.serve("/a.jpg", image_bytes()), token="mytoken")
    assert "geo-subset/" in web.seen["User-Agent"]
    assert "mytoken" in web.seen["User-Agent"]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503, 999])
def test_statuses_keep_their_number(web: Web, status: int) -> None:
    assert get(web.serve("/x", status=status)) == f"http {status}"


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:image/png;base64,AAAA", "", None, "http://", "http:///a.jpg",
     "http://[::1/a.jpg", "http://127.0.0.1:99999/a", "http://a..b/x.jpg", f"http://{'a' * 70}.org/", "no url",
     "//127.0.0.1/a.jpg", "http://ex\x7fample.org/a"],
)  # fmt: skip
def test_only_http_urls_are_asked_for(url: str) -> None:
    assert get(url) == "unsupported url"


def test_a_file_is_not_read_through_a_redirect(web: Web, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(image_bytes())
    assert get(web.serve("/r", status=302, headers={"Location": secret.as_uri()})) == "unsupported url"


def test_redirects_are_followed(web: Web) -> None:
    body = image_bytes()
    web.serve("/caf%C3%A9.jpg", body)
    web.serve("/2", status=301, headers={"Location": "/caf\u00e9.jpg".encode().decode("latin-1")})
    assert get(web.serve("/1", status=307, headers={"Location": web.url + "/2"})) == body


def test_a_circle_of_redirects_ends(web: Web) -> None:
    assert get(web.serve("/r", status=302, headers={"Location": "/r"})) == "too many redirects"
    assert web.requests["/r"] == fetch.MAX_REDIRECTS + 1


@pytest.mark.parametrize("location", ["http://[::1/", "http://a..b/"])
def test_a_redirect_to_nonsense(web: Web, location: str) -> None:
    assert get(web.serve("/r", status=302, headers={"Location": location})) == "unsupported url"


def test_private_addresses_are_not_asked(web: Web) -> None:
    web.serve("/a.jpg", image_bytes())
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433"):
        assert get(f"http://{host}:{web.port}/a.jpg", allowed=is_public) == "private address"
    assert not web.requests


def test_a_redirect_to_a_private_address_is_not_followed(web: Web) -> None:
    web.serve("/inside", image_bytes())
    url = web.serve("/r", status=302, headers={"Location": f"http://localhost.:{web.port}/inside"})
    inside = web.serve("/r2", status=302, headers={"Location": f"http://127.0.0.2:{web.port}/inside"})
    assert get(inside, allowed=lambda address: address == "127.0.0.1") == "private address"
    assert get(url, allowed=lambda address: not web.requests) == "private address"
    assert web.requests["/inside"] == 0


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False), ("0.0.0.0", False),
        ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
        ("fe80::1%1", False), ("fd00::1", False), ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True),
        ("2002:7f00:1::", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


JPEG_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"x"),  # a status line without end
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"[:1]),  # a header without end
        (JPEG_HEAD, b"x"),  # a body without end
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_dripping_answers_are_cut_at_the_deadline(web: Web, head: bytes, piece: bytes) -> None:
    assert get(web.drip("/drip", head, piece), timeout=0.3) == "timed out"


def test_the_deadline_holds_over_all_redirects(web: Web) -> None:
    web.drip("/slow", JPEG_HEAD, b"x")
    assert get(web.serve("/r", status=302, headers={"Location": "/slow"}), timeout=0.3) == "timed out"


def test_a_host_that_never_answers_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert get(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.2) == "timed out"


def test_endless_and_huge_bodies_are_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 1 << 16)
    assert get(web.drip("/endless", JPEG_HEAD, b"x" * 50_000)) == "too large"
    assert get(web.serve("/huge", headers={"Content-Length": str(1 << 40)})) == "too large"


def test_refused_reset_and_cut_connections(web: Web) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert get(f"http://127.0.0.1:{port}/") == "connection refused"
    assert get(web.reset("/reset")) == "connection reset"
    assert get(web.serve("/cut", image_bytes(), headers={"Content-Length": "1000000"})) == "truncated image"
    assert get(
        web.on("/cut2", lambda h: _write(h, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nx"))
    ) == ("truncated image")


def _write(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.wfile.write(data)


def test_names_that_do_not_exist() -> None:
    assert get("http://nowhere.invalid/a.jpg") == "dns"


def test_tls_to_a_host_that_speaks_none(web: Web) -> None:
    assert get(web.url.replace("http:", "https:") + "/a.jpg") == "tls"


def certificate(folder: Path) -> Path:
    """A certificate for localhost and its key, in one file."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography makes the certificate")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, unencrypted = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / "localhost.pem"
    path.write_bytes(built.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted))
    return path


def test_https_with_certificates_checked_and_one_context_for_all(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path)
    web.speak_tls(path)
    body = image_bytes()
    web.serve("/a.jpg", body)
    url = f"https://localhost:{web.port}/a.jpg"
    assert get(url) == "tls"  # signed by nobody we know

    built = []
    create = ssl.create_default_context
    fetch._tls_context.cache_clear()
    monkeypatch.setattr(ssl, "create_default_context", lambda: built.append(1) or create(cafile=str(path)))
    try:
        assert [get(url) for _ in range(3)] == [body] * 3
        assert get(url.replace("localhost", "127.0.0.1")) == "tls"  # not the name on the certificate
        assert (
            get(web.drip("/drip", JPEG_HEAD, b"x").replace("http://127.0.0.1", "https://localhost"), 0.3) == "timed out"
        )
    finally:
        fetch._tls_context.cache_clear()
    assert len(built) == 1


def test_an_answer_that_is_no_http(web: Web) -> None:
    assert get(web.on("/x", lambda h: _write(h, b"SSH-2.0-OpenSSH_9.6\r\n"))) == "bad response"


def test_robots_directives_are_obeyed(web: Web) -> None:
    body = image_bytes()
    for path, value in (("/1", "noai"), ("/2", "otherbot: noai"), ("/3", "mytoken: noindex"), ("/4", "all")):
        web.serve(path, body, headers={"X-Robots-Tag": value})
    got = [get(web.url + path, token="mytoken") for path in ("/1", "/2", "/3", "/4")]
    assert [g if isinstance(g, str) else "image" for g in got] == ["robots", "image", "robots", "image"]


def test_pages_are_no_images(web: Web) -> None:
    assert get(web.serve("/page", b"<html><body>not found</body></html>")) == "not an image"
    assert get(web.serve("/empty", b"")) == "not an image"
    assert get(web.serve("/svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")) == "not an image"


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_what_opencv_decodes_is_let_through(web: Web, form: str) -> None:
    body = image_bytes(form=form)
    assert get(web.serve("/a", body)) == body


def png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (head, data)
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [6_000, 12_000, 60_000])
def test_images_that_would_not_fit_into_memory_are_never_decoded(web: Web, side: int) -> None:
    assert get(web.serve("/bomb.png", png_header(side, side))) == "too many pixels"


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (429, 3), (503, 3)])
def test_only_what_may_pass_is_tried_again(web: Web, monkeypatch: pytest.MonkeyPatch, status: int, tries: int) -> None:
    monkeypatch.setattr(fetch, "BACKOFF", 0.001)
    assert get(web.serve("/x", status=status), retries=2) == f"http {status}"
    assert web.requests["/x"] == tries


def test_a_retry_brings_the_image(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BACKOFF", 0.001)
    body = image_bytes()

    def flaky(handler: BaseHTTPRequestHandler) -> None:
        if web.requests["/flaky"] == 1:
            handler.send_error(503)
        else:
            _write(handler, b"HTTP/1.0 200 OK\r\n\r\n" + body)

    assert get(web.on("/flaky", flaky), retries=1) == body


def test_robots_and_pages_are_not_tried_again(web: Web) -> None:
    web.serve("/r", image_bytes(), headers={"X-Robots-Tag": "noai"})
    web.serve("/p", b"<html>")
    for path in ("/r", "/p"):
        get(web.url + path, retries=5)
        assert web.requests[path] == 1


def test_whatever_goes_wrong_comes_back_as_an_error(web: Web) -> None:
    def broken(address: str) -> bool:
        raise RuntimeError("a bug")

    key, image, error = fetch_image((0, web.url), 1.0, 3, None, None, broken)
    assert (key, image) == (0, None)
    assert error is not None
    assert error.startswith("other: ")
    assert isinstance(
        fetch_image((0, web.serve("/a", image_bytes())), 1.0, 0, None, None, lambda _: True)[1], io.BytesIO
    )
