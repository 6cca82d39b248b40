"""Ray of a local run: who can reach it, who may speak to it, who can read what it writes."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, os, sys
import psutil, ray
from geo_subset import cluster
from geo_subset.settings import ClusterSettings

def said(gcs, metadata):
    import grpc
    with grpc.insecure_channel(gcs) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        try:
            return len(ask(b"", metadata=metadata, timeout=20)) > 0
        except grpc.RpcError as error:
            return error.code().name

def answered(port, path, body):
    import urllib.request
    wanted = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(wanted, timeout=10) as answer:
            return answer.status
    except Exception as error:
        return getattr(error, "code", type(error).__name__)

def work(unit):
    return os.environ.get("RAY_AUTH_TOKEN")

with cluster.connect(ClusterSettings(workers=1)):
    (outcome,) = cluster.run_tasks(work, [1], (), ClusterSettings(workers=1))
    me = psutil.Process()
    listening = [
        (process.name(), connection.laddr.ip)
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    jobs = [
        (process.name(), connection.laddr.port, answered(connection.laddr.port, path, body))
        for process in me.children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
        for path, body in (("/metrics", None), ("/api/job_agent/jobs/", b'{"entrypoint": "id"}'))
    ]
    gcs = ray.get_runtime_context().gcs_address
    folder = ray._private.worker._global_node.get_temp_dir_path()
    folder = os.path.dirname(folder)
    mode = os.stat(folder).st_mode & 0o777
    token = os.environ["RAY_AUTH_TOKEN"]
    answers = [said(gcs, ()), said(gcs, [("authorization", "Bearer " + "0" * 64)])]
    answers.append(said(gcs, [("authorization", "Bearer " + token)]))
print(json.dumps({
    "listening": listening, "folder": folder, "mode": mode, "answers": answers, "jobs": jobs,
    "same": outcome.result == token,
    "left": os.path.exists(folder), "environment": [name for name in os.environ if name.startswith("RAY_AUTH")],
}))
"""


@pytest.fixture(scope="module")
def local_run() -> dict:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def _loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_no_process_of_a_local_run_listens_beyond_loopback(local_run):
    assert len(local_run["listening"]) > 3, "Ray's processes are looked at"
    assert [(name, ip) for name, ip in local_run["listening"] if not _loopback(ip)] == []


def test_ray_answers_only_who_has_the_token_of_the_run(local_run):
    pytest.importorskip("ray._private.authentication")
    assert local_run["answers"] == ["UNAUTHENTICATED", "UNAUTHENTICATED", True]
    assert local_run["same"], "workers have it from the environment"
    assert local_run["environment"] == [], "it goes with the run"


def test_nobody_posts_a_job_or_reads_metrics_without_the_token(local_run):
    pytest.importorskip("ray._private.authentication")
    assert any("Agent" in name for name, _, _ in local_run["jobs"]), "Ray's agents are asked"
    assert [asked for asked in local_run["jobs"] if isinstance(asked[2], int) and asked[2] not in (401, 403)] == []


def test_what_ray_writes_is_for_its_owner_alone_and_goes_with_the_run(local_run):
    assert local_run["mode"] == 0o700
    assert not local_run["left"]


def test_a_long_temporary_folder_leaves_room_for_sockets(tmp_path, monkeypatch):
    from geo_subset import local_ray

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 60)))
    with local_ray.private() as options:
        folder = Path(options["_temp_dir"]).parent
        assert len(options["_temp_dir"]) <= 40
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
