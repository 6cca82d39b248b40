"""Merging against a plain-Python reference that follows the contract's words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricate import matches, places, run_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geo_subset import merge, tables, urls
from geo_subset.errors import SettingsError, StageError
from geo_subset.runfolder import StageFolder

PLACES = [
    {"place_id": f"list:{c}", "name": f"Place {c}", "latitude": float(i), "longitude": -float(i), "queries": [c]}
    for i, c in enumerate("abcd")
]


def samples(run_url, merge_settings=None, partition_bytes=None):
    folder = StageFolder(run_url, "merge", hashlib.sha256(repr((merge_settings, partition_bytes)).encode()).hexdigest())
    manifest = merge.run(run_settings(run_url, merge=merge_settings or {}), folder)
    with folder.local(manifest.paths()) as paths:
        return pa.concat_tables([pq.read_table(path) for path in paths]), manifest


def reference(rows):
    """One dict per URL key, by the contract: best match by similarity, rank, place_id, url; all places, best first."""
    by_key: dict[str, list[dict]] = {}
    for row in rows:
        by_key.setdefault(urls.url_key(row["url"]), []).append(row)
    result = []
    for key, found in by_key.items():
        found = sorted(found, key=lambda r: (-r["similarity"], r["rank"], r["place_id"], r["url"]))
        per_place = {}
        for row in found:
            per_place.setdefault(row["place_id"], row["similarity"])
        best = found[0]
        place = next(p for p in PLACES if p["place_id"] == best["place_id"])
        result.append(
            {
                "uid": urls.uid(key),
                **{name: best.get(name) for name in ("url", "caption", "place_id", "similarity", "nsfw", "width")},
                "name": place["name"],
                "latitude": place["latitude"],
                "longitude": place["longitude"],
                "place_ids": list(per_place),
                "similarities": list(per_place.values()),
                "place_count": len(per_place),
                "domain": urls.registered_domain(urls.host(best["url"])),
            }
        )
    return sorted(result, key=lambda r: r["uid"])


_row = st.fixed_dictionaries(
    {
        "place_id": st.sampled_from([p["place_id"] for p in PLACES]),
        "similarity": st.sampled_from([0.5, 0.25, -0.125, 1.5]),
        "url": st.sampled_from(
            [
                "http://a.com/1",
                "HTTP://A.com:80/1#x",
                "https://b.co.uk/2",
                "http://127.0.0.1:99/3",
                "no url",
                "http://é.com/",
            ]
        ),
        "caption": st.sampled_from([None, "", "a caption", "\x00nul", "日本"]),
        "nsfw": st.sampled_from([None, "UNLIKELY"]),
        "width": st.sampled_from([None, 640]),
    }
)


def ranked(rows):
    """Ranks by place in order of similarity, as retrieval gives them."""
    result = []
    for place in {row["place_id"] for row in rows}:
        mine = sorted((r for r in rows if r["place_id"] == place), key=lambda r: -r["similarity"])
        result += [{**row, "rank": rank} for rank, row in enumerate(mine)]
    return result


@given(rows=st.lists(_row, max_size=25))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equals_the_reference(tmp_path_factory, ray_session, rows):
    rows = ranked(rows)
    run_url = str(tmp_path_factory.mktemp("run"))
    places(run_url, PLACES)
    matches(run_url, [rows[::2], rows[1::2]])
    table, manifest = samples(run_url)
    assert table.schema.equals(tables.SAMPLES)
    wanted = reference(rows)
    assert (
        [{name: row[name] for name in wanted[0]} for row in table.to_pylist()] == wanted if wanted else not len(table)
    )
    assert manifest.counters["matches"] == len(rows)
    assert manifest.counters["samples"] == len(wanted)


@pytest.fixture(scope="module")
def big_run(tmp_path_factory, ray_session):
    run_url = str(tmp_path_factory.mktemp("big"))
    places(run_url, PLACES)
    rng = np.random.default_rng(0)
    parts = []
    for number in range(6):
        parts.append(
            [
                {
                    "place_id": PLACES[number % 4]["place_id"],
                    "rank": rank + 500 * (number // 4),
                    "similarity": float(np.float32(1 - rank / 1000)),
                    "url": f"http://www.host{rng.integers(40)}.com/{rng.integers(900)}",
                    "caption": f"caption {rank}",
                    "punsafe": 0.5 if rank % 2 else None,
                }
                for rank in range(500)
            ]
        )
    matches(run_url, parts)
    return run_url


def test_partitions_make_no_difference(big_run, monkeypatch):
    whole, manifest = samples(big_run)
    assert len(manifest.files) == 1
    size = sum(f.bytes for f in StageFolder(big_run, "retrieve").manifest().files)
    monkeypatch.setattr(merge, "PARTITION_BYTES", size // 5)
    monkeypatch.setattr(merge, "MAP_BYTES", size // 3)
    split, manifest = samples(big_run, partition_bytes=size // 5)
    assert len(manifest.files) == 6
    assert split.equals(whole)
    assert not Path(big_run, "samples/_shuffle").exists()


def test_filters_leave_out_and_count(big_run, tmp_path):
    whole, _ = samples(big_run)
    blocklist = tmp_path / "blocked.txt"
    blocked_url = whole["url"][0].as_py()
    blocklist.write_text(f"# comment\n\n{blocked_url.replace('http', 'HTTP')}#x\nHOST7.com\nhost\n")
    table, manifest = samples(
        big_run,
        {
            "min_similarity": 0.6,
            "max_places_per_url": 2,
            "where": "punsafe IS NULL OR punsafe < 0.4 -- a comment",
            "blocklist": [str(blocklist)],
        },
    )
    counters = manifest.counters
    assert counters["matches_below_min_similarity"] == 6 * 99
    assert all(counters[name] for name in counters), "every filter had something to do"
    assert counters["urls_distinct"] == sum(
        n for name, n in counters.items() if name == "samples" or (name.startswith("urls_") and name != "urls_distinct")
    )
    assert len(table) == counters["samples"]
    assert "host7.com" not in table["domain"].to_pylist()
    assert blocked_url not in table["url"].to_pylist()
    assert max(table["place_count"].to_pylist()) <= 2
    assert min(table["similarity"].to_pylist()) >= np.float32(0.6)
    assert set(table["punsafe"].to_pylist()) == {None}


def test_a_part_lost_after_the_end_is_made_again(big_run, monkeypatch):
    monkeypatch.setattr(merge, "PARTITION_BYTES", 10_000)
    folder = StageFolder(big_run, "merge", "c" * 64)
    manifest = merge.run(run_settings(big_run), folder)
    before = {entry.path: entry.sha256 for entry in manifest.files}
    with folder.local([manifest.files[1].path]) as (path,):
        Path(path).unlink()
    assert folder.finished() is None
    again = merge.run(run_settings(big_run), folder)
    assert {entry.path: entry.sha256 for entry in again.files} == before


@pytest.mark.parametrize("partition_bytes", [None, 1_000])
@pytest.mark.parametrize("name", ["run[1]", "ru*", "run?"])
def test_the_name_of_a_run_folder_is_no_pattern(tmp_path, ray_session, monkeypatch, name, partition_bytes):
    """Of folders side by side, each holds its own: what another one's name fits is not read."""
    if partition_bytes:
        monkeypatch.setattr(merge, "PARTITION_BYTES", partition_bytes)
    for folder in ("run1", "run2", name):
        places(str(tmp_path / folder), PLACES)
        rows = [
            {"place_id": "list:a", "rank": i, "similarity": 0.5, "url": f"http://{folder}.com/{i}"} for i in range(50)
        ]
        matches(str(tmp_path / folder), [rows])
    table, manifest = samples(str(tmp_path / name))
    assert sorted(table["url"].to_pylist()) == sorted(f"http://{name}.com/{i}" for i in range(50))
    assert manifest.counters["matches"] == 50


def test_a_condition_that_a_row_breaks_ends_the_stage_with_one_line(big_run):
    with pytest.raises(StageError, match=r"merge\.where = 'caption::INT > 1': Conversion Error"):
        samples(big_run, {"where": "caption::INT > 1"})


@pytest.mark.parametrize("where", ["nonsense > 2", "similarity >", "1) OR (1", "'text'"])
def test_wrong_condition(where):
    with pytest.raises(SettingsError, match=r"merge\.where = "):
        merge.check(run_settings("unused", merge={"where": where}))


def test_right_condition():
    merge.check(run_settings("unused", merge={"where": "similarity > 0.2 AND list_contains(place_ids, 'x') -- why"}))
