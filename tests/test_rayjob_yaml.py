"""examples/rayjob.yaml is what Kubernetes, KubeRay and Ray's autoscaler read, each asked by its own rules."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from geo_subset import settings

ROOT = Path(__file__).parent.parent
Tree = dict[str, Any]

KUBERNETES: Tree = json.loads((ROOT / "tests/data/kubernetes_pod.json").read_text(encoding="utf-8"))


def whole(required: str = "", **fields: Any) -> Tree:
    """Schema of an object that has no other fields: `kubectl apply` refuses unknown ones."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def kubernetes(kind: str) -> Tree:
    return {"$ref": f"#/$defs/{kind}"}


TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
GROUP = {"rayStartParams": TEXTS, "resources": TEXTS, "labels": TEXTS, "template": kubernetes("PodTemplateSpec")}
#: Of KubeRay 1.6's reference (https://docs.ray.io/en/latest/cluster/kubernetes/references/api.html) the fields that a
#: run may want; pods are Kubernetes's own.
RAY_JOB: Tree = {
    "$defs": KUBERNETES["$defs"],
    **whole(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": "RayJob"},
        metadata=kubernetes("ObjectMeta"),
        spec=whole(
            entrypoint=TEXT,
            runtimeEnvYAML=TEXT,
            shutdownAfterJobFinishes=FLAG,
            ttlSecondsAfterFinished=COUNT,
            backoffLimit=COUNT,
            activeDeadlineSeconds=COUNT,
            suspend=FLAG,
            submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
            submitterPodTemplate=kubernetes("PodTemplateSpec"),
            rayClusterSpec=whole(
                "headGroupSpec",
                rayVersion=TEXT,
                authOptions=whole(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
                enableInTreeAutoscaling=FLAG,
                autoscalerOptions=whole(
                    idleTimeoutSeconds=COUNT,
                    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
                    version={"enum": ["v1", "v2"]},
                    resources=kubernetes("ResourceRequirements"),
                ),
                headGroupSpec=whole("template", serviceType=TEXT, enableIngress=FLAG, **GROUP),
                workerGroupSpecs={
                    "type": "array",
                    "items": whole(
                        "groupName minReplicas maxReplicas template",
                        groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, numOfHosts=COUNT,
                        idleTimeoutSeconds=COUNT, **GROUP,
                    ),
                },
            ),
        ),
    ),
}  # fmt: skip
CONFIG_MAP: Tree = {"$defs": KUBERNETES["$defs"], **kubernetes("ConfigMap")}


@pytest.fixture
def documents() -> list[Tree]:
    text = (ROOT / "examples/rayjob.yaml").read_text(encoding="utf-8")
    return copy.deepcopy(list(yaml.safe_load_all(text)))  # an alias would change with what it stands for


def autoscaling(job: Tree) -> Tree:
    """What Ray's autoscaler makes of the cluster that KubeRay makes of the job; checked by Ray."""
    cluster = {"metadata": {"name": "c", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
    return _derive_autoscaling_config_from_ray_cr(cluster)


def accepted(documents: list[Tree]) -> Tree:
    config_map, job = documents
    jsonschema.Draft202012Validator(CONFIG_MAP).validate(config_map)
    jsonschema.Draft202012Validator(RAY_JOB).validate(job)
    return autoscaling(job)


def containers(job: Tree) -> list[Tree]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [one for group in groups for one in group["template"]["spec"]["containers"]]


def test_it_is_accepted_as_it_stands(documents: list[Tree]) -> None:
    config = accepted(documents)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0  # for tasks
    workers = types["workers"]
    assert workers["min_workers"] == 0 < workers["max_workers"]
    # Workers ask for all that Ray believes to have, so that no pod is put where it does not fit.
    requests = containers(documents[1])[1]["resources"]["requests"]
    assert workers["resources"] == {"CPU": int(requests["cpu"]), "memory": 14 << 30}
    assert requests["memory"] == "14Gi"


BREAKAGES: dict[str, Callable[[Tree], object]] = {
    "no kind": lambda job: job.pop("kind"),
    "another API": lambda job: job.update(apiVersion="ray.io/v1alpha1"),
    "an unknown field": lambda job: job["spec"].update(shutdownAfterJobFinish=True),
    "an unknown field of a pod": lambda job: containers(job)[0].update(envFroms=[]),
    "a flag in quotes": lambda job: job["spec"].update(shutdownAfterJobFinishes="true"),
    "no head": lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"),
    "start parameters that are no text": lambda job: group(job)["rayStartParams"].update({"num-cpus": 7}),
    "replicas that are no number": lambda job: group(job).update(maxReplicas="8"),
    "no name of the group": lambda job: group(job).pop("groupName"),
    "a container without name": lambda job: containers(job)[1].pop("name"),
    "no CPUs told": lambda job: containers(job)[1].pop("resources"),
    "no such mode of authentication": lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="on"),
    "more workers at least than at most": lambda job: group(job).update(minReplicas=9),
}  # fmt: skip


def group(job: Tree) -> Tree:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_it_is_refused_broken(documents: list[Tree], breakage: str) -> None:
    BREAKAGES[breakage](documents[1])
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        accepted(documents)


def test_what_its_parts_say_of_one_another(documents: list[Tree]) -> None:
    config_map, job = documents
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,), (mount,) = head["volumes"], head["containers"][0]["volumeMounts"]
    assert volume["name"] == mount["name"]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    (run_file,) = re.findall(r"\S+\.toml", job["spec"]["entrypoint"])
    assert Path(run_file).parent == Path(mount["mountPath"])
    assert Path(run_file).name in config_map["data"]
    assert len({one["image"] for one in containers(job)}) == 1
    assert all(one["envFrom"] == [{"secretRef": {"name": "geo-subset-storage"}}] for one in containers(job))


def test_its_run_file_is_one(documents: list[Tree], tmp_path: Path) -> None:
    config_map, job = documents
    for name, text in config_map["data"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    run = settings.load(tmp_path / "run.toml", ())
    assert run.run.startswith("s3://")
    worker = autoscaling(job)["available_node_types"]["workers"]
    assert run.cluster.workers == worker["max_workers"] * worker["resources"]["CPU"]


def test_image_holds_the_ray_that_the_cluster_is_told_of(documents: list[Tree]) -> None:
    dockerfile = (ROOT / "examples/Dockerfile").read_text(encoding="utf-8")
    constraints = (ROOT / "examples/constraints.txt").read_text(encoding="utf-8").split()
    (version,) = re.findall(r"^FROM rayproject/ray:([\d.]+)-", dockerfile, re.MULTILINE)
    assert documents[1]["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"ray=={version}" in constraints
    copied = [word for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE) for word in line.split()[1:-1]]
    assert copied and all((ROOT / word).exists() for word in copied)
