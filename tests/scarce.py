"""A process that may open hardly any more files."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def descriptors(free: int) -> Iterator[None]:
    """With so many of them free at most, and no way to get more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + free, hard))
    filled = []
    with contextlib.suppress(OSError):
        while True:  # the gaps between those that are open
            filled.append(os.open(os.devnull, os.O_RDONLY))
    for descriptor in filled[len(filled) - free :]:
        os.close(descriptor)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filled[: len(filled) - free]:
            os.close(descriptor)
