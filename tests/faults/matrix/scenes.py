"""What a trial starts from and must end with: a run folder before a stage, and the same once nobody disturbed it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from places import test_overture as overture

from geo_subset.demo import launch
from geo_subset.demo.world import World
from geo_subset.manifests import Manifest
from geo_subset.runfolder import StageFolder

PLACES, IMAGES, NUM_IMAGES = 96, 800, 20
#: Seconds that the world's clip service takes for a search: the stage is to be longer than its actors take to start.
LATENCY = 0.1
FILES = 6
#: Rows of a file of places, of captions, of vectors.
PLACE_ROWS, CAPTION_ROWS, VECTOR_ROWS = 1500, 20_000, 20_000
COLUMNS = 64
LAUNCHER = Path(__file__).with_name("small_units.py")


@dataclass(frozen=True)
class Scene:
    """A stage (`retrieve` with one of its strategies) of a run that is done up to there in `before`, and one stage
    further in `whole`. `seconds` are those that the stage took when it was not disturbed, each time it was not."""

    stage: str
    run_file: Path
    before: Path
    whole: Path
    seconds: list[float] = field(default_factory=list)

    def command(self, run: str, address: str) -> list[str]:
        return [sys.executable, str(LAUNCHER), *self.words(self.stage, run, address)]

    def words(self, what: str, run: str, address: str) -> list[str]:
        return [what, str(self.run_file), f"--set=run={run}", f"--address={address}"]

    def manifest(self, run: str | Path) -> Manifest:
        """Raises AssertionError if the run's stage is not done."""
        found = StageFolder(str(run), self.stage).manifest()
        assert found is not None
        return found


@dataclass(frozen=True)
class Stages:
    """Makes scenes, each once and only when it is asked for: run folders of one world in `folder`."""

    folder: Path
    world: World
    address: str
    made: dict[str, Scene] = field(default_factory=dict)

    def scene(self, name: str) -> Scene:
        """One of 'places', 'clip-service', 'captions', 'embeddings', 'merge', 'download', 'report'."""
        if name not in self.made:
            self.made[name] = self._make(name)
        return self.made[name]

    def _make(self, name: str) -> Scene:
        if name == "places":
            before, run_file = self.folder / "nothing", self._run_file(name, places=_release(self.folder / "release"))
            before.mkdir()
        elif name in _BEFORE:
            earlier = self.scene(_BEFORE[name])
            before, run_file = earlier.whole, earlier.run_file
        else:
            run_file = self._run_file(name, retrieve=_STRATEGIES[name](self.world, self.folder))
            before = self.folder / "places"
            if not before.exists():
                self._run(Scene("places", run_file, before, before))
        stage = "retrieve" if name in _STRATEGIES else name
        scene = Scene(stage, run_file, before, self.folder / f"{name}-whole")
        for _ in ("with functions to be compiled", "as usual"):
            shutil.rmtree(scene.whole, ignore_errors=True)
            shutil.copytree(before, scene.whole)
            self._run(scene)
        scene.seconds.append(scene.manifest(scene.whole).seconds)
        assert len(scene.manifest(scene.whole).units) >= _LEAST_UNITS.get(name, 4), "a stage of few units is no trial"
        return scene

    def _run(self, scene: Scene) -> None:
        out = subprocess.run(
            scene.command(str(scene.whole), self.address), capture_output=True, text=True, check=False
        )  # fmt: skip
        assert out.returncode == 0, out.stderr

    def _run_file(self, name: str, **sections: dict[str, Any]) -> Path:
        tree = launch.run_tree(self.world, self.folder / "unused")
        # No time-out is to depend on how busy the machine is.
        tree["download"] |= {"samples_per_shard": 100, "timeout": 60.0}
        for section, values in sections.items():
            tree[section] = values
        path = self.folder / f"{name}.toml"
        path.write_text(tomli_w.dumps(tree))
        return path


@contextlib.contextmanager
def stages(folder: Path, address: str) -> Iterator[Stages]:
    """Serves the world that the scenes are of."""
    world = launch.build(folder / "world", places=PLACES, images=IMAGES, port=None, corpus=None)
    with launch.serving(world, LATENCY):
        yield Stages(folder, world, address)


def _release(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    for number in range(FILES):
        rows = [
            overture.row(f"{number}-{n}", f"Old Mill {n}", at=(-100 + number, 30 + n / 1000)) for n in range(PLACE_ROWS)
        ]
        overture.write(folder / f"part-{number:05d}.parquet", rows)
    return {"source": "overture", "path": str(folder)}


def _clip_service(world: World, folder: Path) -> dict[str, Any]:
    return {"num_images": NUM_IMAGES, "clip-service": {"url": world.service_url, "timeout": 60.0}}


def _captions(world: World, folder: Path) -> dict[str, Any]:
    """Files of the world's captions, over and over, each under a URL of its own."""
    (folder / "captions").mkdir()
    texts = world.index()["caption"].to_pylist()
    for number in range(FILES):
        captions = [texts[(number + row * 7) % len(texts)] for row in range(CAPTION_ROWS)]
        urls = [f"http://x/{number}/{row}" for row in range(CAPTION_ROWS)]
        pq.write_table(pa.table({"URL": urls, "TEXT": captions}), folder / f"captions/{number}.parquet")
    return {"strategy": "captions", "num_images": 200, "captions": {"path": str(folder / "captions")}}


def _embeddings(world: World, folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for part in ("img_emb", "metadata"):
        (folder / "inference" / part).mkdir(parents=True)
    for number in range(FILES):
        rows = rng.standard_normal((VECTOR_ROWS, COLUMNS)).astype(np.float16)
        np.save(folder / f"inference/img_emb/img_emb_{number}.npy", rows)
        urls = [f"http://x/{number}/{row}" for row in range(VECTOR_ROWS)]
        pq.write_table(pa.table({"url": urls}), folder / f"inference/metadata/metadata_{number}.parquet")
    np.save(folder / "queries.npy", rng.standard_normal((PLACES, COLUMNS)).astype(np.float32))
    paths = {"path": str(folder / "inference"), "query_vectors": str(folder / "queries.npy")}
    return {"strategy": "embeddings", "num_images": 100, "embeddings": paths}


_STRATEGIES: dict[str, Callable[[World, Path], dict[str, Any]]] = {
    "clip-service": _clip_service,
    "captions": _captions,
    "embeddings": _embeddings,
}
_BEFORE = {"merge": "clip-service", "download": "merge", "report": "download"}
#: The last step of these is one unit, of a table or of a page.
_LEAST_UNITS = {"places": 1, "report": 1}
