"""The result does not depend on workers, nodes, storage or the place it is run from."""

from __future__ import annotations

import os
import subprocess

import pytest
from pipeline_runs import command, rubbish, samples, tables
from ray.cluster_utils import Cluster

from geo_subset.demo import launch


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    world = launch.build(folder, places=40, images=600, port=None, corpus=None)
    with launch.serving(world):
        yield launch.write_run_file(world, folder)


def ended(words):
    out = subprocess.run(words, capture_output=True, text=True, check=False, timeout=280)
    assert out.returncode == 0, out.stderr


@pytest.fixture(scope="module")
def one_node(run_file, tmp_path_factory):
    run = tmp_path_factory.mktemp("one") / "run"
    ended(command(run_file, run))
    return tables(run), samples(run)


def test_one_worker(run_file, one_node, tmp_path):
    ended(command(run_file, tmp_path / "run", "--set=cluster.workers=1", "--set=retrieve.clip-service.concurrency=3"))
    assert (tables(tmp_path / "run"), samples(tmp_path / "run")) == one_node


def test_two_nodes(run_file, one_node, tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ended(command(run_file, tmp_path / "run", f"--address={cluster.address}"))
    finally:
        cluster.shutdown()
    assert (tables(tmp_path / "run"), samples(tmp_path / "run")) == one_node


def test_object_storage(run_file, one_node, s3_bucket):
    run = f"{s3_bucket}/run-{os.urandom(4).hex()}"
    ended(command(run_file, run))
    assert (tables(run), samples(run)) == one_node
    assert rubbish(run) == []
    ended(command(run_file, run))
    assert (tables(run), samples(run)) == one_node
