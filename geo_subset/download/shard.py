"""Makes one shard: fetches its images with many threads, resizes them and writes them as img2dataset would.

One thread, the caller's, owns the schedule, the retries and the files; the others fetch and resize one image at a time.
Nothing is put on anything but the schedule, so that a pause (a host's rest, a retry's backoff) holds no thread.

Memory of a process, whatever the hosts send, beside what interpreter and libraries take (some 250 MB): bodies of up to
2 MB (`http_wire.LARGE`) for each thread, 512 MB for 256 of them; larger bodies 256 MB in all (twice `_LARGE_BODIES`);
pictures while they are decoded and resized 768 MB in all (`pixels.MEMORY`). A body that turns out to be a large one
while there is no room is dropped, and its row put aside until there is: waiting with the connection open would use up
the time that the host has.
"""

from __future__ import annotations

import functools
import hashlib
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from geo_subset.download import reasons
from geo_subset.download.addresses import is_public
from geo_subset.download.fetch import Terms, fetch
from geo_subset.download.hosts import Schedule, Wait
from geo_subset.download.http_client import Client
from geo_subset.download.img2dataset_adapter import ShardWriter
from geo_subset.download.pixels import Picture, PictureError, resized
from geo_subset.download.reasons import FetchError
from geo_subset.download.shards import ShardFiles, check
from geo_subset.download.splits import with_splits
from geo_subset.errors import from_os_error
from geo_subset.settings import DownloadSettings

#: Threads to begin with and at most, where their number is not set. Where hosts answer at once, few keep a CPU busy,
#: and more get into each other's way.
FEWEST, MOST = 4, 256
#: Seconds between two looks at whether there is CPU for more threads.
_LOOK = 0.1
#: Bytes of all bodies over http_wire.LARGE that are being received or decoded at a time; while one is put together
#: from its parts, it takes twice its size.
_LARGE_BODIES = 128 << 20
#: A retry comes after a random time of up to so many seconds, doubled for each further one ("full jitter": M. Brooker,
#: Exponential Backoff And Jitter, AWS Architecture Blog, 2015), and never later than the second figure.
_BACKOFF, _LONGEST_BACKOFF = 1.0, 30.0
#: Seconds of rest that one host gets in one shard; when it asks for more, its other rows are left to a retry pass.
_REST = 60.0

Settled = Mapping[str, tuple[str, str]]


def download_shard(
    samples: pa.Table,
    index: int,
    folder: Path,
    settings: DownloadSettings,
    settled: Settled | None = None,
    cpus: float = 1.0,
) -> tuple[ShardFiles, dict[str, int]]:
    """Downloads the images of a table of samples into a webdataset shard in `folder`, and checks it.

    Returns the files and the counts of `shards.check`. Keys are unique over all shards of one `samples_per_shard`.
    `settled`: uid -> (status, reason) of rows that are not to be asked for, as a retry pass has them; they stay failed.
    `cpus`: how many the process may use.
    Raises StorageFullError: no space left in `folder`; DamagedShardError: the shard is not whole.
    """
    samples = with_splits(samples)
    uids = samples["uid"].to_pylist()
    try:
        writer = ShardWriter(samples, index, folder, settings.samples_per_shard, settings.encode_format)
        waiting = []
        for position, uid in enumerate(uids):
            if settled and uid in settled:
                writer.failure(position, *settled[uid])
            else:
                waiting.append(position)
        _Download(samples.take(pa.array(waiting, pa.int64())), waiting, settings, writer).run(cpus)
        writer.close()
        return writer.files, check(writer.files, uids, settings.encode_format)
    except OSError as error:
        raise from_os_error(error, f"writing a shard in {folder}") from error


def more_threads(now: int, used: float, cpus: float) -> int:
    """How many threads to go on with when rows were waiting for one: twice as many while less than 0.9 of the `cpus`
    that the process may use was `used`."""
    return min(MOST, 2 * now) if used < 0.9 * cpus else now


@dataclass(frozen=True)
class _Try:
    """What one try at a row led to: a picture, or the status and the error for which there is none."""

    row: int
    large: bool
    """Whether it holds one of the permits for large bodies."""
    picture: Picture | None = None
    sha256: str = ""
    status: str = ""
    error: FetchError | PictureError | None = None


class _NoRoomError(FetchError):
    """The body is a large one, and there are enough of them in memory."""


