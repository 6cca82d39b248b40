"""What this process may run out of (file descriptors, memory, ports, threads), and how many descriptors it may use.

A shortage here must never be taken for the fault of what was worked on: of a host, say, that could not be connected to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from geo_subset.errors import ShortageError

#: Descriptors that are not given away: for files, libraries, and what Ray opens by the way.
_RESERVE = 16
#: Descriptors that looking up a name takes.
_LOOK_UP = 4
#: Descriptors that a process is taken to hold where it cannot be seen.
_FEW = 64
#: The soft limit is raised to this at most: some programs go through all descriptors they might have.
_ENOUGH = 1 << 16
#: Bytes of address space with which little can be done: a thread takes 8 MB, and an allocator 64 MB for it.
_LITTLE = 128 << 20
_LIMIT = "raise `ulimit -n`, or lower download.threads or retrieve.clip-service.concurrency"
_MEMORY = "memory: see `ulimit -v` and the container's limit"
_THREADS = "threads: see `ulimit -u`, `ulimit -v` and the container's limit of processes"
_WHAT = {
    errno.EMFILE: f"file descriptors: {_LIMIT}",
    errno.ENFILE: "file descriptors in the whole system: see fs.file-max",
    errno.ENOBUFS: "memory for network buffers",
    errno.ENOMEM: _MEMORY,
    errno.EADDRNOTAVAIL: "free local ports: see net.ipv4.ip_local_port_range",
    errno.EAGAIN: "free local ports or threads",
}
#: What errors say that have no number: Python's own, the dynamic loader's and pyarrow's, which is not imported for it.
_SAID = {
    "start new thread": _THREADS,
    "launch worker thread": _THREADS,
    "Resource temporarily unavailable": _THREADS,
    "Cannot allocate memory": _MEMORY,
    "failed to map segment": _MEMORY,
}


def of(error: BaseException) -> ShortageError | None:
    """The shortage that an error means; None if it means something else."""
    what = None
    if isinstance(error, MemoryError) or (isinstance(error, socket.gaierror) and error.errno == socket.EAI_MEMORY):
        what = _MEMORY
    elif isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno == errno.EBUSY):
        # A resolver that could open no file says that there is no such name, or that it is busy.
        what = _WHAT[errno.EMFILE] if _free_descriptors() < _LOOK_UP else None
    elif isinstance(error, OSError) and error.errno is not None:
        what = _WHAT.get(error.errno)
    elif isinstance(error, SystemError):
        # An extension that got no memory may fail without saying why; it may have a fault as well.
        what = _MEMORY if _free_addresses() < _LITTLE else None
    elif isinstance(error, (OSError, RuntimeError, ImportError)) or type(error).__module__.startswith("pyarrow"):
        what = next((what for said, what in _SAID.items() if said in str(error)), None)
    return None if what is None else ShortageError(f"this machine ({socket.gethostname()}) lacks {what}")


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Raises ShortageError in place of an error that means one."""
    try:
        yield
    except Exception as error:
        if (lacking := of(error)) is not None:
            raise lacking from error
        raise


def raise_limit() -> None:
    """Raises the soft limit of file descriptors as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def spare_descriptors() -> int:
    """How many descriptors this process may still open, a reserve put aside; 1 at least."""
    return max(1, _free_descriptors() - _RESERVE)


def _free_addresses() -> int:
    """Bytes of address space that this process may still use."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[0]
    except OSError:  # there is no /proc
        return sys.maxsize
    return soft - int(pages) * resource.getpagesize()


def _free_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = sum(1 for _ in os.scandir("/proc/self/fd"))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return 0
        used = _FEW  # there is no /proc
    return (_ENOUGH if soft == resource.RLIM_INFINITY else soft) - used
