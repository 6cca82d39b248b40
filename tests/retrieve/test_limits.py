from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retrieve.simulated import Model, simulate

from geo_subset.retrieve import limits
from geo_subset.retrieve.limits import Limits, Tally
from geo_subset.retrieve.shares import fair_shares

SLOTS_32 = Model(lambda n, _t: min(n, 32) / 0.05)
#: Speeds as they were measured of the real backend on two cores: hardly more than one request at a time.
REAL_100 = Model(lambda n, _t: {0: 1, 1: 15.3}.get(n, 17 - 0.03 * n))
REAL_1000 = Model(lambda n, _t: {0: 1, 1: 2.6}.get(n, max(1.5, 2.65 - 0.028 * n)))
COLLAPSING = Model(lambda n, _t: min(n, 8) / 0.1 * (1 if n <= 8 else (8 / n) ** 2))
BATCHING = Model(lambda n, _t: n / (0.05 + 0.002 * n))
TWO_CORES = Model(lambda n, _t: min(n, 2) / 0.2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("model", "seconds"),
    [(SLOTS_32, 20), (REAL_100, 60), (REAL_1000, 200), (COLLAPSING, 30), (BATCHING, 20), (TWO_CORES, 60)],
    ids=["32 slots", "real, 100 images", "real, 1000 images", "collapsing", "batching", "two cores"],
)
def test_what_a_backend_can_give_is_found(model, seconds, seed):
    best = max(model.speed(n, 0.0) for n in range(1, 129))
    found = simulate(model, seconds, seed=seed)
    assert found.rate(seconds / 2, seconds) > 0.95 * best
    assert found.rate(0, seconds) > 0.88 * best


def test_a_backend_that_can_give_little_is_not_crowded():
    found = simulate(TWO_CORES, 100)
    late = [n for time, n in found.in_flight if time > 20]
    assert sum(late) / len(late) < 10


@pytest.mark.parametrize("share", [0.2, 0.35])
def test_failures_at_random_do_not_starve_a_backend(share):
    found = simulate(Model(SLOTS_32.speed, failing=lambda _n: share), 20)
    assert found.rate(5, 20) > 0.85 * 640 * (1 - share)


def test_failures_from_too_many_requests_make_them_fewer():
    found = simulate(Model(lambda n, _t: min(n, 16) / 0.05, failing=lambda n: 0.0 if n < 16 else 0.5), 30)
    assert found.rate(5, 30) > 0.75 * 320
    late = [n for time, n in found.in_flight if time > 5]
    assert sum(n > 16 for n in late) < 0.15 * len(late)


