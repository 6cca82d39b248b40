"""The plots: valid PNGs of whatever a run holds, the same bytes every time."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image

from geo_subset.report import database, plots, summary
from geo_subset.settings import PricesSettings

from .report_run import Outcome, match, place, write

ALL = {
    "map", "images_per_place", "similarity", "download_outcomes", "image_sizes", "top_places", "top_domains",
}  # fmt: skip
NAMES = ["東京タワー", "برج خليفة", "🗼", "$\\frac{1$", "$", "a\nb\tc\x07", "x" * 300, "", " ", "_^{", "Zürich"]


def drawn(folder: Path, places: list[dict], matches: list[dict], **options: object) -> dict[str, bytes]:  # type: ignore[type-arg]
    run = write(folder, places, matches, **options)  # type: ignore[arg-type]
    with database.opened(run.url) as tables, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        images = plots.draw(summary.summarise(tables, PricesSettings()), summary.map_points(tables))
    # An unclosed socket of another test, collected at this moment, is no matter of plots.
    assert not [w.message for w in warned if not issubclass(w.category, ResourceWarning)]
    return images


def test_every_plot_is_drawn_of_names_in_any_script_and_twice_the_same(tmp_path: Path) -> None:
    places = [place(f"list:{n}", name, latitude=80.0 - n, longitude=-179.0 + n) for n, name in enumerate(NAMES)]
    # From 1 to 300 images: a long tail, over more reasons than there are bars.
    rows = [
        match(f"list:{n}", f"http://картинки{i % 30}.рф/{n}/{i}", 0.2 + i / 5000)
        for n in range(len(NAMES) - 1)
        for i in range(300 if n == 0 else n)
    ]
    outcomes = {"outcome": lambda s: Outcome(reason=f"$reason {s['uid'][0]}" if s["uid"][0] > "1" else None,
                                             image=b"x" if s["uid"][0] <= "1" else None)}  # fmt: skip
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = drawn(tmp_path / "a", places, rows, **outcomes)
    assert set(first) == ALL
    for png in first.values():
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            assert image.format == "PNG" and image.width > 900
    assert drawn(tmp_path / "b", places, rows, **outcomes) == first


def test_what_there_is_nothing_of_is_not_drawn(tmp_path: Path) -> None:
    for name in ("none", "all_failed", "placed"):
        (tmp_path / name).mkdir()
    assert drawn(tmp_path / "none", [place("list:1", "A")], []) == {}
    rows = [match("list:1", "http://a.com/1", 0.3)]
    failed = drawn(tmp_path / "all_failed", [place("list:1", "A")], rows, outcome=lambda _: Outcome(reason="HTTP 404"))
    assert set(failed) == ALL - {"map", "image_sizes"}
    assert set(drawn(tmp_path / "placed", [place("list:1", "A", latitude=90.0, longitude=0.0)], [])) == {"map"}


def test_labels_are_one_short_line() -> None:
    assert plots.label("a\nb") == "a b"
    assert plots.label(" ") == "(none)"
    assert len(plots.label("x" * 300)) == 34 and plots.label("x" * 300).endswith("…")
