"""`ray job submit` against a real head with its dashboard, on nodes where geo_subset is not installed.

The nodes have what it depends on; the package itself comes with each job, by --working-dir.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pipeline_runs import rubbish, samples, tables, words

ROOT = Path(__file__).parent.parent
Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def node_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a node: all packages of this one but ours. Python finds ours neither installed nor by its path."""
    venv = tmp_path_factory.mktemp("node") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # Only the folder: a .pth file within it, by which this checkout is installed, is not followed.
    (venv / "lib" / version / "site-packages" / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",  # until it kills: no test should depend on how busy the machine is
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    found = subprocess.run(["python", "-c", "import geo_subset"], env=environment, cwd="/", capture_output=True)
    assert b"No module named 'geo_subset'" in found.stderr
    return environment


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def dashboard(node_environment: dict[str, str]) -> Iterator[str]:
    """URL of the dashboard of a head that runs for these tests."""
    port, dashboard, agent, metrics, client = free_ports(5)
    folder = Path(tempfile.mkdtemp())  # short, unlike pytest's: Ray's sockets lie below it
    options = {
        "node-ip-address": "127.0.0.1", "port": port, "dashboard-host": "127.0.0.1", "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent, "metrics-export-port": metrics, "ray-client-server-port": client,
        "num-cpus": 2, "object-store-memory": 128 << 20, "temp-dir": folder,
    }  # fmt: skip
    command = ["python", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log = folder / "head.log"
    with log.open("wb") as out:
        head = subprocess.Popen(command, env=node_environment, cwd="/", stdout=out, stderr=out)
    try:
        wait_for(lambda: answers(dashboard) or head.poll() is not None)
        assert head.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        processes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], object]) -> None:
    """Looks until a condition holds; pytest's time-out ends it if it never does."""
    while not condition():
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ray_job(dashboard: str, node_environment: dict[str, str]) -> Start:
    """Starts `ray job COMMAND ...` in this checkout; its output and errors are one stream."""

    def start(what: str, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["python", "-m", "ray.scripts.scripts", "job", what, "--address", dashboard, *more],
            env=node_environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


def ended(command: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output."""
    with command:
        told = command.communicate()[0]
    return command.returncode, told


def test_submit_follow_stop_submit_again(
    ray_job: Start, run_file: Path, undisturbed: tuple[dict[str, str], list[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = ["--working-dir", ".", "--", "python", "jobs/pipeline.py", *words("run", run_file, run)[1:]]
    status, told = ended(ray_job("submit", "--no-wait", "--submission-id", "stopped", *job))
    assert status == 0, told
    following = ray_job("logs", "--follow", "stopped")
    wait_for(lambda: any((run / "shards").glob("*.tar")) or following.poll() is not None)
    ended(ray_job("stop", "stopped"))
    assert "merge " in ended(following)[1]
    assert "stopped; what is done is kept. To go on: submit the job again" in ended(ray_job("logs", "stopped"))[1]
    assert "was stopped" in ended(ray_job("status", "stopped"))[1]
    assert not (run / "report").exists()
    status, told = ended(ray_job("submit", *job))
    assert status == 0, told
    assert "merge     done already" in told
    assert (tables(run), samples(run)) == undisturbed
    assert rubbish(run) == []


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("merge.min_similarty=1", "unknown key merge.min_similarty"),
        ("run=runs/mine", "run = 'runs/mine': as a Ray job this works in a copy of your folder"),
    ],
)
def test_wrong_settings_fail_the_job_with_a_line(ray_job: Start, run_file: Path, wrong: str, complaint: str) -> None:
    job = ["--working-dir", ".", "--", "python", "jobs/merge.py", str(run_file), "--set", wrong]
    status, told = ended(ray_job("submit", *job))
    assert status != 0
    assert complaint in told
    assert "failed with exit code 2" in told
    assert "Traceback" not in told


def test_a_checkout_is_sent_without_what_git_ignores(ray_job: Start, tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    for name in (".venv/pyvenv.cfg", "runs/mine/run.toml", "jobs/pipeline.py", "mine.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    status, told = ended(ray_job("submit", "--working-dir", str(tmp_path), "--", "find", ".", "-type", "f"))
    assert status == 0, told
    assert sorted(line for line in told.splitlines() if line.startswith("./")) == [
        "./.gitignore", "./jobs/pipeline.py", "./mine.toml",
    ]  # fmt: skip
