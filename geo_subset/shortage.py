"""What this process may run out of (file descriptors, memory, ports, threads), and how many descriptors it may use.

A shortage here must never be taken for the fault of what was worked on: of a host, say, that could not be connected to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket

from geo_subset.errors import ShortageError

#: Descriptors that are not given away: for files, libraries, and what Ray opens by the way.
_RESERVE = 16
#: Descriptors that looking up a name takes.
_LOOK_UP = 4
#: Descriptors that a process is taken to hold where it cannot be seen.
_FEW = 64
#: The soft limit is raised to this at most: some programs go through all descriptors they might have.
_ENOUGH = 1 << 16
_LIMIT = "raise `ulimit -n`, or lower download.threads or retrieve.clip-service.concurrency"
_WHAT = {
    errno.EMFILE: f"file descriptors: {_LIMIT}",
    errno.ENFILE: "file descriptors in the whole system: see fs.file-max",
    errno.ENOBUFS: "memory for network buffers",
    errno.ENOMEM: "memory",
    errno.EADDRNOTAVAIL: "free local ports: see net.ipv4.ip_local_port_range",
    errno.EAGAIN: "free local ports or threads",
}


def of(error: BaseException) -> ShortageError | None:
    """The shortage that an error tells of; None if it tells of something else."""
    what = None
    if isinstance(error, MemoryError) or (isinstance(error, socket.gaierror) and error.errno == socket.EAI_MEMORY):
        what = "memory"
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):
        what = "threads: see `ulimit -u` and the container's limit of processes"
    elif isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno == errno.EBUSY):
        # A resolver that could open no file says that there is no such name, or that it is busy.
        what = _WHAT[errno.EMFILE] if _free_descriptors() < _LOOK_UP else None
    elif isinstance(error, OSError) and error.errno is not None:
        what = _WHAT.get(error.errno)
    return None if what is None else ShortageError(f"this machine ({socket.gethostname()}) lacks {what}")


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


def _free_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = sum(1 for _ in os.scandir("/proc/self/fd"))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return 0
        used = _FEW  # there is no /proc
    return (_ENOUGH if soft == resource.RLIM_INFINITY else soft) - used
