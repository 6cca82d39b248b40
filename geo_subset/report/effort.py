"""What each stage took: time, CPU time, requests, bytes, and what that costs at given prices. Pure.

Only what workers hold while they work is counted: neither the driver's machine, nor nodes that wait, nor traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geo_subset.manifests import Manifest
from geo_subset.report.text import LONGEST
from geo_subset.settings import PricesSettings

#: Counters of a stage that are told each by itself.
_COUNTERS = 300
#: Of a stage, what adds up over stages.
_SUMMED = (
    "seconds", "worker_seconds", "reserved_cpu_seconds", "used_cpu_seconds", "reserved_gpu_seconds", "requests",
    "bytes_fetched", "bytes_stored", "writes",
)  # fmt: skip


def by_stage(manifests: Mapping[str, Manifest], prices: PricesSettings) -> dict[str, dict[str, Any]]:
    """Of each stage seconds, counters, and what `_SUMMED` names; with prices, cost {work, writes, storage_per_month}.

    writes: files and records, each one request to an object store (large files are several).
    """
    return {name: _stage(manifest, prices) for name, manifest in manifests.items()}


def total(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sums over all stages; no cost if there are no prices."""
    sums: dict[str, Any] = {name: round(sum(stage[name] for stage in stages.values()), 3) for name in _SUMMED}
    costs = [stage["cost"] for stage in stages.values()]
    priced = bool(costs) and None not in costs
    return {**sums, "cost": {key: round(sum(c[key] for c in costs), 6) for key in costs[0]} if priced else None}


def _stage(manifest: Manifest, prices: PricesSettings) -> dict[str, Any]:
    used: Mapping[str, float] = {**manifest.usage, **manifest.counters}
    amounts = {name: used.get(name, 0) for name in _SUMMED}
    amounts |= {
        "seconds": manifest.seconds,
        "bytes_stored": sum(entry.bytes for entry in manifest.files),
        "writes": len(manifest.files) + len(manifest.units),
    }
    work = amounts["reserved_cpu_seconds"] * prices.cpu_hour + amounts["reserved_gpu_seconds"] * prices.gpu_hour
    cost = {
        "work": round(work / 3600, 6),
        "writes": round(amounts["writes"] / 1000 * prices.thousand_writes, 6),
        "storage_per_month": round(amounts["bytes_stored"] / 1e9 * prices.gb_month, 6),
    }
    return {**amounts, "cost": cost if prices.are_given else None, "counters": _bounded(manifest.counters)}


def _bounded(counters: Mapping[str, int]) -> dict[str, int]:
    """The counters by the starts of their names, the first ones each by itself: names may hold texts from outside."""
    bounded: dict[str, int] = {}
    for name, count in counters.items():
        name = name[:LONGEST] if len(bounded) < _COUNTERS else "other counters"
        bounded[name] = bounded.get(name, 0) + count
    return bounded
