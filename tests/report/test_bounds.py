"""The report stays small, and fit to be shown, whatever captions, names, URLs and reasons hold."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geo_subset import settings
from geo_subset.manifests import Manifest
from geo_subset.report import page, plots, sheets, stage, text
from geo_subset.report.plots import Summary

from .report_run import Outcome, Run, colored, match, place, write

#: What makes a byte of text five bytes of markup.
LONG = "<\"&'>" * 200_000


def made(run: Run, **report: Any) -> tuple[str, Manifest]:
    """The page, and the stage's manifest."""
    places = {"source": "list", "path": ["places.txt"]}
    folder = run.folder()
    manifest = stage.run(settings.from_tree({"run": "unused", "places": places, "report": report}), folder)
    return (Path(run.url) / "report" / "index.html").read_text(), manifest


def noise() -> bytes:
    """A picture whose thumbnail takes as many bytes as any."""
    out = io.BytesIO()
    Image.frombytes("RGB", (220, 220), random.Random(1).randbytes(220 * 220 * 3)).save(out, "JPEG", quality=95)
    return out.getvalue()


def test_one_picture_with_a_caption_of_a_megabyte_on_every_sheet(tmp_path: Path) -> None:
    places = [place(f"list:{n}", f"P{n}") for n in range(12)]
    rows = [match(row["place_id"], "http://a.com/1", 0.3, caption=LONG) for row in places]
    markup, manifest = made(write(tmp_path, places, rows, lambda _: Outcome(image=colored())))
    assert manifest.counters["images_on_sheets"] == 12
    assert len(markup.encode()) < 1_000_000
    assert text.plain(LONG, 100)[:50] in text.plain(LONG)  # and its start is there
    assert "&lt;&#34;&amp;&#39;&gt;&lt;&#34;" in markup


def test_names_urls_domains_and_reasons_of_a_megabyte(tmp_path: Path) -> None:
    places = [place(f"list:{n}{LONG}", f"{n}{LONG}", admin1=LONG, country=LONG) for n in range(4)]
    rows = [match(row["place_id"], f"http://{n}{'a' * 1_000_000}.com/{LONG}", 0.3) for n, row in enumerate(places)]
    failures = [{"place_id": places[3]["place_id"], "query": LONG, "reason": LONG, "detail": LONG, "attempts": 1}]

    def outcome(sample: dict[str, Any]) -> Outcome:
        return Outcome(image=colored()) if sample["name"][0] == "1" else Outcome(reason=LONG)

    run = write(tmp_path, places, rows, outcome, failures)
    markup, _ = made(run, title=LONG, contact_sheet_places=[LONG] * 50 + [place["name"] for place in places])
    assert len(markup.encode()) < 1_000_000
    numbers = (tmp_path / "report" / "summary.json").read_text()
    assert len(numbers) < 100_000
    summary = json.loads(numbers)
    assert [row["images"] for row in summary["top_places"]] == [1, 1, 1, 1]
    assert sum(summary["download"]["failed_by_reason"].values()) == 3


def test_reasons_that_are_very_many_share_a_count(tmp_path: Path) -> None:
    rows = [match("list:1", f"http://a.com/{n}", 0.3) for n in range(1000)]
    run = write(tmp_path, [place("list:1", "P")], rows, lambda s: Outcome(reason=f"reason {s['url'][-3:]} {s['uid']}"))
    markup, _ = made(run)
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    reasons = summary["download"]["failed_by_reason"]
    assert len(reasons) == 101 and reasons["other reasons"] == 900 and sum(reasons.values()) == 1000
    assert sum(summary["stages"]["download"]["counters"].values()) == 2000  # attempted, and all reasons
    assert len(markup.encode()) < 1_000_000


