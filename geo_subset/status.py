"""What `geo-subset status` says of a run: plain data from how far its stages are, and lines for people from that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from tqdm import tqdm

from geo_subset import layout, wording
from geo_subset.lease import Holder
from geo_subset.manifests import Progress, Sums
from geo_subset.superseding import Superseded, Unreadable

#: What is told of a run's driver.
_HOLDER = ("user", "host", "pid", "job", "since", "command")
#: Reasons of failures that people are shown.
_REASONS = 5


def tree(
    stages: Mapping[str, Progress], held_by: Holder | None, apart: Iterable[Superseded | Unreadable] = ()
) -> dict[str, dict[str, Any]]:
    """Stage -> what --json prints. The first stage that is not done is the one that a living driver is at."""
    at = next((name for name, progress in stages.items() if progress.state != "done"), None)
    by_stage: dict[str, list[Superseded | Unreadable]] = {name: [] for name in stages}
    for each in apart:
        by_stage[next(name for name in stages if each.stage in layout.within(name))].append(each)
    return {
        name: _stage(progress, held_by if name == at else None, by_stage[name]) for name, progress in stages.items()
    }


def superseded_line(each: Superseded) -> str:
    """What lies apart of a stage under one fingerprint, for people."""
    manifest = each.generation.manifest
    parts = wording.counted(len(manifest.units), "part")
    how = "finished" if each.generation.finished else f"{parts} of an unfinished result"
    return f"{each.stage:<9} {manifest.fingerprint[: layout.TAG_DIGITS]}: {how}, {amount([each])}"


def amount(superseded: Sequence[Superseded]) -> str:
    """'12.7 MB in 27 files'"""
    size, files = sum(each.bytes for each in superseded), sum(len(each.files) for each in superseded)
    shown = f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
    return f"{shown} in {wording.counted(files, 'file')}"


def _stage(progress: Progress, held_by: Holder | None, apart: Sequence[Superseded | Unreadable]) -> dict[str, Any]:
    left = None if progress.units is None else progress.units - progress.units_done
    running = held_by is not None
    recent, seconds = progress.recent, progress.recent_seconds
    rate = recent.units / seconds if running and seconds else 0.0
    shown = asdict(progress.sums)
    return {
        "state": "running" if running else progress.state,
        "step": progress.step,
        "holder": {key: getattr(held_by, key) for key in _HOLDER} if held_by else None,
        "units": progress.units,
        "units_done": progress.units_done,
        "units_left": left,
        "units_read": shown.pop("units"),
        **shown,
        "seconds": progress.seconds,
        "rates": _rates(progress.sums, progress.seconds, progress.units_done),
        "recent": {"seconds": seconds, "rates": _rates(recent, seconds, recent.units)} if running else None,
        "seconds_left": round(left / rate, 1) if rate and left is not None else None,
        "last_unit": _time(progress.last),
        "fingerprint": progress.fingerprint,
        "superseded": [
            {
                "fingerprint": each.generation.manifest.fingerprint,
                "finished": each.generation.finished,
                "files": len(each.files),
                "bytes": each.bytes,
            }
            for each in apart
            if isinstance(each, Superseded)
        ],
        "superseded_unreadable": [each.problem for each in apart if isinstance(each, Unreadable)],
    }


def _rates(sums: Sums, seconds: float, units: int) -> dict[str, float]:
    """What was counted by the second; of records of which only the newest were read, nothing but the units."""
    counted = sums.counters if sums.units >= units else {}
    amounts = {"units": units, **counted}
    return {name: round(amount / seconds, 3) for name, amount in amounts.items()} if seconds > 0 else {}


def lines(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The same for people."""
    for name, stage in stages.items():
        yield f"{name:<9} {stage['state']:<12} {_how_far(stage)}".rstrip()
        if stage["superseded"]:
            size = sum(each["bytes"] for each in stage["superseded"]) / 1e6
            yield f"    superseded results: {len(stage['superseded'])}, {size:,.1f} MB; `clean` frees them"
        for problem in stage["superseded_unreadable"]:
            yield f"    {problem}"
        if stage["holder"]:
            by = stage["holder"]
            job = f", Ray job {by['job']}" if by["job"] else ""
            yield f"    by {by['user']}@{by['host']}, PID {by['pid']}{job}, since {by['since']}: {by['command']}"
        if stage["state"] not in ("running", "unfinished", "done"):
            continue
        if 0 < stage["units_read"] < stage["units_done"]:
            yield f"    of the newest {stage['units_read']:,} parts:"
        overall, recent = stage["rates"], (stage["recent"] or {"rates": {}})["rates"]
        for counter, count in stage["counters"].items():
            rates = f"{overall[counter]:>12,.1f}/s" if counter in overall and stage["state"] != "done" else ""
            if counter in recent:
                rates += f"{recent[counter]:>12,.1f}/s lately"
            yield f"    {counter:<32} {count:>12,}{rates}"
        if stage["failures"] and stage["state"] != "done":
            most = sorted(stage["failures"].items(), key=lambda item: -item[1])
            rest = f", and {len(most) - _REASONS} reasons more" if len(most) > _REASONS else ""
            yield "    failed: " + ", ".join(f"{reason} {n:,}" for reason, n in most[:_REASONS]) + rest


def _how_far(stage: Mapping[str, Any]) -> str:
    if stage["units"] is None:
        return ""
    said = f"{stage['units_done']:,} of {stage['units']:,} parts"
    said += f" of the step before it, {stage['step']}" if stage["step"] else ""
    if stage["state"] == "running":
        if stage["recent"]["seconds"]:
            minutes = stage["recent"]["seconds"] / 60
            said += f", {60 * stage['recent']['rates'].get('units', 0):,.1f} a minute in the last {minutes:.1f}"
        left = stage["seconds_left"]
        said += f", {tqdm.format_interval(left)} left" if left is not None else ""
    elif stage["seconds"]:
        said += f", {stage['units_done'] / stage['seconds']:.2f} parts/s"
    if stage["state"] != "done" and stage["last_unit"]:
        said += f"; the last one at {stage['last_unit']}"
    return said


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
