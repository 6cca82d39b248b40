"""Which folder is a run's. It is marked when it is made; a folder that holds anything else is refused.

The mark notes the SHA-256 of the `run.toml` that was written last, so that one that a person made is never overwritten.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys

import msgspec
import tomli_w
from fsspec.implementations.local import LocalFileSystem

from geo_subset import layout, lease, statefiles, storage, wording
from geo_subset.credentials import lacking
from geo_subset.errors import SettingsError, of_run_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MARK_BYTES = 64 << 10
_SETTINGS_BYTES = 16 << 20


class _Mark(msgspec.Struct):
    format: int = layout.FORMAT
    run_toml: tuple[str, ...] = ()
    """SHA-256 of `run.toml`, and of the one before it: a process may be killed between the mark and the file."""


def in_ray_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # by which Ray hands it the job's runtime environment


def open_run(run: str) -> str:
    """The run folder as an absolute URL that any process can use.

    Raises SettingsError: there is no such file system, or the folder would not outlive a Ray job.
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
    if "://" in run and "::" in run:
        raise SettingsError(f"run = {run!r}: a run folder is one URL, not a chain of several ('::')")
    try:
        fs, root = storage.filesystem(run)
        url = root if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(root)
    except Exception as error:  # object stores raise kinds of their own
        raise SettingsError(f"run = {run!r}: the run folder cannot be opened: {error}") from error
    if not root.strip("/"):
        raise SettingsError(f"run = {run!r}: this is the root of a file system; name a folder in it")
    return str(url).rstrip("/")


def check_is_run(run: str) -> str:
    """The URL of a folder that is a run's. Raises SettingsError if it is not."""
    url = open_run(run)
    with of_run_folder(run):
        if _mark(url) is None and not _is_older_run(url):
            raise SettingsError(f"run = {run!r}: this is not a run folder")
    return url


def check(run: str) -> str:
    """The URL of a folder that is a run's, or may become one: it is empty, or not there. Nothing is written.

    Raises SettingsError: it holds something else, or cannot be written to.
    """
    url = open_run(run)
    with of_run_folder(run):
        names = [*storage.folders(url), *sorted(storage.sizes(url))]
        if names and (_mark(url) is not None or _is_older_run(url)):
            return url
        strange = [name for name in names if not name.startswith(".")]
        if layout.LEASE in strange and lease.is_one(url):
            strange.remove(layout.LEASE)
    if strange:
        raise SettingsError(
            f"run = {run!r}: this folder holds what no run has made ({wording.some(strange)}). "
            "Name a folder that is empty or not there yet"
        )
    return url


def claim(run: str, run_toml: str | None = None) -> str:
    """Makes the folder and marks it as a run's, if that is not done, and writes the settings as resolved into it.

    Raises SettingsError as `check` does, or if the folder cannot be written to, or holds a `run.toml` of somebody else.
    Raises StorageFullError.
    """
    url = check(run)
    with of_run_folder(run):
        storage.make_folder(url)
        mark = _mark(url)
        settings = f"{url}/{layout.SETTINGS}"
        before = storage.read_bytes(settings, _SETTINGS_BYTES) if run_toml is not None else None
        if before is not None and before != run_toml.encode() and not _is_own(before, mark):  # type: ignore[union-attr]
            raise SettingsError(
                f"{settings} is not as a run wrote it, and would be overwritten. Move it out of the run folder and use "
                "it from there"
            )
        texts = (None if run_toml is None else run_toml.encode(), before)
        known = tuple(_digest(text) for text in texts if text is not None)
        if mark is None or (known and mark.run_toml != known):
            storage.write_text(f"{url}/{layout.MARK}", msgspec.json.encode(_Mark(run_toml=known)).decode())
        if run_toml is not None and before != run_toml.encode():
            storage.write_text(settings, run_toml)
    return url


def _mark(url: str) -> _Mark | None:
    """None if there is none, or it is damaged."""
    text = storage.read_bytes(f"{url}/{layout.MARK}", _MARK_BYTES)
    try:
        return None if text is None else msgspec.json.decode(text, type=_Mark)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _is_older_run(url: str) -> bool:
    """Whether a version that did not mark its folders has made this one."""
    folders = [layout.stage_url(url, stage) for stage in layout.STAGES]
    return any(
        statefiles.read_manifest(folder) is not None or statefiles.read_started(folder) is not None
        for folder in folders
    )


def _is_own(text: bytes, mark: _Mark | None) -> bool:
    """Whether a run wrote this `run.toml`. Older versions did not note it; theirs hold nothing that people add, such as
    comments."""
    if mark is not None and mark.run_toml:
        return _digest(text) in mark.run_toml
    return is_as_written(text)


def is_as_written(text: bytes) -> bool:
    """Whether a TOML file is as a program writes it, without anything that a person adds."""
    try:
        return tomli_w.dumps(tomllib.loads(text.decode())) == text.decode()
    except (ValueError, RecursionError):
        return False


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
