"""The fault matrix, `make test-faults`: every stage, whatever can be killed of it, its disk full, its storage an object
store; each at random moments. The next run ends like one that nobody disturbed.

    FAULT_TRIALS=25 FAULT_SEED=7 CELLS="merge and worker" FAULT_REPORT=faults.json make test-faults

A trial of seed S is the first one with FAULT_SEED=S. One whose stage was over before the fault came does not count.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.matrix import scenes, trials
from faults.matrix.disk import Disk
from faults.matrix.nodes import Nodes
from faults.matrix.scenes import Stages
from faults.matrix.table import RESULTS, Result

SEED = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))


@dataclass(frozen=True)
class Cell:
    """What is done to the stage of a scene; `title` tells which of its processes a 'worker' is."""

    scene: str
    fault: str
    title: str | None = None
    what: str = ""
    on_s3: bool = False

    def __str__(self) -> str:
        return f"{self.scene}-{self.what or self.fault}" + ("-s3" if self.on_s3 else "")


CELLS = [
    *(Cell(scene, fault) for scene in ("places", "captions", "embeddings") for fault in ("driver", "worker", "raylet")),
    Cell("clip-service", "driver"),
    Cell("clip-service", "worker", "ray::Worker", "actor"),
    Cell("clip-service", "worker", "ray::Limiter", "limiter"),
    Cell("clip-service", "raylet"),
    Cell("merge", "driver"),
    Cell("merge", "worker", "ray::_map", "split-worker"),
    Cell("merge", "worker", "ray::_reduce", "reduce-worker"),
    Cell("merge", "raylet"),
    *(Cell("download", fault) for fault in ("driver", "worker", "raylet")),
    Cell("report", "driver"),
    *(Cell(scene, "driver", on_s3=True) for scene in ("places", "clip-service", "embeddings", "merge", "download")),
    *(
        Cell(scene, "full-disk")
        for scene in ("places", "clip-service", "captions", "embeddings", "merge", "download", "report")
    ),
]
#: One of each kind, for every day.
FEW = ("clip-service-actor", "merge-raylet", "download-driver", "merge-full-disk")


@pytest.fixture(scope="module")
def nodes(s3_bucket: str) -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.end()


@pytest.fixture(scope="module")
def stages(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    with scenes.stages(tmp_path_factory.mktemp("matrix"), nodes.address) as made:
        yield made


def disturb(cell: Cell, wanted: int, stages: Stages, nodes: Nodes, bucket: str, config: pytest.Config) -> None:
    """So many trials of a cell; asserts that none differs."""
    scene = stages.scene(cell.scene)
    result = Result(str(cell), SEED)
    config.stash.setdefault(RESULTS, []).append(result)
    with tempfile.TemporaryDirectory(dir=stages.folder, ignore_cleanup_errors=True) as folder:
        while len(result.trials) < wanted:
            seed = SEED + len(result.trials) + result.too_late
            rng = random.Random(f"{cell} {seed}")
            if cell.fault == "full-disk":
                trial = trials.filling(scene, nodes, Disk(Path(folder)), seed, rng)
            else:
                run = f"{bucket}/{cell}-{seed}-{os.getpid()}" if cell.on_s3 else f"{folder}/{seed}"
                trial = trials.killing(cell.fault, cell.title, scene, nodes, run, seed, rng)
            if trial.problems:
                print(f"{cell}, FAULT_SEED={seed}:", *trial.problems, sep="\n  ")
            if trial.moment is None and not trial.problems:
                result.too_late += 1
                assert result.too_late <= wanted + 10, f"{cell}: the stage is over before it can be disturbed"
            else:
                result.trials.append(trial)
    assert result.differences == 0


@pytest.mark.faults
@pytest.mark.timeout(0)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_fault(cell: Cell, stages: Stages, nodes: Nodes, s3_bucket: str, pytestconfig: pytest.Config) -> None:
    disturb(cell, int(os.environ.get("FAULT_TRIALS", 25)), stages, nodes, s3_bucket, pytestconfig)


@pytest.mark.ci
@pytest.mark.parametrize("cell", [cell for cell in CELLS if str(cell) in FEW], ids=str)
def test_fault_once(cell: Cell, stages: Stages, nodes: Nodes, s3_bucket: str, pytestconfig: pytest.Config) -> None:
    disturb(cell, 1, stages, nodes, s3_bucket, pytestconfig)
