"""Files on a local disk or any fsspec URL: whole or not at all, and scratch space on the node's own disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import duckdb
import fsspec
from fsspec.implementations.local import LocalFileSystem

#: Start of the names of files that are being written; what is left of them after a crash is rubbish.
TEMPORARY = ".tmp-geo-subset-"
_TEMPORARY_DIGITS = 12
#: Requests at a time to an object store.
_AT_A_TIME = 16
_SCRATCH = "geo-subset-scratch-"
#: Of DuckDB: no extension by itself, and none of a stranger's; no table by the name of a Python variable.
_CLOSED = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
}


#: Where folders are no more than a part of names; making one would make a bucket that is not there, a misspelt one's.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if "://" not in url:  # a local path is no chain, whatever is in it
        return LocalFileSystem(), LocalFileSystem._strip_protocol(url)
    fs, root = fsspec.core.url_to_fs(url)
    if not isinstance(fs, LocalFileSystem):
        fs.invalidate_cache()  # listings of a bucket that other processes write to must not be remembered
        if "s3" in _protocols(fs):
            _retry_server_errors()
    return fs, root


def make_folder(url: str) -> None:
    """Makes a folder and those above it, if they are not there."""
    fs, root = filesystem(url)
    if not _OBJECT_STORES.intersection(_protocols(fs)):
        fs.makedirs(root, exist_ok=True)


def sizes(url: str) -> dict[str, int]:
    """Name -> bytes of the files directly in a folder; {} if there is no such folder."""
    fs, root = filesystem(url)
    try:
        return {Path(e["name"]).name: e["size"] for e in fs.ls(root, detail=True) if e["type"] == "file"}
    except FileNotFoundError:
        return {}


def newest(url: str, most: int) -> tuple[list[str], int]:
    """Names of the files directly in a folder, on object stores of the `most` that were written last; and how many
    files there are."""
    fs, root = filesystem(url)
    try:
        files = [entry for entry in fs.ls(root, detail=True) if entry["type"] == "file"]
    except FileNotFoundError:
        return [], 0
    there = len(files)
    if there > most and not isinstance(fs, LocalFileSystem):
        # Each store has a name of its own for the time; later is greater in all of them.
        time = next((key for key in ("LastModified", "updated", "last_modified") if key in files[0]), "name")
        files = sorted(files, key=lambda entry: entry[time])[-most:]
    return [Path(entry["name"]).name for entry in files], there


def read_text(url: str) -> str | None:
    fs, path = filesystem(url)
    try:
        return bytes(fs.cat_file(path)).decode()
    except FileNotFoundError:
        return None


def read_bytes(url: str, most: int) -> bytes | None:
    """The first `most` bytes of a file, be it whatever: a folder or a pipe of that name holds nothing. None: none."""
    fs, path = filesystem(url)
    try:
        if not isinstance(fs, LocalFileSystem):
            return bytes(fs.cat_file(path, end=most))
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return file.read(most)
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return b""
    except OSError as error:
        # Object stores know no range of nothing. Other errors are not asked about: they were tried again already.
        if (error.errno == errno.EINVAL or "range" in str(error).lower()) and fs.size(path) == 0:
            return b""
        raise


def write_text(url: str, text: str) -> None:
    """Writes a small file, whole or not at all."""
    fs, path = filesystem(url)
    if isinstance(fs, LocalFileSystem):
        with writing(url) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        fs.pipe_file(path, text.encode())


def create(url: str, text: str) -> bool:
    """Makes a small file; False if there is one already.

    One of several that try at the same time makes it: by O_EXCL on local and shared file systems, by If-None-Match on
    object stores. A store that does not know the latter overwrites what is there, and this is True each time.
    """
    fs, path = filesystem(url)
    if isinstance(fs, LocalFileSystem):
        try:
            file = Path(path).open("x", encoding="utf-8")  # noqa: SIM115 - whether it is made here decides the rest
        except FileExistsError:
            return False
        try:
            with file:
                file.write(text)
        except OSError:  # a full disk
            Path(path).unlink(missing_ok=True)
            raise
        return True
    try:
        fs.pipe_file(path, text.encode(), mode="create")
    except OSError as error:  # if there is one: FileExistsError, or EINVAL from s3fs
        no_answer = error.errno is None and not isinstance(error, FileExistsError)
        if no_answer or read_bytes(url, 1) is None:
            raise
        return False
    return True


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that `writing` had not put in place yet."""
    return re.fullmatch(rf"{re.escape(TEMPORARY)}[0-9a-f]{{{_TEMPORARY_DIGITS}}}", name) is not None


def folders(url: str) -> list[str]:
    """Names of the folders directly in a folder, sorted."""
    fs, root = filesystem(url)
    try:
        return sorted(Path(e["name"]).name for e in fs.ls(root, detail=True) if e["type"] == "directory")
    except FileNotFoundError:
        return []


def is_link(url: str) -> bool:
    """Whether it is a symbolic link. Object stores have none."""
    fs, path = filesystem(url)
    return isinstance(fs, LocalFileSystem) and Path(path).is_symlink()


