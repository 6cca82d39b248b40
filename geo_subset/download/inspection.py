"""What `verify` looks at in one file of samples, one shard, one retry pass' list or the index. Runs on workers.

Everything that is found off becomes a line; nothing is raised for it and nothing is changed.
"""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geo_subset import storage, tables
from geo_subset.download import index, shards
from geo_subset.download.plan import Shard
from geo_subset.download.splits import with_splits
from geo_subset.errors import StageError
from geo_subset.manifests import FileEntry
from geo_subset.runfolder import StageFolder
from geo_subset.settings import DownloadSettings

#: Problems of one file or shard that are told; the others are counted.
TOLD = 10
#: Columns of samples that shards hold. The other two are in a shard what the image measures as stored.
_STORED = [name for name in tables.SAMPLES.names if name not in ("width", "height")]
_PILLOW_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_BATCH = 4096
_KEY = re.compile(r"[0-9]{1,30}")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
#: What reading a damaged file raises.
_UNREADABLE = (
    OSError, EOFError, pa.ArrowException, ValueError, KeyError, TypeError, StageError, shards.DamagedShardError,
    tarfile.TarError,
)  # fmt: skip


@dataclass
class Problems:
    """What is off, a line each: the first `TOLD` of them and the number of all."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str) -> None:
        self.count += 1
        if len(self.lines) < TOLD:
            self.lines.append(line)


@dataclass(frozen=True)
class Checked:
    """What came of it. `counters`: of a shard or of the index; `first` and `last`: uids of a file of samples."""

    problems: Problems
    counters: dict[str, int] = field(default_factory=dict)
    first: str = ""
    last: str = ""


def samples_file(entry: FileEntry, samples: StageFolder) -> Checked:
    """Whether a file of samples is the one that its manifest names, its uids rising."""
    problems = Problems()
    first = last = ""
    try:
        with samples.local([entry.path]) as (path,):
            _check_bytes(entry, path, problems)
            file = pq.ParquetFile(path)
            if file.metadata.num_rows != entry.rows:
                problems.add(f"has {file.metadata.num_rows:,} rows, {entry.rows:,} in the manifest")
            for batch in file.iter_batches(1 << 16, columns=["uid"]):
                uids = batch.column(0)
                rising = pc.all(pc.less(uids.slice(0, len(uids) - 1), uids.slice(1))).as_py()
                if rising is False or uids[0].as_py() <= last:
                    problems.add(f"its uids do not rise strictly after {last or 'the start'}")
                first, last = first or uids[0].as_py(), uids[-1].as_py()
    except _UNREADABLE as error:
        problems.add(f"cannot be read: {_told(error)}")
    return Checked(problems, {}, first, last)


def retry_list(entry: FileEntry, folder: StageFolder, samples: StageFolder, files: Sequence[str]) -> Checked:
    """Whether the list of a retry pass holds rows of the samples table, in their order; `files` are the samples'."""
    problems = Problems()
    try:
        with folder.local([entry.path]) as (path,):
            _check_bytes(entry, path, problems)
            listed = (row for batch in pq.ParquetFile(path).iter_batches(_BATCH) for row in batch.to_pylist())
            waiting = next(listed, None)
            for file in files:
                with samples.open(file) as stream:
                    for batch in pq.ParquetFile(stream).iter_batches(1 << 16):
                        places = {uid: n for n, uid in enumerate(batch.column("uid").to_pylist())}
                        while waiting is not None and waiting["uid"] in places:
                            row = batch.slice(places[waiting["uid"]], 1).to_pylist()[0]
                            if _digest(row) != _digest({name: waiting[name] for name in row}):
                                problems.add(f"its row of sample {row['uid']} is not that of the samples table")
                            waiting = next(listed, None)
            if waiting is not None:
                problems.add(f"sample {waiting['uid']} is not one of the samples table, or out of order")
    except _UNREADABLE as error:
        problems.add(f"cannot be read: {_told(error)}")
    return Checked(problems)


def index_file(entry: FileEntry, folder: StageFolder, planned: Sequence[Shard]) -> Checked:
    """Whether the index says of every sample what the parquet files of all shards say together."""
    problems = Problems()
    counters: collections.Counter[str] = collections.Counter()
    passes = [list(group) for _, group in itertools.groupby(planned, key=lambda shard: shard.retry)]
    rows_of = [(index.rows_of(shard, folder) for shard in group) for group in passes]
    try:
        with folder.local([entry.path]) as (path,):
            _check_bytes(entry, path, problems)
            file, at = pq.ParquetFile(path), 0
            retries = [itertools.chain.from_iterable(rows) for rows in rows_of[1:]]
            for rows in index.current(rows_of[0] if rows_of else (), retries):
                told = [index.Row(**row) for row in tables.read_rows(file, at, at + len(rows)).to_pylist()]
                at += len(rows)
                for row, other in itertools.zip_longest(rows, told):
                    if row != other:
                        problems.add(f"says {other and tuple(other)}, the shards say {tuple(row)}")
                    counters["attempted"] += 1
                    counters["succeeded" if row.reason is None else f"failed: {row.reason}"] += 1
            if file.metadata.num_rows != at:
                problems.add(f"has {file.metadata.num_rows:,} rows, there are {at:,} samples")
    except _UNREADABLE as error:
        problems.add(f"cannot be compared with the shards: {_told(error)}")
    return Checked(problems, dict(counters))


