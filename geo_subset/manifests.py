"""What is known of finished work: files, units, stages; plain data, and how it is written as JSON and read again.

A run folder may be damaged, or somebody else's. What is read is checked: every type, the range of every number, the
depth, and names, which are joined into paths.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar, Union

import msgspec
from msgspec import Meta

_VERSIONS = ("geo-subset", "pyarrow", "duckdb", "ray", "img2dataset")
#: Bytes of a manifest, of a record and of what `Started` is read from; what is longer is damaged.
MANIFEST_BYTES, RECORD_BYTES, STARTED_BYTES = 1 << 30, 64 << 20, 1 << 20
#: Plans follow the rows, so a file cannot have any number of them. Every row has a text or a number of its own.
MOST_ROWS_A_BYTE = 64
#: How the names of units begin whose counters are negative: they take back what is tried again.
RETRY = "retry-"

#: A file or a unit: one name, in no other folder, and not hidden.
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\Z")]
#: What people are shown.
Label = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]{1,1000}\Z")]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
#: Unix seconds, until the year 9000.
Time = Annotated[float, Meta(ge=0, le=2.2e11)]
_Change = Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)]


def _nested(levels: int) -> Any:
    """The type of JSON of so many levels."""
    plain = Union[None, bool, Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)], float, str]  # noqa: UP007
    if not levels:
        return plain
    inner = _nested(levels - 1)
    return Union[plain, list[inner], dict[str, inner]]  # type: ignore[valid-type]  # noqa: UP007


if TYPE_CHECKING:
    Json = dict[str, Any]
else:
    Json = dict[str, _nested(10)]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One finished file of a stage; `path` is its name in the stage folder, `rows` counts parquet rows or samples."""

    path: Name
    rows: Count
    bytes: Count
    sha256: Digest


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one finished unit. `extra` is the stage's own (plain JSON), e.g. places that failed."""

    unit: str
    files: tuple[FileEntry, ...]
    counters: dict[str, int]
    extra: dict[str, Any] = field(default_factory=dict)


class Counters(dict[str, int]):
    """Counters by name; what was not counted is 0."""

    def __missing__(self, _name: str) -> int:
        return 0


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
    made_from: dict[str, Any] = field(default_factory=dict)
    """What the fingerprint was made from, for people; plain JSON."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "counters", Counters(self.counters))

    def paths(self, prefix: str = "part-") -> list[str]:
        """Names of the files that start with `prefix`, in order."""
        return sorted(entry.path for entry in self.files if entry.path.startswith(prefix))

    def digest(self) -> str:
        """Changes when the fingerprint or the content of any file does."""
        return digest_of([self.fingerprint, *sorted(f"{f.path}:{f.sha256}" for f in self.files)])


@dataclass(frozen=True)
class Started:
    """What is noted when a stage starts: how many units there are, when that was (Unix seconds), and the seconds that
    earlier processes took, which were cut off."""

    fingerprint: Digest
    units: Count
    started: Time
    earlier: Amount
    made_from: Json = field(default_factory=dict)


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


class _Failure(TypedDict, total=False):
    place_id: str
    query: str
    reason: Label
    detail: str
    attempts: Annotated[int, Meta(ge=0, lt=1 << 31)]


class _Extra(TypedDict, total=False):
    """What stages note of their units. It is checked and may hold more."""

    finished: Time
    usage: dict[Label, Amount]
    places: Count
    failed: list[_Failure]
    columns: Count
    ends: list[tuple[Label, Union[Label, None], Count]]  # noqa: UP007 - for Python 3.10 at run time
    examples: dict[str, str]


@dataclass(slots=True)
class _Unit:
    unit: Name
    files: list[Name]
    counters: dict[Label, _Change]
    extra: Json


@dataclass(slots=True)
class _Record:
    fingerprint: Digest
    unit: Name
    files: tuple[FileEntry, ...]
    counters: dict[Label, _Change]
    extra: Json


@dataclass(slots=True)
class _Manifest:
    stage: Name
    fingerprint: Digest
    files: list[FileEntry]
    counters: dict[Label, Count]
    seconds: Amount
    versions: dict[Label, Label]
    units: list[_Unit]
    usage: dict[Label, Amount] = field(default_factory=dict)
    made_from: Json = field(default_factory=dict)


_Kind = TypeVar("_Kind")


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
        "made_from": manifest.made_from,
        "units": [
            {"unit": u.unit, "files": [entry.path for entry in u.files], "counters": u.counters, "extra": u.extra}
            for u in manifest.units
        ],
    }
    return json.dumps(tree, indent=1)


def manifest_from_json(text: bytes | str) -> Manifest:
    """Raises ValueError if the text is no manifest, saying in one line why."""
    tree = decoded(text, _Manifest)
    _check_rows(tree.files)
    files = {entry.path: entry for entry in tree.files}
    if len(files) < len(tree.files) or len({u.unit for u in tree.units}) < len(tree.units):
        raise ValueError("it names a file or a unit twice")
    if nowhere := next((path for u in tree.units for path in u.files if path not in files), None):
        raise ValueError(f"a unit has a file {nowhere} that is not listed")
    return Manifest(
        stage=tree.stage,
        fingerprint=tree.fingerprint,
        files=tuple(tree.files),
        counters=tree.counters,
        seconds=tree.seconds,
        versions=tree.versions,
        units=tuple(_checked(Record(u.unit, tuple(files[path] for path in u.files), u.counters, u.extra))
                    for u in tree.units),
        usage=tree.usage,
        made_from=tree.made_from,
    )  # fmt: skip


def record_to_json(record: Record, fingerprint: str) -> str:
    return json.dumps({"fingerprint": fingerprint, **dataclasses.asdict(record)})


def record_from_json(text: bytes | str | None, fingerprint: str, unit: str) -> Record | None:
    """None if there is no text, or it is damaged, or of another fingerprint or unit: then the unit is not done."""
    found = any_record_from_json(text, unit)
    return found[1] if found is not None and found[0] == fingerprint else None


def any_record_from_json(text: bytes | str | None, unit: str) -> tuple[str, Record] | None:
    """A unit's fingerprint and record; None if there is no text, or it is damaged, or of another unit."""
    try:
        tree = decoded(text or b"", _Record)
        if tree.unit != unit or "finished" not in tree.extra:
            return None
        return tree.fingerprint, _checked(Record(tree.unit, tree.files, tree.counters, tree.extra))
    except ValueError:
        return None


