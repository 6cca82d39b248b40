"""How often a row is asked for, whatever its host answers, and what this machine's own troubles do to rows."""

from __future__ import annotations

import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geo_subset import tables
from geo_subset.download import shard
from geo_subset.download.http_client import Client
from geo_subset.download.shard import download_shard
from geo_subset.errors import NoNetworkError, ShortageError
from geo_subset.settings import DownloadSettings

from .conftest import Web, image_bytes, of_domains, samples_of
from .peer import Connection, peer

QUICK: dict[str, Any] = {"allow_private_hosts": True, "retries": 1, "timeout": 5.0, "image_size": 64}


@pytest.mark.parametrize(
    ("status", "retry_after"),
    [
        (503, "0"), (429, "0"), (503, "Wed, 21 Oct 2015 07:28:00 GMT"), (429, "1"), (503, "0.001"), (503, "9" * 400),
        (429, "1e999"), (503, "-1"), (503, "Fri, 31 Dec 9999 23:59:59 -2359"), (503, ""), (500, None),
    ],
)  # fmt: skip
def test_no_answer_gets_a_row_more_requests_than_set(
    web: Web, tmp_path: Path, status: int, retry_after: str | None
) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    links = [web.serve(f"/{n}", status=status, headers=headers) for n in range(3)]
    links.append(web.serve("/good.jpg", image_bytes()))
    domains = ["busy.example"] * 3 + ["good.example"]
    _, counts = download_shard(of_domains(links, domains), 0, tmp_path, DownloadSettings(**QUICK))
    assert counts == {"attempted": 4, "succeeded": 1, f"failed: http {status}": 3}
    assert max(web.requests.values()) <= 2
    assert web.requests["/good.jpg"] == 1


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_request_sent_twice_counts_twice(tmp_path: Path, retries: int) -> None:
    """A host that closes connections that have waited just as it is asked on them again."""
    asked: Counter[bytes] = Counter()

    def serve(connection: Connection, _: int) -> None:
        for number, request in enumerate(connection.requests()):
            asked[request.split()[1]] += 1
            if number:
                return
            connection.answer(status=503)

    with peer(serve) as host:
        links = [f"{host.url}/{n}" for n in range(6)]
        settings = DownloadSettings(**QUICK | {"retries": retries, "threads": 1})
        _, counts = download_shard(samples_of(links), 0, tmp_path, settings)
    assert counts["succeeded"] == 0
    assert max(asked.values()) <= 1 + retries


def test_rows_wait_while_their_host_is_not_well(web: Web, tmp_path: Path) -> None:
    """A whole host that is over its limit, and answers again after three times the rest it first asked for."""
    body, lock, refused = image_bytes(), threading.Lock(), 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal refused
        with lock:
            well = refused >= 10
            refused += not well
        handler.send_response(200 if well else 429)
        if not well:
            handler.send_header("Retry-After", "1")
        handler.end_headers()
        handler.wfile.write(body if well else b"")

    links = [web.on(f"/{n}.jpg", answer) for n in range(40)]
    _, counts = download_shard(samples_of(links), 0, tmp_path, DownloadSettings(**QUICK))
    # Eight were asked for before the first answer came, and after that one for each rest.
    assert counts["succeeded"] >= 37
    assert max(web.requests.values()) <= 2


@dataclass
class Asked:
    """How often a host was asked, and how many requests it had open at most."""

    times: int = 0
    now: int = 0
    most: int = 0


def led_to(web: Web, answer: Callable[[BaseHTTPRequestHandler], None], links: int) -> tuple[list[str], Asked]:
    """URLs of as many paths on 127.0.0.1, all of which redirect to one page of localhost; and how that was asked."""
    lock, asked = threading.Lock(), Asked()

    def counted(handler: BaseHTTPRequestHandler) -> None:
        with lock:
            asked.times, asked.now = asked.times + 1, asked.now + 1
            asked.most = max(asked.most, asked.now)
        try:
            answer(handler)
        finally:
            with lock:
                asked.now -= 1

    web.on("/there", counted)
    headers = {"Location": f"http://localhost:{web.port}/there"}
    return [web.serve(f"/r{n}", status=302, headers=headers) for n in range(links)], asked


