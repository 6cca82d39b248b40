"""Tasks of a loop that wait for sockets, for threads and for one another."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from geo_subset.download.waiting import Loop, give_way, result_of, until_readable, until_writable

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


def soon() -> float:
    return time.monotonic() + 10


def turn_until(loop: Loop, done: list[object], count: int) -> None:
    deadline = soon()
    while len(done) < count:
        assert time.monotonic() < deadline
        loop.turn(1.0)


def test_outside_of_a_loop_they_block(pair: Pair) -> None:
    mine, other = pair
    until_writable(mine, soon())
    with pytest.raises(TimeoutError):
        until_readable(mine, time.monotonic() + 0.01)
    with pytest.raises(TimeoutError):
        until_readable(mine, time.monotonic() - 1)
    other.send(b"x")
    until_readable(mine, soon())
    never: concurrent.futures.Future[int] = concurrent.futures.Future()
    with pytest.raises(TimeoutError):
        result_of(never, time.monotonic() + 0.01)
    give_way()


def test_many_tasks_wait_at_a_time_and_each_gets_its_own() -> None:
    pairs = [socket.socketpair() for _ in range(300)]
    got: list[object] = []

    def work(mine: socket.socket) -> None:
        until_readable(mine, soon())
        got.append(mine.recv(10))

    with Loop() as loop:
        for mine, _ in pairs:
            loop.start(work, mine)
        assert got == []
        for number, (_, other) in reversed(list(enumerate(pairs))):
            other.send(b"%d" % number)
        turn_until(loop, got, 300)
    assert sorted(got, key=lambda data: int(data)) == [b"%d" % n for n in range(300)]  # type: ignore[call-overload]
    for ends in pairs:
        for end in ends:
            end.close()


def test_a_deadline_ends_the_wait_of_its_task_alone(pair: Pair) -> None:
    mine, other = pair
    ended: list[object] = []
    never: concurrent.futures.Future[int] = concurrent.futures.Future()

    def late() -> None:
        with pytest.raises(TimeoutError):
            until_readable(other, time.monotonic() + 0.1)
        with pytest.raises(TimeoutError):
            result_of(never, time.monotonic() + 0.1)
        ended.append("late")

    def patient() -> None:
        until_readable(mine, soon())
        ended.append("patient")

    with Loop() as loop:
        loop.start(patient)
        loop.start(late)
        turn_until(loop, ended, 1)
        assert ended == ["late"]
        never.set_result(1)  # nobody waits for it any more
        loop.turn(0)
        other.send(b"x")
        turn_until(loop, ended, 2)


def test_results_of_other_threads_and_what_they_raise() -> None:
    go_on = threading.Event()
    ended: list[object] = []

    def hard(number: int) -> int:
        assert go_on.wait(10)
        return 100 // number

    def work(number: int) -> None:
        try:
            ended.append(result_of(pool.submit(hard, number)))
        except ZeroDivisionError:
            ended.append("zero")

    with concurrent.futures.ThreadPoolExecutor(4) as pool, Loop() as loop:
        for number in range(20):
            loop.start(work, number)
        go_on.set()
        turn_until(loop, ended, 20)
    assert sorted(map(str, ended)) == sorted(["zero", *(str(100 // n) for n in range(1, 20))])


def test_of_those_that_give_way_one_goes_on_each_turn_and_sockets_come_first(pair: Pair) -> None:
    mine, other = pair
    seen: list[object] = []

    def heavy(number: int) -> None:
        give_way()
        seen.append(number)

    def light() -> None:
        until_readable(mine, soon())
        seen.append("light")

    with Loop() as loop:
        for number in range(3):
            loop.start(heavy, number)
        loop.start(light)
        loop.turn(10)  # does not wait for the socket
        assert seen == [0]
        other.send(b"x")
        loop.turn(10)
        assert seen == [0, "light", 1]
        loop.turn(10)
        assert seen == [0, "light", 1, 2]


def test_what_a_task_raises_comes_out_of_the_turn_and_the_others_are_ended(pair: Pair) -> None:
    mine, other = pair
    ended: list[str] = []

    def fails() -> None:
        until_readable(mine, soon())
        raise OSError(28, "no space left")

    def waits() -> None:
        try:
            until_readable(other, soon())
        except Exception:  # noqa: BLE001 - none of these may see it
            ended.append("as if it had failed")
        finally:
            ended.append("ended")

    def in_line() -> None:
        try:
            give_way()
        finally:
            ended.append("ended")

    with pytest.raises(OSError, match="no space left"), Loop() as loop:
        loop.start(fails)
        loop.start(waits)
        other.send(b"x")
        loop.start(in_line)
        loop.start(in_line)
        turn_until(loop, [], 1)
    assert ended == ["ended"] * 3


def test_a_result_that_comes_after_the_end_disturbs_nobody() -> None:
    late: concurrent.futures.Future[int] = concurrent.futures.Future()
    with Loop() as loop:
        loop.start(lambda: result_of(late) and None)
    late.set_result(1)


def test_a_ring_that_comes_late_is_heard_once() -> None:
    """Whoever rings sets a flag and then sends a byte: between the two, what it tells of may be seen to."""
    with Loop() as loop:
        loop._rope.send(b"!")
        loop.turn(1.0)
        with pytest.raises(BlockingIOError):
            loop._bell.recv(1)
