"""The open web at its worst: each fault ends with its reason, in time, and all of them at once fit into memory."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geo_subset.download.fetch import Terms
from geo_subset.download.http_client import Client
from geo_subset.download.reasons import FetchError, failure_reason

from .asking import followed
from .conftest import image_bytes, samples_of
from .faults import FAULTS, IMAGE, Fault
from .hostile import (
    GOOD,
    Behaviour,
    Hosts,
    certificates,
    head,
    kept_open,
    ok,
    path_of,
    read_request,
    redirect,
    silent,
    slow_handshake,
    unasked,
)  # fmt: skip

TIMEOUT = 2.0
#: Seconds beyond its deadline that an image may take.
GRACE = 1.0
#: Bytes that a worker may take at its peak, with faults of all kinds in every thread.
MEMORY = 1_500_000_000
THREADS = 64
#: So many hosts of every fault that costs memory.
HEAVY = 6


def is_ours(address: str) -> bool:
    return address.startswith("127.77.")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    servers = Hosts()
    yield servers
    servers.close()


def outcome(client: Client, url: str, timeout: float = TIMEOUT) -> tuple[str, bytes]:
    """The reason, or that it is an image, and its bytes; within the deadline and a second."""
    started = time.monotonic()
    try:
        found = IMAGE, followed(client, url, Terms(timeout, 64 << 20, None, None, ()))[0]
    except FetchError as error:
        found = error.reason, b""
    assert time.monotonic() - started < timeout + GRACE
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_has_its_reason_in_time_and_leaves_no_connection(hosts: Hosts, fault: Fault) -> None:
    if fault.content is not None:
        fault.content()
    client = Client(is_ours)
    # What ends by itself may take its time on a busy machine.
    timeout = TIMEOUT if "timed out" in fault.reasons else 5 * TIMEOUT
    reason, _ = outcome(client, hosts.serve(fault.behave) + "/a.jpg", timeout)
    client.close()
    assert reason in fault.reasons
    assert hosts.end(5.0), "a connection is still open"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("good", IMAGE), ("expired", "tls"), ("not yet valid", "tls"), ("wrong name", "tls"), ("self-signed", "tls")],
)
def test_certificates_are_checked(hosts: Hosts, tmp_path: Path, name: str, reason: str) -> None:
    trusted, contexts = certificates(tmp_path)
    client = Client(is_ours, ca_file=str(trusted))
    assert outcome(client, hosts.serve(ok(GOOD), contexts[name]) + "/a.jpg")[0] == reason


@pytest.mark.parametrize(("behave", "reason"), [(slow_handshake, "timed out"), (silent, "timed out"), (unasked, "tls")])
def test_a_handshake_that_does_not_end(hosts: Hosts, behave: Behaviour, reason: str) -> None:
    url = hosts.serve(behave).replace("http:", "https:")
    assert outcome(Client(is_ours), url + "/a.jpg")[0] == reason


@pytest.mark.parametrize(
    "inside",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "0x7f.1",
     "10.0.0.1", "169.254.169.254", "[fd00:ec2::254]", "[64:ff9b::7f00:1]"],
)  # fmt: skip
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_lead_to_no_private_address(hosts: Hosts, inside: str, status: str) -> None:
    secret = hosts.serve(ok(GOOD), address="127.0.0.1")
    port = secret.rpartition(":")[2]
    url = hosts.serve(redirect(f"http://{inside}:{port}/a.jpg", status))
    assert outcome(Client(is_ours), url + "/a.jpg")[0] == "private address"
    assert hosts.connections[secret.removeprefix("http://")] == 0


def resolved_to(*answers: list[str]) -> Any:
    """A look-up in place of the system's: the first answer, then the second, and so on."""
    left = list(answers)

    def look_up(host: str, port: Any, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in addresses]

    return look_up


