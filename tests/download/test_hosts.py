from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.download.hosts import Schedule, Wait


def taken(schedule: Schedule, now: float = 0.0) -> list[int]:
    """All rows that may be asked for now."""
    rows: list[int] = []
    while isinstance(step := schedule.take(now), int):
        rows.append(step)
    return rows


def test_no_rows_no_work() -> None:
    assert Schedule([], 8).take(0.0) is None


def test_a_host_gets_no_more_than_its_share_at_a_time() -> None:
    schedule = Schedule(["a"] * 5 + ["b"], 2)
    assert sorted(taken(schedule)) == [0, 1, 5]
    assert schedule.take(0.0) == Wait(None)  # no time changes that, only a row that comes back
    schedule.done(1)
    assert taken(schedule) == [2]


def test_only_the_last_row_ends_it() -> None:
    schedule = Schedule(["a", "a"], 8)
    assert taken(schedule) == [0, 1]
    schedule.done(0)
    assert schedule.take(1.0) == Wait(None)
    schedule.done(1)
    assert schedule.take(1.0) is None


def test_what_is_not_out_cannot_come_back() -> None:
    schedule = Schedule(["a"], 1)
    with pytest.raises(KeyError):
        schedule.done(0)
    schedule.take(0.0)
    schedule.again(0, 5.0)
    with pytest.raises(KeyError):
        schedule.done(0)
    with pytest.raises(KeyError):
        schedule.rest("b", 1.0)


def test_rows_come_again_at_their_time_and_before_others_of_their_host() -> None:
    schedule = Schedule(["a"] * 3, 1)
    assert schedule.take(0.0) == 0
    schedule.again(0, at=5.0)
    assert schedule.take(0.0) == 1
    schedule.done(1)
    assert schedule.take(5.0) == 0
    schedule.again(0, at=9.0)
    assert schedule.take(5.0) == 2
    schedule.done(2)
    assert schedule.take(6.0) == Wait(3.0)
    assert schedule.take(9.0) == 0


def test_a_host_that_rests_is_left_alone_and_others_are_not() -> None:
    schedule = Schedule(["a", "a", "b", "b"], 1)
    schedule.rest("a", 4.0)
    schedule.rest("a", 2.0)  # an earlier end does not shorten it
    assert schedule.take(0.0) == 2
    schedule.done(2)
    assert schedule.take(1.0) == 3
    schedule.done(3)
    assert schedule.take(1.0) == Wait(3.0)
    assert schedule.take(4.0) == 0


def test_a_host_that_has_rested_gets_one_request_until_it_is_well() -> None:
    schedule = Schedule(["a"] * 6 + ["b"] * 2, 3)
    assert sorted(taken(schedule)) == [0, 1, 2, 6, 7]
    schedule.rest("a", 5.0)
    for row in (0, 1):
        schedule.again(row, 1.0)
    assert taken(schedule, 1.0) == []
    assert taken(schedule, 6.0) == [], "one is still out"
    schedule.again(2, 7.0)
    assert taken(schedule, 8.0) == [0]
    schedule.rest("a", 9.0)  # it is not well yet
    schedule.done(0)
    assert taken(schedule, 8.5) == []
    assert taken(schedule, 9.0) == [1]
    schedule.rested("a")
    assert taken(schedule, 9.0) == [2, 3]


def test_a_row_that_is_led_to_another_host_waits_for_that_one() -> None:
    schedule = Schedule(["a", "a", "b"], 1)
    assert sorted(taken(schedule)) == [0, 2]
    schedule.again(0, 0.0, "b")
    assert schedule.host(0) == "b"
    assert taken(schedule) == [1], "a has room again, and b has none"
    schedule.done(2)
    assert taken(schedule) == [0]
    schedule.again(0, 0.0, "new")
    schedule.again(1, 0.0, "new")
    (out,) = taken(schedule)
    schedule.rest("new", 5.0)
    schedule.done(out)
    assert taken(schedule, 4.0) == []
    assert len(taken(schedule, 5.0)) == 1


def test_a_rate_is_a_distance_between_requests() -> None:
    schedule = Schedule(["a"] * 3 + ["b"], 8, rate=2.0)
    assert sorted(taken(schedule)) == [0, 3]
    assert schedule.take(0.25) == Wait(0.25)
    assert schedule.take(0.75) == 1  # late, and no burst makes up for it
    assert schedule.take(1.0) == Wait(0.25)
    assert schedule.take(1.25) == 2


