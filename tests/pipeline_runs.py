"""Whole runs by the command line on one world, and what of them must be equal."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import fsspec


def words(what: str, run_file: Path, run: str | Path, *more: str) -> list[str]:
    """The words of a command on a small run of a world's run file, in another run folder."""
    return [
        what, str(run_file), f"--set=run={run}", "--set=retrieve.num_images=20", "--set=download.samples_per_shard=60",
        *more,
    ]  # fmt: skip


def command(run_file: Path, run: str | Path, *more: str, what: str = "run") -> list[str]:
    """The same by a process of its own."""
    return [sys.executable, "-m", "geo_subset.cli", *words(what, run_file, run, *more)]


def tables(run: str | Path) -> dict[str, str]:
    """SHA-256 of every parquet table of places, matches and samples by name."""
    fs, root = fsspec.core.url_to_fs(str(run))
    return {
        str(path)[len(root) :]: hashlib.sha256(fs.cat_file(path)).hexdigest()
        for folder in ("places", "matches", "samples")
        for path in sorted(fs.glob(f"{root}/{folder}/*.parquet"))
    }


def samples(run: str | Path) -> list[str]:
    """uids of all samples in the shards' tars, each of which must be there once."""
    fs, root = fsspec.core.url_to_fs(str(run))
    found = []
    for path in sorted(fs.glob(f"{root}/shards/*.tar")):
        with tarfile.open(fileobj=io.BytesIO(fs.cat_file(path))) as tar:
            found += [json.load(tar.extractfile(m))["uid"] for m in tar if m.name.endswith(".json")]  # type: ignore[arg-type]
    assert len(found) == len(set(found))
    return sorted(found)


def rubbish(run: str | Path) -> list[str]:
    """What an ended run must not leave behind."""
    fs, root = fsspec.core.url_to_fs(str(run))
    names = [str(path)[len(root) :] for path in fs.find(root)]
    left = (".tmp-", "_records", "_shuffle", "_parts")
    return [name for name in names if any(part in name for part in left)]
