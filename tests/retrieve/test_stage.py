from __future__ import annotations

import asyncio
import collections
import contextlib
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from fabricate import places, run_settings
from retrieve.service import serve

from geo_subset import tables
from geo_subset.errors import StageError
from geo_subset.retrieve import stage
from geo_subset.runfolder import StageFolder

COUNT = 60


def all_places(folder):
    places(folder, [{"place_id": f"list:{i}", "name": str(i), "queries": [f"place {i}"]} for i in range(COUNT)])


@pytest.fixture
def run_url(tmp_path):
    all_places(str(tmp_path))
    return str(tmp_path)


def run(run_url, service, digit="d", **retrieve):
    service_settings = {"url": service.url, "retries": 0, "timeout": 60.0, **retrieve.pop("clip-service", {})}
    settings = run_settings(run_url, retrieve={"num_images": 5, "clip-service": service_settings, **retrieve})
    return stage.run(settings, StageFolder(run_url, "retrieve", digit * 64))


@pytest.fixture(scope="module")
def undisturbed(ray_session, tmp_path_factory):
    """The files that a run makes of these places while nothing goes wrong."""
    folder = str(tmp_path_factory.mktemp("undisturbed"))
    all_places(folder)
    with serve() as service:
        return files(run(folder, service))


def files(manifest):
    return {entry.path.split("-")[1]: entry.sha256 for entry in manifest.files if entry.path.startswith("part-")}


def matches(run_url, manifest):
    with StageFolder(run_url, "retrieve").local(manifest.paths()) as paths:
        return pa.concat_tables([pq.read_table(path) for path in paths])


def test_all_places_in_order_and_counters_add_up(ray_session, run_url):
    with serve() as service:
        manifest = run(run_url, service)
    table = matches(run_url, manifest)
    assert table.schema.equals(tables.MATCHES)
    assert list(dict.fromkeys(table["place_id"].to_pylist())) == [f"list:{i}" for i in range(COUNT)]
    counters = manifest.counters
    assert counters["places"] == COUNT
    assert counters["rows"] == len(table) == 5 * COUNT
    assert counters["rows_received"] == counters["rows"]
    assert StageFolder(run_url, "retrieve", "d" * 64).finished() == manifest


def test_the_line_says_why_there_are_few_rows_or_none(ray_session, run_url):
    def answer(text):
        number = hash_of(text)
        if number < 0:
            return None
        row = {"id": number, "similarity": 0.3, "url": None}
        rows = [
            row,
            row,
            {"id": 1, "similarity": 0.2, "caption": "c"},
            "no row",
            {**row, "url": "http://a.com/1", "similarity": None},
        ]
        return [] if number % 2 else rows

    async def fault(text, nth):
        rows = answer(text)
        return None if rows is None else web.json_response(rows)

    with serve(fault) as service:
        manifest = run(run_url, service)
    assert stage.describe(manifest) == (
        "0 rows for 0 of 60 places from 60 answers; 150 of 150 rows received left out: URL is null (60), "
        "no URL (30), no similarity (30), 1 other reason (30)"
    )

    async def nothing(text, nth):
        return None if hash_of(text) < 0 else web.json_response([]) if hash_of(text) else web.Response(status=400)

    with serve(nothing) as service:
        manifest = run(run_url, service, digit="e", max_failures=0.5)
    assert stage.describe(manifest) == (
        "0 rows for 0 of 60 places from 59 answers that hold no row; 1 place failed: http 400 (1)"
    )


def test_failed_places_are_tried_again_and_leave_no_trace(undisturbed, run_url):
    async def fault(text, nth):
        return web.Response(status=500) if hash_of(text) % 5 == 0 and nth == 1 else None

    with serve(fault) as service:
        manifest = run(run_url, service, digit="e")
        assert max(service.asked.values()) == 2
        assert sum(service.asked.values()) < 1.5 * COUNT
    assert manifest.counters["places_failed"] == 0
    assert files(manifest) == undisturbed


def hash_of(text):
    return int(text.split()[1]) if text.startswith("place ") else -1


