"""What runs in the processes of `apart`."""

from __future__ import annotations

import json
import math
import mmap
import os
import resource
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

from geo_subset.download import reasons
from geo_subset.download.picture import Header, PictureError
from geo_subset.download.pixels import MEMORY, resized_here
from geo_subset.settings import DownloadSettings

#: Transfers and other pictures come first.
_NICE = 5


def serve(descriptor: int) -> None:
    """Answers until the process that asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with whom it works for
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICE)
    with Connection(descriptor) as connection:
        connection.send_bytes(b"")  # ready
        while True:
            try:
                request, body = json.loads(connection.recv_bytes()), connection.recv_bytes()
            except (EOFError, OSError):
                return
            _limit(request["seconds"])
            answer, data = _answer(request, body)
            connection.send_bytes(json.dumps(answer).encode())
            connection.send_bytes(data)


def _limit(seconds: int) -> None:
    memory = Path("/proc/self/statm")
    if memory.exists():
        _set(resource.RLIMIT_AS, int(memory.read_text().split()[0]) * resource.getpagesize() + MEMORY)
    _set(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)


def _set(resource_: int, most: int) -> None:
    hard = resource.getrlimit(resource_)[1]
    resource.setrlimit(resource_, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _answer(request: dict[str, object], body: bytes) -> tuple[dict[str, object], bytes]:
    picture = failed = None
    try:
        head = Header(**request["head"])  # type: ignore[arg-type]
        picture = resized_here(body, head, DownloadSettings.model_validate(request["settings"]))
    except PictureError as error:
        return {"reason": error.reason, "detail": str(error).partition(": ")[2]}, b""
    except Exception as error:  # noqa: BLE001 - libraries say in many ways that memory is lacking
        failed = error.with_traceback(None)  # what was held until here is free again
    if picture is None:
        if _lacks_memory():
            return {"lacks_memory": True}, b""
        if failed and not isinstance(failed, MemoryError):
            raise failed
        return {"reason": reasons.TOO_COSTLY, "detail": f"more memory than {MEMORY:,} bytes"}, b""
    sizes = [picture.width, picture.height, picture.original_width, picture.original_height]
    return {"sizes": sizes}, picture.data


def _lacks_memory() -> bool:
    """Whether this machine, rather than the limit of this process, has no room for a picture."""
    resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1],) * 2)
    try:
        mmap.mmap(-1, MEMORY).close()
    except (OSError, MemoryError):
        return True
    return False
