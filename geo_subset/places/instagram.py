"""Source 'instagram': what people keep of Instagram's pages of locations (instagram.com/explore/locations).

Either the page as the browser saved it (.html), from which every link to a location is taken with the name that is
shown; or what a snippet in the browser collected, in any form that source 'list' reads, where a column or key url,
href or link may hold the link. `place_id` is `instagram:<number>` where the number of the location is known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser

import fsspec

from geo_subset.errors import SettingsError
from geo_subset.places import list_files, list_source
from geo_subset.places.place import Place

#: Links to cities and countries ('c2727548', 'US') are none to a location.
_LOCATION = re.compile(r"/explore/locations/([0-9]{1,30})(?:[/?#]|\Z)")
_PAGES = (".html", ".htm")


def check(path: str) -> None:
    """Raises SettingsError if it is neither a page nor a file that source 'list' reads."""
    if not path.lower().endswith(_PAGES):
        list_files.file_format(path)


def read(paths: Sequence[str], context: str, counters: Counter[str]) -> Iterator[Place]:
    """The locations, in the order of the files. Counts and raises as `list_source.read` does."""
    return list_source.read(paths, context, counters, "instagram", _rows)


def _rows(path: str) -> Iterator[list_files.Row]:
    if not path.lower().endswith(_PAGES):
        yield from map(_with_number, list_files.read(path))
        return
    try:
        with fsspec.open(path, "rb") as stream:
            page = list_files.text(path, stream.read())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    links = _Links()
    links.feed(page)
    links.close()
    if not links.found:
        raise SettingsError(
            f"{path} has no link to a location (/explore/locations/<number>/...): save the page once its list is shown"
        )
    yield from links.found


def _with_number(row: list_files.Row) -> list_files.Row:
    """The row with the location's number for its id, if its id or link holds one."""
    if isinstance(row, str):
        return row
    for column in ("place_id", "url"):
        match = _LOCATION.search(str(row.get(column)))
        if match:
            return {**row, "place_id": match[1]}
    return row


class _Links(HTMLParser):
    """Links to locations: the number, and the text that is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list_files.Row] = []
        self._number: str | None = None
        self._shown: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._end()
            match = _LOCATION.search(dict(attrs).get("href") or "")
            self._number = match and match[1]

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._end()

    def handle_data(self, data: str) -> None:
        if self._number is not None:
            self._shown.append(data)

    def close(self) -> None:
        super().close()
        self._end()

    def _end(self) -> None:
        if self._number is not None:
            self.found.append({"name": " ".join(self._shown), "place_id": self._number})
        self._number, self._shown = None, []