def remove(url: str) -> None:
    """Removes one file, if it is there. Its name is never a pattern."""
    fs, path = filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def remove_all(urls: Iterable[str]) -> None:
    """The same for many files, several at a time."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(remove, urls))


def remove_empty_folder(url: str) -> None:
    """Removes a folder that holds nothing. Object stores have none."""
    fs, path = filesystem(url)
    if isinstance(fs, LocalFileSystem):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def move_all(names: Iterable[str], source: str, destination: str) -> None:
    """Moves files from one folder of a storage to another that is there; those not in `source` are passed over.

    Each is at every moment whole in one of them. Disks rename. Object stores copy on their own side, then delete.
    """
    there = sizes(source)
    moving = [name for name in names if name in there]
    (fs, root), (_, target) = filesystem(source), filesystem(destination)

    def move(name: str) -> None:
        if isinstance(fs, LocalFileSystem):
            _rename(Path(root, name), Path(target, name))
        else:
            fs.cp_file(f"{root}/{name}", f"{target}/{name}")
            fs.rm_file(f"{root}/{name}")

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(move, moving))
    if moving and isinstance(fs, LocalFileSystem):
        sync(Path(target))
        sync(Path(root))


def _rename(source: Path, destination: Path) -> None:
    try:
        source.replace(destination)
    except OSError as error:
        if error.errno != errno.EXDEV:  # a stage's folder may be a link to another disk
            raise
        with writing(str(destination)) as temporary:
            shutil.copyfile(source, temporary)
        source.unlink()


def fetch(url: str, names: Iterable[str], paths: Iterable[str]) -> None:
    """Copies files of a folder to local paths, several at a time."""
    fs, root = filesystem(url)
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(lambda name, path: fs.get_file(f"{root}/{name}", path), names, paths))


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def is_local(url: str) -> bool:
    return isinstance(filesystem(url)[0], LocalFileSystem)


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol


@lru_cache(maxsize=1)
def _retry_server_errors() -> None:
    """Lets s3fs try again after any answer of 5xx, as it does after SlowDown and lost connections: five times, each of
    which is up to five requests of botocore. (Older ones of s3fs leave other errors to botocore alone.)"""
    import s3fs.core  # an extra

    if hasattr(s3fs.core, "set_custom_error_handler"):
        s3fs.core.set_custom_error_handler(_is_server_error)


def _is_server_error(error: Exception) -> bool:
    answer = getattr(error, "response", None)
    answer = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    return int(answer.get("HTTPStatusCode", 0)) >= 500


@contextlib.contextmanager
def writing(url: str) -> Iterator[Path]:
    """A local path to write a file at; on leaving, the file is synced and put in place at `url`, whole."""
    fs, destination = filesystem(url)
    with contextlib.ExitStack() as stack:
        local = isinstance(fs, LocalFileSystem)
        folder = Path(destination).parent if local else stack.enter_context(scratch_folder())
        temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex[:_TEMPORARY_DIGITS]}"
        stack.callback(temporary.unlink, missing_ok=True)
        yield temporary
        if local:
            sync(temporary)
            temporary.replace(destination)
            sync(folder)
        else:
            fs.put_file(str(temporary), destination)


@contextlib.contextmanager
def database(
    memory_limit: str, threads: int = 1, files: Sequence[str] = (), **config: Any
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own that spills to scratch space above its limit, so that several share a node.

    It can read `files` (local paths, to be named by `literal`) and nothing else, write nothing, load no extension and
    see no variable of Python; DuckDB refuses to turn these on again.
    """
    with scratch_folder() as scratch:
        config |= {"memory_limit": memory_limit, "threads": threads, "temp_directory": str(scratch)}
        with duckdb.connect(":memory:", config={**config, **_CLOSED}) as connection:
            connection.execute("SET allowed_paths = $1", [[*files, *map(literal, files)]])
            connection.execute("SET enable_external_access = false")
            yield connection


def literal(path: str) -> str:
    """A path as DuckDB must be told it: for that path alone, where DuckDB would read it as a pattern.

    DuckDB takes a backslash for a slash in patterns: a path with both kinds of signs is not found.
    """
    return re.sub(r"[*?[]", r"[\g<0>]", path)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on this node's own disk ($TMPDIR), removed at the end; those of killed processes are removed too.

    Whoever makes one holds a lock on it for as long as it is in use. PIDs would not do: containers that share the
    temporary directory do not see one another's.
    """
    base, node = Path(tempfile.gettempdir()), hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    prefix = f"{_SCRATCH}{node}-"
    for there in base.glob(f"{prefix}*"):
        _remove_stale(there)
    with contextlib.ExitStack() as stack:
        folder = None
        while folder is None:  # one may be taken for stale before it is locked
            folder = _locked(Path(tempfile.mkdtemp(prefix=prefix)), stack)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _locked(folder: Path, stack: contextlib.ExitStack) -> Path | None:
    """The folder, locked until the stack is left; None if it has gone."""
    try:
        descriptor = _opened(folder)
        stack.callback(os.close, descriptor)
        with contextlib.suppress(OSError):  # where nothing can be locked, nothing is taken for stale
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        folder.lstat()
    except FileNotFoundError:
        return None
    return folder


def _remove_stale(folder: Path) -> None:
    """Removes a scratch folder that is this user's own, and that nobody holds."""
    with contextlib.suppress(OSError):
        descriptor = _opened(folder)
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
