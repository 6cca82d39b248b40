"""`clip-retrieval`, unmodified, but for this: its server listens on 127.0.0.1 and ends with whoever started it.

Its host, 0.0.0.0, is hard-coded in the package.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from typing import Any

import flask
from clip_retrieval.cli import main

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_run = flask.Flask.run


def _run_on_loopback(app: flask.Flask, host: str | None = None, **options: Any) -> None:
    _run(app, host="127.0.0.1", **options)


flask.Flask.run = _run_on_loopback  # type: ignore[method-assign]
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
sys.argv[0] = "clip-retrieval"
main()
