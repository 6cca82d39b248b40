"""What a worker knows of the driver that it works for: that both see the same run folder, and that the driver lives.

A worker may outlive its driver for a while. Servers that the driver started are gone by then, so what the worker sees
is not the truth, and it records nothing. The lease shows whether the driver lives (see `lease`):

- If there is another driver's lease, or none, ours has ended.
- On the same machine, the worker looks for the driver's process.
- On another machine, it watches the lease. If that has not changed for two beats, the worker waits for the next change,
  until the silence is long enough for the driver to count as dead.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from geo_subset import lease, storage
from geo_subset.errors import DriverLostError, FolderNotSharedError, StageError

#: Run folder -> the driver that this process works for there, if it is a worker.
_drivers: dict[str, _Driver] = {}


def checked(work: Callable[..., Any]) -> Callable[..., Any]:
    """`work` (a function, or an actor's class) such that a worker first makes sure that it sees the run folder."""
    sought = lease.token()
    if sought is None:
        return work
    if isinstance(work, type):

        def seen_first(actor: Any, *arguments: Any) -> None:
            see(*sought)
            work.__init__(actor, *arguments)  # type: ignore[misc]

        return type(work.__name__, (work,), {"__init__": seen_first, "__module__": work.__module__})

    @functools.wraps(work)
    def checked_work(*arguments: Any) -> Any:
        see(*sought)
        return work(*arguments)

    return checked_work


def see(run_url: str, lease_id: str) -> None:
    """Makes sure, once a lease, that this node sees the driver's run folder: its lease must be there.

    Raises FolderNotSharedError, naming the node; StageError if another driver holds the folder by now.
    """
    if run_url in _drivers and _drivers[run_url].lease_id == lease_id:
        return
    node = socket.gethostname()
    advice = "On several nodes the run folder must be on object storage or a shared file system, the same path on all"
    try:
        storage.sizes(run_url)  # a network file system may remember that the lease was not there; a listing asks anew
        there = lease.holder(run_url)
    except Exception as error:
        raise FolderNotSharedError(f"node {node} cannot read the run folder {run_url}: {error}. {advice}") from error
    if there is None:
        raise FolderNotSharedError(f"node {node} does not see the run folder {run_url} as the driver does. {advice}")
    if there.id != lease_id:
        raise StageError(f"{run_url} is held by another driver by now: {there}")
    _drivers[run_url] = _Driver(run_url, there)


def check(run_url: str) -> None:
    """To be asked before anything counts as done. In a driver, or outside of any run, there is nothing to check.

    Raises DriverLostError if this worker's driver has ended. Waits if that is not certain.
    """
    if run_url in _drivers:
        _drivers[run_url].check()


class _Driver:
    """A driver as a worker sees it. If it is on another machine, a thread watches its lease."""

    def __init__(self, run_url: str, there: lease.Holder) -> None:
        self.run_url, self.lease_id = run_url, there.id
        self._beat, self._changed = there.beat, lease.awake()
        if lease.lives(there) is None:
            threading.Thread(target=self._watch, name="driver", daemon=True).start()

    def check(self) -> None:
        while True:
            there = self._look()
            lives = there is not None and lease.lives(there)
            silent = lease.awake() - self._changed
            if lives or (lives is None and silent < 2 * lease.BEAT):
                return
            if lives is False or silent >= lease.SILENCE:
                raise DriverLostError(
                    f"the driver that this worker worked for has ended, or lost {self.run_url} to another: nothing "
                    "more is recorded for it"
                )
            time.sleep(lease.TICK)

    def _look(self) -> lease.Holder | None:
        """The driver's lease, if it is there still."""
        there = lease.holder(self.run_url)
        if there is None or there.id != self.lease_id:
            return None
        if there.beat != self._beat:
            self._beat, self._changed = there.beat, lease.awake()
        return there

    def _watch(self) -> None:
        while True:
            time.sleep(lease.BEAT)
            with contextlib.suppress(Exception):  # a storage that does not answer is a silence
                if self._look() is None:
                    return
