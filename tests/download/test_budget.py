"""How often a row is asked for, whatever its host answers, and what this machine's own troubles do to rows."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from collections import Counter
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