def refusing(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(503)
    handler.send_header("Retry-After", "86400")
    handler.end_headers()


def test_a_host_is_not_blamed_for_the_one_it_leads_to(web: Web, tmp_path: Path) -> None:
    (link, *_), _asked = led_to(web, refusing, 1)
    good = [web.serve(f"/{n}.jpg", image_bytes()) for n in range(20)]
    _, counts = download_shard(samples_of([link, *good]), 0, tmp_path, DownloadSettings(**QUICK | {"threads": 2}))
    assert counts == {"attempted": 21, "succeeded": 20, "failed: http 503": 1}


def test_rows_are_not_led_to_a_host_that_wants_rest(web: Web, tmp_path: Path) -> None:
    links, asked = led_to(web, refusing, 30)
    settings = DownloadSettings(**QUICK | {"requests_per_host": 3})
    files, counts = download_shard(of_domains(links), 0, tmp_path, settings)
    assert counts == {"attempted": 30, "succeeded": 0, "failed: http 503": 30}
    assert 1 <= asked.times <= 3
    messages = set(pq.read_table(files.parquet)["error_message"].to_pylist())
    assert messages == {"http 503", "http 503: not asked: its host wants rest"}


def test_hosts_that_lead_to_one_host_keep_to_its_limit(web: Web, tmp_path: Path) -> None:
    body = image_bytes()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        threading.Event().wait(0.02)
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    links, asked = led_to(web, slow, 40)
    settings = DownloadSettings(**QUICK | {"requests_per_host": 3})
    _, counts = download_shard(of_domains(links), 0, tmp_path, settings)
    assert counts == {"attempted": 40, "succeeded": 40}
    assert (asked.times, asked.most <= 3) == (40, True)


def test_a_rate_holds_for_requests_that_redirects_lead_to(web: Web, tmp_path: Path) -> None:
    times: list[float] = []

    def noted(handler: BaseHTTPRequestHandler) -> None:
        times.append(time.monotonic())
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + image_bytes())

    links, _ = led_to(web, noted, 6)
    settings = DownloadSettings(**QUICK | {"rate_per_host": 10.0})
    _, counts = download_shard(of_domains(links), 0, tmp_path, settings)
    assert counts == {"attempted": 6, "succeeded": 6}
    assert times[-1] - times[0] >= 0.4


