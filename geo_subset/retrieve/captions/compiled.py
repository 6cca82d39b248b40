"""Functions compiled by numba: without Python's lock, and kept on disk, so that a worker waits for none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """The function as machine code, made at the first call for the types of its arguments."""
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)  # type: ignore[no-any-return]


def inlined(function: _Function) -> _Function:
    """The same for what is called per byte or word of every caption."""
    return numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")(function)  # type: ignore[no-any-return]
