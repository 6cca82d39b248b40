"""Ray for a local run: it listens on loopback alone, wants a token, and keeps its files where only their owner reads.

By itself Ray listens on every interface, and writes sessions that anybody may write to into /tmp/ray.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ray._private import ray_constants

#: Ray knows no name for "loopback alone" but this one, which it has for systems where clusters are not supported.
_CLUSTERS = "ENABLE_RAY_CLUSTER"
#: Characters of the folder of a session up to which Ray's sockets below it have names that the kernel takes (107).
_MOST = 40
#: Of the environment, for Ray and the processes that it starts.
_MODE, _TOKEN, _TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


@contextlib.contextmanager
def private() -> Iterator[dict[str, Any]]:
    """Arguments for `ray.init` that go with what is set up for as long as the context lasts.

    Ray's logs stay after an error, else they are removed.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, ray_constants, _CLUSTERS, getattr(ray_constants, _CLUSTERS, True))
        setattr(ray_constants, _CLUSTERS, False)
        stack.enter_context(_token())
        folder = _folder()
        # The port of Ray's metrics would answer everybody. Ray itself opens the folder of its session to everybody.
        system = {"enable_metrics_collection": False}
        yield {"include_dashboard": False, "_system_config": system, "_temp_dir": str(folder / "s")}
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _token() -> Iterator[None]:
    """A token of this run, without which Ray answers nobody; the caller's own where the environment holds one."""
    before = {name: os.environ.get(name) for name in (_MODE, _TOKEN)}
    os.environ[_MODE] = "token"
    if not os.environ.get(_TOKEN_FILE):
        os.environ.setdefault(_TOKEN, secrets.token_hex(32))
    _read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Ray reads the environment when it is imported. (Older ones have no tokens.)"""
    with contextlib.suppress(AttributeError):
        raylet: Any = import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def _folder() -> Path:
    """A folder of this user alone (mode 0700)."""
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    name = "geo-subset-ray-"
    return Path(tempfile.mkdtemp(prefix=name, dir=base if len(base) + len(name) + 11 <= _MOST else "/tmp"))
