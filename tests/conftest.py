"""Fixtures that many tests share."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Machines of all speeds run this: no example fails for being slow.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

#: Files whose tests share a world and what an undisturbed run on it gives.
_WHOLE_RUNS = ("test_kill.py", "test_download_faults.py", "test_equal_runs.py", "test_jobs.py")
#: Where tests wait for functions to be compiled, which only the first one has to.
_COMPILED = "tests/retrieve/captions/"
#: Other files that take long.
_LONG = ("test_cli.py", "test_verify.py", "test_backend_faults.py", "test_stage.py", "test_retry_command.py")
#: Exit status, stdout and stderr of a command.
Ended = tuple[int, str, str]

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # importing img2dataset would look for a newer version of it


def _is_whole_run(path: str) -> bool:
    return path.endswith(_WHOLE_RUNS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no process of several works alone at the end."""

    def late(item: pytest.Item) -> bool:
        return item.path.name not in _LONG and _COMPILED not in item.path.as_posix()

    items.sort(key=lambda item: (not _is_whole_run(item.path.name), late(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests run in one process, as they share fixtures, and so do the files of whole runs."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path: str = super()._split_scope(nodeid)
            return "whole runs" if _is_whole_run(path) else _COMPILED if _COMPILED in path else path

    config.option.loadscopereorder = False  # by the number of tests
    return Scheduling(config, log)


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
def geo_subset_here(ray_session: None) -> Callable[..., Ended]:
    """The command in this process and on its Ray, for tests that would spend their time on starting another."""
    from geo_subset.cli import main

    def command(*words: str | Path) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(word) for word in words])
        return status, out.getvalue(), err.getvalue()

    return command


@pytest.fixture(scope="session")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run file of a small world (40 places, 600 images) that is being served."""
    from geo_subset.demo import launch

    folder = tmp_path_factory.mktemp("world")
    world = launch.build(folder, places=40, images=600, port=None, corpus=None)
    with launch.serving(world):
        yield launch.write_run_file(world, folder)


@pytest.fixture(scope="session")
def undisturbed(
    run_file: Path, geo_subset_here: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], list[str]]:
    """What a run on that world gives: the tables' digests and the uids of the samples in its shards."""
    import pipeline_runs

    run = tmp_path_factory.mktemp("undisturbed") / "run"
    status, _, err = geo_subset_here(*pipeline_runs.words("download", run_file, run))
    assert status == 0, err
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
