"""The run folder: what is on storage, what of it counts, and how it gets there.

A run folder is a local path or any fsspec URL. Each stage owns one folder in it and works through *units* (a chunk of
places, a partition, a shard). A unit's files are written beside their destination, synced and renamed (on an object
store: uploaded whole); then the unit's record is written, and only now do its files count. When all units are
recorded, the manifest is written from the records, and the records go.

The fingerprint of a stage covers the settings that shape its content, its input files, and everything before it. When
it changes, what is there is superseded: kept apart (`superseding`), never mixed with new parts.

Only what manifests, records and names that bear a known fingerprint say to be a stage's own is ever moved or removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from geo_subset import driver, layout, manifests, statefiles, stopping, storage, superseding, tables, work
from geo_subset.credentials import lacking
from geo_subset.errors import SettingsError, StageError, from_os_error
from geo_subset.layout import MANIFEST, RECORDS
from geo_subset.manifests import (
    FileEntry,
    Manifest,
    Progress,
    Record,
    Started,
    add_counters,
    add_usage,
    digest_of,
    versions,
)  # fmt: skip

#: Seconds before now whose rate `progress` tells.
RECENT = 300.0
#: Records that `progress` reads from an object store, where each is a request.
MOST_READ = 1_000


def fingerprint(stage: str, content: Any, before: Manifest | None, inputs: Iterable[str] = ()) -> str:
    """Hex digest of all that decides a stage's content: settings, the stage before it, and the bytes of input files."""
    return fingerprint_of(stage, content, before, map(file_digest, inputs))


