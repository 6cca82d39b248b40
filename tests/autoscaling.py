"""A real Ray cluster on this machine whose nodes come and go: Ray's autoscaler over its fake provider of nodes.

A node is a raylet of its own with the resources of its type; the head has no CPUs for work.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

_NODE = {"CPU": 1, "memory": 3 << 30, "object_store_memory": 100 << 20}


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's, for types of nodes that tell their memory, as those of clouds do."""

    def _create_node_with_resources_and_labels(self, config, tags, count, resources, labels) -> None:  # type: ignore[no-untyped-def]
        resources = {name: amount for name, amount in resources.items() if name != "memory"}  # has no option of its own
        super()._create_node_with_resources_and_labels(config, tags, count, resources, labels)


@dataclass(frozen=True)
class AutoscalingCluster:
    """`address` is what `--address` takes."""

    address: str
    head: psutil.Process

    def nodes(self) -> int:
        """Nodes for work that are there now."""
        raylets = [process for process in _tree(self.head) if process.name() == "raylet"]
        return sum(process.status() != psutil.STATUS_ZOMBIE for process in raylets) - 1


@contextlib.contextmanager
def autoscaling_cluster(
    folder: Path, most: int, least: int = 1, idle_minutes: float = 0.1
) -> Iterator[AutoscalingCluster]:
    """A head and `least` to `most` nodes of one CPU each; a node that was idle for `idle_minutes` goes."""
    address = f"127.0.0.1:{_free_port()}"
    config = {
        "cluster_name": "fake",
        "max_workers": most,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_minutes,
        "provider": {
            "type": "external",
            "module": "autoscaling.Provider",
            "gcs_address": address,
            "launch_multiple": True,
            "use_node_id_as_ip": True,  # all nodes have this machine's
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": _NODE, "node_config": {}, "min_workers": least, "max_workers": most},
        },
        "head_node_type": "ray.head.default",
        **{name: [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
        **{name: [] for name in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands")},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
    }
    file = folder / "autoscaling.json"
    file.write_text(json.dumps(config))
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--autoscaling-config={file}",
        "--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", "--num-cpus=0", "--include-dashboard=false",
        f"--object-store-memory={100 << 20}", "--disable-usage-stats",
    ]  # fmt: skip
    # Ray would ask for a token where its user once made one.
    environment = os.environ | {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_AUTH_MODE": "disabled",
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    log = (folder / "ray.log").open("w")
    with log, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as head:
        try:
            assert head.stdout is not None
            said = ""
            for line in head.stdout:
                said += line
                if "Ray runtime started" in line:
                    break
            else:
                raise AssertionError(said + (folder / "ray.log").read_text())
            yield AutoscalingCluster(address, psutil.Process(head.pid))
        finally:
            for process in _tree(psutil.Process(head.pid)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
