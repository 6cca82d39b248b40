"""What is known of a stage's work, as it lies in a folder: its manifest, its units' records, when it was started."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from geo_subset import manifests, storage
from geo_subset.errors import StageError, from_os_error
from geo_subset.layout import MANIFEST, RECORDS, STARTED
from geo_subset.manifests import Manifest, Record, Started

#: Requests at a time: on an object store each small file is one.
_AT_A_TIME = 16


def read_manifest(folder: str, name: str = MANIFEST) -> Manifest | None:
    """The manifest in a folder; None if there is none. Raises StageError if it is damaged."""
    try:
        text = storage.read_bytes(f"{folder}/{name}", manifests.MANIFEST_BYTES)
        return None if text is None else manifests.manifest_from_json(text)
    except ValueError as error:
        raise StageError(f"{folder}/{name} is damaged ({error}); remove it to make the stage again") from error
    except OSError as error:
        raise from_os_error(error, f"reading {folder}") from error


def write_manifest(folder: str, manifest: Manifest, name: str = MANIFEST) -> None:
    storage.write_text(f"{folder}/{name}", manifests.manifest_to_json(manifest))


def copy_manifest(source: str, destination: str) -> None:
    """The manifest of a folder into another one, as it is."""
    text = storage.read_bytes(f"{source}/{MANIFEST}", manifests.MANIFEST_BYTES)
    if text is not None:
        storage.write_text(f"{destination}/{MANIFEST}", text.decode())


def record_names(folder: str) -> list[str]:
    """Names of the files in a stage's folder that may be records."""
    return _may_be_records(storage.sizes(f"{folder}/{RECORDS}"))


def newest_record_names(folder: str, most: int) -> tuple[list[str], int]:
    """The same; where reading them is dear, those of the `most` that were written last. And how many there are."""
    names, there = storage.newest(f"{folder}/{RECORDS}", most)
    records = _may_be_records(names)
    return records, there - 1 if there > len(names) else len(records)  # stage.json is no record


def read_records(folder: str, names: Iterable[str]) -> list[tuple[str, Record]]:
    """(fingerprint, record) of the files that hold one; a damaged file holds none."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        found = pool.map(lambda name: read_record(folder, name.removesuffix(".json")), names)
        return [record for record in found if record is not None]


def read_record(folder: str, unit: str) -> tuple[str, Record] | None:
    text = storage.read_bytes(f"{folder}/{RECORDS}/{unit}.json", manifests.RECORD_BYTES)
    return manifests.any_record_from_json(text, unit)


def write_record(folder: str, record: Record, fingerprint: str) -> None:
    storage.write_text(f"{folder}/{RECORDS}/{record.unit}.json", manifests.record_to_json(record, fingerprint))


def write_records(folder: str, records: Iterable[Record], fingerprint: str) -> None:
    """Several at a time."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(lambda record: write_record(folder, record, fingerprint), records))


def read_started(folder: str) -> Started | None:
    """When the stage was started; None if it was not, or what was noted is damaged."""
    return manifests.started_from_json(storage.read_bytes(f"{folder}/{RECORDS}/{STARTED}", manifests.STARTED_BYTES))


def write_started(folder: str, started: Started) -> None:
    storage.write_text(f"{folder}/{RECORDS}/{STARTED}", manifests.started_to_json(started))


def remove_records(folder: str, units: Iterable[str], started: bool = False) -> None:
    """Removes the records of some units, and with `started` what is noted of the start, and half-written files. Other
    files stay."""
    names = [f"{unit}.json" for unit in units]
    if started:
        half_written = [name for name in storage.sizes(f"{folder}/{RECORDS}") if storage.is_temporary(name)]
        names += [STARTED, *half_written]
    storage.remove_all(f"{folder}/{RECORDS}/{name}" for name in names)
    storage.remove_empty_folder(f"{folder}/{RECORDS}")


def _may_be_records(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith(".json") and name != STARTED]
