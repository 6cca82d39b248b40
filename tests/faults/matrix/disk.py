"""A disk of our own that can be made small."""

from __future__ import annotations

import contextlib
import mmap
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


def pages(folder: Path) -> int:
    """How many pages of memory the files of a folder take on a tmpfs."""
    return sum(-(-path.stat().st_size // mmap.PAGESIZE) for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Disk:
    """A tmpfs at `folder` while it is mounted."""

    folder: Path

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Skips the test where nothing can be mounted."""
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", str(self.folder)], capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def resize(self, pages: int | None) -> None:
        """None: more than enough."""
        size = (1 << 30) if pages is None else max(1, pages) * mmap.PAGESIZE
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)
