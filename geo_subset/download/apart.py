"""Decodes pictures in processes that may take only so much CPU time and memory: those whose heads do not bound it.

A process is started when one is first needed, then serves picture after picture, as many of them at a time as threads
call here. It ends with the process that started it. What it answers is taken for bytes and numbers and nothing more.

A picture is blamed for what it made the process do: use up its own CPU time or memory, or crash. A process that did not
start, or that something else ended, is a shortage of this machine.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from geo_subset.download import reasons
from geo_subset.download.picture import Header, PictureError
from geo_subset.errors import ShortageError
from geo_subset.settings import DownloadSettings

#: Seconds of CPU that a picture gets: so many, and for each million of its pixels and of its bytes so many more.
_LEAST, _A_MEGAPIXEL, _A_MEGABYTE, _MOST = 1.0, 0.2, 0.3, 9.0
#: Seconds by the clock after which a process is given up that had no CPU to use up.
_PATIENCE = 300.0
#: What a decoder ends with that a picture brought down. Other signals come from elsewhere.
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_CODE = "from geo_subset.download import apart_worker; apart_worker.serve(int(__import__('sys').argv[1]))"


@dataclass
class _Process:
    running: subprocess.Popen[bytes]
    connection: Connection


_idle: collections.deque[_Process] = collections.deque()
os.register_at_fork(after_in_child=_idle.clear)


def resized(body: bytes, head: Header, settings: DownloadSettings) -> tuple[bytes, list[int]]:
    """What `pixels.Picture` is made of. Raises PictureError, TOO_COSTLY and UNDECODABLE too, ShortageError, MemoryError
    and OSError."""
    process = _ready()
    request = {"head": asdict(head), "settings": settings.model_dump(mode="json"), "seconds": _seconds(body, head)}
    try:
        process.connection.send_bytes(json.dumps(request).encode())
        process.connection.send_bytes(body)
        if not process.connection.poll(_PATIENCE):
            raise _shortage(f"had no CPU time to decode a picture within {_PATIENCE:.0f} s")
        answer, data = json.loads(process.connection.recv_bytes()), process.connection.recv_bytes()
    except (OSError, EOFError) as error:
        raise _death(_ended(process)) from error
    except BaseException:
        _ended(process)
        raise
    _idle.append(process)
    if "lacks_memory" in answer:
        raise MemoryError("to decode a picture")
    if "reason" in answer:
        raise PictureError(answer["reason"], answer["detail"])
    return data, answer["sizes"]


def _seconds(body: bytes, head: Header) -> int:
    wanted = _LEAST + _A_MEGAPIXEL * head.width * head.height / 1e6 + _A_MEGABYTE * len(body) / 1e6
    return math.ceil(min(_MOST, wanted))


def _ready() -> _Process:
    while _idle:
        with contextlib.suppress(IndexError):  # another thread took the last
            process = _idle.pop()
            if process.running.poll() is None:
                return process
    return _started()


def _started() -> _Process:
    ours, theirs = Pipe()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    with theirs:
        command = [sys.executable, "-c", _CODE, str(theirs.fileno())]
        running = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
    process = _Process(running, ours)
    try:
        if ours.poll(_PATIENCE):
            ours.recv_bytes()  # it is ready
            return process
    except (OSError, EOFError):
        pass
    raise _shortage(f"could not start a process that decodes pictures (it ended with {_ended(process)})")


def _ended(process: _Process) -> int:
    process.connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.running.wait(1)
    process.running.kill()
    return process.running.wait()


def _death(status: int) -> Exception:
    if status == -signal.SIGXCPU:
        return PictureError(reasons.TOO_COSTLY, "more CPU time than its size allows")
    if -status in _CRASHES:
        return PictureError(reasons.UNDECODABLE, f"its decoder ended with signal {-status}")
    if status < 0:
        return _shortage(f"ended a process that decodes pictures with signal {-status}: it may lack memory")
    return RuntimeError(f"the process that decodes pictures apart ended with {status}")


def _shortage(what: str) -> ShortageError:
    return ShortageError(f"this machine ({socket.gethostname()}) {what}")
