"""What stages took and what it costs, against sums done by hand."""

from __future__ import annotations

import pytest

from geo_subset.manifests import FileEntry, Manifest, Record
from geo_subset.report import effort, text
from geo_subset.settings import PricesSettings

FILES = (FileEntry("a.tar", 10, 3_000_000_000, ""), FileEntry("a.parquet", 10, 1_000_000_000, ""))
USAGE = {"worker_seconds": 1800.0, "reserved_cpu_seconds": 7200.0, "used_cpu_seconds": 3600.0, "bytes_fetched": 9.0}


def manifest(stage: str, **usage: float) -> Manifest:
    units = tuple(Record(f"unit-{n}", (), {}) for n in range(3))
    return Manifest(stage, "f" * 64, FILES, {"requests": 12}, 60.0, {}, units, usage)


def test_work_is_paid_by_what_workers_hold_and_storage_by_the_month() -> None:
    prices = PricesSettings(cpu_hour=0.05, gpu_hour=2.0, gb_month=0.023, thousand_writes=0.005)
    stages = effort.by_stage(
        {"retrieve": manifest("retrieve", **USAGE), "download": manifest("download", reserved_gpu_seconds=900.0)},
        prices,
    )
    assert stages["retrieve"]["cost"] == {
        "work": pytest.approx(2 * 0.05), "writes": pytest.approx(5 * 0.005 / 1000),
        "storage_per_month": pytest.approx(4 * 0.023),
    }  # fmt: skip
    assert stages["download"]["cost"]["work"] == pytest.approx(0.25 * 2)
    assert (stages["retrieve"]["requests"], stages["retrieve"]["counters"]) == (12, {"requests": 12})
    everything = effort.total(stages)
    assert everything["seconds"] == 120
    assert everything["bytes_stored"] == 8_000_000_000
    assert everything["cost"]["work"] == pytest.approx(0.6)


def test_without_prices_there_is_no_cost_and_old_manifests_used_nothing_known() -> None:
    stages = effort.by_stage({"merge": manifest("merge")}, PricesSettings())
    assert stages["merge"]["cost"] is None
    assert stages["merge"]["worker_seconds"] == 0
    assert effort.total(stages)["cost"] is None


def test_money_and_sizes_in_words() -> None:
    assert [text.money(n) for n in (0, 0.00001, 0.00042, 0.023, 1234.567)] == [
        "0.00", "<0.0001", "0.00042", "0.023", "1,234.57",
    ]  # fmt: skip
    sizes = [text.size(n) for n in (0, 999, 1000, 999_600, 4_802_966, 1_234_000_000_000, 5e15)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "1.0 MB", "4.8 MB", "1.2 TB", "5,000 TB"]
