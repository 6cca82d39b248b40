"""summary.json against a recount by pandas from the parquet files."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_subset.errors import StageError
from geo_subset.report import database, summary
from geo_subset.settings import PricesSettings

from .report_run import Outcome, Run, match, place, write

HOSTS = ["a.com", "img.a.com", "b.co.uk", "bücher.de", "картинки.рф", "127.0.0.3", "A.com", "localhost"]
REASONS = ["HTTP 404", "timed out", "kein Bild"]

urls_ = st.builds(
    lambda scheme, host, path: f"{scheme}://{host}/{path}",
    st.sampled_from(["http", "https", "HTTP"]), st.sampled_from(HOSTS), st.sampled_from(["1.jpg", "2.jpg", "ü.png"]),
)  # fmt: skip
similarities = st.floats(-1, 1, width=32)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    places = [place(f"list:{n}", name) for n, name in enumerate(draw(st.lists(st.text(max_size=8), max_size=25)))]
    matches = []
    if places:
        ids = st.sampled_from([row["place_id"] for row in places])
        matches = draw(st.lists(st.builds(match, ids, urls_, similarities), max_size=60))
    return {
        "places": places,
        "matches": matches,
        "failures": [
            {"place_id": row["place_id"], "query": "q", "reason": "HTTP 500", "detail": "", "attempts": 6}
            for row in places[:1]
        ],
        "outcome": lambda sample: Outcome(
            image=b"x" if int(sample["uid"][0], 16) < 11 else None,
            reason=REASONS[int(sample["uid"][1], 16) % 3],
            width=1 + int(sample["uid"][2:5], 16),
            height=1 + int(sample["uid"][5:8], 16),
        ),
        "per_shard": draw(st.integers(1, 20)),
    }


def counted(run: Run) -> dict[str, Any]:
    with database.opened(run.url) as tables:
        return summary.summarise(tables, PricesSettings())


def read(folder: Path, pattern: str) -> pd.DataFrame:
    frames = [pd.read_parquet(path) for path in sorted(folder.glob(pattern))]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def top(counts: pd.Series, limit: int = 20) -> list[tuple[str, int]]:
    """The largest counts, ties by key."""
    return sorted(((key, int(n)) for key, n in counts.items()), key=lambda item: (-item[1], item[0]))[:limit]


def recount(folder: Path) -> dict[str, Any]:
    places, matches = read(folder, "places/*.parquet"), read(folder, "matches/part-*.parquet")
    samples, images = read(folder, "samples/*.parquet"), read(folder, "shards/[0-9]*.parquet")
    per_place = matches.groupby("place_id")["url"].nunique()
    names = dict(zip(places.get("place_id", ()), places.get("name", ()), strict=True))
    domains = samples["domain"].value_counts() if len(samples) else pd.Series(dtype=int)
    similarity = matches["similarity"].astype("float64")
    failed = images[images["status"] != "success"] if len(images) else pd.DataFrame({"error_message": []})
    top_domains = top(domains)
    quantile = {"min": 0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1}
    manifests = {
        stage: json.loads((folder / name / "_manifest.json").read_text())
        for stage, name in [("places", "places"), ("retrieve", "matches"), ("merge", "samples"), ("download", "shards")]
    }
    return {
        "places": len(places),
        "places_with_images": len(per_place),
        "matches": len(matches),
        "images": len(samples),
        "mean_images_per_place": per_place.mean() if len(per_place) else None,
        "median_images_per_place": per_place.median() if len(per_place) else None,
        "top_places": [{"place_id": key, "name": names[key], "images": n} for key, n in top(per_place)],
        "domains": len(domains),
        "top_domains": [{"domain": key, "images": n, "share": n / len(samples)} for key, n in top_domains],
        "top_20_domain_share": sum(n for _, n in top_domains) / len(samples) if len(samples) else 0.0,
        "similarity": {key: similarity.quantile(q) if len(similarity) else None for key, q in quantile.items()},
        "download": {
            "attempted": len(images),
            "succeeded": len(images) - len(failed),
            "failed_by_reason": failed["error_message"].value_counts().to_dict(),
        },
        "shards": len(list(folder.glob("shards/*.tar"))),
        "stages": {
            stage: {"seconds": m["seconds"], "counters": m["counters"], **effort(m)} for stage, m in manifests.items()
        },
    }


def effort(manifest: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the fixed keys of a stage, without prices."""
    used = ("worker_seconds", "reserved_cpu_seconds", "used_cpu_seconds", "reserved_gpu_seconds", "bytes_fetched")
    return {
        **{name: manifest["usage"].get(name, 0) for name in used},
        "requests": manifest["counters"].get("requests", manifest["usage"].get("requests", 0)),
        "bytes_stored": sum(entry["bytes"] for entry in manifest["files"]),
        "writes": len(manifest["files"]) + len(manifest["units"]),
        "cost": None,
    }


def assert_same(got: Any, wanted: Any, key: str = "") -> None:
    if isinstance(wanted, dict):
        assert set(got) == set(wanted), key
        for name in wanted:
            assert_same(got[name], wanted[name], f"{key}.{name}")
    elif isinstance(wanted, list):
        assert len(got) == len(wanted), key
        for index, (one, other) in enumerate(zip(got, wanted, strict=True)):
            assert_same(one, other, f"{key}[{index}]")
    else:
        assert got == (pytest.approx(wanted, rel=1e-9, abs=1e-12) if isinstance(wanted, float) else wanted), key


