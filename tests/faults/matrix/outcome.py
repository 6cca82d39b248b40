"""What a run that was disturbed must have in common with one that was not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from faults.matrix.scenes import Scene
from pipeline_runs import rubbish, samples, tables

from geo_subset.cli import INTERRUPTED, main


def differences(scene: Scene, run: str, address: str) -> list[str]:
    """What an ended run has otherwise than the undisturbed one, temporary files among it; [] if all is equal."""
    whole = str(scene.whole)
    pairs = {
        "tables": (tables(run), tables(whole)),
        "samples": (samples(run), samples(whole)),
        "temporary files": (rubbish(run), []),
        "names of files": (_names(run), _names(whole)),
        "counters": (_counters(scene, run), _counters(scene, whole)),
    }
    if scene.stage == "report":
        pairs["summary"] = (_summary(run), _summary(whole))
    found = [f"{what}: {_shortest(*pair)}" for what, pair in pairs.items() if pair[0] != pair[1]]
    said = _command(scene.words(scene.stage, run, address))
    if "nothing to do" not in said:
        found.append(f"the same command again found something to do: {said}")
    if scene.stage in ("download", "report"):
        said = _command(scene.words("verify", run, address))
        if "all as recorded" not in said:
            found.append(f"verify: {said}")
    return found


def recorded(run: str) -> dict[Path, int]:
    """Every file that a record of an unfinished stage names, with the time when it was written; of a local run."""
    return {path: path.stat().st_mtime_ns for path, _ in _entries(run) if path.exists()}


def damaged(run: str) -> list[str]:
    """Files that are not as their records say."""
    return [
        f"{path} is not as it was recorded"
        for path, entry in _entries(run)
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]
    ]


def made_again(before: dict[Path, int]) -> list[str]:
    """Files that were recorded then and have been written once more since. Those of passes have gone by now."""
    return [
        f"{path} was recorded and is made again"
        for path, time in before.items()
        if path.exists() and path.stat().st_mtime_ns != time
    ]


def _entries(run: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    if "://" in run:
        return
    for record in Path(run).rglob("_records/*.json"):
        for entry in json.loads(record.read_text()).get("files", []):
            yield record.parent.parent / entry["path"], entry


def _names(run: str) -> list[str]:
    fs, root = fsspec.core.url_to_fs(run)
    fs.invalidate_cache()
    return sorted(str(name)[len(root) :] for name in fs.find(root))


def _counters(scene: Scene, run: str) -> dict[str, int]:
    """Without those of how often a backend had to be asked, which a time-out on a busy machine adds to."""
    counters = scene.manifest(run).counters
    return {name: count for name, count in counters.items() if not name.startswith(("requests", "retries"))}


def _summary(run: str) -> dict[str, Any]:
    """The report's numbers, but not how long it took to get them."""
    numbers = json.loads(Path(run, "report/summary.json").read_text())
    return {name: value for name, value in numbers.items() if name != "stages"}


def _command(words: list[str]) -> str:
    """What a command says, run in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        if main(words) == INTERRUPTED:
            raise KeyboardInterrupt
    return said.getvalue()


def _shortest(one: Any, other: Any) -> str:
    """What only one of two lists or dictionaries holds."""
    if isinstance(one, dict):
        one, other = list(one.items()), list(other.items())
    return f"{[e for e in one if e not in other][:5]} instead of {[e for e in other if e not in one][:5]}"