def test_too_many_failures_stop_the_stage_and_the_next_run_asks_only_for_those(undisturbed, run_url):
    async def broken(text, nth):
        return web.Response(status=500) if hash_of(text) % 10 == 3 else None

    with serve(broken) as service:
        with pytest.raises(
            StageError, match=r"6 of 60 places failed \(http 500 \(6\); listed in .*failures\.parquet\)"
        ):
            run(run_url, service, digit="f")
        failures = pq.read_table(Path(run_url, "matches/failures.parquet"))
        assert failures.schema.equals(tables.FAILURES)
        assert failures["place_id"].to_pylist() == [f"list:{i}" for i in range(3, 60, 10)]
        service.fault = None
        service.asked = collections.Counter()
        manifest = run(run_url, service, digit="f")
        assert sorted(service.asked) == sorted(f"place {i}" for i in range(3, 60, 10))
    assert files(manifest) == undisturbed


def test_a_part_lost_after_the_end_is_made_again(ray_session, run_url):
    with serve() as service:
        manifest = run(run_url, service)
        Path(run_url, "matches", manifest.paths()[1]).unlink()
        service.asked.clear()
        again = run(run_url, service)
        assert 0 < len(service.asked) < COUNT
    assert again.files == manifest.files


def test_a_backend_that_dies_is_not_asked_for_every_place(ray_session, tmp_path, monkeypatch):
    async def dead(text, nth):
        return web.Response(status=400) if text.startswith("place ") else None

    monkeypatch.setattr(stage, "_HOPELESS", 20)
    rows = [{"place_id": f"list:{i}", "name": str(i), "queries": [f"place {i}"]} for i in range(2000)]
    places(str(tmp_path), rows)
    with serve(dead) as service, pytest.raises(StageError, match=r"of \d+ places failed \(http 400"):
        run(str(tmp_path), service)
    assert len(service.asked) < 1500


def test_a_backend_that_is_gone_ends_the_run_and_the_next_one_goes_on(undisturbed, run_url):
    async def gone(text, nth):
        return web.Response(status=502) if sum(service.asked.values()) > COUNT // 2 else None

    with serve(gone) as service:
        with pytest.raises(StageError, match=r"no backend has answered for \d+ s \(.*http 502.*run again"):
            run(run_url, service, digit="e", **{"clip-service": {"deadline": 1.5, "retries": 1000}})
        service.fault = None
        assert files(run(run_url, service, digit="e")) == undisturbed


def test_few_failures_are_listed_and_the_stage_ends(ray_session, run_url):
    async def broken(text, nth):
        return web.Response(status=500) if text == "place 7" else None

    with serve(broken) as service:
        manifest = run(run_url, service, max_failures=0.02)
    assert manifest.counters["places_failed"] == 1
    table = matches(run_url, manifest)
    assert len(set(table["place_id"].to_pylist())) == COUNT - 1
    failures = pq.read_table(Path(run_url, "matches/failures.parquet")).to_pylist()
    assert [(f["place_id"], f["query"], f["reason"]) for f in failures] == [("list:7", "place 7", "http 500")]


def test_killed_actors_are_replaced_and_their_work_done_again(undisturbed, run_url):
    wanted = {20: "Worker", 30: "Limiter", 45: "Worker"}
    killed = []

    async def kill(text, nth):
        actor = wanted.pop(hash_of(text), None)
        for process in psutil.Process().children(recursive=True) if actor else []:
            with contextlib.suppress(psutil.Error):  # it has just ended by itself, as workers that idle do
                if f"ray::{actor}" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(actor)
                    return

    with serve(kill) as service:
        manifest = run(run_url, service, digit="e")
    assert set(killed) == {"Worker", "Limiter"}
    assert files(manifest) == undisturbed


def test_requests_in_flight_are_bounded_over_all_workers(ray_session, run_url):
    async def slow(text, nth):
        await asyncio.sleep(0.05)

    with serve(slow) as service:
        run(run_url, service, **{"clip-service": {"concurrency": 3}})
        assert 1 < service.most_running <= 3


def test_an_empty_answer_is_a_place_without_rows(ray_session, run_url):
    async def empty(text, nth):
        return web.json_response([])

    with serve(empty) as service:
        manifest = run(run_url, service)
    assert manifest.counters["rows"] == 0
    assert manifest.counters["places_no_rows"] == COUNT
    assert matches(run_url, manifest).num_rows == 0
