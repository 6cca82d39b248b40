from __future__ import annotations

import concurrent.futures
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from geo_subset.download import http_client, idle
from geo_subset.download.http_client import Client
from geo_subset.download.http_wire import LARGE

from .asking import echo, get, names, reason
from .peer import Connection, peer


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(address_allowed=lambda _: True)
    yield client
    client.close()


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_what_a_request_looks_like(client: Client) -> None:
    with peer(echo) as host:
        response = get(client, host.url + "/a b/caf\u00e9%20c;d?e=f&g#h")
        assert response.status == 200
        assert (response.body or b"").split(b"\r\n") == [
            b"GET /a%20b/caf%C3%A9%20c;d?e=f&g HTTP/1.1", b"Host: 127.0.0.1:%d" % host.port, b"User-Agent: test",
            b"Accept-Encoding: identity",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "target"),
    [("", b"/"), ("?a", b"/?a"), ("/a\r\nX: y", b"/aX:%20y"), ("/a%0d%0ab", b"/a%0d%0ab"), ("/\x00", b"/%00"),
     ("/\\b", b"/%5Cb"), ("/a/../b", b"/a/../b")],
)  # fmt: skip
def test_no_url_gets_anything_but_a_path_into_a_request(client: Client, path: str, target: bytes) -> None:
    with peer(echo) as host:
        body = get(client, host.url + path).body or b""
        assert body.split(b"\r\n")[0] == b"GET " + target + b" HTTP/1.1"
        assert body.count(b"\r\n") == 3


@pytest.mark.parametrize("name", ["127.0.0.1", "user:secret@127.0.0.1", "127.1", "2130706433", "0x7f.1"])
def test_hosts_in_all_spellings_lead_to_the_address_that_is_checked(name: str) -> None:
    seen: list[str] = []
    client = Client(address_allowed=lambda address: seen.append(address) or True)  # type: ignore[func-returns-value]
    with peer(echo) as host:
        body = get(client, f"http://{name}:{host.port}/a").body or b""
    assert seen == ["127.0.0.1"]
    assert b"secret" not in body
    assert b"Authorization" not in body
    assert b"Host: %s:%d" % (name.rpartition("@")[2].encode(), host.port) in body


def test_names_in_any_script_are_asked_for_in_ascii() -> None:
    client = Client(lambda _: True, look_up=names(**{"xn--caf-dma.example": ["127.0.0.1"]}))
    with peer(echo) as host:
        body = get(client, f"http://CAF\u00c9.example:{host.port}/").body or b""
    assert b"Host: xn--caf-dma.example:" in body


def test_default_ports_are_not_named_and_ipv6_stands_in_brackets() -> None:
    requests = [
        http_client._request(url, {})[1] for url in ("http://[2A00::1]/", "https://a.b:443/", "http://a.b:443/")
    ]
    assert [r.split(b"\r\n")[1] for r in requests] == [b"Host: [2a00::1]", b"Host: a.b", b"Host: a.b:443"]


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:image/png;base64,AAAA", "javascript:alert(1)", "", "http://",
     "http:///a.jpg", "http://[::1/a.jpg", "http://[fe80::1%251]/", "http://[::1%lo]/", "http://[v1.a]/",
     "http://127.0.0.1:99999/a", "http://127.0.0.1:0/a", "http://127.0.0.1:x/", "http://a..b/x.jpg",
     f"http://{'a' * 70}.org/", "no url", "//127.0.0.1/a.jpg", "http://ex\x7fample.org/a", "http://ex%61mple.org/",
     "http://127.0.0.1%2f@example.org%2f/", "http://a b/", "http://good.org\\.a/", "http://\ud800.org/",
     "http://a.org/\ud800", "http://.../", "http://a_b!.org/"],
)  # fmt: skip
def test_what_is_no_url_of_the_web(client: Client, url: str) -> None:
    assert reason(client, url) == "unsupported url"


# --- addresses -------------------------------------------------------------------------------------------------------


def test_what_is_not_public_is_not_connected_to() -> None:
    look_up = names(inside=["127.0.0.1", "10.0.0.1"], **{"127.0.0.1": ["127.0.0.1"], "localhost.": ["127.0.0.1"]},
                    nat64=["64:ff9b::7f00:1"], mapped=["::ffff:127.0.0.1"], metadata=["169.254.169.254"])  # fmt: skip
    client = Client(look_up=look_up)
    with peer(echo) as host:
        for name in ("inside", "127.0.0.1", "localhost.", "nat64", "mapped", "metadata"):
            assert reason(client, f"http://{name}:{host.port}/") == "private address"
        assert host.connections == 0


