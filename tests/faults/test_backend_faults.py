"""Backends that lie, stall, refuse and die: the matches are those of an undisturbed run, and few searches wasted."""

from __future__ import annotations

import asyncio
import math
import re
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path

import pytest
import ray
from aiohttp import web
from faults.proxy import MIX, lying
from faults.retrieved import failures, is_what_the_service_has, matches, parts
from retrieve.service import serve

from geo_subset import pipeline, settings

pytestmark = pytest.mark.ci

PLACES, NUM_IMAGES = 160, 5
#: Requests by which each backend may be tested before and while it is used: for its indices, and by a search.
TESTS = 2
#: Seconds after a refusal within which requests that were under way already may still arrive.
UNDER_WAY = 1.0


def resolved(folder: Path, urls: list[str], places: int = PLACES, **service: object) -> settings.Settings:
    """Settings of a run in `folder` against these backends."""
    folder.mkdir(exist_ok=True)
    names = folder / "names.txt"
    names.write_text("".join(f"Place {i}\n" for i in range(places)))
    return settings.from_tree(
        {
            "run": str(folder / "run"),
            "places": {"source": "list", "path": str(names)},
            "retrieve": {"num_images": NUM_IMAGES, "clip-service": {"url": urls, "timeout": 30.0, **service}},
            "cluster": {"workers": 2},
        }
    )


def retrieve(folder: Path, urls: list[str], places: int = PLACES, **service: object) -> Path:
    """Retrieves from these backends. Returns the run's folder."""
    wanted = resolved(folder, urls, places, **service)
    pipeline.run(wanted, last="retrieve")
    return Path(wanted.run)


@pytest.fixture(scope="module")
def undisturbed(ray_session, tmp_path_factory):
    """The run folder of a run that nobody disturbed."""
    with serve() as service:
        run = retrieve(tmp_path_factory.mktemp("undisturbed"), [service.url], timeout=60.0)
    assert is_what_the_service_has(run, NUM_IMAGES)
    return run


def assert_equal(run, undisturbed):
    assert failures(run) == []
    assert parts(run) == parts(undisturbed)
    assert matches(run).equals(matches(undisturbed))


def assert_thrifty(searches, spoiled, endpoints=1, places=PLACES):
    """What the issue allows: half a search a place too much, and one more for each that was spoiled."""
    assert places <= searches <= 1.5 * places + spoiled + TESTS * endpoints


def test_a_lying_proxy(undisturbed, tmp_path):
    with serve() as service, lying(service.url) as proxy:
        run = retrieve(tmp_path, [proxy.url], timeout=1.0)
    print(f"{proxy.searches} searches, spoiled: {dict(proxy.injected)}")
    assert set(proxy.injected) == set(MIX), "every kind of fault was met"
    assert_equal(run, undisturbed)
    assert_thrifty(proxy.searches, proxy.injected.total())
    assert proxy.others <= TESTS


def test_a_server_down_for_a_while(undisturbed, tmp_path):
    with serve() as service, lying(service.url, {}) as proxy:
        proxy.down_after(60, seconds=2)
        run = retrieve(tmp_path, [proxy.url])
        assert (proxy.outages, proxy.is_down.is_set()) == (1, False)
    assert_equal(run, undisturbed)
    assert_thrifty(proxy.searches, proxy.injected.total())
    assert proxy.others <= TESTS


def test_of_three_endpoints_one_is_dead_and_one_dies(undisturbed, tmp_path):
    with serve() as service, serve() as other, lying(other.url, {}) as dying:
        dying.down_after(40)
        run = retrieve(tmp_path, ["http://127.0.0.1:1", dying.url, service.url])
        assert dying.is_down.is_set()
    assert_equal(run, undisturbed)
    assert_thrifty(dying.searches + len(service.bodies), dying.injected.total(), endpoints=3)
    assert dying.others <= TESTS


class Closing:
    """After so many answers, refuses every search until a whole second, `seconds` to `seconds` + 1 later; and again.

    Says so with the statuses of `how`, one after the other, and a Retry-After in seconds or (True) as a date.
    """

    def __init__(self, answers: int, seconds: float, how: list[tuple[int, bool]]) -> None:
        self._answers, self._seconds, self._how = answers, seconds, how
        self._answered = 0
        self._until = 0
        self.refused: list[list[float]] = []  # times of arrival, for each time it closed

    async def __call__(self, text: str, nth: int) -> web.Response | None:
        now = time.time()
        closed = len(self.refused)
        if now >= self._until:
            if self._answered < self._answers * (closed + 1) or closed == len(self._how):
                self._answered += 1
                return None
            self._until = math.ceil(now + self._seconds)
            self.refused.append([])
        self.refused[-1].append(now)
        status, as_date = self._how[len(self.refused) - 1]
        said = formatdate(self._until, usegmt=True) if as_date else str(math.ceil(self._until - now))
        return web.Response(status=status, headers={"Retry-After": said})


