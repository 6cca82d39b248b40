"""Decodes pictures in processes that may take only so much CPU time and memory: those whose heads do not bound it.

A process is started when one is first needed, then serves picture after picture, as many of them at a time as threads
call here. It ends with the process that started it. What it answers is taken for bytes and numbers and nothing more.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from geo_subset.download import reasons
from geo_subset.download.picture import Header, PictureError
from geo_subset.settings import DownloadSettings

#: Seconds of CPU that a picture gets: so many, and for each million of its pixels and of its bytes so many more.
_LEAST, _A_MEGAPIXEL, _A_MEGABYTE, _MOST = 1.0, 0.2, 0.3, 9.0
#: Seconds by the clock after which a process is given up that had no CPU to use up.
_PATIENCE = 120.0
_CODE = "from geo_subset.download import apart_worker; apart_worker.serve(int(__import__('sys').argv[1]))"


@dataclass
class _Process:
    running: subprocess.Popen[bytes]
    connection: Connection


_idle: collections.deque[_Process] = collections.deque()
os.register_at_fork(after_in_child=_idle.clear)


def resized(body: bytes, head: Header, settings: DownloadSettings) -> tuple[bytes, list[int]]:
    """What `pixels.Picture` is made of. Raises PictureError, TOO_COSTLY and UNDECODABLE too, and MemoryError."""
    process = _ready()
    request = {"head": asdict(head), "settings": settings.model_dump(mode="json"), "seconds": _seconds(body, head)}
    try:
        process.connection.send_bytes(json.dumps(request).encode())
        process.connection.send_bytes(body)
        if not process.connection.poll(_PATIENCE):
            raise PictureError(reasons.TOO_COSTLY, f"not decoded within {_PATIENCE:.0f} s")
        answer, data = json.loads(process.connection.recv_bytes()), process.connection.recv_bytes()
    except (OSError, EOFError) as error:
        raise _death(_ended(process)) from error
    except BaseException:
        _ended(process)
        raise
    _idle.append(process)
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
        return _Process(
            subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment), ours
        )


def _ended(process: _Process) -> int:
    process.connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.running.wait(1)
    process.running.kill()
    return process.running.wait()


def _death(status: int) -> Exception:
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return PictureError(reasons.TOO_COSTLY, "more CPU time than its size allows")
    if status < 0:
        return PictureError(reasons.UNDECODABLE, f"its decoder ended with signal {-status}")
    return RuntimeError(f"the process that decodes pictures apart ended with {status}")