def test_of_several_addresses_only_those_allowed_are_used() -> None:
    client = Client(lambda address: address != "127.0.0.2", look_up=names(a=["127.0.0.2", "127.0.0.1"]))
    with peer(echo) as host:
        assert get(client, f"http://a:{host.port}/").status == 200


def test_addresses_that_are_dead_are_passed_over_and_then_remembered() -> None:
    tried: list[str] = []

    def allowed(address: str) -> bool:
        tried.append(address)
        return True

    client = Client(allowed, look_up=names(a=["127.0.0.2", "127.0.0.3", "127.0.0.1"]))
    with peer(lambda connection, _: connection.request() and connection.answer(b"x", Connection="close")) as host:
        for _ in range(2):
            assert get(client, f"http://a:{host.port}/").body == b"x"
    assert tried == ["127.0.0.2", "127.0.0.3", "127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"]


def test_names_that_do_not_exist_and_resolvers_that_do_not_answer(client: Client) -> None:
    def unanswered(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")

    assert reason(Client(look_up=names()), "http://a/") == "dns"
    assert reason(Client(look_up=unanswered), "http://a/") == "dns unanswered"
    go_on = threading.Event()
    hanging = Client(look_up=lambda *_, **__: go_on.wait(30) and [])
    assert reason(hanging, "http://a/", seconds=0.1) == "timed out"
    go_on.set()


# --- connections -----------------------------------------------------------------------------------------------------


def test_one_connection_serves_many_requests(client: Client) -> None:
    with peer(echo) as host:
        for n in range(20):
            assert b"GET /%d " % n in (get(client, f"{host.url}/{n}").body or b"")
        assert host.connections == 1


def test_bodies_that_nobody_wants_do_not_cost_the_connection(client: Client) -> None:
    def serve(connection: Connection, _: int) -> None:
        for request in connection.requests():
            connection.answer(b"x" * 1000, 404 if b"/404" in request else 200)

    with peer(serve) as host:
        assert get(client, host.url + "/404").body is None
        response = get(client, host.url + "/no", wanted=lambda headers: headers.get("content-length") != "1000")
        assert (response.status, response.body) == (200, None)
        assert get(client, host.url + "/yes").body == b"x" * 1000
        assert host.connections == 1


def test_long_or_slow_bodies_that_nobody_wants_are_not_waited_for(client: Client) -> None:
    def serve(connection: Connection, number: int) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 404 X\r\nContent-Length: 1000000000\r\n\r\n" if number == 1
                        else b"HTTP/1.1 404 X\r\nContent-Length: 1000\r\n\r\n")  # fmt: skip
        connection.wait_for_end()

    with peer(serve) as host:
        for number in (1, 2):
            assert get(client, host.url, seconds=0.5).status == 404
            assert host.connections == number


@pytest.mark.parametrize("rest", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", b"garbage", b"\0"])
def test_bytes_that_were_not_asked_for_end_a_connection(client: Client, rest: bytes) -> None:
    """Sent with the answer, or after it: no later request may take them for its answer."""
    after = threading.Event()

    def serve(connection: Connection, number: int) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number + (rest if number == 1 else b""))
        if number == 1:
            connection.request()
            connection.answer(b"an answer to the wrong request")
        if number == 2:
            assert after.wait(10)
            connection.send(rest)
            connection.sock.recv(1)  # the end, as the client has looked

    with peer(serve) as host:
        assert get(client, host.url).body == b"1"
        assert get(client, host.url).body == b"2"
        after.set()
        deadline = time.monotonic() + 10
        idle = next(iter(client._idle._by_age.values()))[1].sock
        while not idle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) if _readable(idle) else True:
            assert time.monotonic() < deadline
        assert get(client, host.url).body == b"3"


def _readable(sock: socket.socket) -> bool:
    import select

    return bool(select.select([sock], [], [], 0.1)[0])


