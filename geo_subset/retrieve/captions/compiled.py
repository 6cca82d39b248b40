"""Functions compiled by numba: without Python's lock, and kept on disk, so that a worker waits for none of them.

None of them makes arrays: all they need is handed in. So they can do without numba's reference counts (`_nrt`, the
switch its own string functions use), which would cost ten times what they do, for every look at an array is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """The function as machine code, made at the first call for the types of its arguments."""
    return numba.njit(nogil=True, cache=True, error_model="numpy", _nrt=False)(function)  # type: ignore[no-any-return]


def inlined(function: _Function) -> _Function:
    """The same, put into the functions that call it."""
    return numba.njit(nogil=True, cache=True, error_model="numpy", _nrt=False, forceinline=True)(function)  # type: ignore[no-any-return]
