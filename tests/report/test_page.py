"""The page: self-contained, inert whatever the web put into captions, and true to the numbers."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from geo_subset.report import database, page, plots, sheets, summary, text
from geo_subset.settings import PricesSettings

from .report_run import Outcome, colored, match, place, write

EVIL = "<script>alert(1)</script>"


class Elements(HTMLParser):
    """All elements with their attributes, and all text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def rendered(folder: Path, places: list[dict], matches: list[dict], title: str = "A run") -> str:  # type: ignore[type-arg]
    run = write(
        folder, places, matches, lambda s: Outcome(image=colored()) if "gone" not in s["url"] else Outcome(reason=EVIL)
    )
    with database.opened(run.url) as tables:
        numbers = summary.summarise(tables, PricesSettings())
        images = plots.draw(numbers, summary.map_points(tables))
        return page.render(title, numbers, images, sheets.make(tables, run.url, ["list:1", EVIL]))[0]


def test_nothing_in_the_page_runs_or_is_fetched(tmp_path: Path) -> None:
    captions = [EVIL, '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "\u202etxt\x00\x1b", None, "a & b"]
    hostile = [
        "javascript:alert(1)",
        "JaVaScRiPt://a.com/%0aalert(1)",
        "data:text/html,<b>",
        'http://a.com/"onclick="x',
    ]
    rows = [match("list:1", f"http://a.com/{n}", 0.3, caption=caption) for n, caption in enumerate(captions)]
    rows += [match("list:1", url, 0.2, caption=url) for url in hostile] + [match("list:1", "http://a.com/gone", 0.1)]
    places = [place("list:1", EVIL, latitude=1.0, longitude=2.0), place("list:2", "<b>none</b>")]
    markup = rendered(tmp_path, places, rows, title=EVIL)
    elements = Elements(markup)
    assert not {tag for tag, _ in elements.found} & {
        "script",
        "iframe",
        "object",
        "embed",
        "link",
        "form",
        "base",
        "b0",
    }
    for _, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith({"src": ("data:image/",), "href": ("http://a.com/", "#")}[name])
    assert "url(" not in markup and "@import" not in markup
    assert EVIL in elements.words and "<b>none</b>" in elements.words
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")


def test_the_page_says_the_numbers(tmp_path: Path) -> None:
    rows = [match("list:1", f"http://a{n % 2}.com/{n}", 0.3) for n in range(3)] + [
        match("list:1", "http://gone.com", 0.1)
    ]
    words = " ".join(
        Elements(rendered(tmp_path, [place("list:1", "Oslo"), place("list:2", "Rome")], rows)).words.split()
    )
    assert "2 places, 1 with images; 4 rows, 4 distinct images." in words
    assert "3 of 4 images were downloaded (75.00 %), into 1 shard." in words
    assert "1 of 2 places." in words and "Rome" in words
    assert "2 h 1 min" in words and "attempted 4" in words
    assert f"The run has no place “{EVIL}”" in words


def test_a_page_of_an_empty_run(tmp_path: Path) -> None:
    words = Elements(rendered(tmp_path, [], [])).words
    assert "0 places, 0 with images; 0 rows, 0 distinct images." in words
    assert "No place has images." in words


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("http://a.com/x", True), ("HTTPS://a.com", True), ("javascript:alert(1)", False), ("//a.com/x", False),
        ("http:/a.com", False), ("data:text/html,x", False), ("ftp://a.com", False), ("", False),
        ("http://[::1", False), (" javascript:alert(1)", False), ("vbscript:x", False),
        ("\x01javascript:alert(1)", False),
    ],
)  # fmt: skip
def test_only_web_addresses_become_links(url: str, link: bool) -> None:
    assert (page.web_link(url) is not None) is link


def test_numbers_as_words() -> None:
    assert text.percent(0.378812) == "37.88 %"
    assert [text.duration(s) for s in (0.04, 59.9, 59.97, 80, 7300)] == [
        "0.0 s", "59.9 s", "1 min 0 s", "1 min 20 s", "2 h 1 min",
    ]  # fmt: skip
    assert text.plain(" a\n\tb\x00c ") == "a b c"
    assert text.plain(None) == ""
