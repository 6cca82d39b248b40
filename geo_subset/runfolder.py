"""The run folder: what is on storage, what of it counts, and how it gets there.

A run folder is a local path or any fsspec URL. Each stage owns one folder in it and works through *units* (a chunk of
places, a partition, a shard). A unit's files are written beside their destination, synced and renamed (on an object
store: uploaded whole); then the unit's record is written, and only now do its files count. When all units are
recorded, the manifest is written from the records, and the records go.

The fingerprint of a stage covers the settings that shape its content, its input files, and everything before it. Files
of another fingerprint are removed before the first unit is started, so that two runs' parts are never mixed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from geo_subset import manifests, stopping, storage, tables, work
from geo_subset.credentials import lacking
from geo_subset.errors import SettingsError, StageError, StorageFullError, from_os_error
from geo_subset.manifests import FileEntry, Manifest, Progress, Record, add_counters, add_usage, digest_of, versions

#: Raised when a format on storage changes: what older versions wrote is then made again.
FORMAT = 1

#: Stage -> its folder, and the names of the files that are the stage's own to remove.
STAGES: dict[str, tuple[str, str]] = {
    "places": ("places", r"places\.parquet"),
    "gather": ("places/_parts", r"part-\d+-[0-9a-f]{8}\.parquet"),
    "retrieve": ("matches", r"(part|counts)-\d+-[0-9a-f]{8}\.parquet|failures\.parquet"),
    "scan": ("matches/_scan", r"(map|counts)-\d+-[0-9a-f]{8}\.parquet"),
    "texts": ("matches/_scan/_texts", r"texts-\d+-[0-9a-f]{8}\.npy"),
    "best": ("matches/_scan/_best", r"best-\d+-[0-9a-f]{8}\.parquet"),
    "rows": ("matches/_scan/_rows", r"rows-\d+-[0-9a-f]{8}\.parquet"),
    "merge": ("samples", r"part-\d+-[0-9a-f]{8}\.parquet"),
    "shuffle": ("samples/_shuffle", r"map-\d+-[0-9a-f]{8}\.parquet"),
    "download": ("shards", r"\d+-[0-9a-f]{8}(\.tar|\.parquet|_stats\.json)|_(retry-\d+-[0-9a-f]{8}|index)\.parquet"),
    "report": ("report", r"index\.html|summary\.json|[a-z0-9_]+\.png"),
}
_MANIFEST = "_manifest.json"
_RECORDS = "_records"
#: Seconds before now whose rate `progress` tells.
RECENT = 300.0
#: Records that `progress` reads from an object store, where each is a request.
MOST_READ = 1_000


def fingerprint(stage: str, content: Any, before: Manifest | None, inputs: Iterable[str] = ()) -> str:
    """Hex digest of all that decides a stage's content: settings, the stage before it, and its input files."""
    earlier = before.digest() if before else ""
    return digest_of([str(FORMAT), stage, json.dumps(content, sort_keys=True), earlier, *map(file_digest, inputs)])


