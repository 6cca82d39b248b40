"""Who works on a run folder: one driver at a time.

The driver that holds a run folder says so in `_lease.json` and renews it every BEAT seconds. Another driver is refused
while it lives. Whether it lives is judged without comparing the clocks of two machines:

- on the same machine (same boot, same PID namespace) by the process itself: PID and start time. After `kill -9` the
  next driver takes over at once;
- from elsewhere, or if the process is stopped, by watching: a lease that changes is alive, one that has not changed for
  SILENCE seconds by the watcher's own clock is dead.

A holder that was suspended for so long finds its lease taken when it wakes up, and stops.

A lease is made with an exclusive create (O_EXCL; If-None-Match on object stores) and taken over by writing it, waiting
SETTLE seconds and reading it back. What remains of a race: a driver that stalls for longer than that between judging a
lease dead and writing its own takes it from one that was faster. The faster one then stops at its next renewal, so two
drivers never work for longer than a beat side by side; and what both write is the same, or under different names.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from geo_subset import layout, manifests, stopping, storage
from geo_subset.credentials import redact_text
from geo_subset.errors import StageError, of_run_folder
from geo_subset.progress import log

FILE = layout.LEASE
#: Bytes of it, and characters of each text in it.
_BYTES, _CHARACTERS = 1 << 16, 1000
#: Seconds between two renewals.
BEAT = 10.0
#: Seconds without a change after which a lease counts as dead: four renewals, and some more for a slow storage.
SILENCE = 45.0
#: Seconds from taking a dead holder's lease to reading it back.
SETTLE = 1.0
#: Seconds between two looks, at a clock or at another's lease.
TICK = 1.0


#: How a lease begins.
_START = b'{\n "id": "'


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder; what `_lease.json` holds."""

    id: str
    user: str
    host: str
    machine: str
    """Boot id and PID namespace: where `pid` means something."""
    pid: Annotated[int, Meta(ge=1, lt=1 << 31)]
    started: Annotated[int, Meta(ge=0)]
    """When the process started, in clock ticks since boot."""
    command: str
    job: str | None
    """Submission id, if it is a Ray job."""
    since: str
    """By the holder's own clock, for people alone."""
    beat: Annotated[int, Meta(ge=0)] = 0

    def __str__(self) -> str:
        job = f", Ray job {self.job}" if self.job else ""
        return f"{self.user}@{self.host}, PID {self.pid}{job}, since {self.since} ({self.command})"


def holder(run_url: str) -> Holder | None:
    """Who holds the run folder, or held it until it was killed; None if nobody does. See `lives`."""
    return _parsed(_read(run_url))


def is_one(run_url: str) -> bool:
    """Whether there is a lease in a folder, be it half written; and not a file of somebody else's under its name."""
    text = storage.read_bytes(f"{run_url}/{FILE}", _BYTES)
    return text is not None and (_START.startswith(text) or text.startswith(_START))


def lives(held_by: Holder) -> bool | None:
    """Whether the process of a holder is there; None if it is on another machine."""
    state = _process(held_by)
    return None if state is None else state != "gone"


@contextlib.contextmanager
def held(run_url: str) -> Iterator[None]:
    """Holds the run folder (made if it is not there) for as long as the context lasts.

    Raises StageError if another driver holds it, or has taken it over meanwhile (this one was suspended): the main
    thread is then interrupted, and whatever asks `stopping.check` stops. SettingsError: it cannot be written to.
    """
    global _held
    lease = _Lease(run_url, _myself())
    with of_run_folder(run_url):
        storage.make_folder(run_url)
        lease.acquire()
        if storage.is_local(run_url):  # half-written files of a driver that was killed
            for name in storage.sizes(run_url):
                if storage.is_temporary(name):
                    storage.remove(f"{run_url}/{name}")
    before, _held = _held, lease
    ended = threading.Event()
    in_main = threading.current_thread() is threading.main_thread()
    beating = threading.Thread(target=lease.keep, args=(ended, in_main), name="lease", daemon=True)
    beating.start()
    try:
        with stopping.guarded(lease.check):
            yield
    except BaseException as error:
        if lease.lost:
            raise StageError(lease.lost) from error
        raise
    finally:
        _held = before
        ended.set()
        beating.join()
        lease.release()


