"""Waiting for sockets and for other threads, so that one thread carries hundreds of fetches.

`until_readable` and the others read as calls that block, and outside of a `Loop` they are. In a task of a loop they let
its other tasks go on meanwhile, so that whoever calls them need not know of loops. Tasks are greenlets: they change
only in these calls. One wait for a socket, with its deadline, costs 12 us; with asyncio's reader and timer 53.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import queue
import select
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

#: Seconds between two looks for tasks whose deadline has passed.
_LATE = 0.05


def until_readable(sock: socket.socket, deadline: float) -> None:
    """Returns when there is something to receive, or the end. Raises TimeoutError at `deadline` (time.monotonic())."""
    _until(sock, select.EPOLLIN, deadline)


def until_writable(sock: socket.socket, deadline: float) -> None:
    """Returns when something can be sent, or never will be. Raises TimeoutError at `deadline`."""
    _until(sock, select.EPOLLOUT, deadline)


def result_of(future: concurrent.futures.Future[T], deadline: float | None = None) -> T:
    """What another thread works out, or the exception it raised. Raises TimeoutError at `deadline`."""
    task = getcurrent()
    if not future.done() and isinstance(task, _Task):
        task.loop.until_done(task, future, deadline)
    try:
        return future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except concurrent.futures.TimeoutError as error:  # not yet the builtin one in Python 3.10
        if future.done():
            raise
        raise TimeoutError from error


def give_way() -> None:
    """For a task about to work for long: returns once those that a socket was ready for have gone on.

    Of the tasks of a loop that give way, one goes on each turn, in their order.
    """
    task = getcurrent()
    if isinstance(task, _Task):
        task.loop.until_its_turn(task)


def _until(sock: socket.socket, event: int, deadline: float) -> None:
    task = getcurrent()
    if isinstance(task, _Task):
        task.loop.until_event(task, sock, event, deadline)
        return
    with select.epoll() as ready:
        ready.register(sock, event)
        if not ready.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError


class _Task(greenlet):
    """Piece of work of a loop. `awaited` is what it waits for: a socket or a future."""

    def __init__(self, work: Callable[..., None], loop: Loop) -> None:
        super().__init__(work)
        self.loop = loop
        self.awaited: object = None
        self.deadline: float | None = None


class Loop:
    """Carries tasks, all on the thread that makes it. A context: tasks that have not ended are ended at its end, by an
    exception that none but `finally` and `except BaseException` see."""

    def __init__(self) -> None:
        self._hub = getcurrent()
        self._ready = select.epoll()
        self._by_socket: dict[int, _Task] = {}  # those that wait for a socket, by its file descriptor
        self._tasks: set[_Task] = set()  # those that wait, for whatever
        self._in_line: collections.deque[_Task] = collections.deque()
        self._done: queue.SimpleQueue[tuple[_Task, object]] = queue.SimpleQueue()
        # Another thread's result ends the wait for sockets by a byte here, of which one is enough.
        self._bell, self._rope = socket.socketpair()
        self._rung = False
        for end in (self._bell, self._rope):
            end.setblocking(False)
        self._ready.register(self._bell, select.EPOLLIN)
        self._looked = time.monotonic()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._tasks:
                self._tasks.pop().throw()
        finally:
            for end in (self._ready, self._bell, self._rope):
                end.close()

    def start(self, work: Callable[..., None], *arguments: Any) -> None:
        """Begins a task, and returns when it ends or waits for the first time."""
        _Task(work, self).switch(*arguments)

    def turn(self, seconds: float) -> None:
        """Waits for up to `seconds` until a task can go on, and lets all go on that can.

        Raises what a task raises; that task has ended, the others have not.
        """
        for descriptor, _ in self._ready.poll(0 if self._in_line else min(seconds, _LATE)):
            if descriptor == self._bell.fileno():
                self._rung = True  # its byte may come after what it tells of was seen to
            elif (task := self._by_socket.get(descriptor)) is not None:  # another task may have ended it just now
                task.switch()
        if self._rung:
            self._answer_bell()
        now = time.monotonic()
        if now - self._looked >= _LATE:
            self._looked = now
            for task in [task for task in self._tasks if task.deadline is not None and task.deadline <= now]:
                task.throw(TimeoutError)
        if self._in_line:
            self._in_line.popleft().switch()

    def _answer_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(1 << 12)
        self._rung = False  # before the look: what comes after it rings again
        with contextlib.suppress(queue.Empty):
            while True:
                task, future = self._done.get_nowait()
                if task.awaited is future:  # it may have given up
                    task.switch()

    # --- called by tasks -------------------------------------------------------------------------------------------

    def until_event(self, task: _Task, sock: socket.socket, event: int, deadline: float) -> None:
        descriptor = sock.fileno()
        self._ready.register(descriptor, event)
        self._by_socket[descriptor] = task
        try:
            self._pause(task, sock, deadline)
        finally:
            del self._by_socket[descriptor]
            self._ready.unregister(descriptor)

    def until_done(self, task: _Task, future: concurrent.futures.Future[Any], deadline: float | None) -> None:
        future.add_done_callback(lambda _: self._ring(task, future))
        self._pause(task, future, deadline)

    def until_its_turn(self, task: _Task) -> None:
        self._in_line.append(task)
        self._pause(task, None, None)

    def _pause(self, task: _Task, awaited: object, deadline: float | None) -> None:
        task.awaited, task.deadline = awaited, deadline
        self._tasks.add(task)
        try:
            self._hub.switch()
        finally:
            self._tasks.discard(task)
            task.awaited = None

    def _ring(self, task: _Task, future: object) -> None:
        """On another thread, most often."""
        self._done.put((task, future))
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):  # full: it rings already; closed: nobody waits
                self._rope.send(b"!")
