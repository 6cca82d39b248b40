"""A world out of a real metadata file: its captions and URLs, its hosts mapped onto those of the world.

A URL keeps its host's name and its path: 'https://img.example.org/a/b.jpg?s=1' becomes
'http://127.0.0.k:PORT/img.example.org/a/b.jpg?s=1'. Hosts are dealt out by the number of their images, so that the
file's own skew stays and a file with a single host does not end up on a slow one.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from geo_subset import urls
from geo_subset.demo.web import HOSTS
from geo_subset.demo.world import INDEX, TRUTH, Content
from geo_subset.errors import SettingsError

_URL, _CAPTION = ("url",), ("caption", "text")
_LATITUDE, _LONGITUDE = ("lat", "latitude"), ("lon", "lng", "longitude")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def content(path: Path, images: int | None, port: int) -> Content:
    """The world of the first `images` rows (all, if None) of a parquet, csv or tsv file that have a URL and a caption.

    Columns are found without regard to case: url; caption or text; if there, lat and lon: where the image truly is.
    Raises SettingsError: the file is missing, unreadable, without these columns, or without a usable row.
    """
    table = _columns(path)
    usable = pc.and_(
        pc.match_substring_regex(pc.fill_null(table["url"], ""), r"^(?i:https?)://[^/?#]+"),
        pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(table["caption"], "")), ""),
    )
    complete = table.filter(usable)
    kept = complete.slice(0, images)
    if kept.num_rows == 0:
        raise SettingsError(f"--corpus {path}: none of its {table.num_rows:,} rows has an http(s) URL and a caption")
    skipped = {
        "no http(s) URL or no caption": table.num_rows - complete.num_rows,
        "beyond --images": complete.num_rows - kept.num_rows,
    }
    mapped = pa.array(loopback_urls(kept["url"].to_pylist(), port), pa.string())
    numbers = np.arange(kept.num_rows)
    unrated = pa.nulls(kept.num_rows, pa.string())
    index = pa.table([numbers, mapped, kept["caption"].combine_chunks(), unrated, numbers], schema=INDEX)
    return Content(index, _truth(mapped, kept), {reason: rows for reason, rows in skipped.items() if rows})


def _read(path: Path) -> tuple[pa.Table, list[str]]:
    """The file's rows and the names of its columns."""
    try:
        separator = _SEPARATORS.get(path.suffix.lower())
        if separator is None:
            table = pq.read_table(path)
        else:
            options = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
            table = pyarrow.csv.read_csv(path, parse_options=options)
        return table, table.column_names
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise SettingsError(f"--corpus {path} cannot be read as parquet, csv or tsv: {error}") from error


def _columns(path: Path) -> pa.Table:
    """The file's columns as url, caption, latitude, longitude; without both coordinates, these are null."""
    table, names = _read(path)
    url, caption = _find(names, _URL), _find(names, _CAPTION)
    if url is None or caption is None:
        missing = "URLs (url)" if url is None else "captions (caption or text)"
        raise SettingsError(f"--corpus {path} has no column of {missing}; its columns are: {', '.join(names)}")
    latitude, longitude = _find(names, _LATITUDE), _find(names, _LONGITUDE)
    unknown = pa.nulls(table.num_rows, pa.float64())
    try:
        return pa.table(
            {
                "url": table[url].cast(pa.string()),
                "caption": table[caption].cast(pa.string()),
                "latitude": table[latitude].cast(pa.float64()) if latitude and longitude else unknown,
                "longitude": table[longitude].cast(pa.float64()) if latitude and longitude else unknown,
            }
        )
    except pa.ArrowException as error:
        message = f"--corpus {path}: URLs and captions have to be text, coordinates numbers: {error}"
        raise SettingsError(message) from error


def _find(names: list[str], wanted: tuple[str, ...]) -> str | None:
    return next((name for candidate in wanted for name in names if name.lower() == candidate), None)


def loopback_urls(originals: list[str], port: int) -> list[str]:
    """The URLs of the world, one for each of a file's; different ones (but for http and https) stay different."""
    hosts = [urls.host(url) for url in originals]
    by_use = sorted(Counter(hosts).items(), key=lambda item: (-item[1], item[0]))
    mapped = {host: HOSTS[rank % len(HOSTS)] for rank, (host, _) in enumerate(by_use)}
    rests = (url.split("://", 1)[1] for url in originals)
    return [f"http://{mapped[host]}:{port}/{rest}" for host, rest in zip(hosts, rests, strict=True)]


def _truth(mapped: pa.Array, kept: pa.Table) -> pa.Table:
    """One row per URL: where its first row says it is, which also serves as the name of what it shows."""
    rows: dict[str, tuple[float, float] | None] = {}
    for url, latitude, longitude in zip(
        mapped.to_pylist(), kept["latitude"].to_pylist(), kept["longitude"].to_pylist(), strict=True
    ):
        known = latitude is not None and longitude is not None and abs(latitude) <= 90 and abs(longitude) <= 180
        rows.setdefault(url, (latitude, longitude) if known else None)
    names = [None if at is None else f"{at[0]:.2f}, {at[1]:.2f}" for at in rows.values()]
    latitudes, longitudes = ([None if at is None else at[axis] for at in rows.values()] for axis in (0, 1))
    return pa.table([list(rows), names, latitudes, longitudes], schema=TRUTH)