def shard_files(
    shard: Shard,
    entries: Sequence[FileEntry],
    recorded: dict[str, int],
    settings: DownloadSettings,
    folder: StageFolder,
) -> Checked:
    """Whether a shard is what its manifest, its own files and the samples table say.

    `entries` are the manifest's of tar, parquet and stats; `recorded` are the counters it gives the shard.
    """
    problems = Problems()
    counters: dict[str, int] = {}
    try:
        with folder.local([entry.path for entry in entries]) as paths:
            for entry, path in zip(entries, paths, strict=True):
                _check_bytes(entry, path, problems)
            files = shards.ShardFiles(*map(Path, paths))
            wanted = _wanted(shard, folder, settings.samples_per_shard)
            counters = shards.check(files, list(wanted), settings.encode_format)
            if counters != recorded:
                problems.add(f"holds {counters}, the manifest says {recorded}")
            rows = [entry.rows for entry in entries]
            if rows != [counters["succeeded"], counters["attempted"], 0]:
                problems.add(f"the manifest gives its files {rows} rows")
            stored = _check_parquet(files.parquet, wanted, problems)
            _check_tar(files.tar, stored, settings.encode_format, problems)
    except shards.DamagedShardError as error:
        problems.add(str(error))
    except _UNREADABLE as error:
        problems.add(f"cannot be read: {_told(error)}")
    return Checked(problems, counters)


def _check_bytes(entry: FileEntry, path: str, problems: Problems) -> None:
    size = Path(path).stat().st_size
    if size != entry.bytes:
        problems.add(f"{entry.path} has {size:,} bytes, {entry.bytes:,} in the manifest")
        return
    with Path(path).open("rb") as stream:
        if storage.sha256(stream) != entry.sha256:
            problems.add(f"{entry.path} has another SHA-256 than in the manifest")


def _wanted(shard: Shard, folder: StageFolder, samples_per_shard: int) -> dict[str, tuple[int, bytes]]:
    """uid -> (its key as a number, digest of its columns) for the samples that a shard must hold."""
    # As img2dataset numbers them: so the keys of no two shards meet.
    digits = len(str(samples_per_shard - 1)) if samples_per_shard > 1 else 0
    keys = itertools.count(shard.index * 10**digits)
    return {row["uid"]: (next(keys), _digest(row)) for row in _planned_rows(shard, folder)}


def _planned_rows(shard: Shard, folder: StageFolder) -> Iterator[dict[str, Any]]:
    source = folder if shard.retry else StageFolder(folder.run_url, "merge")
    for piece in shard.slices:
        with source.open(piece.file) as stream:
            file = pq.ParquetFile(stream)
            for start in range(piece.start, piece.stop, _BATCH):
                rows = tables.read_rows(file, start, min(piece.stop, start + _BATCH), _STORED)
                yield from with_splits(rows).to_pylist()


def _check_parquet(path: Path, wanted: dict[str, tuple[int, bytes]], problems: Problems) -> dict[str, bytes]:
    """Compares the parquet file with the samples. Returns key -> digest of the row, for the samples in the tar."""
    stored: dict[str, bytes] = {}
    file = pq.ParquetFile(path)
    columns = [*_STORED, "split", "split_place"]
    for row in _rows(file.iter_batches(_BATCH)):
        name = f"sample {row['uid']} (key {row['key']})"
        number, digest = wanted[row["uid"]]
        if _digest({column: row.get(column) for column in columns}) != digest:
            problems.add(f"the parquet's row of {name} is not that of the samples table")
        if not (_KEY.fullmatch(row["key"]) and int(row["key"]) == number):
            problems.add(f"the key of {name} should be number {number}")
        if row["status"] == "success":
            stored[row["key"]] = _digest(row)
            if not _SHA256.match(row["sha256"] or ""):
                problems.add(f"the parquet has no sha256 of {name}")
    return stored


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()


def _check_tar(path: Path, stored: dict[str, bytes], encode_format: str, problems: Problems) -> None:
    """Compares every sample of the tar with its row in the parquet file, and decodes it."""
    seen: set[str] = set()
    with tarfile.open(path, "r:") as tar:
        for key, members in itertools.groupby(tar, key=lambda member: member.name.partition(".")[0]):
            pieces = {}
            for member in members:
                stream = tar.extractfile(member)
                pieces[member.name.partition(".")[2]] = stream.read() if stream is not None else b""
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps what it has seen
            if len(pieces) < 3 or key in seen:
                problems.add(f"the files of sample {key} are not side by side in the tar")
            elif wrong := _wrong_with(pieces, stored.get(key), encode_format):
                problems.add(f"{key}{wrong}")
            seen.add(key)


def _wrong_with(pieces: dict[str, bytes], digest: bytes | None, encode_format: str) -> str:
    """What is wrong with a sample's three files; empty: nothing."""
    try:
        row = json.loads(pieces["json"])
        if _digest(row) != digest:
            return ".json is not the sample's row in the parquet file"
        size, claimed = _image_size(pieces[encode_format], encode_format), (row["width"], row["height"])
    except _UNREADABLE as error:
        return f" cannot be read: {_told(error)}"
    if pieces["txt"] != (row["caption"] or "").encode():
        return ".txt is not the caption"
    return "" if size == claimed else f".{encode_format} is {size} pixels, {claimed} by its json"


def _image_size(body: bytes, encode_format: str) -> tuple[int, int]:
    """Width and height of an image that can be decoded to its end. Raises OSError or ValueError if it cannot."""
    from PIL import Image  # not needed on the driver

    with Image.open(io.BytesIO(body), formats=[_PILLOW_FORMATS[encode_format]]) as image:
        image.load()
        return (image.width, image.height)


def _digest(row: dict[str, Any]) -> bytes:
    """16 bytes that differ when rows do; NaN equals NaN, 1 is not 1.0, columns come in any order."""
    return hashlib.blake2b(json.dumps(row, sort_keys=True).encode(), digest_size=16).digest()


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split()) or repr(error)
    return text if isinstance(error, (StageError, shards.DamagedShardError)) else f"{type(error).__name__}: {text}"
