from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from geo_subset.download.http_client import Client

from .asking import echo, get, names, reason
from .peer import Connection, peer


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(address_allowed=lambda _: True)
    yield client
    client.close()


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA, tmp_path: Path) -> Iterator[Client]:
    """A client that trusts the authority."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    client = Client(lambda _: True, ca_file=str(tmp_path / "ca.pem"))
    yield client
    client.close()


def server_tls(authority: trustme.CA, *names: str, expires: datetime.datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, not_after=expires).configure_cert(context)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_https_keeps_its_connections_too(authority: trustme.CA, trusting: Client, version: ssl.TLSVersion) -> None:
    tls = server_tls(authority, "localhost", "127.0.0.1")
    tls.minimum_version = tls.maximum_version = version
    with peer(echo, tls) as host:
        for _ in range(5):
            assert get(trusting, host.url).status == 200
        assert host.connections == 1
        assert get(trusting, host.url.replace("localhost", "127.0.0.1")).status == 200


def test_a_dot_at_the_end_of_a_name_is_not_in_its_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    look_up = names(**{"example.org.": ["127.0.0.1"]})
    client = Client(lambda _: True, ca_file=str(tmp_path / "ca.pem"), look_up=look_up)
    with peer(echo, server_tls(authority, "example.org")) as host:
        assert get(client, f"https://example.org.:{host.port}/").status == 200


def test_https_replaces_a_connection_that_was_closed_while_idle(authority: trustme.CA, trusting: Client) -> None:
    def serve(connection: Connection, number: int) -> None:
        connection.request()
        connection.answer(b"%d" % number)

    with peer(serve, server_tls(authority, "localhost")) as host:
        assert [get(trusting, host.url).body for _ in range(3)] == [b"1", b"2", b"3"]


def test_certificates_are_checked(authority: trustme.CA, trusting: Client) -> None:
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    wrong = [
        server_tls(trustme.CA(), "localhost"),  # signed by nobody we know
        server_tls(authority, "example.org"),
        server_tls(authority, "localhost", expires=yesterday),
    ]
    for tls in wrong:
        with peer(echo, tls) as host:
            assert reason(trusting, host.url) == "tls"


def test_a_host_that_speaks_no_tls(client: Client) -> None:
    with peer(lambda connection, _: connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as host:
        assert reason(client, host.url.replace("http:", "https:")) == "tls"


def test_a_host_that_hangs_up_on_a_handshake(client: Client) -> None:
    def serve(connection: Connection, _: int) -> None:
        connection.sock.recv(65536)

    with peer(serve) as host:
        assert reason(client, host.url.replace("http:", "https:")) == "connection reset"


def test_there_is_one_tls_context_for_all(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    create = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda: built.append(1) or create())
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    client = Client(lambda _: True, ca_file=str(tmp_path / "ca.pem"))

    def once(connection: Connection, _: int) -> None:
        connection.request()
        connection.answer(b"x", Connection="close")

    with peer(once, server_tls(authority, "localhost")) as host:
        for _ in range(3):
            assert get(client, host.url).body == b"x"
        assert host.connections == 3
    assert built == [1]
