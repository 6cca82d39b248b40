from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.download.reasons import REASONS, failure_reason


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        ("failed_to_download", "dns: Name or service not known", "dns"),
        ("failed_to_download", "http 404", "http 404"),
        ("failed_to_download", "too many pixels: 400,000,000", "too many pixels"),
        ("failed_to_download", "something new", "other"),
        ("failed_to_download", "http 4040", "other"),
        ("failed_to_download", None, "other"),
        ("failed_to_resize", "image too small", "image too small"),
        ("failed_to_resize", "aspect ratio too large", "aspect ratio"),
        ("failed_to_resize", "Image decoding error", "undecodable image"),
    ],
)
def test_reason(status: str, message: str | None, reason: str) -> None:
    assert failure_reason(status, message) == reason


@given(st.none() | st.sampled_from(["failed_to_download", "failed_to_resize"]), st.none() | st.text())
def test_reasons_are_bounded(status: str | None, message: str | None) -> None:
    reason = failure_reason(status, message)
    assert reason in REASONS or (reason.startswith("http ") and reason[5:].isdigit() and len(reason) == 8)
