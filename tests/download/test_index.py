from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.download.index import Row, current, is_wanted
from geo_subset.download.shards import DamagedShardError


def cut(rows: list[Row], size: int) -> list[list[Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 4), st.randoms(use_true_random=False))
def test_every_sample_counts_once_with_its_last_try(
    samples: int, size: int, passes: int, chance: random.Random
) -> None:
    last = {f"{n:03d}": Row(f"{n:03d}", "first", f"{n}", "failed_to_download", "timed out") for n in range(samples)}
    first = list(last.values())
    retries = []
    for number in range(passes):
        tried = [uid for uid in last if chance.random() < 0.4]
        rows = [
            Row(uid, f"retry {number}", uid, chance.choice(["success", "failed_to_download"]), None) for uid in tried
        ]
        retries.append(rows)
        last |= {row.uid: row for row in rows}
    found = list(current(cut(first, size), retries))
    assert [row for rows in found for row in rows] == list(last.values())
    assert [len(rows) for rows in found] == [len(rows) for rows in cut(first, size)]


def test_a_pass_of_other_samples_is_noticed() -> None:
    rows = [Row(f"{n}", "s", f"{n}", "success", None) for n in range(3)]
    with pytest.raises(DamagedShardError, match="retry pass 2 holds a sample 7"):
        list(current([rows], [rows[1:2], [Row("7", "s", "7", "success", None)]]))


@pytest.mark.parametrize(
    ("status", "reason", "pattern", "wanted"),
    [
        ("success", None, None, False),
        ("success", None, ".*", False),
        ("failed_to_download", "timed out", None, True),
        ("failed_to_download", "http 503", None, True),
        ("failed_to_download", "http 404", None, False),
        ("failed_to_download", "robots", None, False),
        ("failed_to_download", "truncated image", None, True),  # the transfer was cut
        ("failed_to_resize", "truncated image", None, False),  # the file is cut where it lies
        ("failed_to_resize", "truncated image", "truncated", True),
        ("failed_to_download", "http 404", "^http 4", True),
        ("failed_to_download", "http 503", "^http 4", False),
    ],
)
def test_what_a_pass_takes(status: str, reason: str | None, pattern: str | None, wanted: bool) -> None:
    assert is_wanted(status, reason, pattern) is wanted
