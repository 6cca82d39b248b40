"""The report stage: numbers, plots and contact sheets of a finished run, in one page to hand on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import duckdb

from geo_subset import work
from geo_subset.errors import StageError
from geo_subset.manifests import Manifest, Record
from geo_subset.report import database, page, plots, sheets, summary
from geo_subset.report.text import counted
from geo_subset.runfolder import StageFolder
from geo_subset.settings import Settings

_UNIT = "report"


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
    title = settings.report.title or settings.places.context or "Images of places"
    files = {
        "index.html": page.render(title, numbers, images, made).encode(),
        "summary.json": json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False).encode(),
        **{f"{name}.png": data for name, data in images.items()},
    }
    counters = {
        "plots": len(images),
        "sheets": len(made.sheets),
        "images_on_sheets": sum(p.thumbnail is not None for sheet in made.sheets for p in sheet.pictures),
        "images_on_sheets_unreadable": sum(p.thumbnail is None for sheet in made.sheets for p in sheet.pictures),
        "unknown_sheet_places": len(made.unknown),
    }
    entries = [folder.write_bytes(data, name) for name, data in files.items()]
    return folder.record(_UNIT, entries, counters)


def describe(manifest: Manifest) -> str:
    """One line for the user about a finished stage."""
    counters = manifest.counters
    return f"{counted(counters['plots'], 'plot')}, {counted(counters['sheets'], 'contact sheet')}"
