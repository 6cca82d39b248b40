"""A look at the places table: some places with their search texts, and how many there are of what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from geo_subset import storage

#: Regions are shown up to this many, the others in one line.
_REGIONS = 60
_WIDTH = 40
_MEMORY_LIMIT = "1GB"


def lines(file: str, counters: Mapping[str, int], count: int) -> Iterator[str]:
    """What to print about a places.parquet on local disk: `count` of its places, spread evenly over its order."""
    with storage.database(_MEMORY_LIMIT, files=[file]) as connection:
        connection.read_parquet([storage.literal(file)], file_row_number=True).create_view("places")
        total = counters["places"]
        shown = connection.execute(
            "SELECT name, kind, coalesce(admin1, ''), coalesce(country, ''), queries FROM places "
            "WHERE file_row_number IN (SELECT unnest($1::BIGINT[])) ORDER BY file_row_number",
            [[place * total // min(count, total) for place in range(min(count, total))]],
        ).fetchall()
        if shown:
            yield f"{len(shown):,} of {total:,} places and what is searched for:"
            yield ""
            table = [(*row[:4], " | ".join(row[4])) for row in shown]
            yield from _aligned([("name", "kind", "region", "in", "search texts"), *table])
            yield ""
        yield from _counted("places by kind", connection.execute(_by("kind")).fetchall())
        yield ""
        regions = connection.execute(_by("concat_ws(', ', admin1, country)")).fetchall()
        rest = sum(number for _, number in regions[_REGIONS:])
        more = [(f"{len(regions) - _REGIONS:,} more", rest)] if rest else []
        yield from _counted("places by region", [(name or "unknown", n) for name, n in regions[:_REGIONS]] + more)
    dropped = [(name.removeprefix("dropped_"), n) for name, n in counters.items() if name.startswith("dropped_") and n]
    if dropped:
        yield ""
        told = [(name.replace("_", " "), n) for name, n in sorted(dropped, key=lambda row: -row[1])]
        yield from _counted(f"left out of {counters['rows']:,} rows, by reason", told)


def _by(column: str) -> str:
    return f"SELECT {column} AS what, count(*) AS number FROM places GROUP BY 1 ORDER BY 2 DESC, 1"


def _counted(title: str, rows: Sequence[tuple[str, int]]) -> Iterator[str]:
    yield f"{title}:"
    for name, number in rows:
        yield f"  {_short(name):<{_WIDTH}} {number:>12,}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    cells = [[*map(_short, row[:-1]), row[-1]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
