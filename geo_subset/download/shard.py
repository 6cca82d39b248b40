"""Makes one shard: fetches its images, hundreds at a time, resizes them and writes them as img2dataset would.

One thread does it all, as a web server does: while a host is waited for, it fetches from others, or resizes. Two
threads would hand Python's lock to and fro a dozen times an image; a node's other CPUs have processes of their own.
Only pictures that take long, and all where the process may use several CPUs, are resized on other threads; those that
are decoded in a process of their own (`apart`) hold up no others. Nothing is put on anything but the schedule, so that
a pause (a host's rest, a retry's backoff) holds nothing up.

Memory of a process, whatever the hosts send, beside what interpreter and libraries take (some 250 MB): bodies of up to
2 MB (`http_wire.LARGE`) for each image in work, 512 MB for 256 of them; larger bodies 256 MB in all (twice
`_LARGE_BODIES`); bodies that wait for a process of their own 256 MB in all (`_APART_BODIES`); pictures while they are
decoded and resized 768 MB in all (`pixels.MEMORY`), and a small one. Each process that decodes apart, one for each CPU,
takes some 200 MB, and 768 MB more at most. A body for which there is no room is dropped, and its row put aside until
there is: waiting with the connection open would use up the time that the host has, and holding it up would hold up
others.
"""

from __future__ import annotations

import functools
import hashlib
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from geo_subset import events, metrics, shortage, urls, work
from geo_subset.download import reasons
from geo_subset.download.addresses import is_public
from geo_subset.download.fetch import RedirectedError, Spent, Terms, fetch
from geo_subset.download.hosts import Schedule, Wait
from geo_subset.download.http_client import Client, host_of
from geo_subset.download.img2dataset_adapter import ShardWriter
from geo_subset.download.pixels import Header, Picture, PictureError, effort, resized
from geo_subset.download.reach import Reach
from geo_subset.download.reasons import FetchError
from geo_subset.download.shards import ShardFiles, check
from geo_subset.download.splits import with_splits
from geo_subset.download.waiting import Loop, give_way, result_of
from geo_subset.errors import ShortageError, from_os_error
from geo_subset.settings import DownloadSettings

#: Images in work at a time where their number is not set: enough for 1,000 a second from hosts that take 200 ms.
AT_A_TIME = 256
#: Seconds after which rows are looked for again at the latest.
_LOOK = 0.1
#: Effort (`pixels.effort`) that sockets can wait for: some 30 ms. Pictures that take more go to another thread.
_SMALL = 4_000_000
#: Bytes of all bodies over http_wire.LARGE that are being received or decoded at a time; while one is put together
#: from its parts, it takes twice its size.
_LARGE_BODIES = 128 << 20
#: Bytes of all bodies that are decoded apart or wait for it. The other images never wait for these.
_APART_BODIES = 256 << 20
#: A retry comes after a random time of up to so many seconds, doubled for each further one ("full jitter": M. Brooker,
#: Exponential Backoff And Jitter, AWS Architecture Blog, 2015), and never later than the second figure.
_BACKOFF, _LONGEST_BACKOFF = 1.0, 30.0
#: Seconds of rest that one host gets in one shard; when it asks for more, its other rows are left to a retry pass.
_REST = 60.0
#: How often, and after how many seconds, a row is asked for again when this machine lacks something with nothing else
#: in work.
_SHORTAGES, _SHORTAGE_PAUSE = 5, 1.0

_Resize = Callable[[bytes, Header], tuple[Picture, str]]
Settled = Mapping[str, tuple[str, str]]