def test_hosts_are_spread_over_the_shard() -> None:
    """One host with a fifth of the rows, one with a tenth, and 700 with a row each, all in one lump."""
    hosts = ["big"] * 200 + ["middle"] * 100 + [f"host {n}" for n in range(700)]
    order = taken(Schedule(hosts, 1000))
    assert sorted(order) == list(range(1000))
    for start in range(0, 1000, 50):
        counts = Counter(hosts[row] for row in order[start : start + 50])
        assert 8 <= counts["big"] <= 12
        assert 3 <= counts["middle"] <= 7


def test_a_host_that_was_held_up_comes_first() -> None:
    hosts = ["slow"] * 10 + [f"host {n}" for n in range(90)]
    schedule = Schedule(hosts, 1)
    out = taken(schedule)
    slow = next(row for row in out if hosts[row] == "slow")
    assert len(out) == 91
    schedule.done(slow)
    assert hosts[schedule.take(0.0)] == "slow"  # type: ignore[index]


def test_its_order_hangs_on_the_rows_alone() -> None:
    hosts = [random.Random(3).choice("abcdefg") for _ in range(300)]
    assert taken(Schedule(hosts, 300)) == taken(Schedule(hosts, 300))


@given(
    hosts=st.lists(st.sampled_from("aaabbcd"), max_size=40),
    per_host=st.integers(1, 3),
    rate=st.none() | st.sampled_from([0.5, 2.0, 8.0]),
    seed=st.integers(0, 2**32),
    threads=st.integers(1, 8),
)
def test_any_course_of_things(hosts: list[str], per_host: int, rate: float | None, seed: int, threads: int) -> None:
    """A simulated shard: requests take any time, rows are tried again or led to another host, hosts ask for rest."""
    chance = random.Random(seed)
    schedule = Schedule(hosts, per_host, rate)
    hosts = list(hosts)  # of each row for now: the test changes them
    now, ending = 0.0, list[tuple[float, int]]()
    active: Counter[str] = Counter()
    last: dict[str, float] = {}
    resting: dict[str, float] = {}
    on_trial: set[str] = set()
    not_before = dict.fromkeys(range(len(hosts)), 0.0)
    tries = Counter[int]()
    finished: set[int] = set()
    for _ in range(10_000):
        step = schedule.take(now) if len(ending) < threads else Wait(None)
        if step is None:
            break
        if isinstance(step, int):
            host = hosts[step]
            assert step not in finished
            assert now >= not_before[step]
            assert now >= resting.get(host, 0.0)
            assert rate is None or host not in last or now - last[host] >= 1 / rate * (1 - 1e-9)
            active[host], last[host] = active[host] + 1, now
            assert active[host] <= (1 if host in on_trial else per_host)
            tries[step] += 1
            heapq.heappush(ending, (now + chance.choice([0.0, 0.1, 1.0, 5.0]), step))
            continue
        assert step.seconds is None or step.seconds > 0
        assert step.seconds is not None or ending  # or it would be waited for for ever
        if step.seconds is not None and (not ending or ending[0][0] > now + step.seconds):
            now = max(now + step.seconds, now * (1 + 1e-15))
            continue
        ended, row = heapq.heappop(ending)
        now = max(now, ended)
        host = hosts[row]
        active[host] -= 1
        if tries[row] < 3 and chance.random() < 0.2:
            not_before[row], hosts[row] = now, chance.choice("abcxy")
            schedule.again(row, now, hosts[row])
        elif tries[row] < 3 and chance.random() < 0.3:
            not_before[row] = now + chance.choice([0.0, 0.5, 3.0])
            schedule.again(row, not_before[row])
        else:
            finished.add(row)
            schedule.done(row)
        if chance.random() < 0.1:
            until = now + chance.choice([0.5, 4.0])
            resting[host] = max(resting.get(host, 0.0), until)
            schedule.rest(host, until)
            on_trial.add(host)
        elif chance.random() < 0.5:
            schedule.rested(host)
            on_trial.discard(host)
    assert finished == set(range(len(hosts)))


@given(st.lists(st.sampled_from("aaabbcd"), max_size=40), st.integers(1, 3))
def test_no_row_waits_while_its_host_is_free(hosts: list[str], per_host: int) -> None:
    schedule = Schedule(hosts, per_host)
    out = Counter(hosts[row] for row in taken(schedule))
    assert out == Counter({host: min(per_host, count) for host, count in Counter(hosts).items()})
