"""The files for `ray up` are what it accepts: read, completed and checked by Ray's own code, without asking AWS."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
AWS, ON_PREMISES = "cluster.yaml", "examples/cluster-on-premises.yaml"
Tree = dict[str, Any]


def read(file: str) -> Tree:
    return yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))


@pytest.fixture(params=[AWS, ON_PREMISES])
def config(request: pytest.FixtureRequest) -> Tree:
    return read(request.param)


def accepted(config: Tree) -> Tree:
    """What `ray up` does with a file before it speaks to the cloud."""
    complete = prepare_config(copy.deepcopy(config))
    validate_config(complete)
    return complete


def test_ray_accepts_it_as_it_stands(config: Tree) -> None:
    complete = accepted(config)
    # Ray's defaults for AWS would install Ray's nightly build: nothing of them may shine through.
    made_of_the_addresses = (
        {"available_node_types", "head_node_type"} if config["provider"]["type"] == "local" else set()
    )
    assert set(config) >= set(complete) - {"docker"} - made_of_the_addresses
    assert complete["worker_setup_commands"] == config["setup_commands"]


ANYWHERE: dict[str, Callable[[Tree], object]] = {
    "no provider": lambda c: c.pop("provider"),
    "no provider type": lambda c: c["provider"].pop("type"),
    "no cluster name": lambda c: c.update(cluster_name=None),
    "an unknown key": lambda c: c.update(max_worker=8),
    "workers not a number": lambda c: c.update(max_workers="eight"),
    "setup is no list": lambda c: c.update(setup_commands="pip install geo-subset"),
    "setup holds a mapping": lambda c: c["setup_commands"].append({"pip": "install"}),
}
ON_AWS: dict[str, Callable[[Tree], object]] = {
    "head type that is none": lambda c: c.update(head_node_type="boss"),
    "more workers than allowed": lambda c: c["available_node_types"]["worker"].update(min_workers=99),
    "no node config": lambda c: c["available_node_types"]["worker"].pop("node_config"),
    "no resources": lambda c: c["available_node_types"]["worker"].pop("resources"),
    "resources not a number": lambda c: c["available_node_types"]["worker"].update(resources={"CPU": "8"}),
}
ON_ONES_OWN: dict[str, Callable[[Tree], object]] = {
    "no address of the head": lambda c: c["provider"].pop("head_ip"),
    "no addresses of workers": lambda c: c["provider"].pop("worker_ips"),
    "addresses that are no list": lambda c: c["provider"].update(worker_ips="192.0.2.2"),
    "node types": lambda c: c.update(available_node_types={"worker": {"resources": {"CPU": 8}, "node_config": {}}}),
    "an unknown key of auth": lambda c: c["auth"].update(user="ubuntu"),
}
REFUSED = (jsonschema.ValidationError, ValueError, KeyError, TypeError, click.ClickException)


@pytest.mark.parametrize("breakage", ANYWHERE)
def test_ray_refuses_it_broken(config: Tree, breakage: str) -> None:
    ANYWHERE[breakage](config)
    with pytest.raises(REFUSED):
        accepted(config)


@pytest.mark.parametrize("breakage", ON_AWS)
def test_ray_refuses_wrong_node_types(breakage: str) -> None:
    config = read(AWS)
    ON_AWS[breakage](config)
    with pytest.raises(REFUSED):
        accepted(config)


@pytest.mark.parametrize("breakage", ON_ONES_OWN)
def test_ray_refuses_wrong_machines(breakage: str) -> None:
    config = read(ON_PREMISES)
    ON_ONES_OWN[breakage](config)
    with pytest.raises(REFUSED):
        accepted(config)


def test_head_stays_and_workers_are_spot() -> None:
    config = read(AWS)
    types = accepted(config)["available_node_types"]
    head, worker = types[config["head_node_type"]], types["worker"]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["max_workers"] == 0
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert worker["max_workers"] == config["max_workers"] > worker["min_workers"]


def test_machines_of_ones_own_all_stay() -> None:
    config = read(ON_PREMISES)
    (machine,) = accepted(config)["available_node_types"].values()
    assert machine["min_workers"] == machine["max_workers"] == len(config["provider"]["worker_ips"])
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]


def test_nodes_install_this_package_and_its_pinned_versions(config: Tree) -> None:
    setup = "\n".join(config["setup_commands"])
    (mounted,) = (remote for remote, local in config["file_mounts"].items() if local == ".")
    assert f'"$HOME/{Path(mounted).name}[s3]"' in setup
    assert str(Path(mounted).parent) in ("~", f"/home/{config['auth']['ssh_user']}")
    named = re.findall(rf"\$HOME/{Path(mounted).name}/([\w./-]+)", setup)
    assert sorted(named) == ["examples/constraints.txt", "examples/unbound.conf"]
    assert all((ROOT / name).is_file() for name in named)


def test_pinned_versions_are_those_that_the_package_allows() -> None:
    lines = (ROOT / "examples/constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["s3"], "boto3"]:
        wanted = Requirement(text)
        if wanted.marker is None:  # those with one are for older Pythons than the nodes have
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), text


def test_comment_on_how_far_to_scale_is_right() -> None:
    config = read(AWS)
    worker = config["available_node_types"]["worker"]
    workers = config["max_workers"] * worker["resources"]["CPU"]
    assert f"cluster.workers={workers}" in (ROOT / AWS).read_text(encoding="utf-8")


def test_commands_are_what_a_shell_understands(config: Tree) -> None:
    for key in ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in config[key]:
            checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stderr


def test_both_start_commands_ask_for_the_token(config: Tree) -> None:
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host" not in config["head_start_ray_commands"][-1]  # loopback only: reached through ssh
