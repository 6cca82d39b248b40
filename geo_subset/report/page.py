"""The page of the report: one HTML file that carries all it shows, runs no script and fetches nothing."""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from geo_subset.report.sheets import MAX_SHEETS, Sheets
from geo_subset.report.text import LONGEST_CAPTION, LONGEST_URL, duration, money, percent, plain, size
from geo_subset.wording import counted

#: Bytes that the page stays below, whatever was found.
PAGE_BYTES = 5_000_000
#: Of these, for what is said of sheets that are not shown.
_SPARE = 10_000
_FOLDER = Path(__file__).parent


def render(title: str, summary: dict[str, Any], plots: dict[str, bytes], sheets: Sheets) -> tuple[str, int]:
    """The page as HTML, and how many of the sheets it has room for: the first ones.

    `plots` are PNG files by name, as plots.draw makes them, and 'map_narrow'.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "n": lambda value: f"{value:,}",
        "one": lambda value: "–" if value is None else f"{value:,.1f}".removesuffix(".0"),
        "percent": percent,
        "duration": duration,
        "size": size,
        "money": money,
        "web_link": web_link,
        "data_uri": data_uri,
        "plain": plain,
        "caption": partial(plain, longest=LONGEST_CAPTION),
    }
    whole, one = environment.get_template("template.html.j2"), environment.get_template("sheet.html.j2")

    def page(shown: list[Markup]) -> str:
        return whole.render(
            title=title,
            s=summary,
            plots=plots,
            sheets=sheets,
            shown=shown,
            most_sheets=MAX_SHEETS,
            sentences=sentences(summary),
        )

    room = PAGE_BYTES - _SPARE - len(page([]).encode())
    shown: list[Markup] = []
    for sheet in sheets.sheets:
        article = one.render(sheet=sheet)
        room -= len(article.encode())
        if room < 0:
            break
        shown.append(Markup(article))
    return page(shown), len(shown)


def sentences(summary: dict[str, Any]) -> list[str]:
    """The run in a few short sentences."""
    s, download = summary, summary["download"]
    lines = [
        f"{counted(s['places'], 'place')}, {s['places_with_images']:,} with images; "
        f"{counted(s['matches'], 'row')}, {counted(s['images'], 'distinct image')}."
    ]
    if s["places_with_images"]:
        lines.append(
            f"A place with images has {s['mean_images_per_place']:,.1f} on average (median "
            f"{s['median_images_per_place']:,.1f}); {s['images_found_by_several_places']:,} images were found for "
            "more than one place."
        )
    if s["top_domains"]:
        count = len(s["top_domains"])
        largest = f"the {count} largest hold" if count > 1 else "the largest holds"
        lines.append(
            f"The images come from {counted(s['domains'], 'domain')}; {largest} {percent(s['top_20_domain_share'])}."
        )
    if download["attempted"]:
        lines.append(
            f"{download['succeeded']:,} of {download['attempted']:,} images were downloaded "
            f"({percent(download['succeeded'] / download['attempted'])}), into {counted(s['shards'], 'shard')}."
        )
    return lines


def web_link(url: str) -> str | None:
    """The URL if a page may link to it: http or https, nothing that runs, neither endless nor with characters that
    cannot be shown. None otherwise."""
    if len(url) > LONGEST_URL or not url.isprintable():
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


def data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
