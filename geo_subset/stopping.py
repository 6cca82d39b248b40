"""Ctrl-C and SIGTERM: a KeyboardInterrupt at once, and a note of it for the case that it gets lost.

It does get lost when it happens to be raised in a destructor or in a callback from a library's C code, which print and
forget it. So whatever works through units asks here before it goes on.
"""

from __future__ import annotations

import signal
import threading

_asked = threading.Event()


def on_signals() -> None:
    """To be called by the main thread, before anything starts."""
    _asked.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def check() -> None:
    """Raises KeyboardInterrupt if the user has asked to stop."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: object) -> None:
    _asked.set()
    raise KeyboardInterrupt
