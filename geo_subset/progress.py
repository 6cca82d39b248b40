"""How long work shows itself: a bar with rate and time left on a terminal, plain lines at intervals in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from geo_subset import events, metrics
from geo_subset.events import log as log

LOG_INTERVAL = 10.0
"""Seconds between two lines in a log."""


@contextlib.contextmanager
def track(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Shows progress of `total` units, `done` of them there already; call the result with how many more are done.

    What happens meanwhile belongs to this step, in logs and metrics.
    """
    now_done = done
    with (
        events.about(step=label),
        metrics.progress(unit, done, total) as export,
        _shown(label, total, unit, done) as show,
    ):

        def advance(count: int) -> None:
            nonlocal now_done
            now_done += count
            export(now_done)
            show(count)

        yield advance


@contextlib.contextmanager
def _shown(label: str, total: int, unit: str, done: int) -> Iterator[Callable[[int], object]]:
    if sys.stderr.isatty() and not events.structured():
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
            seconds_left = (total - now_done) / rate if rate else None
            left = "?" if seconds_left is None else tqdm.format_interval(seconds_left)
            events.event(
                "progress", f"{label:<9} {now_done:,}/{total:,} {unit}, {rate:.1f}/s, {left} left",
                done=now_done, total=total, of=unit, per_second=round(rate, 3),
                seconds_left=seconds_left and round(seconds_left, 1),
            )  # fmt: skip

    yield advance
