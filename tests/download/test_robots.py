from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.download.robots import refuses

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
OURS = {"geo-subset", "mytoken"}
UNWANTED = {"noai", "noindex"}


def refused(*lines: str) -> bool:
    return refuses(lines, OURS, UNWANTED, NOW)


@pytest.mark.parametrize(
    "line",
    [
        "noai", "NoAI", "noindex, nofollow", " nofollow ,noai", "nofollow,,noai", "noai noimageai", "noindex; nofollow",
        # Directives with values are no names, wherever they stand.
        "noai, max-image-preview:large", "max-image-preview: large, noai",
        "max-snippet:-1, max-video-preview:0, noindex",
        "noindex, unavailable_after: 25 Jun 2030 15:00:00 PST",
        "unavailable_after: Saturday, 25-Jun-30 15:00:00 PST, noindex",
        "unavailable_after: June 25, 2030 15:00:00, noindex", "unavailable_after: Sat, 99 Foo 2030 15:00:00 PST, noai",
        "unavailable_after:, noai",
        # Short for noindex, nofollow.
        "none", "None", "geo-subset: none",
        # Our names.
        "geo-subset: noai", "Geo-Subset : noai", "geo-subset:noai", "mytoken: nofollow, noai",
        "geo-subset/1.0: noindex",
        "otherbot: nofollow, geo-subset: noai", "otherbot: noai, nofollow, mytoken: max-snippet:1, noindex",
        "geo-subset: nofollow, otherbot: all, geo-subset: noai", "noai, otherbot: all", "*: noai",
        "otherbot: all, *: noai",
        # A date gone by, in all its forms.
        "unavailable_after: 25 Jun 2010 15:00:00 PST", "unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT",
        "unavailable_after: Friday, 25-Jun-10 15:00:00 UTC", "unavailable_after: 2010-06-25T15:00:00Z",
        "unavailable_after: 2010-06-25", "unavailable_after: 2010-06-25T15:00:00+02:00",
        "max-snippet:5, unavailable_after: 25 Jun 2010 15:00:00 PST, nofollow",
        "geo-subset: unavailable_after: 25 Jun 2010 15:00:00 PST",
        "unavailable_after: 25 Jun 2010", "unavailable_after: Jun 25, 2010", "unavailable_after: June 25th, 2010",
        "unavailable_after: Friday, 25-Jun-10", "unavailable_after: June 25, 2010 3:00 PM PST",
        "unavailable_after: 2010-06-25 15:00:00 PST", "unavailable_after: 2010-06-25 15:00",
        "unavailable_after: 20100625",
        "unavailable_after: 2010/06/25", "unavailable_after: Fri Jun 25 15:00:00 2010",
        "unavailable_after: 2010-06-25T15:00:00.123456789Z", "unavailable_after: '2010-06-25'",
        "unavailable_after: 31 Dec 2024 23:00:00 GMT", "unavailable_after: 2025-01-01T01:30:00+02:00",
        # What is no comma but stands for one.
        "max-snippet: 20; noindex", "max-snippet: 20 noindex", "max-image-preview:large; noai", "noindex;",
        "nofollow|noai",
        "nofollow/noindex", "otherbot: nofollow; geo-subset: noai",
        # The name of a rule is never a crawler's.
        "noindex:", "noindex:true", "noai : 1", "nofollow: noai", "all: noindex", "noai: otherbot: all", "noai=1",
        # Names of everybody.
        "robots: noindex", "Robots: nofollow, noai", "X-Robots-Tag: noindex", "otherbot: all, robots: noai",
        # What wraps it.
        '"noindex"', "'noai'", '"noindex, nofollow"', "\ufeffnoindex", "\xef\xbb\xbfnoindex", "noindex\xa0",
        "\xc2\xa0noai",
        '"geo-subset: noai"', "[noindex]",
    ],
)  # fmt: skip
def test_what_refuses_us(line: str) -> None:
    assert refused(line)
    assert refused("all", "otherbot: nofollow", line)


@pytest.mark.parametrize(
    "line",
    [
        "", "all", "nofollow", "noarchive, nosnippet", "max-image-preview:large", "max-snippet: 0", "noaix", "xnoai",
        "otherbot: noai", "otherbot: nofollow, noai", "OtherBot: none", "otherbot: noindex, thirdbot: noai",
        "360spider: noai", "some bot: nofollow, noai", "geo-subsetter: noai", "otherbot/2.1: noai, noindex",
        "geo-subset: all, otherbot: noai", "otherbot: max-snippet:1, noindex",
        "unavailable_after: 25 Jun 2030 15:00:00 PST", "unavailable_after: 2030-06-25T15:00:00Z",
        "unavailable_after: 25 Jun 2030 15:00:00 PST, 360spider: noindex", "unavailable_after: some day",
        "unavailable_after: " + "9" * 5000, "unavailable_after: 9999-99-99",
        "unavailable_after: 31 Dec 9999 23:59:59 -2359",
        "unavailable_after: 25 Jun 2030", "unavailable_after: Jun 25, 2030", "unavailable_after: 20300625",
        "unavailable_after: 2030-06-25 15:00:00 PST", "unavailable_after: 99 Jun 2010", "unavailable_after: 2010-13-25",
        "unavailable_after: 31 Dec 2024 23:00:00 PST", "unavailable_after: 2024-12-31T23:30:00-02:00",
        "unavailable_after: 25 Jun 2010 99:99:99", "unavailable_after: 99999999999999", "max-image-preview: none",
        "nofollow:", "nofollow:true", '"otherbot: noindex"', "otherbot: nofollow; noindex", "otherbot: noai: true",
        "otherbot: unavailable_after: 25 Jun 2010 15:00:00 PST", "otherbot: nofollow, unavailable_after: 2010-06-25",
    ],
)  # fmt: skip
def test_what_does_not(line: str) -> None:
    assert not refused(line)
    assert not refused(line, "otherbot: noai", "all")


def test_a_name_holds_to_the_end_of_its_line_alone() -> None:
    assert refused("otherbot: nofollow", "noai")


_PIECES = st.sampled_from(
    ["noai", "none", "otherbot:", "geo-subset:", "unavailable_after:", ",", ", ", ":", " ", "25 Jun 2010", "Friday",
     "2010-06-25", "15:00:00 PST", "max-snippet:", "-1", "*", "/", "9" * 50, "\x00", "é"]
)  # fmt: skip


@given(st.lists(st.text() | st.lists(_PIECES).map("".join)))
def test_no_header_is_a_trap(lines: list[str]) -> None:
    refused(*lines)


@given(st.lists(_PIECES).map("".join), st.lists(_PIECES).map("".join))
def test_what_another_bot_is_told_changes_nothing(ours: str, others: str) -> None:
    told = others.replace("geo-subset", "thirdbot").replace("*", "").replace("/", "")
    assert refused(ours, f"otherbot: {told}") == refused(ours)


@pytest.mark.parametrize(
    "piece",
    [
        "unavailable_after:1,",
        "a:",
        "noindex:",
        "a ",
        '"',
        "unavailable_after: Jun 1, ",
        "x:unavailable_after: 1 Jun 10:",
        "unavailable_after:",
        ",",
        "unavailable_after: Sat,1 a,",
    ],
)
def test_the_longest_header_takes_no_time_to_speak_of(piece: str) -> None:
    line = (piece * (1 << 16))[: 1 << 16]
    began = time.process_time()
    refused(line)
    assert time.process_time() - began < 2
