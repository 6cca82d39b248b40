"""The numbers of a run: what report/summary.json holds.

Everything is aggregated by SQL straight over the parquet files; only counts come into this process. Every value is
plain JSON: a mean or quantile of nothing is null, never NaN.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from geo_subset.report import effort
from geo_subset.report.database import Database
from geo_subset.settings import PricesSettings

TOP = 20
#: Of the places without images, how many are named.
NAMED = 50
#: Reasons that are counted each by itself, the most frequent; rarer ones share one count.
REASONS = 100
_QUANTILES = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
#: Points that a map can carry; where there are more places, those of one cell of a grid make one point.
_MAP_POINTS, _CELLS = 20_000, 250

#: Longitude and latitude (WGS84 degrees, mean over the places of a cell), images, places.
Point = tuple[float, float, int, int]


def summarise(database: Database, prices: PricesSettings) -> dict[str, Any]:
    """The content of summary.json. Cost is null without prices.

    A place's images are its rows in matches, counted by distinct URL; `images` are the rows of samples; `similarity`
    is that of the rows of matches (null and NaN left out and counted), with quantiles interpolated linearly.
    `top_places` and `top_domains` are in order of falling images, then by key; places without images are not among
    the former. `retrieval_failures` counts places, `similarity_histogram` matches, `image_sizes` downloaded images
    (pixels before resizing). Of long names, domains and reasons the start.
    """
    places = database.number("SELECT count(*) FROM places")
    images = database.number("SELECT count(*) FROM samples")
    counts = database.rows("SELECT images, count(*) FROM place_images WHERE images > 0 GROUP BY 1 ORDER BY 1")
    with_images = sum(number for _, number in counts)
    total = sum(count * number for count, number in counts)
    median = quantiles(database, "SELECT images AS v FROM place_images WHERE images > 0", {"median": 0.5})["median"]
    domains = _top_domains(database, images)
    similarity = quantiles(database, _SIMILARITIES, _QUANTILES)
    download = database.manifests["download"]
    stages = effort.by_stage(database.manifests, prices)
    return {
        "places": places,
        "places_with_images": with_images,
        "places_without_images": places - with_images,
        "matches": database.number("SELECT count(*) FROM matches"),
        "images": images,
        "images_found_by_several_places": database.number("SELECT count(*) FROM samples WHERE place_count > 1"),
        "mean_images_per_place": total / with_images if with_images else None,
        "median_images_per_place": median,
        "images_per_place": count_bins(counts, median or 0),
        "top_places": _top_places(database),
        "places_without_images_first": _places_without_images(database),
        "retrieval_failures": _reasons(database, "FROM failures", "unknown"),
        "domains": database.number("SELECT count(*) FROM (SELECT DISTINCT domain FROM samples WHERE domain NOT NULL)"),
        "top_domains": domains,
        "top_20_domain_share": sum(domain["images"] for domain in domains) / images if images else 0.0,
        "similarity": similarity,
        "matches_without_similarity": database.number(
            "SELECT count(*) FROM matches WHERE isfinite(similarity) IS NOT TRUE"
        ),
        "similarity_histogram": _similarity_histogram(database, similarity),
        "download": _download_outcomes(database),
        "image_sizes": _image_sizes(database),
        "shards": sum(entry.path.endswith(".tar") for entry in download.files),
        "stages": stages,
        "total": effort.total(stages),
        "prices": prices.model_dump() if prices.are_given else None,
    }


def map_points(database: Database) -> list[Point]:
    """The places that have coordinates, as points of a map; where they are very many, close ones taken together."""
    placed = "FROM place_images WHERE isfinite(longitude) AND isfinite(latitude)"
    if database.number(f"SELECT count(*) {placed}") <= _MAP_POINTS:
        rows = database.rows(f"SELECT longitude, latitude, images, 1 {placed} ORDER BY images, place_id")
    else:
        rows = database.rows(_CELL_POINTS.format(placed=placed, cells=_CELLS))
    return [(longitude, latitude, int(images), places) for longitude, latitude, images, places in rows]


def quantiles(database: Database, values: str, wanted: dict[str, float]) -> dict[str, float | None]:
    """Quantiles, interpolated linearly, of the column `v` of a query; nulls if it has no row.

    Taken from counts of distinct values, which can spill, as DuckDB's own quantiles cannot.
    """
    total = database.number(f"SELECT count(*) FROM ({values})")
    if not total:
        return dict.fromkeys(wanted)
    positions = {name: share * (total - 1) for name, share in wanted.items()}
    indices = sorted({index for p in positions.values() for index in (math.floor(p), math.ceil(p))})
    columns = ", ".join(f"min(v) FILTER (upto > {index})" for index in indices)
    row = database.rows(
        f"SELECT {columns} FROM (SELECT v, sum(n) OVER (ORDER BY v) AS upto"
        f" FROM (SELECT v::DOUBLE AS v, count(*) AS n FROM ({values}) GROUP BY 1))"
    )[0]
    value = dict(zip(indices, row, strict=True))
    return {
        name: value[math.floor(p)] + (value[math.ceil(p)] - value[math.floor(p)]) * (p - math.floor(p))
        for name, p in positions.items()
    }


def count_bins(counts: Sequence[tuple[int, int]], median: float) -> list[dict[str, int]]:
    """Bins {from, to, places} (both ends included) over (images, places) pairs with images > 0.

    Of equal width, or, where the largest count is many times the median, growing by half an octave.
    """
    if not counts:
        return []
    high = max(images for images, _ in counts)
    if high > 30 and high >= 8 * median:
        starts = sorted({math.ceil(2 ** (i / 2)) for i in range(2 * math.ceil(math.log2(high)) + 3)})
    else:
        width = max(1, round(nice_step(high / 25)))
        starts = list(range(1, high + width + 1, width))
    bins = [{"from": low, "to": above - 1, "places": 0} for low, above in itertools.pairwise(starts) if low <= high]
    for images, places in counts:
        bins[bisect.bisect_right(starts, images) - 1]["places"] += places
    return bins


def nice_step(at_least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is no less than `at_least` > 0."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= at_least * (1 - 1e-9))


def _top_places(database: Database) -> list[dict[str, Any]]:
    rows = database.rows(
        "SELECT short(place_id), name, images FROM place_images WHERE images > 0"
        f" ORDER BY images DESC, place_id LIMIT {TOP}"
    )
    return [{"place_id": place_id, "name": name, "images": images} for place_id, name, images in rows]


def _places_without_images(database: Database) -> list[dict[str, Any]]:
    rows = database.rows(
        "SELECT short(place_id), any_value(name), short(min(reason))"
        " FROM place_images LEFT JOIN failures USING (place_id) WHERE images = 0"
        f" GROUP BY place_id ORDER BY place_id LIMIT {NAMED}"
    )
    return [{"place_id": place_id, "name": name, "failure": reason} for place_id, name, reason in rows]


def _top_domains(database: Database, images: int) -> list[dict[str, Any]]:
    rows = database.rows(
        "SELECT short(domain), count(*) AS n FROM samples WHERE domain NOT NULL GROUP BY domain"
        f" ORDER BY n DESC, domain LIMIT {TOP}"
    )
    return [{"domain": domain, "images": count, "share": count / images} for domain, count in rows]


def _similarity_histogram(database: Database, similarity: dict[str, float | None]) -> list[dict[str, float]]:
    low, high = similarity["min"], similarity["max"]
    if low is None or high is None:
        return []
    step = nice_step(max((high - low) / 60, 1e-6))
    rows = database.rows(f"SELECT floor(v / {step})::BIGINT, count(*) FROM ({_SIMILARITIES}) GROUP BY 1")
    return [
        {"from": round(index * step, 9), "to": round((index + 1) * step, 9), "matches": count}
        for index, count in _filled(rows)
    ]


def _download_outcomes(database: Database) -> dict[str, Any]:
    """By sample, not by row of the shards: where a retry pass had a sample, what it came to."""
    return {
        "attempted": database.number("SELECT count(*) FROM downloads"),
        "succeeded": database.number("SELECT count(*) FROM downloads WHERE status = 'success'"),
        "failed_by_reason": _reasons(database, "FROM downloads WHERE status <> 'success'", "other"),
    }


def _reasons(database: Database, rows: str, unknown: str) -> dict[str, int]:
    """Rows by reason, the most frequent first; `unknown` for null."""
    found = database.rows(
        f"SELECT coalesce(short(reason), '{unknown}'), count(*) {rows} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {REASONS}"
    )
    counts: dict[str, int] = dict(found)
    if rest := database.number(f"SELECT count(*) {rows}") - sum(counts.values()):
        counts[_OTHERS] = counts.get(_OTHERS, 0) + rest
    return counts


def _image_sizes(database: Database) -> dict[str, Any]:
    """Quantiles of width and height, and of both a histogram whose bins grow by a quarter of an octave."""
    sizes: dict[str, Any] = {"images": database.number(f"SELECT count(*) FROM ({_SIDES})")}
    for side in ("width", "height"):
        sizes[side] = quantiles(database, f"SELECT original_{side} AS v FROM ({_SIDES})", _QUANTILES)
        rows = database.rows(f"SELECT floor(log2(original_{side}) * 4)::BIGINT, count(*) FROM ({_SIDES}) GROUP BY 1")
        sizes[f"{side}_histogram"] = [
            {"from": round(2 ** (index / 4), 2), "to": round(2 ** ((index + 1) / 4), 2), "images": count}
            for index, count in _filled(rows)
        ]
    return sizes


def _filled(rows: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(bin, count) pairs in order, with the empty bins between the first and the last."""
    counts = dict(rows)
    return [(i, counts.get(i, 0)) for i in range(min(counts), max(counts) + 1)] if counts else []


_OTHERS = "other reasons"
_SIMILARITIES = "SELECT similarity::DOUBLE AS v FROM matches WHERE isfinite(similarity)"
_SIDES = "SELECT * FROM images WHERE status = 'success' AND original_width > 0 AND original_height > 0"
_CELL_POINTS = """
WITH placed AS (SELECT longitude, latitude, images {placed}), box AS (
    SELECT min(longitude) AS west, min(latitude) AS south,
           greatest((max(longitude) - min(longitude)) / {cells}, 1e-9) AS dx,
           greatest((max(latitude) - min(latitude)) / {cells}, 1e-9) AS dy
    FROM placed
)
SELECT avg(longitude), avg(latitude), sum(images), count(*) FROM placed, box
GROUP BY floor((longitude - west) / dx), floor((latitude - south) / dy)
ORDER BY 3, 1, 2
"""
