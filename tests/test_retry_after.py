from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.retry_after import MOST, seconds

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("0", 0.0), (" 17 ", 17.0), ("1.5", 1.5), ("86401", MOST), ("9" * 400, MOST), ("9" * 60_000, MOST),
        ("0." + "0" * 60_000 + "1", 0.0), ("Wed, 01 Jan 2025 00:01:00 GMT", 60.0),
        ("Wednesday, 01-Jan-25 00:01:00 GMT", 60.0), ("Wed Jan  1 00:01:00 2025", 60.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Fri, 31 Dec 9999 23:59:59 GMT", MOST),
        ("Fri, 31 Dec 9999 23:59:59 -2359", MOST), ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("Wed, 01 Jan 2025 00:01:00 +" + "9" * 30, None), ("Wed, 0_1 Jan 2025 00:01:00 GMT", None),
        ("Wed, " + "9" * 5000 + " Jan 2025 00:01:00 GMT", None), (None, None), ("", None), ("soon", None), ("-3", None),
        ("+5", None), ("1_0", None), ("1e3", None), ("inf", None), ("nan", None), ("٣", None), ("²", None),
    ],
)  # fmt: skip
def test_seconds_and_dates_within_bounds(header: str | None, expected: float | None) -> None:
    assert seconds(header, NOW) == expected


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,9} [A-Z][a-z]{2} [0-9]{1,9} [0-9:]{1,20} [+-][0-9]{1,9}"))
def test_whatever_comes_is_a_number_within_bounds_or_nothing(header: str) -> None:
    found = seconds(header, NOW)
    assert found is None or 0 <= found <= MOST
