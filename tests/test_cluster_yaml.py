"""cluster.yaml is what `ray up` accepts: read, completed and checked by Ray's own code, without asking AWS anything."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
Tree = dict[str, Any]


@pytest.fixture
def config() -> Tree:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def accepted(config: Tree) -> Tree:
    """What `ray up` does with a file before it speaks to the cloud."""
    complete = prepare_config(copy.deepcopy(config))
    validate_config(complete)
    return complete


def test_ray_accepts_it_as_it_stands(config: Tree) -> None:
    complete = accepted(config)
    # Ray's defaults for AWS would install Ray's nightly build: nothing of them may shine through.
    assert set(config) >= set(complete) - {"docker"}
    assert complete["worker_setup_commands"] == config["setup_commands"]


BREAKAGES: dict[str, Callable[[Tree], object]] = {
    "no provider": lambda c: c.pop("provider"),
    "no provider type": lambda c: c["provider"].pop("type"),
    "no cluster name": lambda c: c.update(cluster_name=None),
    "an unknown key": lambda c: c.update(max_worker=8),
    "head type that is none": lambda c: c.update(head_node_type="boss"),
    "more workers than allowed": lambda c: c["available_node_types"]["worker"].update(min_workers=99),
    "workers not a number": lambda c: c.update(max_workers="eight"),
    "no node config": lambda c: c["available_node_types"]["worker"].pop("node_config"),
    "no resources": lambda c: c["available_node_types"]["worker"].pop("resources"),
    "resources not a number": lambda c: c["available_node_types"]["worker"].update(resources={"CPU": "8"}),
    "setup is no list": lambda c: c.update(setup_commands="pip install geo-subset"),
    "setup holds a mapping": lambda c: c["setup_commands"].append({"pip": "install"}),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_ray_refuses_it_broken(config: Tree, breakage: str) -> None:
    BREAKAGES[breakage](config)
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError, TypeError)):
        accepted(config)


def test_head_stays_and_workers_are_spot(config: Tree) -> None:
    types = accepted(config)["available_node_types"]
    head, worker = types[config["head_node_type"]], types["worker"]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["max_workers"] == 0
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert worker["max_workers"] == config["max_workers"] > worker["min_workers"]


def test_nodes_install_this_package_and_a_ray_it_allows(config: Tree) -> None:
    setup = "\n".join(config["setup_commands"])
    (mounted,) = (remote for remote, local in config["file_mounts"].items() if local == ".")
    assert f'"$HOME/{Path(mounted).name}[s3]"' in setup
    assert Path(mounted).parent == Path("/home", config["auth"]["ssh_user"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (allowed,) = (Requirement(r) for r in project["dependencies"] if r.startswith("ray["))
    (pinned,) = (Requirement(word) for word in setup.replace('"', " ").split() if word.startswith("ray["))
    (version,) = pinned.specifier
    assert version.operator == "=="
    assert allowed.specifier.contains(version.version)
    assert allowed.extras == pinned.extras


def test_comment_on_how_far_to_scale_is_right(config: Tree) -> None:
    worker = config["available_node_types"]["worker"]
    workers = config["max_workers"] * worker["resources"]["CPU"]
    assert f"cluster.workers={workers}" in (ROOT / "cluster.yaml").read_text(encoding="utf-8")


def test_both_start_commands_ask_for_the_token(config: Tree) -> None:
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host" not in config["head_start_ray_commands"][-1]  # loopback only: reached through ssh
