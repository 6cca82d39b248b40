"""Source 'instagram': saved pages, and what snippets collect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from geo_subset.errors import SettingsError

from .conftest import Made, make_places

PAGE = """<!DOCTYPE html><html><body><header><a href="/explore/">Explore</a>
<a href="https://www.instagram.com/explore/locations/US/united-states/">United States</a>
<a href="/explore/locations/c2727548/new-york-united-states/">New York</a></header><ul>
<li><a class="x" href="https://www.instagram.com/explore/locations/262866/grand-central-terminal/"><div><span>Grand
   Central</span> Terminal</div></a></li>
<li><a href="/explore/locations/213385402/st-pauls-caf/">St. Paul&#39;s Caf&eacute;</a></li>
<li><A HREF='/explore/locations/5/?hl=en'>Bryant Park</A></li>
<li><a href="/explore/locations/5/bryant-park/">Bryant Park</a></li>
<li><a href="/explore/locations/6/empty/"><img src="x.png"></a></li>
<li><a href="/explore/locations/٣٣/digits/">Not theirs</a></li>
<li><a href="/explore/locations/7/open/">Not closed
</ul><a href="/explore/locations/c2727548/new-york-united-states/?page=2">See more</a></body></html>
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str, str], Made]:
    def run(name: str, content: str) -> Made:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return make_places(tmp_path / "run", source="instagram", path=str(path), context="midtown east, united states")

    return run


def test_a_saved_page_gives_the_locations_that_are_shown(run: Callable[[str, str], Made]) -> None:
    made = run("locations.html", PAGE)
    assert [(row["place_id"], row["name"]) for row in made.rows] == [
        ("instagram:262866", "Grand Central Terminal"), ("instagram:213385402", "St. Paul's Café"),
        ("instagram:5", "Bryant Park"), ("instagram:7", "Not closed"),
    ]  # fmt: skip
    assert made.rows[0]["queries"] == ["Grand Central Terminal in midtown east, united states"]
    assert made.counters == {"rows": 6, "places": 4, "dropped_duplicate": 1, "dropped_blank": 1}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '[{"name": "Bryant Park", "href": "/explore/locations/5/bryant-park/"}, "The Plaza"]'),
        ("a.json", '[{"name": "Bryant Park", "id": 5}, {"name": "The Plaza"}]'),
        ("a.csv", "name,url\nBryant Park,https://www.instagram.com/explore/locations/5/bryant-park/\nThe Plaza,\n"),
        ("a.csv", "id,name\n5,Bryant Park\n,The Plaza\n"),
        ("a.tsv", "location_id\tname\n/explore/locations/5/\tBryant Park\n\tThe Plaza\n"),
        ("a.jsonl", '{"link": "/explore/locations/5", "title": "Bryant Park"}\n"The Plaza"\n'),
    ],
)
def test_what_a_snippet_collected(run: Callable[[str, str], Made], name: str, content: str) -> None:
    made = run(name, content)
    assert made.column("name") == ["Bryant Park", "The Plaza"]
    first, second = made.column("place_id")
    assert first == "instagram:5"
    assert second.startswith("instagram:the-plaza-")


def test_lines_of_names(run: Callable[[str, str], Made]) -> None:
    made = run("a.txt", "Bryant Park\nThe Plaza\n\nbryant park\n")
    assert made.column("name") == ["Bryant Park", "The Plaza"]
    assert made.counters == {"rows": 4, "places": 2, "dropped_blank": 1, "dropped_duplicate": 1}


def test_a_page_without_locations_is_told(run: Callable[[str, str], Made]) -> None:
    with pytest.raises(SettingsError, match="no link to a location"):
        run("a.html", "<html>Log in <a href='/explore/locations/US/'>US</a></html>")
    with pytest.raises(SettingsError, match="its ending must be one of"):
        run("a.pdf", "")
