"""Whether to go on. Ctrl-C, SIGTERM and SIGHUP (the terminal has gone): a KeyboardInterrupt at once, and a note of it
for the case that it gets lost.

It does get lost when it happens to be raised in a destructor or in a callback from a library's C code, which print and
forget it. So whatever works through units asks here before it goes on.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_asked = threading.Event()
_guards: list[Callable[[], None]] = []


def on_signals() -> None:
    """To be called by the main thread, before anything starts."""
    _asked.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as it is under nohup
        signal.signal(signal.SIGHUP, _interrupt)


def check() -> None:
    """Raises KeyboardInterrupt if the user has asked to stop, or what a guard raises."""
    for guard in _guards:
        guard()
    if _asked.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def guarded(guard: Callable[[], None]) -> Iterator[None]:
    """Lets `check` ask `guard` too, which raises if the work must not go on."""
    _guards.append(guard)
    try:
        yield
    finally:
        _guards.remove(guard)


def _interrupt(_signal: int, _frame: object) -> None:
    _asked.set()
    raise KeyboardInterrupt
