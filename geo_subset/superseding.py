"""Results that other settings have superseded. They are kept apart until `clean`, and come back with their settings.

A stage's folder holds the results of one fingerprint. Those of another one lie in a folder of their own below
`_superseded`, with the stage's manifest, or with one of what was recorded if the stage was cut off.

A process may be killed at any moment. So a manifest (or records) stands wherever a file that it names may be: files are
moved only after it is written at their destination, and it is removed at their origin only after they are moved. The
next `settle` sees what was cut off and does it again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from geo_subset import layout, manifests, statefiles, storage, wording
from geo_subset.errors import StageError, from_os_error
from geo_subset.layout import MANIFEST, UNFINISHED
from geo_subset.manifests import FileEntry, Manifest, Record, Started


@dataclass(frozen=True)
class Generation:
    """What there is of one fingerprint of a stage. Until the stage is finished, the manifest is of its records."""

    manifest: Manifest
    finished: bool

    @property
    def file(self) -> str:
        """Name of the manifest where the generation lies apart."""
        return MANIFEST if self.finished else UNFINISHED


@dataclass(frozen=True)
class Superseded:
    """A generation that lies apart. `files` are those that are there as they were recorded."""

    run_url: str
    stage: str
    generation: Generation
    files: tuple[FileEntry, ...]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)


@dataclass(frozen=True)
class Unreadable:
    """A folder below `_superseded` of which nobody can say what it holds; `problem` names it and says what to do."""

    stage: str
    problem: str


def settle(run_url: str, stage: str, fingerprint: str) -> None:
    """Makes the stage's folder that of one fingerprint: others' results leave it, its own come back to it.

    Raises StageError if the folder holds a file under one of the stage's names that no run has recorded: it could
    neither stay nor be removed.
    """
    here = layout.stage_url(run_url, stage)
    try:
        there = {generation.manifest.fingerprint: generation for generation in _generations(run_url, stage)}
        tags = _tags([fingerprint, *there, *storage.folders(layout.superseded_url(run_url, stage))])
        _refuse_strange(here, stage, tags, fresh=not there)
        for other, generation in there.items():
            if other != fingerprint:
                _set_aside(run_url, generation)
        stragglers = tags - _tags([fingerprint])
        left = [name for name in storage.sizes(here) if layout.tag(stage, name) in stragglers]
        storage.remove_all(f"{here}/{name}" for name in left)
        for generation in list(_apart(run_url, stage, fingerprint)):
            _bring_back(run_url, generation)
    except OSError as error:
        raise from_os_error(error, f"moving superseded results of {here}") from error


def present(run_url: str, stage: str) -> tuple[str, dict[str, Any]] | None:
    """Fingerprint, and what it was made from, of what the stage's folder holds: finished, or else begun last."""
    here = layout.stage_url(run_url, stage)
    there = statefiles.read_manifest(here) or statefiles.read_started(here)
    return None if there is None else (there.fingerprint, there.made_from)


def apart(run_url: str) -> Iterator[Superseded | Unreadable]:
    """What lies apart in a run folder, by stage. What is half moved to or from the stage's folder is not superseded."""
    for stage in layout.STAGES:
        here = present(run_url, stage)
        for name in storage.folders(layout.superseded_url(run_url, stage)):
            if here is not None and name == here[0][: layout.FOLDER_DIGITS]:
                continue
            try:
                generations = list(_apart(run_url, stage, name))
            except StageError as error:
                yield Unreadable(stage, str(error))
                continue
            for generation in generations:
                sizes = storage.sizes(layout.superseded_url(run_url, stage, name))
                files = [entry for entry in generation.manifest.files if sizes.get(entry.path) == entry.bytes]
                yield Superseded(run_url, stage, generation, tuple(files))


def complete_moves(run_url: str) -> None:
    """Brings back what a process that was killed has left half moved."""
    for stage in layout.STAGES:
        here = present(run_url, stage)
        if here is not None and next(_apart(run_url, stage, here[0]), None) is not None:
            settle(run_url, stage, here[0])


def remove(superseded: Superseded) -> list[str]:
    """Removes a generation that lies apart: the files that are as they were recorded, then what names them.

    Returns the URLs of files that are not as they were recorded. They stay, and so does the manifest.
    """
    manifest = superseded.generation.manifest
    folder = layout.superseded_url(superseded.run_url, superseded.stage, manifest.fingerprint)
    try:
        storage.remove_all(f"{folder}/{entry.path}" for entry in superseded.files)
        left = storage.sizes(folder)
        changed = [f"{folder}/{entry.path}" for entry in manifest.files if entry.path in left]
        if not changed:
            _forget(superseded.run_url, superseded.generation)
    except OSError as error:
        raise from_os_error(error, f"removing {folder}") from error
    return changed


def _generations(run_url: str, stage: str) -> Iterator[Generation]:
    """What a stage's folder holds of each fingerprint."""
    here = layout.stage_url(run_url, stage)
    manifest, started = statefiles.read_manifest(here), statefiles.read_started(here)
    recorded: dict[str, list[Record]] = {} if started is None else {started.fingerprint: []}
    for fingerprint, record in statefiles.read_records(here, statefiles.record_names(here)):
        recorded.setdefault(fingerprint, []).append(record)
    if manifest is not None:
        yield Generation(manifest, finished=True)
        recorded.pop(manifest.fingerprint, None)  # left over from finishing
    for fingerprint, records in recorded.items():
        noted = started if started is not None and started.fingerprint == fingerprint else None
        seconds = manifests.seconds_so_far(noted, records) if noted else 0.0
        made_from = noted.made_from if noted else {}
        yield Generation(_of_records(stage, fingerprint, records, seconds, made_from), finished=False)


