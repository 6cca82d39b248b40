"""A run folder as the four stages before the report leave it, made of rows that a test chooses."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import webdataset
from PIL import Image

from geo_subset import tables, urls
from geo_subset.download import index
from geo_subset.manifests import Record
from geo_subset.report.text import plain
from geo_subset.runfolder import StageFolder

IMAGES = pa.schema(
    [
        *(f for f in tables.SAMPLES if f.name not in ("width", "height")),
        *(pa.field(name, pa.string()) for name in ("key", "status", "error_message")),
        *(pa.field(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")),
    ]
)


@dataclass(frozen=True)
class Outcome:
    """What downloading an image led to: its bytes, or a reason for having none."""

    image: bytes | None = None
    reason: str | None = None
    width: int = 640
    height: int = 480


@dataclass(frozen=True)
class Run:
    """The rows of a run, and where it lies."""

    url: str
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def folder(self) -> StageFolder:
        return StageFolder(self.url, "report", "f" * 64)


def place(place_id: str, name: str, **columns: Any) -> dict[str, Any]:
    return {"place_id": place_id, "name": name, "kind": "city", "queries": [name], **columns}


def match(place_id: str, url: str, similarity: float | None, **columns: Any) -> dict[str, Any]:
    return {"place_id": place_id, "rank": 0, "similarity": similarity, "url": url, "caption": f"at {url}", **columns}


def colored(color: str = "teal", size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "JPEG")
    return out.getvalue()


def merged(places: Sequence[dict[str, Any]], matches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per URL key, as the merge stage would make it (`where` and the like unset)."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    for row in matches:
        by_key.setdefault(urls.uid(row["url"]), []).append(row)
    about = {row["place_id"]: row for row in places}
    samples = []
    for uid, rows in sorted(by_key.items()):
        best_of_place: dict[str, float] = {}
        rows.sort(key=lambda row: (-(row["similarity"] or 0), row["rank"], row["place_id"], row["url"]))
        for row in rows:
            best_of_place.setdefault(row["place_id"], row["similarity"] or 0)
        best = rows[0]
        samples.append(
            {
                **{name: best.get(name) for name in ("url", "caption", "place_id", "similarity", "width", "height")},
                **{name: about[best["place_id"]].get(name) for name in ("name", "latitude", "longitude")},
                "uid": uid,
                "place_ids": list(best_of_place),
                "similarities": list(best_of_place.values()),
                "place_count": len(best_of_place),
                "domain": urls.registered_domain(urls.host(best["url"])),
            }
        )
    return samples


def write(
    folder: Path,
    places: Sequence[dict[str, Any]],
    matches: Sequence[dict[str, Any]],
    outcome: Callable[[dict[str, Any]], Outcome] = lambda _: Outcome(image=b"no image"),
    failures: Sequence[dict[str, Any]] = (),
    per_shard: int = 100,
) -> Run:
    """Writes places, matches, samples and shards with their manifests."""
    samples = merged(places, matches)
    run = Run(str(folder), {"places": list(places), "matches": list(matches), "samples": samples, "images": []})

    stage = StageFolder(run.url, "places", "1" * 64)
    stage.start(1)
    table = pa.Table.from_pylist(list(places), tables.PLACES)
    stage.finish([stage.record("all", [stage.write_table(table, "places.parquet")], {"places": len(places)})], 1.25)

    stage = StageFolder(run.url, "retrieve", "2" * 64)
    stage.start(3)
    half = len(matches) // 2
    records: list[Record] = []
    for number, rows in enumerate((matches[:half], matches[half:])):
        table = pa.Table.from_pylist(list(rows), tables.MATCHES)
        entry = stage.write_table(table, f"part-{number:05d}-{stage.tag}.parquet")
        records.append(stage.record(str(number), [entry], {"matches": len(rows)}))
    if failures:
        entry = stage.write_table(pa.Table.from_pylist(list(failures), tables.FAILURES), "failures.parquet")
        records.append(stage.record("failures", [entry], {"failures": len(failures)}))
    stage.finish(records, 75.0)

    stage = StageFolder(run.url, "merge", "3" * 64)
    stage.start(1)
    files = []
    if samples:  # a merge of nothing may leave no part at all
        files = [stage.write_table(pa.Table.from_pylist(samples, tables.SAMPLES), f"part-00000-{stage.tag}.parquet")]
    stage.finish([stage.record("0", files, {"samples": len(samples)})], 2.0)

    stage = StageFolder(run.url, "download", "4" * 64)
    stage.start(1)
    records, run_rows = [], []
    for number, start in enumerate(range(0, len(samples), per_shard)):
        rows, counters = _shard(stage, f"{number:05d}-{stage.tag}", number, samples[start : start + per_shard], outcome)
        name = f"{number:05d}-{stage.tag}"
        files = [
            stage.write_table(pa.Table.from_pylist(rows, IMAGES), f"{name}.parquet"),
            stage.put(folder / f"{name}.tar", f"{name}.tar", counters.get("succeeded", 0)),
        ]
        (folder / f"{name}.tar").unlink()
        records.append(stage.record(name, files, counters))
        run.tables["images"] += rows
        run_rows.append(rows)
    ends = [
        {**row, "shard": name, "reason": row.get("error_message")}
        for name, rows in zip((record.unit for record in records), run_rows, strict=True)
        for row in rows
    ]
    entry = stage.write_table(pa.Table.from_pylist(ends, index.SCHEMA), index.FILE)
    records.append(stage.record("index", [entry], {}))
    stage.finish(records, 7300.0, {"attempted": 0, "succeeded": 0})
    return run


def _shard(
    stage: StageFolder,
    name: str,
    number: int,
    samples: Sequence[dict[str, Any]],
    outcome: Callable[[dict[str, Any]], Outcome],
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    rows = []
    counters: Counter[str] = Counter(attempted=len(samples), succeeded=0)
    with webdataset.TarWriter(f"{stage.run_url}/{name}.tar") as tar:
        for index, sample in enumerate(samples):
            found = outcome(sample)
            key = f"{number:05d}{index:04d}"
            row = {**sample, "key": key, "width": None, "height": None}
            if found.image is None:
                counters[f"failed: {plain(found.reason)}"] += 1  # other names make no manifest
                row |= {"status": "failed_to_download", "error_message": found.reason}
            else:
                counters["succeeded"] += 1
                row |= {"status": "success", "original_width": found.width, "original_height": found.height}
                about = json.dumps({"uid": sample["uid"]})
                tar.write({"__key__": key, "jpg": found.image, "json": about, "txt": sample["caption"] or ""})
            rows.append(row)
    return rows, dict(counters)
