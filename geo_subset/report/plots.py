"""The plots of the report, as PNG files. They need the numbers of the summary and the points of the map, nothing else.

Drawn on figures of their own, without pyplot: no global state, no display.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from geo_subset.report.summary import Point
from geo_subset.report.text import percent, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Summary = dict[str, Any]

_BLUE, _PALE, _RED, _GREY, _INK = "#2b6a99", "#a9c6dc", "#c4623f", "#7a828a", "#1d2329"
#: Fonts for scripts that the first does not have; those that are not installed are skipped.
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Devanagari", "WenQuanYi Zen Hei")
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": "#c9ced3",
    "axes.labelcolor": "#4a525a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": "#4a525a",
    "ytick.color": "#4a525a",
    "grid.color": "#e6e9ec",
    "axes.grid": True,
    "axes.grid.axis": "y",
}
#: Reasons that have a bar of their own; rarer ones share one.
_REASONS = 12
_LABEL = 34


def draw(summary: Summary, points: Sequence[Point]) -> dict[str, bytes]:
    """Name -> PNG. What there is nothing to show of is left out."""
    wanted: dict[str, bytes | None] = {}
    with _styled():
        wanted["map"] = _map(points)
        wanted["images_per_place"] = _images_per_place(summary)
        wanted["similarity"] = _similarity(summary)
        wanted["download_outcomes"] = _download_outcomes(summary)
        wanted["image_sizes"] = _image_sizes(summary)
        wanted["top_places"] = _top_places(summary)
        wanted["top_domains"] = _top_domains(summary)
    return {name: png for name, png in wanted.items() if png is not None}


def narrow_map(points: Sequence[Point]) -> bytes | None:
    """The map as PNG for a narrow screen, on which the wide one would be too small to read."""
    with _styled():
        return _map(points, 5.0)


def label(text: str) -> str:
    """A name as it fits beside a bar: one line, cut where it is long, never empty."""
    return plain(text, _LABEL) or "(none)"


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    import matplotlib
    from matplotlib import font_manager

    installed = set(font_manager.fontManager.get_font_names())
    fonts = [font for font in _FONTS if font in installed]
    with matplotlib.rc_context({**_STYLE, "font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?i).*glyph.*")  # a script without a font shows as boxes
        yield


def _png(title: str, subtitle: str, fill: Callable[[Axes], None], height: float = 4.0, width: float = 6.8) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from PIL import Image

    # Title and subtitle take fixed inches at the top; the rest is laid out below them.
    layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, 1 - 0.78 / height))
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")
    figure.text(0.022, 1 - 0.17 / height, title, size=13, weight="bold", va="top")
    figure.text(0.022, 1 - 0.45 / height, subtitle, size=9.5, color=_GREY, va="top")
    fill(figure.add_subplot())
    drawn, out = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    # A third of the bytes: a crowded map in all its shades of colours would take half of what the page may have.
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def _count_axis(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _log_axis(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def _images_per_place(summary: Summary) -> bytes | None:
    bins = summary["images_per_place"]
    if not bins:
        return None

    def fill(axes: Axes) -> None:
        # A bin's bar reaches from half a count below its first to half a count above its last.
        edges = [b["from"] - 0.5 for b in bins] + [bins[-1]["to"] + 0.5]
        width = [right - left for left, right in itertools.pairwise(edges)]
        counts = [b["places"] for b in bins]
        axes.bar(edges[:-1], counts, width, align="edge", color=_BLUE, edgecolor="white", linewidth=0.6)
        if width[-1] > width[0]:  # the bins grow, for the tail is long
            axes.set_xscale("log")
            axes.set_xlim(0.65, edges[-1] * 1.1)
            _log_axis(axes.xaxis)
        else:
            axes.set_xlim(0, edges[-1] * 1.02)
            _count_axis(axes.xaxis)
        _count_axis(axes.yaxis)
        axes.axvline(summary["median_images_per_place"], color=_RED, linewidth=1.4)
        axes.set_xlabel("images of a place (distinct URLs)")
        axes.set_ylabel("places")

    subtitle = (
        f"mean {summary['mean_images_per_place']:,.1f}, median {summary['median_images_per_place']:,.0f} (red line); "
        f"{summary['places_without_images']:,} places without images not shown"
    )
    return _png("Images per place", subtitle, fill)


def _similarity(summary: Summary) -> bytes | None:
    bins = summary["similarity_histogram"]
    if not bins:
        return None
    numbers = summary["similarity"]

    def fill(axes: Axes) -> None:
        left = [b["from"] for b in bins]
        width = [b["to"] - b["from"] for b in bins]
        axes.bar(left, [b["matches"] for b in bins], width, align="edge", color=_BLUE, edgecolor="white", linewidth=0.6)
        axes.axvline(numbers["median"], color=_RED, linewidth=1.4)
        _count_axis(axes.yaxis)
        axes.set_xlabel("similarity of place and image, as the backend gave it")
        axes.set_ylabel("matches")

    low, median, high = (f"{numbers[key]:.3f}" for key in ("p5", "median", "p95"))
    return _png("Similarity of the matches", f"median {median} (red line), 90 % between {low} and {high}", fill)


def _image_sizes(summary: Summary) -> bytes | None:
    sizes = summary["image_sizes"]
    if not sizes["images"]:
        return None

    def fill(axes: Axes) -> None:
        for side, edge, face in (("width", _BLUE, _PALE), ("height", _RED, "none")):
            bins = sizes[f"{side}_histogram"]
            edges = [b["from"] for b in bins] + [bins[-1]["to"]]
            counts = [b["images"] for b in bins]
            axes.stairs(counts, edges, fill=True, label=side, linewidth=1.6, facecolor=face, edgecolor=edge)
        axes.set_xscale("log")
        _log_axis(axes.xaxis)
        _count_axis(axes.yaxis)
        axes.set_xlabel("pixels before resizing")
        axes.set_ylabel("images")
        axes.legend(frameon=False, loc="upper right")

    width, height = sizes["width"]["median"], sizes["height"]["median"]
    subtitle = f"median {width:,.0f} × {height:,.0f} pixels, over {sizes['images']:,} downloaded images"
    return _png("Image sizes", subtitle, fill)


def _download_outcomes(summary: Summary) -> bytes | None:
    download = summary["download"]
    attempted = download["attempted"]
    if not attempted:
        return None
    reasons = list(download["failed_by_reason"].items())
    shown, rest = reasons[:_REASONS], reasons[_REASONS:]
    rows = [("downloaded", download["succeeded"]), *shown]
    if rest:
        rows.append((f"{len(rest)} other reasons", sum(count for _, count in rest)))
    subtitle = (
        f"{download['succeeded']:,} of {attempted:,} images downloaded ({percent(download['succeeded'] / attempted)})"
    )
    texts = [f"{count:,}  ({percent(count / attempted)})" for _, count in rows]
    return _bars("Download outcomes", subtitle, rows, texts, [_BLUE] + [_RED] * (len(rows) - 1), least=4.0)


def _top_places(summary: Summary) -> bytes | None:
    places = summary["top_places"]
    if not places:
        return None
    rows = [(place["name"] or place["place_id"], place["images"]) for place in places]
    subtitle = "images (distinct URLs) of each"
    return _bars(f"{len(rows)} places with most images", subtitle, rows, [f"{n:,}" for _, n in rows], [_BLUE] * 20)


def _top_domains(summary: Summary) -> bytes | None:
    domains = summary["top_domains"]
    if not domains:
        return None
    rows = [(domain["domain"], domain["images"]) for domain in domains]
    texts = [f"{domain['images']:,}  ({percent(domain['share'])})" for domain in domains]
    share = percent(summary["top_20_domain_share"])
    subtitle = f"together {share} of {summary['images']:,} images; {summary['domains']:,} domains in all"
    return _bars(f"{len(rows)} largest domains", subtitle, rows, texts, [_BLUE] * 20)


def _bars(
    title: str,
    subtitle: str,
    rows: Sequence[tuple[str, int]],
    texts: Sequence[str],
    colors: Sequence[str],
    least: float = 1.6,
) -> bytes:
    def fill(axes: Axes) -> None:
        positions = range(len(rows))
        counts = [count for _, count in rows]
        axes.barh(positions, counts, color=colors[: len(rows)], height=0.72)
        axes.set_yticks(positions, [label(name) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        room = 1.08 + 0.012 * max(map(len, texts))  # for the numbers beside the bars
        axes.set_xlim(0, max(counts) * room or 1)
        for position, count, text in zip(positions, counts, texts, strict=True):
            axes.annotate(text, (count, position), (4, 0), textcoords="offset points", va="center", size=8.5)
        axes.tick_params(length=0)
        axes.set_xticks([])
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)

    return _png(title, subtitle, fill, height=max(least, 1.0 + 0.27 * len(rows)))


def _map(points: Sequence[Point], width: float = 13.6) -> bytes | None:
    """`width`: of the figure, in inches."""
    if not points:
        return None
    from matplotlib.colors import LogNorm

    with_images = [point for point in points if point[2] > 0]
    without = [point for point in points if point[2] == 0]
    latitudes = [point[1] for point in points]
    middle = math.radians((min(latitudes) + max(latitudes)) / 2)
    # A degree of longitude is shorter than one of latitude by the cosine of the latitude.
    stretch = 1 / max(math.cos(middle), 0.05)
    most = max((point[2] for point in with_images), default=1)
    across = (max(p[0] for p in points) - min(p[0] for p in points)) / stretch
    upwards = max(latitudes) - min(latitudes)
    height = min(6.8, max(0.34 * width, 2.8, 1.4 + 0.9 * width * upwards / max(across, 1e-9)))
    crowded = min(1.0, 20 / math.sqrt(len(points))) * min(1.0, width / 10)

    def fill(axes: Axes) -> None:
        axes.scatter(
            [p[0] for p in without], [p[1] for p in without],
            s=18 * crowded, facecolors="none", edgecolors=_RED, linewidths=0.7, label="without images",
        )  # fmt: skip
        dots = axes.scatter(
            [p[0] for p in with_images], [p[1] for p in with_images], c=[p[2] for p in with_images],
            s=[(16 + 220 * p[2] / most) * crowded for p in with_images],
            cmap="viridis_r", norm=LogNorm(1, max(most, 2)), alpha=0.85, linewidths=0,
        )  # fmt: skip
        if with_images:
            bar = axes.figure.colorbar(dots, ax=axes, shrink=0.75, pad=0.015, aspect=28)
            _log_axis(bar.ax.yaxis)
            bar.set_label("images")
            bar.outline.set_visible(False)
        if without:
            axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
        axes.set_aspect(stretch, adjustable="datalim")
        axes.grid(True, axis="both")
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}°{'W' if value < 0 else 'E' if value else ''}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}°{'S' if value < 0 else 'N' if value else ''}")

    subtitle = f"{sum(point[3] for point in points):,} places with coordinates; size and colour: their images"
    return _png("Where the places are", subtitle, fill, height=height, width=width)
