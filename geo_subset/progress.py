"""How long work shows itself: a bar with rate and time left on a terminal, plain lines at intervals in a log."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

log = logging.getLogger("geo_subset")
LOG_INTERVAL = 10.0
"""Seconds between two lines in a log."""


def set_up_logging() -> None:
    """Sends the package's messages to stderr, above a progress bar where there is one."""
    handler = _AboveBar()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


@contextlib.contextmanager
def track(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Shows progress of `total` units, `done` of them there already; call the result with how many more are done."""
    if sys.stderr.isatty():
        form = "{desc:<10} {percentage:3.0f}% |{bar:30}| {n_fmt}/{total_fmt}{unit}  {rate_noinv_fmt}  {remaining} left"
        with tqdm(total=total, initial=done, desc=label, unit=f" {unit}", bar_format=form, file=sys.stderr) as bar:
            yield bar.update
        return
    started = shown = time.monotonic()
    now_done = done

    def advance(count: int) -> None:
        nonlocal now_done, shown
        now_done += count
        now = time.monotonic()
        if now - shown >= LOG_INTERVAL and now_done < total:
            shown = now
            rate = (now_done - done) / (now - started)
            left = tqdm.format_interval((total - now_done) / rate) if rate else "?"
            log.info("%-9s %s/%s %s, %.1f/s, %s left", label, f"{now_done:,}", f"{total:,}", unit, rate, left)

    yield advance


class _AboveBar(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
