"""Ray metrics of a run, for the Prometheus endpoint of the node that the driver runs on. They never stop a run.

All but the download's requests in flight come from the driver, which sees every unit's record; so a counter is the sum
of what this job's units did, and every counter of the manifests is one, under its own name. Without a cluster to which
somebody could look (a run on one machine starts its own) nothing is exported, and nothing costs anything.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geo_subset import events
from geo_subset.manifests import Record

if TYPE_CHECKING:
    from ray.util.metrics import Metric

#: Counters whose names tell a reason: counter -> metric, whose tag 'reason' is the rest of the counter's name.
_BY_REASON = {"failed: ": "errors", "requests_failed_": "requests_failed"}
#: Counters that metrics know under a name with its noun.
_NOUNS = {"attempted": "images_attempted", "succeeded": "images"}

#: Seconds between two times that a gauge is set to what it is; Ray's own interval is 10.
_REPEAT = 5.0

_exported = False
_metrics: dict[str, Metric] = {}
_failed_before: dict[str, Record] = {}


def export(wanted: bool) -> None:
    """Whether there is anybody to export to; not, until told otherwise."""
    global _exported
    _exported = wanted


def exported() -> bool:
    return _exported


def unit_done(record: Record) -> None:
    """Counts what a unit's record counts, its bytes on storage, and what it used."""
    if not _exported:
        return
    with contextlib.suppress(Exception):  # whatever happens to metrics, the run goes on
        before = _failed_before.pop(record.unit, None)  # done again for the sake of some places
        earlier = _amounts(before) if before else {}
        for key, amount in _amounts(record).items():
            _count(*key, amount - earlier.get(key, 0))
        _count("units", "", 1)
        if record.extra.get("failed"):
            _failed_before[record.unit] = record


def trouble(kind: str) -> None:
    """Counts a unit that is tried again or given up: 'failed', or its worker 'lost'."""
    if _exported:
        with contextlib.suppress(Exception):
            _count(f"units_{kind}", "", 1)


@contextlib.contextmanager
def progress(of: str, done: int, total: int) -> Iterator[Callable[[int], None]]:
    """Exports how far a step is, in what it counts by (`of`: places, images, partitions); call it with what is done.

    Ray forgets a gauge that was not set for two of its reports' intervals, and the next part may end much later.
    """
    ended = threading.Event()

    def advance(now_done: int) -> None:
        nonlocal done
        done = now_done
        _set("progress_done", done, {"of": of})
        _set("progress_left", total - done, {"of": of})

    def repeat() -> None:
        while not ended.wait(_REPEAT):
            advance(done)

    advance(done)
    repeating = threading.Thread(target=repeat, name="progress-metrics", daemon=True)
    if _exported:
        repeating.start()
    try:
        yield advance
    finally:
        ended.set()
        if repeating.is_alive():
            repeating.join()


def in_flight(backend: str, requests: int, allowed: int) -> None:
    """Requests to a backend (or to the web, '') that wait for their answers, and how many there may be."""
    _set("requests_in_flight", requests, {"backend": backend})
    _set("requests_allowed", allowed, {"backend": backend})


def _amounts(record: Record) -> dict[tuple[str, str], float]:
    """(metric, reason) -> amount."""
    used: Mapping[str, float] = record.extra.get("usage", {})
    failed: Sequence[Mapping[str, Any]] = record.extra.get("failed", ())
    amounts: dict[tuple[str, str], float] = {
        ("bytes_stored", ""): sum(entry.bytes for entry in record.files),
        **{(name, ""): amount for name, amount in used.items() if name not in record.counters},
    }
    if "places" in record.extra:
        amounts["places", ""] = record.extra["places"]
    for failure in failed:
        key = "errors", str(failure["reason"])
        amounts[key] = amounts.get(key, 0) + 1
    for counter, amount in record.counters.items():
        prefix = next((prefix for prefix in _BY_REASON if counter.startswith(prefix)), None)
        key = (_BY_REASON[prefix], counter.removeprefix(prefix)) if prefix else (_NOUNS.get(counter, counter), "")
        amounts[key] = amount
    return amounts


def _count(name: str, reason: str, amount: float) -> None:
    if amount <= 0:  # a counter only grows; a list of samples to try again takes back what failed
        return
    from ray.util.metrics import Counter

    full = f"geo_subset_{re.sub('[^a-zA-Z0-9_]', '_', name)}"
    keys = ("run", "stage", "step", *(["reason"] if reason else []))
    if full not in _metrics:
        _metrics[full] = Counter(full, _description(name), keys)
    metric: Any = _metrics[full]
    metric.inc(amount, {**_tags(), **({"reason": reason} if reason else {})})


def _set(name: str, value: float, tags: dict[str, str]) -> None:
    if not _exported:
        return
    with contextlib.suppress(Exception):
        from ray.util.metrics import Gauge

        full = f"geo_subset_{name}"
        if full not in _metrics:
            _metrics[full] = Gauge(full, _description(name), ("run", "stage", "step", *tags))
        metric: Any = _metrics[full]
        metric.set(value, {**_tags(), **tags})


def _tags() -> dict[str, str]:
    subject = events.subject()
    return {name: subject.get(name, "") for name in ("run", "stage", "step")}


def _description(name: str) -> str:
    return f"geo_subset: {name.replace('_', ' ')}"