def started_to_json(started: Started) -> str:
    return json.dumps(dataclasses.asdict(started))


def started_from_json(text: bytes | str | None) -> Started | None:
    """None if there is no text, or it is damaged: then the stage was not started."""
    try:
        return decoded(text or b"", Started)
    except ValueError:
        return None


_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()


def _decoder(kind: type[_Kind]) -> msgspec.json.Decoder[_Kind]:
    """Made by one thread alone: msgspec ends the process where two look at a type for the first time."""
    with _making:
        if kind not in _decoders:
            msgspec.convert({}, _Extra)
            _decoders[kind] = msgspec.json.Decoder(kind)
        return _decoders[kind]


def decoded(text: bytes | str, kind: type[_Kind]) -> _Kind:
    """What a JSON text holds, all types checked. Raises ValueError if it is not of that kind, and says why."""
    try:
        return _decoder(kind).decode(text)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _check_rows(files: Iterable[FileEntry]) -> None:
    if lies := [entry.path for entry in files if entry.rows > MOST_ROWS_A_BYTE * entry.bytes]:
        raise ValueError(f"{lies[0]} has more rows than its bytes can hold")


def _checked(record: Record) -> Record:
    """Raises ValueError if what stages note of the unit has a wrong type, or its counters are impossible."""
    if min(record.counters.values(), default=0) < 0 and not record.unit.startswith(RETRY):
        raise ValueError(f"a counter of {record.unit} is negative")
    _check_rows(record.files)
    try:
        msgspec.convert(record.extra, _Extra)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{record.unit}: {error}") from error
    return record


def sums(records: Sequence[Record]) -> Sums:
    """What records add up to."""
    counters = add_counters(record.counters for record in records)
    failures = {name.removeprefix("failed: "): n for name, n in counters.items() if name.startswith("failed: ") and n}
    for record in records:
        for failure in record.extra.get("failed", ()):
            reason = failure.get("reason", "unknown")
            failures[reason] = failures.get(reason, 0) + 1
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


def seconds_so_far(started: Started, records: Iterable[Record]) -> float:
    """Until the last record was written, over all processes that worked on the stage."""
    last = max((record.extra["finished"] for record in records), default=0.0)
    return round(started.earlier + max(0.0, last - started.started), 3)
