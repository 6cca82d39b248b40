"""Writes samples into a tar as webdataset's `TarWriter` does, for a sixth of its CPU.

The layout of headers is POSIX.1-1988's ustar; a test compares them with those that `TarWriter` writes.
"""

from __future__ import annotations

import tarfile
from typing import IO

_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)


class TarWriter:
    """Puts samples into `stream`, all with the same time of modification, in seconds since 1970."""

    def __init__(self, stream: IO[bytes], mtime: int) -> None:
        self._stream = stream
        member = tarfile.TarInfo("")
        member.mode, member.uname, member.gname, member.mtime = 0o444, "bigdata", "bigdata", mtime
        self._header = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
        self._header[_SIZE] = bytes(12)
        self._header[_CHECKSUM] = b" " * 8  # what it counts as while it is summed up
        self._sum = sum(self._header)

    def write(self, sample: dict[str, str | bytes]) -> None:
        """Writes one file for each key but '__key__', in the order of their names, text as UTF-8.

        Raises OSError; ValueError if a name has more than 100 bytes or a body is of 8 GiB or more.
        """
        parts = []
        for extension in sorted(sample.keys() - {"__key__"}):
            body = _bytes(sample[extension])
            name = _bytes(sample["__key__"]) + b"." + _bytes(extension)
            parts += [self._header_of(name, len(body)), body, bytes(-len(body) % tarfile.BLOCKSIZE)]
        self._stream.write(b"".join(parts))  # one call of the system instead of three

    def close(self) -> None:
        """Writes the end-of-archive mark, and fills up the last record."""
        self._stream.write(bytes(2 * tarfile.BLOCKSIZE))
        self._stream.write(bytes(-self._stream.tell() % tarfile.RECORDSIZE))

    def _header_of(self, name: bytes, length: int) -> bytes:
        if len(name) > 100 or length >= 1 << 33:
            raise ValueError(f"a tar's member cannot be called {name.decode()} or have {length:,} bytes")
        header, size = self._header, b"%011o\0" % length
        header[_NAME] = name.ljust(100, b"\0")
        header[_SIZE] = size
        header[_CHECKSUM] = b"%06o\0 " % (self._sum + sum(name) + sum(size))
        return bytes(header)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