@pytest.mark.ci
def test_two_thousand_contact_sheets_of_the_largest_thumbnails(tmp_path: Path) -> None:
    picture = noise()
    places = [place(f"list:{n:04d}", f"P{n}", latitude=n % 80, longitude=n / 20) for n in range(2000)]
    rows = [match(row["place_id"], f"http://a.com/{row['name']}", 0.3) for row in places]
    run = write(tmp_path, places, rows, lambda _: Outcome(image=picture), per_shard=2000)
    markup, manifest = made(run, contact_sheet_places=2000)
    size = len(markup.encode())
    assert 4_000_000 < size < 5_000_000
    count = manifest.counters
    assert count["sheets"] == count["images_on_sheets"] == markup.count('<article class="sheet')
    assert count["sheets"] + count["sheets_left_out"] == 2000
    said = f"{count['sheets_left_out']:,}"
    assert f"{said} more places have no pictures here: the page is full at 200 sheets or 5 MB." in " ".join(
        markup.split()
    )
    assert f"; {said} contact sheets left out: page full at 200 sheets or 5 MB ({said})" in stage.describe(manifest)


@pytest.mark.ci
def test_a_crowded_map_leaves_most_of_the_page_to_the_pictures() -> None:
    rng = random.Random(1)
    points = [(rng.uniform(-180, 180), rng.uniform(-85, 85), rng.randrange(1, 100_000), 1) for _ in range(62_500)]
    points.sort(key=lambda point: point[2])
    wide = plots.draw(_nothing(), points)["map"]
    narrow = plots.narrow_map(points)
    assert narrow is not None and 4 / 3 * (len(wide) + len(narrow)) < page.PAGE_BYTES / 2


def _nothing() -> Summary:
    return {
        "images_per_place": [], "similarity_histogram": [], "image_sizes": {"images": 0}, "download": {"attempted": 0},
        "top_places": [], "top_domains": [],
    }  # fmt: skip


def test_characters_that_cannot_be_shown_or_turn_the_text_are_nowhere_in_the_page(tmp_path: Path) -> None:
    evil = "a\u202eb\u2066c\x00d\x1b[31me\u200ff\ue000g\x85h"
    places = [place(f"list:{evil}", evil, admin1=evil), place(f"list:2{evil}", evil)]
    rows = [match(places[0]["place_id"], f"http://{evil}.com/{evil}{n}", 0.3, caption=evil) for n in range(2)]
    failures = [{"place_id": places[1]["place_id"], "query": "q", "reason": evil, "detail": "", "attempts": 1}]

    def outcome(sample: dict[str, Any]) -> Outcome:
        return Outcome(image=colored()) if sample["url"][-1] == "1" else Outcome(reason=evil)

    run = write(tmp_path, places, rows, outcome, failures)
    markup, _ = made(run, title=evil, contact_sheet_places=[evil, evil + "2"])
    assert {c for c in markup if not c.isprintable()} == {"\n"}
    assert "a b c d [31me f g h" in markup
    assert 'href="http' not in markup


@given(st.text(), st.integers(1, 40))
def test_a_text_is_one_line_of_so_many_characters(words: str, longest: int) -> None:
    line = text.plain(words, longest)
    assert len(line) <= longest and line.isprintable() and line == line.strip() and "  " not in line
    if not line.endswith("…"):
        assert line == " ".join(line.split())


def test_no_accent_is_cut_from_its_letter() -> None:
    assert text.plain("e\u0301" * 5, 6) == "e\u0301e\u0301…"
    assert text.plain("\u0301" * 9, 4) == "…"


def test_sheets_are_made_for_no_more_places_than_a_page_can_have(tmp_path: Path) -> None:
    places = [place(f"list:{n:03d}", "same name") for n in range(sheets.MAX_SHEETS + 5)]
    rows = [match(row["place_id"], f"http://a.com/{row['place_id']}", 0.3) for row in places]
    run = write(tmp_path, places, rows, lambda _: Outcome(image=colored()), per_shard=1000)
    _, manifest = made(run, contact_sheet_places=["same name"])
    assert manifest.counters["sheets"] == sheets.MAX_SHEETS and manifest.counters["sheets_left_out"] == 5


@pytest.mark.parametrize(
    "url", ["http://a.com/" + "x" * 2000, "http://a.com/\u202e", "http://a.com/\x00", "http://a\n.com"]
)
def test_no_link_is_endless_or_cannot_be_shown(url: str) -> None:
    assert page.web_link(url) is None
