from __future__ import annotations

import pytest

from geo_subset.download.reach import DOMAINS, TRIES, Reach
from geo_subset.download.reasons import FetchError
from geo_subset.errors import NoNetworkError, StopRunError


def unreached(reason: str) -> FetchError:
    error = FetchError(reason)
    error.unreached = True
    return error


def test_many_tries_that_reach_nobody_stop_the_run() -> None:
    reach = Reach()
    for n in range(TRIES - 1):
        reach.tried(f"{n}.example", unreached("dns" if n % 3 else "timed out"))
    with pytest.raises(
        NoNetworkError, match=r"no host of 200 domains .*dns: 132, timed out: 68.* is there a network"
    ) as raised:
        reach.tried("last.example", unreached("timed out"))
    assert isinstance(raised.value, StopRunError)


@pytest.mark.parametrize("sign", [None, *map(FetchError, ("http 404", "connection refused", "tls", "timed out"))])
def test_one_host_that_is_reached_is_enough(sign: FetchError | None) -> None:
    reach = Reach()
    reach.tried("lives.example", sign)
    for n in range(10 * TRIES):
        reach.tried(f"{n}.example", unreached("dns"))


def test_few_hosts_tell_nothing() -> None:
    reach = Reach()
    for n in range(10 * TRIES):
        reach.tried(f"{n % (DOMAINS - 1)}.example", unreached("dns"))


def test_what_is_not_asked_for_tells_nothing() -> None:
    reach = Reach()
    for n in range(10 * TRIES):
        reach.tried(f"{n}.example", FetchError("private address" if n % 2 else "unsupported url"))
    for n in range(TRIES - 1):
        reach.tried(f"{n}.example", unreached("dns"))
    with pytest.raises(NoNetworkError):
        reach.tried("last.example", unreached("dns"))