def file_digest(path: str) -> str:
    """SHA-256 of a file's content (local path or fsspec URL). Raises SettingsError if it cannot be read."""
    if missing := lacking(path):
        raise SettingsError(f"{path} cannot be read: {missing}")
    try:
        with fsspec.open(path, "rb") as stream:
            return storage.sha256(stream)
    except Exception as error:  # object stores raise kinds of their own, say for missing credentials
        raise SettingsError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class StageFolder:
    """One stage's folder. A small picklable value: workers get it and write their own parts."""

    run_url: str
    stage: str
    fingerprint: str = ""

    @property
    def url(self) -> str:
        return f"{self.run_url}/{STAGES[self.stage][0]}"

    @property
    def tag(self) -> str:
        """Eight digits of the fingerprint, part of file names: a straggler of another run cannot overwrite a part."""
        return self.fingerprint[:8]

    # --- reading -----------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest | None:
        """The manifest, whatever its fingerprint; None if the stage never finished (or was started anew)."""
        try:
            text = storage.read_text(f"{self.url}/{_MANIFEST}")
            if text is None:
                return None
            return manifests.manifest_from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise StageError(
                f"{self.url}/{_MANIFEST} is damaged ({error!r}); remove it to make the stage again"
            ) from error
        except OSError as error:
            raise from_os_error(error, f"reading {self.url}") from error

    def finished(self) -> Manifest | None:
        """The manifest if it is of this fingerprint and every file it names is there in full size."""
        manifest = self.manifest()
        if manifest is None or manifest.fingerprint != self.fingerprint:
            return None
        sizes = storage.sizes(self.url)
        return manifest if all(sizes.get(entry.path) == entry.bytes for entry in manifest.files) else None

    def progress(self) -> Progress:
        """What is done, from manifest or records (the newest, of very many); 'out of date': of another fingerprint."""
        manifest = self.manifest()
        if manifest is not None:
            sizes = storage.sizes(self.url)
            units = len(manifest.units)
            done = sum(all(sizes.get(f.path) == f.bytes for f in unit.files) for unit in manifest.units)
            state = "done" if done == units else "unfinished"
            if self.fingerprint not in ("", manifest.fingerprint):
                state = "out of date"
            counted = dataclasses.replace(
                manifests.sums(manifest.units), counters=manifest.counters, usage=manifest.usage
            )
            return Progress(state, units, done, manifest.seconds, manifest.fingerprint, counted)
        started = self._started()
        if started is None:
            return Progress("not started")
        names, there = storage.newest(f"{self.url}/{_RECORDS}", MOST_READ)
        records = list(self._read_records(names, started["fingerprint"]).values())
        now, began = time.time(), float(started["started"])
        since = max(now - RECENT, began)
        if there > len(names):  # no further back than what was read
            since = max(since, min((record.extra["finished"] for record in records), default=since))
        return Progress(
            state="unfinished" if self.fingerprint in ("", started["fingerprint"]) else "out of date",
            units=started["units"],
            units_done=len(records) if there <= len(names) else there - 1,  # but stage.json
            seconds=manifests.seconds_so_far(started, records),
            fingerprint=started["fingerprint"],
            sums=manifests.sums(records),
            recent=manifests.sums([record for record in records if record.extra["finished"] >= since]),
            recent_seconds=round(now - since, 3),
            last=max((record.extra["finished"] for record in records), default=None),
        )

    def path(self, name: str) -> str:
        return f"{self.url}/{name}"

    def open(self, name: str) -> IO[bytes]:
        """Opens a file of the stage for reading. Raises StageError if it is gone."""
        fs, root = storage.filesystem(self.url)
        try:
            return fs.open(f"{root}/{name}", "rb")  # type: ignore[no-any-return]
        except OSError as error:
            raise StageError(f"{self.path(name)} cannot be read: {error}") from error

    @contextlib.contextmanager
    def local(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Local paths of the stage's files: themselves where the run folder is local, else copies, gone at the end."""
        fs, root = storage.filesystem(self.url)
        if isinstance(fs, LocalFileSystem):
            yield [f"{root}/{name}" for name in names]
            return
        with storage.scratch_folder() as scratch:
            copies = [f"{scratch}/{i}-{Path(name).name}" for i, name in enumerate(names)]
            try:
                fs.get([f"{root}/{name}" for name in names], copies)
            except OSError as error:
                raise from_os_error(error, f"reading {self.url}") from error
            yield copies

    # --- writing -----------------------------------------------------------------------------------------------

    def start(self, units: int) -> dict[str, Record]:
        """Makes the folder ready for the units of this fingerprint and returns the records that count.

        All that does not belong to them (other fingerprints, parts never recorded, half-written files) is removed.
        """
        stopping.check()
        try:
            storage.make_folder(f"{self.url}/{_RECORDS}")
            self._keep_units_of_manifest()
            storage.remove(f"{self.url}/{_MANIFEST}")
            records = self._records(self.fingerprint)
            before = self._started()
            same = before is not None and before["fingerprint"] == self.fingerprint
            earlier = manifests.seconds_so_far(before, records.values()) if before and same else 0.0
            sizes = storage.sizes(self.url)
            records = {
                unit: record
                for unit, record in records.items()
                if all(sizes.get(entry.path) == entry.bytes for entry in record.files)
            }
            self._remove_all_but(records)
            # Beside the records, not among them: `status` reads from it how many units there are, and since when.
            started = {"fingerprint": self.fingerprint, "units": units, "started": time.time(), "earlier": earlier}
            storage.write_text(f"{self.url}/{_RECORDS}/stage.json", json.dumps(started))
        except OSError as error:
            raise from_os_error(error, f"writing to {self.url}") from error
        return records

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to write `name` at; on leaving it is synced and put in place whole."""
        try:
            with storage.writing(self.path(name)) as path:
                yield path
        except OSError as error:
            raise from_os_error(error, f"writing {self.path(name)}") from error

    def put(self, source: Path, name: str, rows: int) -> FileEntry:
        """Copies a finished local file into the folder, whole or not at all."""
        with self.writing(name) as path:
            shutil.copyfile(source, path)
            return self.entry(path, name, rows)

    def write_table(self, table: pa.Table, name: str, row_group_size: int = 65_536) -> FileEntry:
        """Writes a parquet file whose bytes depend on the table's rows alone, not on how it was put together."""
        return self.write_batches(name, table.schema, [table], row_group_size)

    def write_batches(
        self,
        name: str,
        schema: pa.Schema,
        chunks: Iterable[pa.Table],
        row_group_size: int = 65_536,
        use_dictionary: bool | list[str] = True,
    ) -> FileEntry:
        """The same for a stream of tables of `schema`; at most one row group and one table are held at a time.

        `use_dictionary` may name the columns whose values repeat: looking for repetitions in the others costs time.
        """
        rows = 0
        with self.writing(name) as path:
            with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=use_dictionary) as writer:
                for table in tables.regrouped(chunks, row_group_size):
                    writer.write_table(table, row_group_size=row_group_size)
                    rows += table.num_rows
            return self.entry(path, name, rows)

    def write_bytes(self, data: bytes, name: str, rows: int = 0) -> FileEntry:
        with self.writing(name) as path:
            path.write_bytes(data)
            return self.entry(path, name, rows)

    @staticmethod
    def entry(path: Path, name: str, rows: int) -> FileEntry:
        """Describes a file that was written at `path`, to be known as `name`."""
        with path.open("rb") as stream:
            return FileEntry(name, rows, path.stat().st_size, storage.sha256(stream))

    def record(self, unit: str, files: Sequence[FileEntry], counters: dict[str, int], **extra: Any) -> Record:
        """Declares a unit finished: from now on its files count. What this process used for it is noted as well."""
        noted = {"usage": work.taken(), **extra, "finished": time.time()}
        record = Record(unit, tuple(files), counters, noted)
        try:
            text = manifests.record_to_json(record, self.fingerprint)
            storage.write_text(f"{self.url}/{_RECORDS}/{unit}.json", text)
        except OSError as error:
            raise from_os_error(error, f"recording {unit} in {self.url}") from error
        return record

    def recorded(self, unit: str) -> Record | None:
        """The record of a unit, if it counts already. Asked before its files are put in place, it keeps a straggler (a
        worker that outlived its driver) from writing over those of the run that took over."""
        record = manifests.record_from_json(storage.read_text(f"{self.url}/{_RECORDS}/{unit}.json"), self.fingerprint)
        manifest = self.manifest() if record is None else None
        if manifest is not None and manifest.fingerprint == self.fingerprint:
            return next((record for record in manifest.units if record.unit == unit), None)
        return record

    def finish(
        self,
        records: Iterable[Record],
        seconds: float,
        counters: dict[str, int] | None = None,
        beforehand: Iterable[Manifest] = (),
    ) -> Manifest:
        """Writes the manifest from the records (sorted by unit) and removes them: the stage is done.

        `seconds` is how long this process took; what earlier, cut off ones took is added. What steps `beforehand`
        used, in folders of their own that go, counts as used by this stage.
        Raises StageError if a recorded file is not there as it was recorded.
        """
        units = tuple(sorted(records, key=lambda record: record.unit))
        files = tuple(entry for record in units for entry in record.files)
        there = storage.sizes(self.url)
        self._check_there(files, there)
        stopping.check()
        total = add_counters([*(record.counters for record in units), counters or {}])
        total = {name: count for name, count in total.items() if count or not name.startswith("failed: ")}
        seconds = round(seconds + (self._started() or {"earlier": 0.0})["earlier"], 3)
        usage = add_usage([*(u.extra.get("usage", {}) for u in units), *(step.usage for step in beforehand)])
        manifest = Manifest(self.stage, self.fingerprint, files, total, seconds, versions(), units, usage)
        try:
            for name in there:
                if name.startswith(storage.TEMPORARY):  # of a worker that was killed, its unit since done by another
                    storage.remove(f"{self.url}/{name}")
            storage.write_text(f"{self.url}/{_MANIFEST}", manifests.manifest_to_json(manifest))
            fs, root = storage.filesystem(self.url)
            fs.rm(f"{root}/{_RECORDS}", recursive=True)
        except OSError as error:
            raise from_os_error(error, f"finishing {self.url}") from error
        return manifest

    def _check_there(self, files: Sequence[FileEntry], sizes: dict[str, int]) -> None:
        wrong = [entry.path for entry in files if sizes.get(entry.path) != entry.bytes]
        if wrong:
            raise StageError(
                f"{len(wrong)} of {len(files)} files in {self.url} are not there as their writers recorded them, first "
                f"{wrong[0]}: do all nodes see this folder? Run again to make them again"
            )

    def _started(self) -> dict[str, Any] | None:
        """What `start` noted: fingerprint, units, started (Unix seconds), earlier (seconds of cut off processes)."""
        try:
            text = storage.read_text(f"{self.url}/{_RECORDS}/stage.json")
            return None if text is None else dict(json.loads(text))
        except ValueError:
            return None

    def remove(self) -> None:
        """Removes the whole folder, if it is there: it held what only another stage needed for a while."""
        fs, root = storage.filesystem(self.url)
        try:
            if fs.exists(root):
                fs.rm(root, recursive=True)
        except OSError as error:
            raise from_os_error(error, f"removing {self.url}") from error

    def _keep_units_of_manifest(self) -> None:
        """A finished stage some of whose files have gone is unfinished again: its manifest turns into records."""
        manifest = self.manifest()
        if manifest is not None and manifest.fingerprint == self.fingerprint:
            for unit in manifest.units:
                self.record(unit.unit, unit.files, unit.counters, **unit.extra)

    def _records(self, wanted: str) -> dict[str, Record]:
        return self._read_records(storage.sizes(f"{self.url}/{_RECORDS}"), wanted)

    def _read_records(self, names: Iterable[str], wanted: str) -> dict[str, Record]:
        there = [name for name in names if name.endswith(".json") and name != "stage.json"]
        with ThreadPoolExecutor(16) as pool:
            texts = pool.map(storage.read_text, [f"{self.url}/{_RECORDS}/{name}" for name in there])
            records = [manifests.record_from_json(text, wanted) for text in texts]
        return {record.unit: record for record in records if record is not None}

    def _remove_all_but(self, records: dict[str, Record]) -> None:
        kept = {entry.path for record in records.values() for entry in record.files}
        own = re.compile(STAGES[self.stage][1])
        for name in storage.sizes(self.url):
            if name not in kept and (own.fullmatch(name) or name.startswith(storage.TEMPORARY)):
                storage.remove(f"{self.url}/{name}")
        for name in storage.sizes(f"{self.url}/{_RECORDS}"):
            if name.removesuffix(".json") not in records:
                storage.remove(f"{self.url}/{_RECORDS}/{name}")