def test_a_row_that_waits_for_room_waits_for_its_host_too(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two large images with room for one; the host then wants more rest than it gets, before there is room again."""
    monkeypatch.setattr(shard, "_LARGE_BODIES", 1)
    large, no_room, given_up = b"\xff\xd8" + bytes(3 << 20), threading.Event(), threading.Event()
    monkeypatch.setattr(
        shard.events, "event", lambda name, *_, **__: given_up.set() if name == "host given up" else None
    )

    def big(handler: BaseHTTPRequestHandler) -> None:
        head = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large)
        handler.wfile.write(head + large[: 5 << 19])
        while not given_up.wait(0.02):
            if select.select([handler.connection], [], [], 0)[0]:  # closed
                no_room.set()
                return
        handler.wfile.write(large[5 << 19 :])

    def busy(handler: BaseHTTPRequestHandler) -> None:
        assert no_room.wait(10)
        refusing(handler)

    links = [web.on("/0", big), web.on("/1", big), web.on("/busy", busy)]
    _, counts = download_shard(samples_of(links), 0, tmp_path, DownloadSettings(**QUICK | {"timeout": 20.0}))
    assert counts["failed: http 503"] == 2
    assert web.requests == {"/0": 1, "/1": 1, "/busy": 1}


def client_of(monkeypatch: pytest.MonkeyPatch, look_up: Any) -> None:
    client = Client(lambda _: True, look_up=look_up)
    monkeypatch.setattr(shard, "_client", lambda _: client)


def no_such_name(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def test_without_dns_the_run_is_stopped_and_nothing_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client_of(monkeypatch, no_such_name)
    samples = of_domains([f"http://www.d{n}.example/a.jpg" for n in range(300)])
    with pytest.raises(NoNetworkError, match="is there a network"):
        download_shard(samples, 0, tmp_path, DownloadSettings(**QUICK))
    # Links that have failed before may all be dead.
    _, counts = download_shard(samples, 1, tmp_path, DownloadSettings(**QUICK | {"retries": 0}), all_dead=True)
    assert counts == {"attempted": 300, "succeeded": 0, "failed: dns unanswered": 300}


def test_where_nothing_connects_the_run_is_stopped(deaf: int, tmp_path: Path) -> None:
    samples = of_domains([f"http://127.0.0.1:{deaf}/{n}.jpg" for n in range(300)])
    with pytest.raises(NoNetworkError, match=r"timed out: 200\)"):
        download_shard(samples, 0, tmp_path, DownloadSettings(**QUICK | {"timeout": 0.5}))


def test_a_dead_list_with_a_sign_of_life_is_no_dead_network(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_name(host: str, *_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, 0, 0, "", ("127.0.0.1", 0))] if host == "lives.example" else no_such_name()

    client_of(monkeypatch, one_name)
    links = [f"http://www.d{n}.example/a.jpg" for n in range(400)]
    links[0] = f"http://lives.example:{web.port}/gone.jpg"
    samples = of_domains(links)
    rows = sorted(samples.to_pylist(), key=lambda row: "lives" not in row["url"])  # among the first that are asked
    _, counts = download_shard(
        pa.Table.from_pylist(rows, tables.SAMPLES), 0, tmp_path, DownloadSettings(**QUICK | {"threads": 16})
    )
    assert counts == {"attempted": 400, "succeeded": 0, "failed: dns unanswered": 399, "failed: http 404": 1}


_CUT_OFF = """
import sys
from pathlib import Path
from geo_subset.download.shard import download_shard
from geo_subset.settings import DownloadSettings
from download.conftest import of_domains
hosts = ["1.1.1.%d", "www.d%d.example", "[2606:4700::%d]"]
samples = of_domains([f"http://{hosts[n % 3] % (n // 3)}/a.jpg" for n in range(300)])
download_shard(samples, 0, Path(sys.argv[1]), DownloadSettings(retries=1, timeout=5, image_size=64))
"""


@pytest.mark.ci
def test_in_a_network_namespace_of_its_own_the_run_is_stopped(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no network namespace")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
    command = ["unshare", "-n", sys.executable, "-c", _CUT_OFF, str(tmp_path)]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert "NoNetworkError: no host of" in ended.stderr
    assert "connection failed: " in ended.stderr


_IN_A_SHELL = """
import json, sys
from pathlib import Path
from geo_subset.download.shard import download_shard
from geo_subset.settings import DownloadSettings
from download.conftest import of_domains
settings = DownloadSettings(allow_private_hosts=True, retries=0, image_size=64)
samples = of_domains([f"http://127.0.0.1:{sys.argv[1]}/{n}.jpg" for n in range(200)])
print(json.dumps(download_shard(samples, 0, Path(sys.argv[2]), settings)[1]))
"""


@pytest.mark.ci
@pytest.mark.parametrize("limits", ["ulimit -n 64", "ulimit -Sn 64"])
def test_few_descriptors_cost_no_image(tmp_path: Path, limits: str) -> None:
    body = image_bytes()

    def serve(connection: Connection, _: int) -> None:
        for _request in connection.requests():
            threading.Event().wait(0.1)
            connection.answer(body)

    with peer(serve) as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(["tests", *sys.path]))
        command = f"{limits}; exec {sys.executable} -c '{_IN_A_SHELL}' {host.port} {tmp_path}"
        root = Path(__file__).parents[2]
        ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=root, check=False)
    assert ended.stdout.strip().endswith('{"attempted": 200, "succeeded": 200}'), ended.stderr


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "_SHORTAGE_PAUSE", 0.0)


def test_a_shortage_that_passes_costs_no_row(
    web: Web, tmp_path: Path, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, asked = shard.fetch, Counter[str]()

    def short(client: Any, url: str, *more: Any) -> Any:
        asked[url] += 1
        if asked[url] <= 2:
            raise ShortageError("this machine lacks ports")
        return fetch(client, url, *more)

    monkeypatch.setattr(shard, "fetch", short)
    links = [web.serve(f"/{n}.jpg", image_bytes()) for n in range(2)]
    _, counts = download_shard(of_domains(links), 0, tmp_path, DownloadSettings(**QUICK | {"retries": 0}))
    assert counts == {"attempted": 2, "succeeded": 2}


def test_a_shortage_that_stays_fails_the_shard_and_no_row(
    web: Web, tmp_path: Path, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def no_socket(*_: Any) -> Any:
        raise OSError(24, "Too many open files")

    links = [web.serve(f"/{n}.jpg", image_bytes()) for n in range(40)]
    client_of(monkeypatch, socket.getaddrinfo)
    monkeypatch.setattr(Client, "_socket", no_socket)
    with pytest.raises(ShortageError, match=r"lacks file descriptors: raise `ulimit -n`"):
        download_shard(of_domains(links), 0, tmp_path, DownloadSettings(**QUICK))
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard


def test_memory_lacking_for_a_picture_is_told_as_such(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(shard, "resized", no_memory)
    samples = samples_of([web.serve("/a.jpg", image_bytes())])
    files, counts = download_shard(samples, 0, tmp_path, DownloadSettings(**QUICK))
    assert counts == {"attempted": 1, "succeeded": 0, "failed: shortage here": 1}
    # So that a retry pass takes it, as it takes no picture that cannot be decoded.
    assert pq.read_table(files.parquet)["status"].to_pylist() == ["failed_to_download"]
