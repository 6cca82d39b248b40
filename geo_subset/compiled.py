"""Functions compiled by numba: without Python's lock, and kept on disk, so that a worker waits for none of them.

None of them makes arrays: all they need is handed in. So they can do without numba's reference counts (`_nrt`, the
switch its own string functions use), which would cost ten times what they do, for every look at an array is counted.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

#: Their arguments have the types that they are called with: mypy knows none.
_Function = Callable[..., Any]


def compiled(function: _Function) -> _Function:
    """The function as machine code, made at the first call for the types of its arguments."""
    return _kept(function, {})


def inlined(function: _Function) -> _Function:
    """The same, put into the functions that call it."""
    return _kept(function, {"forceinline": True})


def _kept(function: _Function, options: dict[str, Any]) -> _Function:
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _folder(Path(function.__code__.co_filename).parent)
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy", _nrt=False, **options)(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def _folder(package: Path) -> str:
    """Where machine code is kept: a folder of the very source of the package, and of what all packages use. Numba looks
    at the file of a function alone, and would go on using what was made of another version of those that it calls."""
    shared = (Path(__file__), Path(__file__).with_name("intrinsics.py"))
    source = b"".join(path.read_bytes() for path in (*sorted(package.glob("*.py")), *shared))
    name = f"numba-{hashlib.sha256(source).hexdigest()[:12]}"
    if os.access(package, os.W_OK):
        return str(package / "__pycache__" / name)
    return str(Path(tempfile.gettempdir()) / f"geo-subset-{os.getuid()}-{name}")
