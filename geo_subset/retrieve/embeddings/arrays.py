"""Matrices in .npy and .npz files, on a local disk or any fsspec URL: what they are, and ranges of their rows.

Only headers are parsed by numpy (numpy.lib.format, which never unpickles here); rows are read by ranges of bytes, so a
file is never in memory as a whole.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import numpy as np
import numpy.typing as npt
from fsspec.implementations.local import LocalFileSystem

from geo_subset.errors import SettingsError

_FORMAT = np.lib.format


@dataclass(frozen=True)
class Matrix:
    """A matrix of float16 or float32 in a file; `member` is its name inside an .npz, '' for an .npy."""

    url: str
    member: str
    rows: int
    columns: int
    dtype: str
    """As numpy writes it, byte order included: '<f2'."""
    offset: int
    """Bytes before the first row (inside the member)."""


@contextlib.contextmanager
def _opened(url: str, ahead: int) -> Iterator[IO[bytes]]:
    """A file; over a network `ahead` bytes more are read than asked for, in case they are next."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
        cache = {"cache_type": "readahead", "block_size": ahead} if ahead else {"cache_type": "none"}
        with fs.open(path, "rb", **({} if isinstance(fs, LocalFileSystem) else cache)) as stream:
            yield stream
    except SettingsError:
        raise
    except Exception as error:  # object stores raise kinds of their own
        raise SettingsError(f"{url} cannot be read: {' '.join(str(error).split()) or repr(error)}") from error


def describe(url: str, size: int, columns: int | None) -> Matrix:
    """What the matrix in a file of `size` bytes is. Of an .npz, the member of image vectors with `columns` columns.

    Raises SettingsError, naming the file: it is empty or cut off, no matrix, of Python objects (these are never
    unpickled), neither float16 nor float32, in Fortran order; or no member, or more than one, of an .npz fits.
    """
    if size == 0:
        raise SettingsError(f"{url} is empty: make it again")
    with _opened(url, _HEADER) as stream:
        if not url.lower().endswith(".npz"):
            matrix = _header(stream, url, "")
            whole = matrix.offset + matrix.rows * matrix.columns * np.dtype(matrix.dtype).itemsize
            if size < whole:
                raise SettingsError(f"{url} is cut off: it has {size:,} bytes of {whole:,}; make or fetch it again")
            return matrix
        with _archive(stream, url) as archive:
            return _member(archive, url, columns)


def _member(archive: zipfile.ZipFile, url: str, columns: int | None) -> Matrix:
    found: list[Matrix] = []
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    images = [name for name in names if name.removesuffix(".npy").endswith(("_img", "img_emb", "image"))]
    for name in images or (names if len(names) == 1 else []):
        with archive.open(name) as stream:
            matrix = _header(stream, url, name)
        whole = matrix.offset + matrix.rows * matrix.columns * np.dtype(matrix.dtype).itemsize
        if archive.getinfo(name).file_size < whole:
            raise SettingsError(f"{url}: {name} is cut off; make or fetch it again")
        found.append(matrix)
    fitting = [matrix for matrix in found if columns in (None, matrix.columns)]
    if len(fitting) == 1:
        return fitting[0]
    there = ", ".join(f"{matrix.member} of {matrix.columns} columns" for matrix in found) or ", ".join(names)
    wanted = "image vectors" if columns is None else f"image vectors of {columns} columns"
    raise SettingsError(f"{url} holds {'no' if not fitting else 'more than one matrix of'} {wanted}, but {there}")


@contextlib.contextmanager
def _archive(stream: IO[bytes], url: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(stream) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise SettingsError(f"{url} is no .npz file, or cut off: {error}") from None


def _header(stream: IO[bytes], url: str, member: str) -> Matrix:
    name = f"{url}: {member}" if member else url
    try:
        version = _FORMAT.read_magic(stream)
        reading: Any = _FORMAT.read_array_header_1_0 if version == (1, 0) else _FORMAT.read_array_header_2_0
        shape, fortran, dtype = reading(stream)
    except (ValueError, EOFError, TypeError, SyntaxError) as error:
        raise SettingsError(f"{name} is no .npy file, or cut off: {' '.join(str(error).split())}") from None
    if dtype.hasobject:
        raise SettingsError(
            f"{name} holds Python objects, which are not read: save a plain array of float16 or float32"
        )
    if dtype.kind != "f" or dtype.itemsize not in (2, 4):
        raise SettingsError(f"{name} holds {dtype}: save it as float16 or float32")
    if len(shape) != 2 or shape[1] == 0:
        raise SettingsError(f"{name} has the shape {shape}: it must be (rows, columns), a vector a row")
    if fortran and shape[0] > 1 and shape[1] > 1:
        raise SettingsError(
            f"{name} is in Fortran order, so that no range of rows can be read: save np.ascontiguousarray of it"
        )
    return Matrix(url, member, shape[0], shape[1], dtype.str, stream.tell())


def read(matrix: Matrix, start: int, stop: int, rows: int) -> Iterator[npt.NDArray[np.floating]]:
    """Rows [start, stop) as native float16 or float32 arrays of at most `rows` rows.

    Raises SettingsError if the file cannot be read, or ends too early.
    """
    with _data(matrix) as stream:
        for first in range(start, stop, rows):
            yield _rows(stream, matrix, first, min(rows, stop - first))


def take(matrix: Matrix, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
    """The given rows (n,), in ascending order, as an array (n, columns). Raises as `read`."""
    out = np.empty((len(rows), matrix.columns), np.dtype(matrix.dtype).newbyteorder("="))
    apart = np.flatnonzero(np.diff(rows, prepend=-1 - _NEAR) > _NEAR)  # what is near one another is read in one go
    with _data(matrix) as stream:
        for begin, end in zip(apart, [*apart[1:], len(rows)], strict=True):
            for start in range(begin, end, _NEAR):
                wanted = rows[start : min(end, start + _NEAR)]
                found = _rows(stream, matrix, int(wanted[0]), int(wanted[-1] - wanted[0]) + 1)
                out[start : start + len(wanted)] = found[wanted - wanted[0]]
    return out


_PIECE = 16 << 20
"""Bytes read at a time."""
_HEADER, _ZIPPED = 1 << 16, 4 << 20
"""Bytes that are read ahead where small pieces are asked for: a header, what zipfile unpacks."""
_NEAR = 64
"""Rows between two wanted ones that are rather read than left out: a range costs more than what lies between."""


@contextlib.contextmanager
def _data(matrix: Matrix) -> Iterator[IO[bytes]]:
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_opened(matrix.url, _ZIPPED if matrix.member else 0))
        if matrix.member:
            archive = stack.enter_context(_archive(stream, matrix.url))
            stream = stack.enter_context(archive.open(matrix.member))
        yield stream


def _rows(stream: IO[bytes], matrix: Matrix, first: int, count: int) -> npt.NDArray[np.floating]:
    dtype = np.dtype(matrix.dtype)
    stream.seek(matrix.offset + first * matrix.columns * dtype.itemsize)
    data = np.empty((count, matrix.columns), dtype)
    view = data.data.cast("B")
    done = 0
    while done < len(view):
        piece = stream.read(min(len(view) - done, _PIECE))
        if not piece:
            raise SettingsError(f"{matrix.url} ends before row {first + count:,}: was it changed meanwhile?")
        view[done : done + len(piece)] = piece
        done += len(piece)
    return data.astype(dtype.newbyteorder("="), copy=False)