def fingerprint_of(stage: str, content: Any, before: Manifest | None, digests: Iterable[str]) -> str:
    """The same from the digests of the input files."""
    earlier = before.digest() if before else ""
    return digest_of([str(layout.FORMAT), stage, json.dumps(content, sort_keys=True), earlier, *digests])


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
    made_from: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What the fingerprint was made from, for people: plain JSON."""

    @property
    def url(self) -> str:
        return layout.stage_url(self.run_url, self.stage)

    @property
    def tag(self) -> str:
        """Eight digits of the fingerprint, part of file names: a straggler of another run cannot overwrite a part."""
        return self.fingerprint[: layout.TAG_DIGITS]

    # --- reading -----------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest | None:
        """The manifest, whatever its fingerprint; None if the stage never finished (or was started anew)."""
        return statefiles.read_manifest(self.url)

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
        started = statefiles.read_started(self.url)
        if started is None:
            return Progress("not started")
        names, there = statefiles.newest_record_names(self.url, MOST_READ)
        read = statefiles.read_records(self.url, names)
        records = [record for fingerprint, record in read if fingerprint == started.fingerprint]
        now, began = time.time(), started.started
        since = max(now - RECENT, began)
        if there > len(names):  # no further back than what was read
            since = max(since, min((record.extra["finished"] for record in records), default=since))
        return Progress(
            state="unfinished" if self.fingerprint in ("", started.fingerprint) else "out of date",
            units=started.units,
            units_done=len(records) if there <= len(names) else there,
            seconds=manifests.seconds_so_far(started, records),
            fingerprint=started.fingerprint,
            sums=manifests.sums(records),
            recent=manifests.sums([record for record in records if record.extra["finished"] >= since]),
            recent_seconds=round(max(0.0, now - since), 3),
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
                storage.fetch(self.url, names, copies)
            except OSError as error:
                raise from_os_error(error, f"reading {self.url}") from error
            yield copies

    # --- writing -----------------------------------------------------------------------------------------------

    def start(self, units: int) -> dict[str, Record]:
        """Makes the folder ready for the units of this fingerprint and returns the records that count.

        Results of other fingerprints are set aside, those of this one that lie apart come back. Raises StageError if a
        file is in the way that no run has recorded.
        """
        stopping.check()
        superseding.settle(self.run_url, self.stage, self.fingerprint)
        try:
            storage.make_folder(f"{self.url}/{RECORDS}")
            self._keep_units_of_manifest()
            records = self._records()
            sizes = storage.sizes(self.url)
            counting = {
                unit: record
                for unit, record in records.items()
                if all(sizes.get(entry.path) == entry.bytes for entry in record.files)
            }
            before = statefiles.read_started(self.url)
            same = before is not None and before.fingerprint == self.fingerprint
            earlier = manifests.seconds_so_far(before, counting.values()) if before and same else 0.0
            # Files of units that do not count stay until they are written anew.
            statefiles.remove_records(self.url, records.keys() - counting.keys())
            self._remove_half_written(sizes)
            storage.make_folder(f"{self.url}/{RECORDS}")
            # Beside the records, not among them: `status` reads from it how many units there are, and since when.
            statefiles.write_started(self.url, Started(self.fingerprint, units, time.time(), earlier, self.made_from))
        except OSError as error:
            raise from_os_error(error, f"writing to {self.url}") from error
        return counting

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to write `name` at; on leaving it is synced and put in place whole."""
        try:
            with storage.writing(self.path(name)) as path:
                yield path
                driver.check(self.run_url)
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
        """Declares a unit finished: from now on its files count. What this process used for it is noted as well.

        Raises DriverLostError in a worker whose driver has ended; so does `writing`, before a file is put in place.
        """
        noted = {"usage": work.taken(), **extra, "finished": time.time()}
        record = Record(unit, tuple(files), counters, noted)
        try:
            driver.check(self.run_url)
            statefiles.write_record(self.url, record, self.fingerprint)
        except OSError as error:
            raise from_os_error(error, f"recording {unit} in {self.url}") from error
        return record

    def recorded(self, unit: str) -> Record | None:
        """The record of a unit, if it counts already. Asked before its files are put in place, it keeps a straggler (a
        worker that outlived its driver) from writing over those of the run that took over."""
        found = statefiles.read_record(self.url, unit)
        if found is not None and found[0] == self.fingerprint:
            return found[1]
        manifest = self.manifest()
        if manifest is not None and manifest.fingerprint == self.fingerprint:
            return next((record for record in manifest.units if record.unit == unit), None)
        return None

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
        started = statefiles.read_started(self.url)
        seconds = round(seconds + (started.earlier if started else 0.0), 3)
        usage = add_usage([*(u.extra.get("usage", {}) for u in units), *(step.usage for step in beforehand)])
        manifest = Manifest(
            self.stage, self.fingerprint, files, total, seconds, versions(), units, usage, self.made_from
        )
        try:
            self._remove_unrecorded(there, {entry.path for entry in files})
            statefiles.write_manifest(self.url, manifest)
            self.tidy(manifest)
        except OSError as error:
            raise from_os_error(error, f"finishing {self.url}") from error
        return manifest

    def tidy(self, manifest: Manifest) -> None:
        """Removes what a killed process left: half-written files, and records that the manifest replaces."""
        self._remove_half_written(storage.sizes(self.url))
        if storage.sizes(f"{self.url}/{RECORDS}"):
            statefiles.remove_records(self.url, [record.unit for record in manifest.units], started=True)

    def _check_there(self, files: Sequence[FileEntry], sizes: dict[str, int]) -> None:
        wrong = [entry.path for entry in files if sizes.get(entry.path) != entry.bytes]
        if wrong:
            raise StageError(
                f"{len(wrong)} of {len(files)} files in {self.url} are not there as their writers recorded them, first "
                f"{wrong[0]}: do all nodes see this folder? Run again to make them again"
            )

    def remove(self) -> None:
        """Removes what the stage, and stages in folders within its own, made of this fingerprint: it was needed for a
        while."""
        for stage in layout.within(self.stage):
            StageFolder(self.run_url, stage, self.fingerprint)._remove_results()

    def _remove_results(self) -> None:
        try:
            there = storage.sizes(self.url)
            if not there and not storage.sizes(f"{self.url}/{RECORDS}"):
                return
            self._remove_half_written(there)
            self._remove_unrecorded(there, set())
            manifest = self.manifest()
            if manifest is not None and manifest.fingerprint == self.fingerprint:
                storage.remove(f"{self.url}/{MANIFEST}")
            statefiles.remove_records(self.url, self._records(), started=True)
            storage.remove_empty_folder(self.url)
        except OSError as error:
            raise from_os_error(error, f"removing {self.url}") from error

    def _keep_units_of_manifest(self) -> None:
        """A finished stage some of whose files have gone is unfinished again: its manifest turns into records."""
        manifest = self.manifest()
        if manifest is not None and manifest.fingerprint == self.fingerprint:
            now = {"finished": time.time()}
            records = [dataclasses.replace(unit, extra={**now, **unit.extra}) for unit in manifest.units]
            statefiles.write_records(self.url, records, self.fingerprint)
            storage.remove(f"{self.url}/{MANIFEST}")

    def _records(self) -> dict[str, Record]:
        found = statefiles.read_records(self.url, statefiles.record_names(self.url))
        return {record.unit: record for fingerprint, record in found if fingerprint == self.fingerprint}

    def _remove_half_written(self, there: Iterable[str]) -> None:
        """Of workers that were killed, their units since done by others."""
        storage.remove_all(f"{self.url}/{name}" for name in there if storage.is_temporary(name))

    def _remove_unrecorded(self, there: Iterable[str], kept: set[str]) -> None:
        """Files that this fingerprint left behind, and no record names."""
        left = [name for name in there if layout.is_own(self.stage, name) and name not in kept]
        storage.remove_all(f"{self.url}/{name}" for name in left if layout.tag(self.stage, name) in (self.tag, None))