def download_shard(
    samples: pa.Table,
    index: int,
    folder: Path,
    settings: DownloadSettings,
    settled: Settled | None = None,
    cpus: float = 1.0,
    all_dead: bool = False,
) -> tuple[ShardFiles, dict[str, int]]:
    """Downloads the images of a table of samples into a webdataset shard in `folder`, and checks it.

    Returns the files and the counts of `shards.check`. Keys are unique over all shards of one `samples_per_shard`.
    `settled`: uid -> (status, reason) of rows that are not to be asked for, as a retry pass has them; they stay failed.
    `cpus`: how many the process may use. `all_dead`: whether it may be that not one of the hosts lives.
    Raises StorageFullError: no space left in `folder`; DamagedShardError: the shard is not whole; ShortageError: this
    machine lacks something; NoNetworkError: unless `all_dead`, if none of very many hosts could be reached.
    """
    try:
        samples = with_splits(samples)
        uids = samples["uid"].to_pylist()
        writer = ShardWriter(samples, index, folder, settings.samples_per_shard, settings.encode_format)
        waiting = []
        for position, uid in enumerate(uids):
            if settled and uid in settled:
                writer.failure(position, *settled[uid])
            else:
                waiting.append(position)
        _Download(samples.take(pa.array(waiting, pa.int64())), waiting, settings, writer, all_dead).run(cpus)
        writer.close()
        return writer.files, check(writer.files, uids, settings.encode_format)
    except Exception as error:
        if (lacking := shortage.of(error)) is not None:
            raise lacking from error
        if isinstance(error, OSError):
            raise from_os_error(error, f"writing a shard in {folder}") from error
        raise


class _NoRoomError(FetchError):
    """There are enough bodies of this one's kind in memory: its row waits in `line` until there is room."""

    def __init__(self, line: deque[int]) -> None:
        super().__init__(reasons.TOO_LARGE, "no room")
        self.line = line