def _of_records(
    stage: str, fingerprint: str, records: list[Record], seconds: float, made_from: dict[str, Any]
) -> Manifest:
    units = tuple(sorted(records, key=lambda record: record.unit))
    files = tuple({entry.path: entry for record in units for entry in record.files}.values())
    return Manifest(stage, fingerprint, files, {}, seconds, manifests.versions(), units, made_from=made_from)


def _apart(run_url: str, stage: str, fingerprint: str) -> Iterator[Generation]:
    """What lies apart of one fingerprint, of which the first digits are enough."""
    folder = layout.superseded_url(run_url, stage, fingerprint)
    _refuse_links(run_url, folder)
    for finished in (True, False):
        name = MANIFEST if finished else UNFINISHED
        try:
            manifest = statefiles.read_manifest(folder, name)
        except StageError as error:
            raise StageError(f"{folder}/{name} cannot be read. Move {folder} out of the run folder") from error
        if manifest is not None:
            if manifest.stage != stage or not folder.endswith(f"/{manifest.fingerprint[: layout.FOLDER_DIGITS]}"):
                raise StageError(f"{folder} holds something else's manifest. Move {folder} out of the run folder")
            yield Generation(manifest, finished)


def _refuse_links(run_url: str, folder: str) -> None:
    """Raises StageError if a folder below `_superseded` is a symbolic link: what it leads to may be another run's."""
    while folder != run_url:
        if storage.is_link(folder):
            raise StageError(f"{folder} is a symbolic link, which is not followed there. Remove the link")
        folder = folder.rpartition("/")[0]


def _tags(fingerprints: list[str]) -> set[str | None]:
    return {fingerprint[: layout.TAG_DIGITS] for fingerprint in fingerprints}


def _refuse_strange(here: str, stage: str, tags: set[str | None], fresh: bool) -> None:
    """Raises StageError for files under the stage's names that cannot be a run's: in a `fresh` folder there are none,
    and elsewhere they bear a tag that is known."""
    own = [name for name in sorted(storage.sizes(here)) if layout.is_own(stage, name)]
    strange = [name for name in own if layout.tag(stage, name) not in (tags if fresh else {*tags, None})]
    if strange:
        raise StageError(
            f"{here} holds files that no run has recorded, under names that the stage uses: {wording.some(strange)}. "
            "Move them elsewhere, then run again"
        )


def _set_aside(run_url: str, generation: Generation) -> None:
    manifest, finished = generation.manifest, generation.finished
    here = layout.stage_url(run_url, manifest.stage)
    there = layout.superseded_url(run_url, manifest.stage, manifest.fingerprint)
    units = [record.unit for record in manifest.units]
    if finished or units:
        _refuse_links(run_url, there)
        storage.make_folder(there)
        if finished:
            statefiles.copy_manifest(here, there)
        else:
            manifest = _with_earlier_records(manifest, statefiles.read_manifest(there, UNFINISHED))
            statefiles.write_manifest(there, manifest, UNFINISHED)
        storage.move_all([entry.path for entry in manifest.files], here, there)
    statefiles.remove_records(here, units)
    if finished:
        storage.remove(f"{here}/{MANIFEST}")


def _with_earlier_records(manifest: Manifest, earlier: Manifest | None) -> Manifest:
    """If setting it aside was cut off before, some of its records may have left the folder already."""
    if earlier is None:
        return manifest
    records = {record.unit: record for record in (*earlier.units, *manifest.units)}
    return _of_records(manifest.stage, manifest.fingerprint, list(records.values()), earlier.seconds, earlier.made_from)


def _bring_back(run_url: str, generation: Generation) -> None:
    manifest = generation.manifest
    here = layout.stage_url(run_url, manifest.stage)
    there = layout.superseded_url(run_url, manifest.stage, manifest.fingerprint)
    storage.make_folder(f"{here}/{layout.RECORDS}")
    if generation.finished:
        statefiles.copy_manifest(there, here)
    else:
        started = statefiles.read_started(here)
        if started is None or started.fingerprint != manifest.fingerprint:
            noted = Started(
                manifest.fingerprint, len(manifest.units), time.time(), manifest.seconds, manifest.made_from
            )
            statefiles.write_started(here, noted)
        statefiles.write_records(here, manifest.units, manifest.fingerprint)
    storage.move_all([entry.path for entry in manifest.files], there, here)
    if generation.finished:
        statefiles.remove_records(here, [record.unit for record in manifest.units], started=True)
    _forget(run_url, generation)


def _forget(run_url: str, generation: Generation) -> None:
    """Removes the manifest of a generation of which nothing lies apart any more, and the folders that are empty now."""
    manifest = generation.manifest
    folder = layout.superseded_url(run_url, manifest.stage, manifest.fingerprint)
    half_written = [name for name in storage.sizes(folder) if storage.is_temporary(name)]
    storage.remove_all(f"{folder}/{name}" for name in (*half_written, generation.file))
    while folder != run_url:
        storage.remove_empty_folder(folder)
        folder = folder.rpartition("/")[0]