@settings(max_examples=15, deadline=None)
@given(runs())
def test_every_fixed_number_agrees_with_a_recount_by_pandas(rows: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder), **rows)
        got = counted(run)
        wanted = recount(Path(folder))
        assert_same({key: got[key] for key in wanted}, wanted)
        # What stands beside the fixed keys adds up to them.
        assert got["places_with_images"] + got["places_without_images"] == got["places"]
        assert sum(b["places"] for b in got["images_per_place"]) == got["places_with_images"]
        assert sum(b["matches"] for b in got["similarity_histogram"]) == got["matches"]
        download = got["download"]
        assert download["succeeded"] + sum(download["failed_by_reason"].values()) == download["attempted"]
        for side in ("width", "height"):
            assert sum(b["images"] for b in got["image_sizes"][f"{side}_histogram"]) == download["succeeded"]
        several = sum(len(sample["place_ids"]) > 1 for sample in run.tables["samples"])
        assert got["images_found_by_several_places"] == several
        json.dumps(got, allow_nan=False)


def test_a_url_found_twice_by_a_place_is_one_image_of_it(tmp_path: Path) -> None:
    rows = [match("list:1", "http://a.com/1", 0.3, caption=c) for c in ("one", "two")] + [
        match("list:1", "http://a.com/2", 0.2),
        match("list:2", "http://a.com/1", 0.1),
    ]
    got = counted(write(tmp_path, [place("list:1", "A"), place("list:2", "B"), place("list:3", "C")], rows))
    assert got["matches"] == 4
    assert got["images"] == 2
    assert [p["images"] for p in got["top_places"]] == [2, 1]
    assert got["mean_images_per_place"] == 1.5
    assert got["places_without_images_first"] == [{"place_id": "list:3", "name": "C", "failure": None}]


def test_nothing_found_gives_zeros_and_nulls(tmp_path: Path) -> None:
    got = counted(write(tmp_path, [place("list:1", "A")], []))
    assert got["places_without_images"] == 1
    assert got["mean_images_per_place"] is None and got["median_images_per_place"] is None
    assert set(got["similarity"].values()) == {None}
    assert got["top_20_domain_share"] == 0 and got["top_places"] == [] and got["shards"] == 0
    assert "NaN" not in json.dumps(got)


def test_unknown_similarities_do_not_spoil_the_others(tmp_path: Path) -> None:
    rows = [match("list:1", f"http://a.com/{n}", s) for n, s in enumerate([0.25, None, float("nan"), 0.5])]
    got = counted(write(tmp_path, [place("list:1", "A")], rows))
    assert got["similarity"]["min"] == 0.25 and got["similarity"]["max"] == 0.5
    assert sum(b["matches"] for b in got["similarity_histogram"]) == 2
    assert got["matches_without_similarity"] == 2


def test_places_that_failed_are_named_with_the_reason(tmp_path: Path) -> None:
    failure = {"place_id": "list:2", "query": "B", "reason": "HTTP 500", "detail": "", "attempts": 6}
    got = counted(write(tmp_path, [place("list:1", "A"), place("list:2", "B")], [], failures=[failure]))
    assert [p["failure"] for p in got["places_without_images_first"]] == [None, "HTTP 500"]
    assert got["retrieval_failures"] == {"HTTP 500": 1}


def test_a_stage_that_is_not_done_is_named(tmp_path: Path) -> None:
    run = write(tmp_path, [place("list:1", "A")], [])
    (tmp_path / "samples" / "_manifest.json").unlink()
    with pytest.raises(StageError, match="merge"):
        counted(run)


@given(st.dictionaries(st.integers(1, 5000), st.integers(1, 50), max_size=30), st.floats(1, 5000))
def test_bins_cover_every_count_once(counts: dict[int, int], median: float) -> None:
    bins = summary.count_bins(sorted(counts.items()), median)
    assert sum(b["places"] for b in bins) == sum(counts.values())
    for one, following in itertools.pairwise(bins):
        assert one["from"] <= one["to"] and following["from"] == one["to"] + 1
    if counts:
        assert bins[0]["from"] == 1 and bins[-1]["from"] <= max(counts) <= bins[-1]["to"]
        assert len(bins) <= 30


@given(st.floats(1e-6, 1e9))
def test_a_nice_step_is_no_less_and_at_most_two_and_a_half_times_as_much(wanted: float) -> None:
    assert wanted * (1 - 1e-8) <= summary.nice_step(wanted) <= wanted * 2.5 * (1 + 1e-8)


def test_many_places_make_fewer_points_and_the_same_sums(tmp_path: Path) -> None:
    rows = [
        place(f"list:{n}", "A", latitude=(n % 150) / 1000 if n % 100 else float(n % 80), longitude=(n // 150) / 1000)
        for n in range(21_000)
    ]
    rows.append(place("list:nowhere", "B"))
    run = write(tmp_path, rows, [match("list:5", "http://a.com/1", 0.3), match("list:6", "http://a.com/1", 0.3)])
    with database.opened(run.url) as tables:
        points = summary.map_points(tables)
    assert 0 < len(points) < 20_000
    assert sum(point[3] for point in points) == 21_000
    assert sum(point[2] for point in points) == 2