def test_names_that_resolve_to_private_addresses(hosts: Hosts) -> None:
    secret = hosts.serve(ok(GOOD), address="127.0.0.1")
    port = secret.rpartition(":")[2]
    for addresses in (["127.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["169.254.169.254"]):
        client = Client(is_ours, look_up=resolved_to(addresses))
        assert outcome(client, f"http://img.example.org:{port}/a.jpg")[0] == "private address"
    assert hosts.connections[secret.removeprefix("http://")] == 0


def test_a_name_that_changes_to_a_private_address_once_it_was_checked(hosts: Hosts) -> None:
    secret = hosts.serve(ok(GOOD), address="127.0.0.1")
    port = int(secret.rpartition(":")[2])
    client = Client(is_ours, look_up=resolved_to(["127.77.200.1"], ["127.0.0.1"]))
    for _ in range(2):
        reason, _ = outcome(client, f"http://img.example.org:{port}/a.jpg")
        assert reason in ("connection refused", "private address")  # nobody listens at the first address
    assert hosts.connections[secret.removeprefix("http://")] == 0


def test_a_resolver_that_hangs_costs_the_deadline_and_nobody_else() -> None:
    release = threading.Event()

    def look_up(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if host == "slow.example.org":
            release.wait()
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    client = Client(is_ours, look_up=look_up)
    assert outcome(client, "http://slow.example.org/a.jpg")[0] == "timed out"
    assert outcome(client, "http://gone.example.org/a.jpg")[0] == "dns"
    release.set()


SECOND = image_bytes(100, 100, seed=1)
EVIL = image_bytes(64, 64, seed=2)


def answer(body: bytes) -> bytes:
    return head(Content_Length=len(body)) + body


@pytest.mark.parametrize(
    "after",
    [b"garbage", b"\r\n\r\n", answer(EVIL), answer(EVIL)[:100], b"HTTP/1.1 200 OK\r\n"],
    ids=["garbage", "blank lines", "a second answer", "half a second answer", "a second head"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_what_follows_an_answer_is_never_taken_for_the_next(hosts: Hosts, after: bytes, chunked: bool) -> None:
    """Response splitting: a host answers one request twice, and the second answer must not be given for another URL."""
    first = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
    answers = {"/a.jpg": (first if chunked else answer(GOOD)) + after, "/b.jpg": answer(SECOND)}
    url = hosts.serve(kept_open(answers.__getitem__))
    client = Client(is_ours)
    for path, body in (("/a.jpg", GOOD), ("/b.jpg", SECOND)) * 3:
        assert outcome(client, url + path) == (IMAGE, body)


def test_an_answer_that_comes_while_nothing_was_asked_is_not_taken(hosts: Hosts) -> None:
    taken, sent = threading.Event(), threading.Event()

    def behave(connection: socket.socket, stopping: threading.Event) -> None:
        first = path_of(read_request(connection)) == "/a.jpg"
        connection.sendall(answer(GOOD if first else SECOND))
        if first and taken.wait(30):
            connection.sendall(answer(EVIL))
            sent.set()
        kept_open(lambda _: answer(SECOND))(connection, stopping)

    url = hosts.serve(behave)
    client = Client(is_ours)
    assert outcome(client, url + "/a.jpg") == (IMAGE, GOOD)
    taken.set()
    assert sent.wait(30)
    assert outcome(client, url + "/b.jpg") == (IMAGE, SECOND)


CHILD = """
import json, sys, time
import pyarrow as pa
from pathlib import Path
from geo_subset.download.shard import download_shard
from geo_subset.settings import DownloadSettings

table, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
samples = pa.ipc.open_file(table).read_all()
started = time.monotonic()
_, counts = download_shard(samples, 0, folder, DownloadSettings(**settings))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps({"counts": counts, "peak": peak, "seconds": time.monotonic() - started}))
"""


@pytest.mark.slow
def test_all_faults_in_one_shard(hosts: Hosts, tmp_path: Path) -> None:
    faults: dict[str, Fault] = {}
    for fault in FAULTS:
        if fault.content is not None:
            fault.content()
        for _ in range(HEAVY if fault.heavy else 1):
            faults[hosts.serve(fault.behave) + "/a.jpg"] = fault
    good = [hosts.serve(ok(GOOD)) + "/a.jpg" for _ in range(20)]
    samples = samples_of([*faults, *good])
    # Each fault has a host of its own, as on the web: they are not to wait for one another.
    domains = [url.split("/")[2] for url in samples["url"].to_pylist()]
    samples = samples.set_column(samples.schema.get_field_index("domain"), "domain", pa.array(domains))
    with pa.ipc.new_file(str(tmp_path / "samples.arrow"), samples.schema) as writer:
        writer.write_table(samples)
    settings = {"allow_private_hosts": True, "threads": THREADS, "retries": 0, "timeout": TIMEOUT}
    out = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "samples.arrow"), str(tmp_path), json.dumps(settings)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    told = json.loads(out.stdout.splitlines()[-1])
    print(f"peak {told['peak'] / 1e6:.0f} MB, {told['seconds']:.1f} s, {told['counts']}")

    rows = pq.read_table(tmp_path / "00000.parquet").to_pylist()
    assert sorted(row["url"] for row in rows) == sorted([*faults, *good])
    ends = {
        row["url"]: IMAGE if row["status"] == "success" else failure_reason(row["status"], row["error_message"])
        for row in rows
    }
    wrong = {(faults[url].name, end) for url, end in ends.items() if url in faults and end not in faults[url].in_shard}
    assert wrong == set()
    assert {ends[url] for url in good} == {IMAGE}
    counts = Counter(told["counts"])
    assert counts.pop("attempted") == len(rows) == counts.total()
    assert told["peak"] < MEMORY
