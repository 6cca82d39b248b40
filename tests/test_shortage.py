from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path

import pyarrow as pa
import pytest
from scarce import descriptors

from geo_subset import shortage
from geo_subset.errors import ShortageError, from_os_error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, "x"), "file descriptors"), (OSError(errno.ENFILE, "x"), "file descriptors"),
        (OSError(errno.ENOBUFS, "x"), "memory"), (OSError(errno.ENOMEM, "x"), "memory"), (MemoryError(), "memory"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "ports"), (OSError(errno.EAGAIN, "x"), "ports or threads"),
        (RuntimeError("can't start new thread"), "threads"), (socket.gaierror(socket.EAI_MEMORY, "x"), "memory"),
        (pa.ArrowException("Unknown error: Failed to launch worker thread: Resource tempor"), "threads"),
        (pa.ArrowMemoryError("malloc of size 64 failed"), "memory"),
        (OSError("Resource temporarily unavailable"), "threads"),
        (OSError("Cannot allocate memory"), "memory"), (ImportError("x.so: failed to map segment from"), "memory"),
    ],
)  # fmt: skip
def test_what_is_lacking_is_named(error: BaseException, told: str) -> None:
    found = shortage.of(error)
    assert found is not None
    assert told in str(found)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ECONNREFUSED, "x"), OSError(errno.ENETUNREACH, "x"), OSError("x"), RuntimeError("x"),
        pa.ArrowInvalid("x"), SystemError("error return without exception set"), ImportError("x"),
        ValueError("Cannot allocate memory"),
        socket.gaierror(socket.EAI_NONAME, "x"), socket.gaierror(socket.EAI_AGAIN, "x"), ValueError(),
    ],
)  # fmt: skip
def test_other_errors_are_no_shortage(error: BaseException) -> None:
    assert shortage.of(error) is None


def test_an_extension_that_fails_without_a_reason_lacks_memory_where_there_is_little() -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, ((pages * resource.getpagesize()) + (64 << 20), limits[1]))
    try:
        found = shortage.of(SystemError("error return without exception set"))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert found is not None
    assert "memory" in str(found)


def test_a_shortage_is_told_in_place_of_what_came_of_it() -> None:
    with pytest.raises(ShortageError, match="lacks memory"), shortage.told():
        raise MemoryError
    with pytest.raises(ValueError, match="x"), shortage.told():
        raise ValueError("x")


def test_a_resolver_without_descriptors_is_not_believed() -> None:
    missing = socket.gaierror(socket.EAI_NONAME, "x")
    with descriptors(free=0):
        found = shortage.of(missing)
    assert found is not None
    assert shortage.of(missing) is None


def test_the_limit_is_raised_and_what_is_left_is_counted() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with descriptors(free=10):
        assert shortage.spare_descriptors() == 1
        shortage.raise_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 1 << 16), hard)
        before = shortage.spare_descriptors()
        with open(os.devnull):  # noqa: PTH123
            assert shortage.spare_descriptors() == before - 1
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_a_stage_without_descriptors_says_so() -> None:
    with descriptors(free=0), pytest.raises(OSError, match="Too many") as raised:
        os.open(os.devnull, os.O_RDONLY)
    told = from_os_error(raised.value, "writing x")
    assert isinstance(told, ShortageError)
    assert "file descriptors" in str(told)