def test_a_backend_that_becomes_slower_or_faster_is_followed():
    slots = {0: 32, 1: 4, 2: 32}
    found = simulate(Model(lambda n, t: min(n, slots[min(2, int(t // 30))]) / 0.05), 90)
    assert found.rate(45, 60) > 0.95 * 80
    assert found.rate(75, 90) > 0.9 * 640
    middle = [n for time, n in found.in_flight if 45 < time < 60]
    assert sum(middle) / len(middle) < 20


def test_what_backends_take_is_known_once_slow_start_is_over():
    found = simulate(TWO_CORES, 60)
    assert found.taken[0] is None
    known = found.taken.index(next(n for n in found.taken if n is not None))
    assert found.taken[known:] == [limit for _, limit in found.limits[known:]]
    assert max(n for n in found.taken[known:] if n is not None) < 16


def test_too_little_work_says_nothing_of_a_limit():
    found = simulate(SLOTS_32, 10, wanted=3)
    assert max(limit for _, limit in found.limits) <= 16


@given(
    wanted=st.dictionaries(st.integers(0, 20), st.integers(0, 50), min_size=1),
    total=st.integers(0, 200),
    held=st.dictionaries(st.integers(0, 20), st.integers(0, 50)),
)
def test_shares_are_fair(wanted, total, held):
    shares = fair_shares(wanted, total, held)
    assert sum(shares.values()) == min(total, sum(wanted.values()))
    assert all(shares[worker] <= wanted[worker] for worker in wanted)
    for one in wanted:
        for other in wanted:
            if shares[one] < wanted[one]:
                assert shares[other] <= shares[one] + 1


_step = st.tuples(
    st.integers(0, 3),  # worker
    st.integers(0, 20),  # wanted
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=2),
    st.floats(0.001, 2.0),  # time passed
    st.booleans(),  # the worker is a new one in the place of a lost one
)


@given(steps=st.lists(_step, max_size=150), concurrency=st.integers(1, 12))
def test_never_more_requests_than_allowed(steps, concurrency):
    """Workers use all they are given at once, and give it back when they like."""
    subject = Limits(["a", "b"], concurrency, None, 600.0, 0.0)
    in_flight = {worker: [0, 0] for worker in range(4)}
    incarnations = dict.fromkeys(range(4), 0)
    allowed_before = [limits.START] * 2
    now = 0.0
    for worker, wanted, seen, passed, lost in steps:
        now += passed
        if lost:
            incarnations[worker] += 1
            in_flight[worker] = [0, 0]
        tallies = []
        for k, (ends, answered, failed) in enumerate(seen):
            if ends:
                in_flight[worker][k] = 0
            tallies.append(
                Tally(passed, 0.0, 0.1 * (answered + failed), answered, failed, failed, in_flight[worker][k])
            )
        reply = subject.exchange(worker, str(incarnations[worker]), wanted, tallies, 0, now)
        for k, share in enumerate(reply.shares):
            in_flight[worker][k] = max(in_flight[worker][k], min(share, wanted))
        allowed = [backend.allowed(now) for backend in subject.backends]
        if now < limits.LOST:  # later, those that have not reported are taken for lost
            assert sum(map(sum, in_flight.values())) <= concurrency
            for k in range(2):
                newly = reply.shares[k]
                assert newly <= max(allowed[k], allowed_before[k])
        allowed_before = allowed


def _exchange(subject, now, answered=0, failed=0, weight=limits.OTHER, pause=0.0, wanted=50):
    tally = Tally(1.0, 1.0, 0.1 * (answered + failed), answered, failed, failed * weight, 0, pause, "http 500")
    return subject.exchange(0, "first", wanted, [tally], 0, now)


@pytest.mark.parametrize(("weight", "count"), [(limits.NO_CONNECTION, 3), (limits.TIMED_OUT, 5), (limits.OTHER, 10)])
def test_a_dead_backend_is_set_aside_tried_again_and_taken_back(weight, count):
    subject = Limits(["a"], 16, None, 600.0, 0.0)
    assert _exchange(subject, 0.0).shares == (limits.START,)
    assert _exchange(subject, 0.1, failed=count - 1, weight=weight).shares == (limits.START,)
    assert _exchange(subject, 0.2, failed=1, weight=weight).shares == (0,)
    assert _exchange(subject, 1.1).shares == (0,)
    assert _exchange(subject, 1.3).shares == (1,), "one request tells whether it is back"
    assert _exchange(subject, 1.4, failed=1, weight=weight).shares == (0,)
    assert _exchange(subject, 3.3).shares == (0,), "twice as long"
    assert _exchange(subject, 3.5).shares == (1,)
    assert _exchange(subject, 3.6, answered=1).shares == (limits.START,)
    assert [line.split(" ", 1)[1][:12] for line in subject.news] == ["is set aside", "answers agai"]


def test_when_no_backend_answers_for_too_long_waiting_ends():
    subject = Limits(["a"], 16, None, 60.0, 0.0)
    assert not _exchange(subject, 0.0, answered=1).gone
    assert not _exchange(subject, 1.0, failed=10).gone
    assert not _exchange(subject, 59.0, failed=1).gone
    assert "a: http 500" in _exchange(subject, 61.0, failed=1).gone


def test_a_backend_that_asks_for_rest_gets_it_and_is_not_gone():
    subject = Limits(["a"], 16, None, 60.0, 0.0)
    _exchange(subject, 0.0, answered=1)
    assert _exchange(subject, 1.0, failed=1, pause=300.0).shares == (0,)
    for now in range(2, 300, 10):
        reply = _exchange(subject, float(now))
        assert reply.shares == (0,) and not reply.gone
    assert _exchange(subject, 301.5).shares != (0,)
    assert subject.news == ["a asks for 300 s of rest (http 500)"]


@given(rate=st.floats(0.2, 500.0), workers=st.integers(1, 5), wanted=st.integers(1, 100), period=st.floats(0.01, 0.5))
def test_the_rate_is_kept_over_all_workers(rate, workers, wanted, period):
    subject = Limits(["a"], 128, rate, 600.0, 0.0)
    granted, now = 0, 0.0
    for turn in range(200):
        now += period / workers
        granted += subject.exchange(turn % workers, "first", wanted, [Tally()], 0, now).tokens
        assert granted <= 1 + now * rate + max(1.0, rate * limits.PERIOD[1])
    if wanted * workers > rate * period * workers:
        assert granted >= min(0.5 * now * rate, wanted) - 1


def test_tokens_that_were_not_used_come_back():
    subject = Limits(["a"], 128, 1.0, 600.0, 0.0)
    assert subject.exchange(0, "first", 5, [Tally()], 0, 0.0).tokens == 1
    assert subject.exchange(0, "first", 5, [Tally()], 1, 0.1).tokens == 1
    assert subject.exchange(0, "first", 5, [Tally()], 0, 0.2).tokens == 0