def test_retry_after_is_obeyed_by_every_request_to_that_endpoint(undisturbed, tmp_path):
    how = [(429, False), (429, True), (503, False), (503, True)]
    closing = Closing(answers=30, seconds=1.5, how=how)
    with serve(closing) as service:
        run = retrieve(tmp_path, [service.url])
    print(f"refused, seconds after the first: {[[round(t - ts[0], 2) for t in ts] for ts in closing.refused]}")
    assert len(closing.refused) == len(how)
    assert [arrivals for arrivals in closing.refused if max(arrivals) - arrivals[0] > UNDER_WAY] == []
    assert_equal(run, undisturbed)
    assert_thrifty(len(service.bodies), sum(map(len, closing.refused)))


def test_an_endpoint_that_knows_only_errors_gets_little_of_the_work(undisturbed, tmp_path):
    with serve() as service, serve() as other, lying(other.url, {"error 500": 1.0}) as broken:
        run = retrieve(tmp_path, [broken.url, service.url])
    assert 0 < broken.searches <= PLACES / 4
    assert_equal(run, undisturbed)
    assert_thrifty(len(service.bodies) + broken.searches, broken.injected.total(), endpoints=2)


def test_a_backend_gone_for_good_ends_the_run_and_once_it_is_back_the_next_run_finishes(undisturbed, tmp_path):
    deadline = 3.0
    with serve() as service, lying(service.url, {}) as proxy:
        proxy.down_after(60)
        wanted = resolved(tmp_path, [proxy.url], deadline=deadline)
        run_file = tmp_path / "run.toml"
        run_file.write_text(settings.dumps(wanted))
        cluster = f"--address={ray.get_runtime_context().gcs_address}"
        command = [sys.executable, "-m", "geo_subset.cli", "retrieve", str(run_file), cluster]
        out = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        print(out.stderr)
        *log, last = out.stderr.strip().splitlines()
        assert out.returncode == 1
        assert last.startswith("geo-subset: ")
        assert proxy.url in last
        assert [line for line in log if not re.match(r"\d\d:\d\d:\d\d  ", line)] == [], "nothing but our own log"
        proxy.up()
        run = retrieve(tmp_path, [proxy.url], deadline=deadline)
    assert_equal(run, undisturbed)
    assert_thrifty(proxy.searches, proxy.injected.total())
    assert proxy.others <= 2 * TESTS


def test_an_endpoint_that_becomes_ten_times_slower(undisturbed, tmp_path):
    in_flight = []

    async def slower(text, nth):
        late = len(service.bodies) > 60
        if late:
            in_flight.append(service.running)
        await asyncio.sleep(0.2 if late else 0.02)

    with serve(slower) as service:
        run = retrieve(tmp_path, [service.url])
    print(f"in flight while slow: {in_flight}")
    assert statistics.median(in_flight) >= 2, "slow is no reason to ask for one place at a time"
    assert_equal(run, undisturbed)
    assert_thrifty(len(service.bodies), 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_at_once_and_half_a_minute_down(ray_session, tmp_path):
    places = 2000
    with ExitStack() as stack:
        service = stack.enter_context(serve())
        calm = retrieve(tmp_path / "calm", [service.url], places, timeout=60.0)
        proxies = [stack.enter_context(lying(service.url, seed=seed)) for seed in (1, 2)]
        for proxy in proxies:
            proxy.down_after(400, seconds=30)
        run = retrieve(tmp_path / "disturbed", [*(p.url for p in proxies), "http://127.0.0.1:1"], places, timeout=1.5)
        assert [proxy.outages for proxy in proxies] == [1, 1]
    searches = sum(proxy.searches for proxy in proxies)
    spoiled = sum(proxy.injected.total() for proxy in proxies)
    print(f"{searches} searches for {places} places, {spoiled} spoiled: {[dict(p.injected) for p in proxies]}")
    assert_equal(run, calm)
    assert_thrifty(searches, spoiled, 3, places)
    assert all(proxy.others <= TESTS for proxy in proxies)
