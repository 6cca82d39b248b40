"""A stage made under several fingerprints in one run folder, and a process that goes from one to another for ever."""

from __future__ import annotations

import os
import random
from multiprocessing.connection import Connection

import fsspec

from geo_subset import layout, storage, superseding
from geo_subset.manifests import Manifest
from geo_subset.runfolder import StageFolder

FINGERPRINTS = [f"{number:08x}" + f"{number}" * 56 for number in (1, 2, 3)]
_ENDINGS = (".tar", ".parquet", "_stats.json")


def make(run_url: str, fingerprint: str, units: int = 3, finish: bool = True) -> Manifest | None:
    """A stage of so many units, or what of it was not there yet. It is cut off before its end if it is not finished."""
    folder = StageFolder(run_url, "download", fingerprint, {"settings": {"download": {"number": fingerprint[:8]}}})
    records = folder.start(units)
    for number in range(units):
        name = f"{number:05d}-{folder.tag}"
        if name not in records:
            entries = [folder.write_bytes(f"{ending} {name}".encode(), f"{name}{ending}", 1) for ending in _ENDINGS]
            records[name] = folder.record(name, entries, {"images": 10})
    if not finish:
        return None
    if "index" not in records:
        entry = folder.write_bytes(f"index of {fingerprint}".encode(), "_index.parquet")
        records["index"] = folder.record("index", [entry], {})
    return folder.finish(records.values(), 1.0)


def content(url: str) -> dict[str, bytes]:
    """Path -> bytes of every file below a folder."""
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {str(path)[len(root) :]: fs.cat_file(path) for path in fs.find(root) if not str(path).endswith(layout.MARK)}


def wander(run_url: str, seed: int, clean: bool, ready: Connection, environment: dict[str, str]) -> None:
    """Goes from one fingerprint to another until it is killed; with `clean`, frees and makes again."""
    os.environ.update(environment)  # the server that forked this process may be older than the bucket
    rng = random.Random(seed)
    storage.sizes(run_url)  # what takes long once
    ready.send(None)
    while True:
        fingerprint = rng.choice(FINGERPRINTS)
        if clean:
            make(run_url, fingerprint, finish=fingerprint != FINGERPRINTS[2])
            for each in superseding.apart(run_url):
                superseding.remove(each)
        elif fingerprint == FINGERPRINTS[2]:
            StageFolder(run_url, "download", fingerprint).start(3)
        else:
            superseding.settle(run_url, "download", fingerprint)
