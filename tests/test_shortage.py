from __future__ import annotations

import errno
import os
import resource
import socket

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
        socket.gaierror(socket.EAI_NONAME, "x"), socket.gaierror(socket.EAI_AGAIN, "x"), ValueError(),
    ],
)  # fmt: skip
def test_other_errors_are_no_shortage(error: BaseException) -> None:
    assert shortage.of(error) is None


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
