"""The metrics of a run as Prometheus scrapes them: from the endpoint of a real cluster's node."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pipeline_runs
import pytest
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.ci

#: A driver that outlives its run until its input ends: metrics go with their process.
DRIVER = """
import sys, ray
from geo_subset.cli import main
address, words = sys.argv[1], sys.argv[2:]
ray.init(address, log_to_driver=False)
print("ended", main(words), flush=True)
sys.stdin.read()
"""
SAMPLE = re.compile(r"^ray_geo_subset_(\w+)\{(.*)\} (\S+)$", re.M)


@pytest.fixture
def node(monkeypatch):
    """Address of a cluster and its node's endpoint of metrics, which are sent there every three seconds."""
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "3000")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = {"num_cpus": 2, "include_dashboard": False, "metrics_export_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    yield cluster.address, f"http://127.0.0.1:{port}/metrics"
    cluster.shutdown()


def scraped(url):
    """(metric, stage, reason or '') -> sum over steps."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    found = Counter()
    for name, tags, value in SAMPLE.findall(text):
        labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', tags))
        found[name, labels["stage"], labels.get("reason", "")] += float(value)
        assert labels["run"].endswith("/run")
    return found


def expected(run):
    """What the manifests say of the units of stages that run on the cluster."""
    wanted = {}
    for stage, folder in (("retrieve", "matches"), ("merge", "samples"), ("download", "shards")):
        manifest = json.loads((run / folder / "_manifest.json").read_text())
        for counter, count in manifest["counters"].items():
            if counter in ("places_failed", "requests"):
                continue  # what the stage adds itself; what failed requests make uneven
            name, reason = {"attempted": "images_attempted", "succeeded": "images"}.get(counter, counter), ""
            if counter.startswith("failed: "):
                name, reason = "errors", counter.removeprefix("failed: ")
            if count and not counter.startswith("requests_failed"):
                wanted[f"{name}_total", stage, reason] = count
        stored = sum(e["bytes"] for e in manifest["files"] if e["path"] != "failures.parquet")
        wanted["bytes_stored_total", stage, ""] = stored
        wanted["units_total", stage, ""] = len([u for u in manifest["units"] if u["unit"] != "failures"])
    return wanted


def test_the_endpoint_shows_what_the_manifests_count(run_file, node, tmp_path):
    address, url = node
    # Slowly, so that what holds while places are asked for is sent to the endpoint meanwhile.
    slowly = "--set=retrieve.clip-service.rate_limit=6"
    words = pipeline_runs.words("download", run_file, tmp_path / "run", slowly)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, address, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        assert driver.stdout is not None
        seen = Counter()  # gauges are there for six seconds after they were set last
        with ThreadPoolExecutor(1) as reader:
            ended = reader.submit(lambda: next(line for line in driver.stdout if line.startswith("ended")))
            while not ended.done():
                seen |= Counter({key: value + 1 for key, value in scraped(url).items()})
                time.sleep(0.3)
        assert ended.result() == "ended 0\n"
        wanted, deadline = expected(tmp_path / "run"), time.monotonic() + 120
        while (got := scraped(url)) != {**got, **wanted} and time.monotonic() < deadline:
            time.sleep(0.5)
        assert {key: got[key] for key in wanted} == wanted
        places = wanted["places_total", "retrieve", ""]
        assert places == 40
        assert seen["progress_done", "retrieve", ""] == places + 1
        assert seen["progress_left", "download", ""] > 1
        assert seen["requests_allowed", "retrieve", ""] > 1
        assert seen["requests_in_flight", "retrieve", ""] >= 1
        assert seen["requests_in_flight", "download", ""] > 1
        assert got["used_cpu_seconds_total", "download", ""] > 0
    finally:
        driver.communicate(timeout=120)