def in_ray_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # by which Ray hands it the job's runtime environment


def open_run(run: str, run_toml: str | None = None) -> str:
    """The run folder as an absolute URL that any process can use; with `run_toml`, made and tried for writing.

    Raises SettingsError: no such file system, the folder cannot be written to, or would not outlive a Ray job. Raises
    StorageFullError.
    """
    if missing := lacking(run):
        raise SettingsError(f"run = {run!r}: {missing}")
    if run.startswith("memory:"):
        raise SettingsError(f"run = {run!r}: each process has a memory of its own; name a folder that all of them see")
    if in_ray_job() and not re.match(r"[/~]|[a-z0-9]+:", run):
        raise SettingsError(
            f"run = {run!r}: as a Ray job this works in a copy of your folder, which is removed when it ends; name a "
            "folder that all nodes see by its whole path or as a URL: --set run=s3://bucket/folder"
        )
    try:
        fs, root = fsspec.core.url_to_fs(run)
        url = root if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(root)
        if run_toml is not None:
            storage.make_folder(url)
            storage.write_text(f"{url}/run.toml", run_toml)
    except Exception as error:  # object stores raise kinds of their own, say for missing credentials
        told = from_os_error(error, f"writing to {run}") if isinstance(error, OSError) else None
        if isinstance(told, StorageFullError):
            raise told from error
        raise SettingsError(f"run = {run!r}: the run folder cannot be written to: {error}") from error
    return str(url).rstrip("/")
