"""The result does not depend on workers, nodes, storage or the place it is run from."""

from __future__ import annotations

import os
import subprocess

import pytest
from pipeline_runs import command, rubbish, samples, tables
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.ci


def ended(words):
    out = subprocess.run(words, capture_output=True, text=True, check=False, timeout=280)
    assert out.returncode == 0, out.stderr
    return out.stdout


def test_two_nodes(run_file, undisturbed, tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ended(command(run_file, tmp_path / "run", f"--address={cluster.address}", what="download"))
    finally:
        cluster.shutdown()
    assert (tables(tmp_path / "run"), samples(tmp_path / "run")) == undisturbed


def test_one_worker_on_object_storage(run_file, undisturbed, s3_bucket):
    run = f"{s3_bucket}/run-{os.urandom(4).hex()}"
    one = ("--set=cluster.workers=1", "--set=retrieve.clip-service.concurrency=3")
    ended(command(run_file, run, *one, what="download"))
    assert (tables(run), samples(run)) == undisturbed
    assert rubbish(run) == []
    assert "nothing to do" in ended(command(run_file, run, *one, what="download"))
