"""What is known of finished work: files, units, stages; plain data, and how it is written as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from typing import Any

_VERSIONS = ("geo-subset", "pyarrow", "duckdb", "ray", "img2dataset")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One finished file of a stage; `path` is relative to the stage folder, `rows` counts parquet rows or samples."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one finished unit. `extra` is the stage's own (plain JSON), e.g. places that failed."""

    unit: str
    files: tuple[FileEntry, ...]
    counters: dict[str, int]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A finished stage, as `_manifest.json` holds it."""

    stage: str
    fingerprint: str
    files: tuple[FileEntry, ...]
    counters: dict[str, int]
    seconds: float
    versions: dict[str, str]
    units: tuple[Record, ...] = ()
    usage: dict[str, float] = field(default_factory=dict)
    """What the work took, by name (`work.taken`); unlike counters it differs from run to run."""

    def paths(self, prefix: str = "part-") -> list[str]:
        """Names of the files that start with `prefix`, in order."""
        return sorted(entry.path for entry in self.files if entry.path.startswith(prefix))

    def digest(self) -> str:
        """Changes when the fingerprint or the content of any file does."""
        return digest_of([self.fingerprint, *sorted(f"{f.path}:{f.sha256}" for f in self.files)])


@dataclass(frozen=True)
class Sums:
    """What records, or a manifest, add up to; `failures` counts what failed, by reason."""

    units: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """How far a stage is, for `status`. `units` is None until the stage was started; state is one of
    'not started', 'unfinished', 'done', 'out of date'.

    `sums` are those of the records read, which may be the newest alone; `recent` of those that were finished in the
    last `recent_seconds`. `last` is when the last of them was (Unix seconds). `seconds` is the time spent until then.
    """

    state: str
    units: int | None = None
    units_done: int = 0
    seconds: float = 0.0
    fingerprint: str | None = None
    sums: Sums = Sums()
    recent: Sums = Sums()
    recent_seconds: float = 0.0
    last: float | None = None
    step: str = ""
    """What is done beforehand, in parts of its own, if that is what is counted."""


def manifest_to_json(manifest: Manifest) -> str:
    """The text of `_manifest.json`; units name their files by path."""
    tree = {
        "stage": manifest.stage,
        "fingerprint": manifest.fingerprint,
        "files": [dataclasses.asdict(entry) for entry in manifest.files],
        "counters": manifest.counters,
        "seconds": manifest.seconds,
        "usage": manifest.usage,
        "versions": manifest.versions,
        "units": [
            {"unit": u.unit, "files": [entry.path for entry in u.files], "counters": u.counters, "extra": u.extra}
            for u in manifest.units
        ],
    }
    return json.dumps(tree, indent=1)


def manifest_from_json(text: str) -> Manifest:
    """Raises ValueError, KeyError or TypeError if the text is no manifest."""
    tree = json.loads(text)
    files = {entry["path"]: FileEntry(**entry) for entry in tree["files"]}
    units = tuple(
        Record(u["unit"], tuple(files[path] for path in u["files"]), u["counters"], u["extra"]) for u in tree["units"]
    )
    return Manifest(
        stage=tree["stage"],
        fingerprint=tree["fingerprint"],
        files=tuple(files.values()),
        counters=tree["counters"],
        seconds=tree["seconds"],
        versions=tree["versions"],
        units=units,
        usage=tree.get("usage", {}),
    )


def record_to_json(record: Record, fingerprint: str) -> str:
    return json.dumps({"fingerprint": fingerprint, **dataclasses.asdict(record)})


def record_from_json(text: str | None, fingerprint: str) -> Record | None:
    """None if there is no text, or it is damaged, or of another fingerprint: then the unit is not done."""
    try:
        tree = json.loads(text or "{}")
        if tree.get("fingerprint") != fingerprint:
            return None
        files = tuple(FileEntry(**entry) for entry in tree["files"])
        return Record(tree["unit"], files, tree["counters"], tree["extra"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def sums(records: Sequence[Record]) -> Sums:
    """What records add up to."""
    counters = add_counters(record.counters for record in records)
    failures = {name.removeprefix("failed: "): n for name, n in counters.items() if name.startswith("failed: ") and n}
    for record in records:
        for failure in record.extra.get("failed", ()):
            failures[failure["reason"]] = failures.get(failure["reason"], 0) + 1
    return Sums(len(records), counters, add_usage(r.extra.get("usage", {}) for r in records), failures)


def add_usage(usages: Iterable[dict[str, float]]) -> dict[str, float]:
    """The sum by name."""
    total: dict[str, float] = {}
    for usage in usages:
        for name, amount in usage.items():
            total[name] = round(total.get(name, 0) + amount, 3)
    return total


def add_counters(counters: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sum by name, in the order in which names first appear."""
    total: dict[str, int] = {}
    for counter in counters:
        for name, count in counter.items():
            total[name] = total.get(name, 0) + count
    return total


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of the packages that decide what files look like."""
    return {name: metadata.version(name) for name in _VERSIONS}


def digest_of(parts: Iterable[str]) -> str:
    """SHA-256 of several strings, as hex."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
