"""Functions compiled by numba: without Python's lock, and kept on disk, so that a worker waits for none of them.

None of them makes arrays: all they need is handed in. So they can do without numba's reference counts (`_nrt`, the
switch its own string functions use), which would cost ten times what they do, for every look at an array is counted.

What is kept is unpickled and run. So it is kept only where nobody but this user can put anything.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

from geo_subset import storage

#: Their arguments have the types that they are called with: mypy knows none.
_Function = Callable[..., Any]
_PACKAGE = Path(__file__).resolve().parent


def compiled(function: _Function) -> _Function:
    """The function as machine code, made at the first call for the types of its arguments."""
    return _kept(function, {})


def inlined(function: _Function) -> _Function:
    """The same, put into the functions that call it."""
    return _kept(function, {"forceinline": True})


def _kept(function: _Function, options: dict[str, Any]) -> _Function:
    made = numba.njit(nogil=True, error_model="numpy", _nrt=False, **options)(function)
    made._cache = _Cache(function)  # what cache=True does, with a place of its own choice
    return made  # type: ignore[no-any-return]


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Where the machine code of a function is: by what it is made from, not by where the package lies."""

    def __init__(self, function: _Function, file: str) -> None:
        self._py_file, self._line = file, function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: _Function, file: str) -> _Locator:
        return cls(function, file)

    def get_cache_path(self) -> str:
        within = Path(self._py_file).resolve().relative_to(_PACKAGE).parts
        return str(folder(within[0]) / ".".join(within[:-1]))

    def get_source_stamp(self) -> str:
        return ""  # the folder's name says it

    def get_disambiguator(self) -> str:
        return str(self._line)


class _CacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _CacheImpl


@functools.cache
def folder(stage: str) -> Path:
    """Where the machine code of a stage is kept: in the user's cache, else beside the package, else nowhere for long.

    There is one for every version of the stage's modules and of those that all stages share; stages never import one
    another. Numba looks at the file of a function alone, and would go on using what was made of another version of
    those that it calls.
    """
    sources = sorted((*_PACKAGE.glob("*.py"), *(_PACKAGE / stage).rglob("*.py")))
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    name = f"numba-{digest.hexdigest()[:16]}"
    for place in _places():
        if _is_private(place / name):
            return place / name
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(storage.scratch_folder())


def _places() -> Iterator[Path]:
    for base in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):  # noqa: PTH111 - never raises
        if Path(base).is_absolute():
            yield Path(base).resolve() / "geo-subset"
            break
    yield _PACKAGE / "__pycache__"


def _is_private(path: Path) -> bool:
    """Makes a folder, if it is not there. Whether nobody but this user and root can write to it, or put another in its
    place."""
    try:
        for missing in reversed([parent for parent in (path, *path.parents) if not os.path.lexists(parent)]):
            missing.mkdir(mode=0o700, exist_ok=True)
        for above in (path, *path.parents):
            status = above.lstat()
            # What is in a sticky folder can be replaced by its owner alone.
            shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and (
                above == path or not status.st_mode & stat.S_ISVTX
            )
            if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()) or shared:
                return False
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK)