class _Lease:
    """The lease of this process. `lost` says how, once another driver has taken it."""

    def __init__(self, run_url: str, me: Holder) -> None:
        self.run_url, self.me, self.url = run_url, me, f"{run_url}/{FILE}"
        self.lost = ""
        self._known = awake()
        self._lock = threading.Lock()

    def acquire(self) -> None:
        while not self._created():
            text = _read(self.run_url)
            if text is None or not self._dead(text):
                continue
            storage.write_text(self.url, _text(self.me))
            time.sleep(SETTLE)
            if self._is_mine():
                break
        self._known = awake()

    def keep(self, ended: threading.Event, in_main: bool) -> None:
        """Renews the lease until `ended`; interrupts the main thread if it was taken."""
        tried = self._known
        while not ended.wait(TICK):
            if awake() - tried < BEAT:
                continue
            try:
                with self._lock:
                    if self._still_mine():
                        self.me = replace(self.me, beat=self.me.beat + 1)
                        storage.write_text(self.url, _text(self.me))
            except Exception as error:  # noqa: BLE001 - the run goes on as long as nobody has taken the lease
                log.info("the lease of %s could not be renewed (%s); trying again", self.run_url, error)
            tried = awake()
            if self.lost:
                if in_main:  # a signal, since it also ends what waits in a library
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    def check(self) -> None:
        """Raises StageError if another driver has taken the lease. Looks only after a silence, as after suspension."""
        if not self.lost and awake() - self._known > SILENCE:
            with self._lock, contextlib.suppress(Exception):
                self._still_mine()
        if self.lost:
            raise StageError(self.lost)

    def release(self) -> None:
        with contextlib.suppress(Exception):  # what it was held for is over, well or not
            if self._is_mine():
                storage.remove(self.url)

    def _created(self) -> bool:
        """Whether the lease was free and is ours now."""
        if not storage.create(self.url, _text(self.me)):
            return self._is_mine()  # made by an attempt whose answer was lost
        if storage.create(self.url, _text(self.me)):  # a store that overwrites what it should only make
            time.sleep(SETTLE)
            return self._is_mine()
        return True

    def _dead(self, text: bytes) -> bool:
        """Whether the holder of a lease is dead; False if the lease is free. Raises StageError if it lives."""
        there = _parsed(text)
        state = _process(there) if there else None
        if there and state == "gone":
            log.info("the driver before this one was killed (%s); going on in its place", there)
            return True
        if there and state == "alive":
            raise self._refused(there)
        log.info("the run folder is held by %s; watching for %g s whether it lives", there or "someone", SILENCE)
        until = time.monotonic() + SILENCE
        while time.monotonic() < until:
            time.sleep(TICK)
            now = _read(self.run_url)
            if now is None:
                return False
            if now != text:
                raise self._refused(_parsed(now) or there)
        log.info("no sign of life for %g s; going on in its place", SILENCE)
        return True

    def _refused(self, there: Holder | None) -> StageError:
        return StageError(
            f"{self.run_url} is held by another driver: {there or 'unknown'}. "
            "Wait for it or stop it, then run the same command again; `status` tells how far it is"
        )

    def _still_mine(self) -> bool:
        there = holder(self.run_url)
        self._known = awake()
        if there is None or there.id != self.me.id:
            by = f"taken over by another driver: {there}" if there else "taken over by a driver that has ended since"
            self.lost = (
                f"{self.run_url} was {by}; this one did not renew its lease for too long (was it suspended?) and stops"
            )
        return not self.lost

    def _is_mine(self) -> bool:
        there = holder(self.run_url)
        return there is not None and there.id == self.me.id


#: The lease that this process holds.
_held: _Lease | None = None


def token() -> tuple[str, str] | None:
    """Run folder and id of the lease that this process holds, for `driver.see`."""
    return (_held.run_url, _held.me.id) if _held else None


def _myself() -> Holder:
    pid = os.getpid()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    _, started = _stat(pid) or ("", 0)
    return Holder(
        id=uuid.uuid4().hex,
        user=_shown(user),
        host=_shown(socket.gethostname()),
        machine=_machine(),
        pid=pid,
        started=started,
        command=_shown(shlex.join(map(redact_text, [Path(sys.argv[0]).name, *sys.argv[1:]]))),
        job=_ray_job(),
        since=datetime.now(timezone.utc).isoformat(sep=" ", timespec="seconds"),
    )


def _ray_job() -> str | None:
    """The submission id of `ray job submit`, as Ray tells its drivers."""
    try:
        return _shown(str(json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"]))
    except (ValueError, KeyError, TypeError):
        return None


def _machine() -> str:
    """Changes with every boot, and differs between containers of one host; empty where the kernel does not tell."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process(there: Holder) -> str | None:
    """How a holder's process is: 'alive', 'stopped' or 'gone'; None if it is on another machine."""
    if not there.machine or there.machine != _machine():
        return None
    stat = _stat(there.pid)
    if stat is None and _stat(1) is None:  # processes of other users are hidden here
        return None
    if stat is None or stat[1] != there.started or stat[0] in "ZX":
        return "gone"
    return "stopped" if stat[0] in "Tt" else "alive"


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time (clock ticks since boot, which no setting of a clock changes) of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def awake() -> float:
    """Seconds since boot, those suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _text(me: Holder) -> str:
    return json.dumps(asdict(me), indent=1)


def _read(run_url: str) -> bytes | None:
    return storage.read_bytes(f"{run_url}/{FILE}", _BYTES)


def _parsed(text: bytes | None) -> Holder | None:
    """None if there is none, or it is half written, damaged or of another version."""
    try:
        there = manifests.decoded(text or b"", Holder)
    except ValueError:
        return None
    texts = {name: _shown(value) for name, value in vars(there).items() if isinstance(value, str)}
    return replace(there, **texts)  # type: ignore[arg-type]


def _shown(text: str) -> str:
    """What a terminal only shows: it obeys control characters, and some turn the direction of what follows."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_CHARACTERS])