class _Download:
    """The work on one shard's rows. All of it but the resizing belongs to the thread that calls `run`."""

    def __init__(
        self, samples: pa.Table, positions: list[int], settings: DownloadSettings, writer: ShardWriter, all_dead: bool
    ) -> None:
        self._urls, self._hosts = samples["url"].to_pylist(), [*map(_as_asked, samples["domain"].to_pylist())]
        self._positions, self._settings, self._writer = positions, settings, writer
        self._terms = Terms(
            settings.timeout, settings.max_bytes, settings.user_agent_token, settings.contact,
            settings.disallowed_header_directives,
        )  # fmt: skip
        self._schedule = Schedule(self._hosts, settings.requests_per_host, settings.rate_per_host)
        shortage.raise_limit()
        self._most = min(settings.threads or AT_A_TIME, max(1, shortage.spare_descriptors() // 2))
        self._client = _client(settings.allow_private_hosts)
        self._reach = None if all_dead else Reach()
        self._shortages = 0
        self._room = max(1, _LARGE_BODIES // settings.max_bytes)  # for so many large bodies more
        self._apart_room = max(_APART_BODIES, settings.max_bytes)  # bytes
        self._in_work = self._fetched = 0
        self._apart = 0  # images decoded apart or waiting for it; they are not among those in work
        self._shown = 0.0
        self._aside: deque[int] = deque()  # rows with a large body, until there is room
        self._large: set[int] = set()  # rows that turned out to have one
        self._redirected: dict[int, tuple[str, Spent]] = {}  # row -> where its try goes on
        self._apart_aside: deque[int] = deque()  # rows whose picture is decoded apart, until there is room
        self._to_decode_apart: set[int] = set()  # rows that turned out to have one
        self._tries = [0] * len(positions)
        self._rest_until: dict[str, float] = {}
        self._rested: dict[str, float] = {}
        self._closed: dict[str, str] = {}  # host that wants more rest than it gets -> the reason

    def run(self, cpus: float) -> None:
        """Returns when every row is written."""
        # With one CPU, a second thread would only get into the way of this one.
        small = _SMALL if cpus < 2 else 0
        images, apart = (ThreadPoolExecutor(max(1, round(cpus)), name) for name in ("images", "apart"))
        with images, apart, Loop() as loop:
            resize = functools.partial(self._resized, images, apart, small)
            while (wait := self._hand_out(loop, resize)) is not None:
                loop.turn(wait)
                self._show()
            metrics.in_flight("", 0, 0)

    def _show(self) -> None:
        """Exports, once a second, how many images are in work."""
        now = time.monotonic()
        if now - self._shown >= 1:
            self._shown = now
            metrics.in_flight("", self._in_work, self._most)

    def _hand_out(self, loop: Loop, resize: _Resize) -> float | None:
        """Begins as many rows as there may be. Returns for how long nothing else can be done; None: all is done."""
        now = time.monotonic()
        # Their hosts may have come to rest meanwhile.
        for _ in range(min(len(self._aside), self._room)):
            self._schedule.again(self._aside.popleft(), now)
        for _ in range(min(len(self._apart_aside), self._apart_room // self._settings.max_bytes)):
            self._schedule.again(self._apart_aside.popleft(), now)
        # Bodies that wait to be resized only take memory; but with too few of them, hosts that are slow are asked late.
        while self._in_work < self._most and self._fetched <= self._most // 2:
            step = self._schedule.take(now)
            if step is None:
                return _LOOK if self._in_work or self._apart else None
            if isinstance(step, Wait):
                return _LOOK if step.seconds is None else step.seconds
            if (host := self._schedule.host(step)) in self._closed:
                asked = "not asked again" if self._tries[step] else "not asked"
                self._fail(step, FetchError(self._closed[host], f"{asked}: its host wants rest"))
                continue
            reserved = self._settings.max_bytes if step in self._to_decode_apart else 0
            large = step in self._large and not reserved
            if reserved > self._apart_room:
                self._apart_aside.append(step)
            elif large and not self._room:
                self._aside.append(step)
            else:
                self._apart_room -= reserved
                self._room -= large
                loop.start(self._work, resize, step, large, reserved)
        return _LOOK

    def _work(self, resize: _Resize, row: int, large: bool, reserved: int) -> None:
        """One request for a row, a task of the loop. `large`: whether it has room for a large body. `reserved`: bytes
        of the room for bodies to be decoded apart that it has."""

        def make_room(_deadline: float) -> None:
            nonlocal large
            if not large and not reserved:
                if not self._room:
                    raise _NoRoomError(self._aside)
                self._room -= 1
                large = True

        def once_more() -> bool:
            return self._counts_as_retry(row)

        self._in_work += 1
        status, error, lacking = "failed_to_download", None, None
        try:
            url, spent = self._redirected.get(row) or (self._urls[row] or "", Spent())
            work.add("requests", 1)
            body, head = fetch(self._client, url, self._terms, make_room, once_more, spent)
            work.add("bytes_fetched", len(body))
            if head.apart:
                if len(body) > self._apart_room + reserved:
                    raise _NoRoomError(self._apart_aside)
                self._apart_room += reserved - len(body)
                self._room += large
                large, reserved = False, len(body)
            status = "failed_to_resize"
            self._came(row, None)
            self._schedule.done(row)  # its host need not wait for the resizing
            picture, sha256 = resize(body, head)
        except (FetchError, PictureError) as failed:
            error = failed
        except Exception as failed:  # noqa: BLE001 - a bug, or a shortage: counted, and the other rows go on
            lacking = failed if isinstance(failed, ShortageError) else shortage.of(failed)
            error = FetchError(reasons.SHORTAGE, lacking) if lacking else FetchError(reasons.OTHER, repr(failed))
        finally:
            self._in_work -= 1
            self._room += large
            self._apart_room += reserved
        if error is None:
            self._writer.success(self._positions[row], picture, sha256)
            return
        # Traceback and this frame would keep the body alive until the garbage collector comes by.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        if status == "failed_to_resize":
            # What was lacking to decode it may be there another time: a retry pass takes what was not downloaded.
            self._writer.failure(self._positions[row], "failed_to_download" if lacking else status, str(error))
        elif lacking is not None:
            self._put_back(row, lacking)
        elif isinstance(error, _NoRoomError):
            self._came(row, None)
            self._tries[row] += 1  # its body has to be asked for a second time
            (self._large if error.line is self._aside else self._to_decode_apart).add(row)
            error.line.append(row)
        elif isinstance(error, RedirectedError):
            self._came(row, None)
            self._redirected[row] = error.url, error.spent
            self._schedule.again(row, time.monotonic(), urls.registered_domain(error.host))
        elif isinstance(error, FetchError):
            self._came(row, error)
            if not self._is_tried_again(row, error):
                self._fail(row, error)
        else:
            self._fail(row, error)

    def _came(self, row: int, error: FetchError | None) -> None:
        """Notes how a request ended that this machine could make."""
        self._shortages = 0
        host = self._schedule.host(row)
        if self._reach is not None:
            self._reach.tried(host, error)
        if error is None or not error.retry_after:
            self._schedule.rested(host)

    def _put_back(self, row: int, lacking: ShortageError) -> None:
        """Has the row asked for again, with no more in work than now. Raises `lacking` if that does not help."""
        if self._in_work or self._apart:
            most = max(1, self._in_work)
            if most < self._most:
                events.event("shortage", f"{lacking}; now {most} images are in work at a time, not {self._most}")
            self._most = min(self._most, most)
        else:
            self._most = 1
            self._shortages += 1
            if self._shortages > _SHORTAGES:
                raise lacking
        self._schedule.again(row, time.monotonic() + _SHORTAGE_PAUSE)

    def _resized(
        self, images: ThreadPoolExecutor, apart: ThreadPoolExecutor, small: int, body: bytes, head: Header
    ) -> tuple[Picture, str]:
        """What is stored of an image, and the SHA-256 of what it was made from."""
        if head.apart:
            self._in_work -= 1
            self._apart += 1
            try:
                return result_of(apart.submit(_stored, body, head, self._settings))
            finally:
                self._in_work += 1
                self._apart -= 1
        self._fetched += 1
        try:
            if effort(body, head, self._settings) > small:
                return result_of(images.submit(_stored, body, head, self._settings))
            give_way()
            return _stored(body, head, self._settings)
        finally:
            self._fetched -= 1

    def _counts_as_retry(self, row: int) -> bool:
        """Whether the row may be asked for once more; if so, that is counted."""
        if self._tries[row] >= self._settings.retries:
            return False
        self._tries[row] += 1
        return True

    def _is_tried_again(self, row: int, error: FetchError) -> bool:
        """Whether the row goes back to the schedule, for a try from its first URL on.

        The host that answered gets the rest it asks for; that is no further try."""
        if not error.may_pass:
            return False
        now, host = time.monotonic(), self._schedule.host(row)
        if error.retry_after:
            self._rest(host, now, error)
        longest = min(_LONGEST_BACKOFF, _BACKOFF * 2 ** min(self._tries[row], 10))
        if host in self._closed or not self._counts_as_retry(row):
            return False
        self._redirected.pop(row, None)
        self._schedule.again(row, now + random.uniform(0, longest), self._hosts[row])
        return True

    def _rest(self, host: str, now: float, error: FetchError) -> None:
        """The host rests for as long as it asks; or is closed, when that gets too long."""
        seconds = max(1.0, error.retry_after or 0.0)
        longer = now + seconds - max(now, self._rest_until.get(host, now))
        if self._rested.get(host, 0.0) + longer > _REST:
            if host not in self._closed:
                message = f"{host} wants {seconds:.0f} s of rest: its other images are left to a retry pass"
                events.event("host given up", message, host=host, seconds=round(seconds), error=str(error))
            self._closed[host] = error.reason
        elif longer > 0:
            self._rested[host] = self._rested.get(host, 0.0) + longer
            self._rest_until[host] = now + seconds
            self._schedule.rest(host, now + seconds)
            events.event("host rests", host=host, seconds=round(longer, 1), error=str(error))

    def _fail(self, row: int, error: Exception) -> None:
        self._writer.failure(self._positions[row], "failed_to_download", str(error))
        self._schedule.done(row)


def _as_asked(domain: str | None) -> str:
    """A registered domain in the characters that redirects to it are counted under."""
    if domain is None or domain.isascii():
        return domain or ""
    try:
        return host_of(f"http://{domain}")
    except FetchError:
        return domain


def _stored(body: bytes, head: Header, settings: DownloadSettings) -> tuple[Picture, str]:
    return resized(body, head, settings), hashlib.sha256(body).hexdigest()


@functools.lru_cache(maxsize=2)
def _client(allow_private_hosts: bool) -> Client:
    """One for the process: connections, look-ups and the TLS context serve one shard after the other."""
    allowed = (lambda _: True) if allow_private_hosts else is_public
    return Client(allowed, descriptors=shortage.spare_descriptors() // 2)
