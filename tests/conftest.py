"""Fixtures that many tests share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Machines of all speeds run this: no example fails for being slow.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # importing img2dataset would look for a newer version of it


@pytest.fixture(scope="session", autouse=True)
def demo_ports() -> range:
    """Ports for embedded worlds that no other process of this test session picks at the same moment."""
    from geo_subset.demo import launch

    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    launch._PORTS = range(21200 + 25 * worker, 21225 + 25 * worker)
    return launch._PORTS


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray cluster of two CPUs for the tests of a session that can share it."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run file of a small world (40 places, 600 images) that is being served."""
    from geo_subset.demo import launch

    folder = tmp_path_factory.mktemp("world")
    world = launch.build(folder, places=40, images=600, port=None, corpus=None)
    with launch.serving(world):
        yield launch.write_run_file(world, folder)


@pytest.fixture(scope="session")
def undisturbed(run_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[str]]:
    """What a run on that world gives: the tables' digests and the uids of the samples in its shards."""
    import pipeline_runs

    run = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run(pipeline_runs.command(run_file, run), check=True, capture_output=True)
    return pipeline_runs.tables(run), pipeline_runs.samples(run)


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """URL of a bucket on a real S3 server (moto's) on loopback, for this process and those it starts."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    import s3fs

    s3fs.S3FileSystem().mkdir("geo-subset-test")
    yield "s3://geo-subset-test"
    server.stop()
