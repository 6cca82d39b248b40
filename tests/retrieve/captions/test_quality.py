"""What the hand-labelled web captions and the catalogue's photographs say; they are not everywhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"


@pytest.mark.ci
def test_labels_are_whole():
    spec = importlib.util.spec_from_file_location("laion_mentions", ROOT / "tests/retrieve/laion_mentions.py")
    assert spec is not None and spec.loader is not None
    laion = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(laion)
    rows = laion.labelled()
    assert {row["label"] for row in rows} <= {"yes", "no", "other"}
    assert sum(row["drawn"] == "refused" for row in rows) == laion.EACH
    with laion.FITTED.open(encoding="utf-8") as stream:
        seen = {line.split("\t")[1] for line in stream}
    assert not seen & {row["url"] for row in rows}
    if not laion.DATA.exists():
        pytest.skip("no ../shared/data/laion_10k.parquet: the labels are not compared with what is accepted now")
    accepted, _ = laion.mentions(0.9)
    label = {(row["url"], row["place_id"]): row["label"] for row in rows}
    judged = [label[key] for match in accepted if (key := (match["url"], match["place_id"])) in label]
    assert len(judged) >= 80
    assert judged.count("yes") / len(judged) >= 0.9