class _Download:
    """The work on one shard's rows. All of its state belongs to the thread that calls `run`, the queue excepted."""

    def __init__(
        self, samples: pa.Table, positions: list[int], settings: DownloadSettings, writer: ShardWriter
    ) -> None:
        self._urls, self._hosts = samples["url"].to_pylist(), [host or "" for host in samples["domain"].to_pylist()]
        self._positions, self._settings, self._writer = positions, settings, writer
        self._client = _client(settings.allow_private_hosts)
        self._terms = Terms(
            settings.timeout, settings.max_bytes, settings.user_agent_token, settings.contact,
            settings.disallowed_header_directives,
        )  # fmt: skip
        self._schedule = Schedule(self._hosts, settings.requests_per_host, settings.rate_per_host)
        self._large = threading.Semaphore(max(1, _LARGE_BODIES // settings.max_bytes))
        self._ended: queue.SimpleQueue[_Try] = queue.SimpleQueue()
        self._in_work = 0
        self._aside: deque[int] = deque()  # rows with a large body, until there is room
        self._tries = [0] * len(positions)
        self._rest_until: dict[str, float] = {}
        self._rested: dict[str, float] = {}
        self._closed: dict[str, str] = {}  # host that wants more rest than it gets -> the reason

    def run(self, cpus: float) -> None:
        """Returns when every row is written."""
        threads = _Threads(self._settings.threads, cpus)
        with ThreadPoolExecutor(threads.most, "images") as pool:
            while True:
                wait = self._hand_out(pool, threads)
                if wait is None:
                    return
                try:
                    ended = self._ended.get(timeout=wait)
                except queue.Empty:
                    continue
                self._in_work -= 1
                self._settle(ended)
                if ended.large:
                    self._large.release()

    def _hand_out(self, pool: ThreadPoolExecutor, threads: _Threads) -> float | None:
        """Gives rows to all threads that are free. Returns for how long nothing else can be done; None: all is done."""
        now = time.monotonic()
        threads.look(now)
        while self._in_work < threads.number:
            if self._aside and self._large.acquire(blocking=False):
                self._start(pool, self._aside.popleft(), room=True)
                continue
            step = self._schedule.take(now)
            if step is None:
                return None
            if isinstance(step, Wait):
                threads.suffice()
                return min(_LOOK, step.seconds) if step.seconds is not None else _LOOK
            if self._hosts[step] in self._closed:
                self._fail(step, FetchError(self._closed[self._hosts[step]], "not asked: its host wants rest"))
            else:
                self._start(pool, step, room=False)
        return _LOOK

    def _start(self, pool: ThreadPoolExecutor, row: int, room: bool) -> None:
        self._in_work += 1
        pool.submit(self._work, row, room)

    def _settle(self, ended: _Try) -> None:
        row, error = ended.row, ended.error
        if ended.picture is not None:
            self._writer.success(self._positions[row], ended.picture, ended.sha256)
            self._schedule.done(row)
        elif isinstance(error, _NoRoomError):
            self._aside.append(row)
        elif isinstance(error, FetchError) and self._is_tried_again(row, error):
            pass
        else:
            assert error is not None
            self._fail(row, error, ended.status)

    def _is_tried_again(self, row: int, error: FetchError) -> bool:
        """Whether the row goes back to the schedule. To wait as long as the host asked for does not count as a try."""
        now, host = time.monotonic(), self._hosts[row]
        if not error.may_pass:
            return False
        if error.retry_after is not None:
            until = now + max(1.0, error.retry_after)
            longer = until - max(now, self._rest_until.get(host, now))
            if self._rested.get(host, 0.0) + longer > _REST:
                self._closed[host] = error.reason
                return False
            if longer > 0:
                self._rested[host] = self._rested.get(host, 0.0) + longer
                self._rest_until[host] = until
                self._schedule.rest(host, until)
            self._schedule.again(row, until)
            return True
        if self._tries[row] >= self._settings.retries:
            return False
        longest = min(_LONGEST_BACKOFF, _BACKOFF * 2 ** self._tries[row])
        self._tries[row] += 1
        self._schedule.again(row, now + random.uniform(0, longest))
        return True

    def _fail(self, row: int, error: FetchError | PictureError, status: str = "failed_to_download") -> None:
        self._writer.failure(self._positions[row], status, str(error))
        self._schedule.done(row)

    # --- on the other threads --------------------------------------------------------------------------------------

    def _work(self, row: int, room: bool) -> None:
        """One try at a row; never raises: the row would be waited for for ever."""
        large, status = room, "failed_to_download"

        def make_room(_deadline: float) -> None:
            nonlocal large
            if not large:
                if not self._large.acquire(blocking=False):
                    raise _NoRoomError(reasons.TOO_LARGE, "no room")
                large = True

        try:
            body = fetch(self._client, self._urls[row] or "", self._terms, make_room)
            status = "failed_to_resize"
            picture = resized(body, self._settings)
            ended = _Try(row, large, picture, hashlib.sha256(body).hexdigest())
        except (FetchError, PictureError) as error:
            # Error, traceback and this frame would keep the body alive until the garbage collector comes by.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            ended = _Try(row, large, status=status, error=error)
        except Exception as error:  # noqa: BLE001 - a bug, or no memory: counted, and the other rows go on
            ended = _Try(row, large, status=status, error=FetchError(reasons.OTHER, repr(error)))
        self._ended.put(ended)


class _Threads:
    """How many rows are in work at a time: as set, or else found out."""

    def __init__(self, wanted: int | None, cpus: float) -> None:
        self.number, self.most = (wanted, wanted) if wanted else (FEWEST, MOST)
        self._cpus = cpus
        self._suffice = False
        self._looked, self._cpu = time.monotonic(), time.process_time()

    def suffice(self) -> None:
        """A thread was free and no row could be given to it."""
        self._suffice = True

    def look(self, now: float) -> None:
        """Takes more threads now and then, if all were busy since the last time."""
        if self.number == self.most or now - self._looked < _LOOK:
            return
        cpu = time.process_time()
        if not self._suffice:
            self.number = more_threads(self.number, (cpu - self._cpu) / (now - self._looked), self._cpus)
        self._suffice, self._looked, self._cpu = False, now, cpu


@functools.lru_cache(maxsize=2)
def _client(allow_private_hosts: bool) -> Client:
    """One for the process: connections, look-ups and the TLS context serve one shard after the other."""
    return Client((lambda _: True) if allow_private_hosts else is_public)