def test_a_connection_that_was_closed_while_idle_is_replaced(client: Client) -> None:
    closed = threading.Event()

    def serve(connection: Connection, number: int) -> None:
        connection.request()
        connection.answer(b"%d" % number)
        if number == 1:
            connection.sock.shutdown(socket.SHUT_WR)
            closed.set()

    with peer(serve) as host:
        assert get(client, host.url).body == b"1"
        assert closed.wait(10)
        assert get(client, host.url).body == b"2"


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_connection_that_is_closed_just_as_it_is_asked_is_replaced_once(client: Client, how: str) -> None:
    def serve(connection: Connection, number: int) -> None:
        connection.request()
        if number != 3:
            connection.answer(b"%d" % number)
        connection.request()  # read, and not answered
        if how == "reset":
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with peer(serve) as host:
        assert get(client, host.url).body == b"1"
        assert get(client, host.url).body == b"2"  # asked on 1, then on 2
        assert reason(client, host.url, seconds=0.5) == "timed out"  # asked on 2, then on 3, which says nothing
        assert host.connections == 3


def test_a_new_connection_that_is_closed_without_an_answer_is_not_asked_again(client: Client) -> None:
    with peer(lambda connection, _: connection.request() and None) as host:
        assert reason(client, host.url) == "connection reset"
        assert host.connections == 1


@pytest.mark.parametrize("how", ["end", "reset"])
def test_an_answer_that_has_begun_is_not_asked_for_again(client: Client, how: str) -> None:
    def serve(connection: Connection, number: int) -> None:
        connection.request()
        connection.answer(b"x")
        connection.request()
        connection.send(b"HTTP/1.1 200")
        if how == "reset":
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with peer(serve) as host:
        assert get(client, host.url).body == b"x"
        assert reason(client, host.url) == "connection reset"
        assert host.connections == 1


def test_idle_connections_are_bounded_and_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(lambda _: True, descriptors=4)
    ended: list[int] = []
    end = threading.Condition()

    def serve(connection: Connection, number: int) -> None:
        echo(connection, number)
        with end:
            ended.append(number)
            end.notify()

    def has_ended(count: int) -> bool:
        with end:
            return end.wait_for(lambda: len(ended) >= count, 10)

    with peer(serve) as one, peer(serve) as two, peer(serve) as three:
        for host in (one, two, three):
            get(client, host.url)
        assert has_ended(1)  # the one that waited longest
        get(client, three.url)
        assert three.connections == 1
        monkeypatch.setattr(idle, "IDLE_SECONDS", 0.0)
        get(client, one.url)
        assert one.connections == 2
        assert has_ended(4)


def test_closing_the_client_closes_what_is_idle_and_what_comes_back() -> None:
    client = Client(lambda _: True)
    ended = threading.Event()

    def serve(connection: Connection, number: int) -> None:
        echo(connection, number)
        ended.set()

    with peer(serve) as host:
        get(client, host.url)
        client.close()
        assert ended.wait(10)


def test_many_threads_share_a_client(client: Client) -> None:
    with peer(echo) as host, concurrent.futures.ThreadPoolExecutor(16) as pool:
        urls = [f"{host.url}/{n}" for n in range(400)]
        bodies = pool.map(lambda url: get(client, url).body, urls)
        assert all(b"GET /%d " % n in (body or b"") for n, body in enumerate(bodies))
        assert host.connections <= 16


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd"])
def test_the_deadline_ends_an_answer_that_does_not_go_on(client: Client, sent: bytes) -> None:
    def serve(connection: Connection, _: int) -> None:
        connection.send(sent)
        connection.wait_for_end()

    with peer(serve) as host:
        assert reason(client, host.url, seconds=0.2) == "timed out"


def test_the_deadline_ends_a_handshake_that_does_not_go_on(client: Client) -> None:
    with peer(lambda connection, _: connection.wait_for_end()) as host:
        assert reason(client, host.url.replace("http:", "https:"), seconds=0.2) == "timed out"


def test_a_deadline_that_is_over_asks_nobody(client: Client) -> None:
    with peer(echo) as host:
        assert reason(client, host.url, seconds=-1) == "timed out"
        assert get(client, host.url).status == 200
        assert reason(client, host.url, seconds=-1) == "timed out"


def test_a_large_body_waits_for_its_room_until_the_deadline_at_most(client: Client) -> None:
    body = b"x" * (3 * LARGE)
    asked: list[float] = []
    with peer(lambda connection, _: connection.request() and connection.answer(body)) as host:
        deadline = time.monotonic() + 10
        response = client.get(host.url, deadline, {}, len(body), before_large=asked.append)
        assert response.body == body
        assert asked == [deadline]
        assert reason(client, host.url, max_bytes=len(body) - 1) == "too large"


def test_connections_refused_and_reset(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert reason(client, f"http://127.0.0.1:{port}/") == "connection refused"

    def reset(connection: Connection, _: int) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with peer(reset) as host:
        assert reason(client, host.url) == "connection reset"
