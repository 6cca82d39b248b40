"""The report stage: numbers, plots and contact sheets of a finished run, in one page to hand on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import duckdb

from geo_subset import wording, work
from geo_subset.errors import StageError
from geo_subset.manifests import Manifest, Record
from geo_subset.report import database, page, plots, sheets, summary
from geo_subset.runfolder import StageFolder
from geo_subset.settings import Settings

_UNIT = "report"
_MISSING = {"images_on_sheets_unreadable": "not readable from its shard"}


def content(settings: Settings) -> Any:
    """The settings that shape the report."""
    return settings.report.model_dump(mode="json")


def inputs(settings: Settings) -> Sequence[str]:
    """The report reads nothing but the run folder."""
    del settings
    return ()


def run(settings: Settings, folder: StageFolder) -> Manifest:
    """Writes index.html, summary.json and the plots.

    Raises StageError: a stage before is not done, a table is damaged, or there is no room for what DuckDB spills.
    """
    started = time.monotonic()
    records = folder.start(1)
    if _UNIT not in records:
        with work.busy():
            records[_UNIT] = _make(settings, folder)
    return folder.finish(records.values(), time.monotonic() - started)


def _make(settings: Settings, folder: StageFolder) -> Record:
    try:
        with database.opened(folder.run_url) as tables:
            numbers = summary.summarise(tables, settings.report.prices)
            points = summary.map_points(tables)
            made = sheets.make(tables, folder.run_url, settings.report.contact_sheet_places)
    except duckdb.Error as error:
        reason = " ".join(str(error).split())
        raise StageError(f"the tables in {folder.run_url} cannot be summed up: {reason}") from error
    images = plots.draw(numbers, points)
    narrow = plots.narrow_map(points)
    title = settings.report.title or settings.places.context or "Images of places"
    html, shown = page.render(title, numbers, images if narrow is None else {**images, "map_narrow": narrow}, made)
    pictures = [picture for sheet in made.sheets[:shown] for picture in sheet.pictures]
    files = {
        "index.html": html.encode(),
        "summary.json": json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False).encode(),
        **{f"{name}.png": data for name, data in images.items()},
    }
    counters = {
        "plots": len(images),
        "sheets": shown,
        "sheets_left_out": made.wanted - shown,
        "images_on_sheets": sum(picture.thumbnail is not None for picture in pictures),
        "images_on_sheets_unreadable": sum(picture.thumbnail is None for picture in pictures),
        "unknown_sheet_places": len(made.unknown),
    }
    entries = [folder.write_bytes(data, name) for name, data in files.items()]
    return folder.record(_UNIT, entries, counters)


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    count = manifest.counters
    full = f"page full at {sheets.MAX_SHEETS} sheets or {page.PAGE_BYTES // 1_000_000} MB"
    left_out = {"sheets_left_out": full, "unknown_sheet_places": "no such place in the run"}
    return (
        f"{wording.counted(count['plots'], 'plot')}, {wording.counted(count['sheets'], 'contact sheet')}"
        f"{wording.because('left out', wording.chosen(count, left_out), 'contact sheet')}"
        f"{wording.because('on them missing', wording.chosen(count, _MISSING), 'image')}"
    )
