from __future__ import annotations

import asyncio
import resource
import time

import pytest
from aiohttp import web
from retrieve.service import rows_for, serve
from scarce import descriptors

from geo_subset import shortage
from geo_subset.errors import ShortageError, StageError
from geo_subset.retrieve import clip_service
from geo_subset.retrieve.limits import Limits
from geo_subset.settings import ClipServiceSettings


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(clip_service, "BASE_WAIT", 0.001)


def retrieve(service, queries, num_images=5, urls=(), **settings):
    """What one worker makes of the queries."""

    async def work():
        options = ClipServiceSettings(url=(service.url, *urls), indice_name="main", **settings)
        limits = Limits(options.url, options.concurrency, options.rate_limit, options.deadline, time.monotonic())

        async def exchange(wanted, tallies, tokens):
            return limits.exchange(0, "first", wanted, tallies, tokens, time.monotonic())

        client = clip_service.ClipService(options, num_images, exchange)
        try:
            return await client.retrieve([f"list:{i}" for i in range(len(queries))], queries)
        finally:
            await client.close()

    return asyncio.run(work())


def test_rows_come_in_the_places_order_with_what_the_service_said():
    queries = [[f"place {i}"] for i in range(30)]
    with serve() as service:
        found = retrieve(service, queries, concurrency=4)
    rows = found.matches.to_pylist()
    assert [r["place_id"] for r in rows] == [f"list:{i}" for i in range(30) for _ in range(5)]
    for i in range(30):
        wanted = rows_for(f"place {i}", 5)
        mine = rows[i * 5 : i * 5 + 5]
        assert [(r["url"], r["caption"], r["image_id"], r["nsfw"]) for r in mine] == [
            (w["url"], w["caption"], w["id"], w["NSFW"]) for w in wanted
        ]
        assert [r["similarity"] for r in mine] == pytest.approx([w["similarity"] for w in wanted])
    assert found.counters["requests"] == 30
    assert found.counters["rows"] == 150
    assert service.most_running <= 4


def test_what_is_sent_is_what_clipclient_sends():
    with serve() as service:
        retrieve(service, [["a"]], num_images=3, use_mclip=True, aesthetic_score=5)
    (body,) = service.bodies
    assert body == {
        "text": "a", "image": None, "image_url": None, "embedding_input": None, "deduplicate": True,
        "use_safety_model": True, "use_violence_detector": True, "indice_name": "main", "use_mclip": True,
        "aesthetic_score": 5, "aesthetic_weight": 0.5, "modality": "image", "num_images": 3, "num_result_ids": 3,
    }  # fmt: skip


async def _cut(_text, nth):
    if nth > 2:
        return None
    response = web.Response(body=b'[{"url": "http://a', headers={"Content-Length": "999"})
    response.force_close()
    return response


async def _half(_text, nth):
    return web.Response(body=b'[{"url": "http://a/1", "simi') if nth <= 2 else None


async def _error(_text, nth):
    return web.json_response({"message": "Internal Server Error"}, status=500) if nth <= 2 else None


async def _stall(_text, nth):
    if nth <= 1:
        await asyncio.sleep(30)
    return


@pytest.mark.parametrize("fault", [_cut, _half, _error, _stall])
def test_what_may_pass_is_tried_again(fault):
    queries = [["a"], ["b"]]
    with serve() as service:
        undisturbed = retrieve(service, queries)
    with serve(fault) as service:
        found = retrieve(service, queries, timeout=0.5 if fault is _stall else 60.0)
    assert found.matches.equals(undisturbed.matches)
    assert found.failures == []
    assert found.counters["retries"] >= 2, "a slow machine may meet the short time-out more often"


def test_what_will_not_pass_is_not_tried_again_and_stops_no_other_place():
    async def fault(text, nth):
        return web.json_response({"message": "no"}, status=400) if text == "bad" else None

    with serve(fault) as service:
        found = retrieve(service, [["good"], ["bad"], ["  "], []])
        assert service.asked["bad"] == 1
    assert set(found.matches["place_id"].to_pylist()) == {"list:0"}
    assert [(f.place_id, f.reason, f.attempts) for f in found.failures] == [
        ("list:1", "http 400", 1),
        ("list:2", "empty search text", 0),
        ("list:3", "no search text", 0),
    ]


def test_retries_end():
    async def fault(text, nth):
        return web.Response(status=503)

    with serve(fault) as service:
        found = retrieve(service, [["a"]], retries=3)
        assert service.asked["a"] == 4
    (failure,) = found.failures
    assert (failure.reason, failure.attempts) == ("http 503", 4)


def test_retry_after_is_obeyed():
    async def fault(text, nth):
        return web.Response(status=429, headers={"Retry-After": "1"}) if nth == 1 else None

    with serve(fault) as service:
        assert retrieve(service, [["a"]]).failures == []
        assert service.times[1] - service.times[0] >= 1


def test_rate_limit():
    with serve() as service:
        retrieve(service, [[str(i)] for i in range(6)], rate_limit=20)
        assert service.times[-1] - service.times[0] >= 4 / 20


def test_two_prompts_make_one_answer():
    with serve() as service:
        found = retrieve(service, [["a", "b"]], num_images=5)
    expected: dict[int, float] = {}
    for row in rows_for("a", 5) + rows_for("b", 5):
        expected[row["id"]] = max(expected.get(row["id"], 0), row["similarity"])
    best = sorted(expected.values(), reverse=True)[:5]
    assert found.matches["similarity"].to_pylist() == pytest.approx(best)


def test_rows_that_are_only_ids_are_completed():
    async def bare(text, nth):
        rows = rows_for(text, 6)
        return web.json_response(rows[:3] + [{"id": r["id"], "similarity": r["similarity"]} for r in rows[3:]])

    with serve() as service:
        whole = retrieve(service, [["a"], ["b"]], num_images=6)
        service.fault = bare
        service.metadata = {r["id"]: r for text in "ab" for r in rows_for(text, 6)}
        found = retrieve(service, [["a"], ["b"]], num_images=6)
    assert found.matches.equals(whole.matches)
    assert found.counters["rows_from_metadata"] == 6
    assert found.counters["requests"] == 4


def test_a_backend_that_cannot_complete_its_rows_fails_the_place():
    async def bare(text, nth):
        return web.json_response([{"id": 5, "similarity": 0.5}])

    with serve(bare) as service:  # it knows no /metadata
        found = retrieve(service, [["a"]])
    assert [(f.reason, f.attempts) for f in found.failures] == [("http 404", 1)]


def test_a_dead_backend_costs_no_retries_and_little_else():
    queries = [[f"place {i}"] for i in range(200)]
    with serve() as service:
        undisturbed = retrieve(service, queries)
        found = retrieve(service, queries, urls=("http://127.0.0.1:1",), retries=0)
    assert found.matches.equals(undisturbed.matches)
    assert found.failures == []
    assert found.counters["requests_failed_no_connection"] < 20


def test_a_request_that_failed_goes_to_another_backend():
    async def broken(text, nth):
        return web.Response(status=500)

    with serve(broken) as bad, serve() as good:
        found = retrieve(bad, [[f"place {i}"] for i in range(100)], urls=(good.url,), retries=1)
        assert max(bad.asked.values()) == 1
    assert found.failures == []


def test_a_place_is_not_tried_again_beyond_its_deadline():
    async def broken(text, nth):
        return web.Response(status=500) if text == "bad" else None

    with serve(broken) as service:
        good = [[f"good {i}"] for i in range(40)]  # so that the backend is not thought to be dead
        found = retrieve(service, [["bad"], *good], retries=1000, deadline=1.0, rate_limit=20)
    (failure,) = found.failures
    assert (failure.place_id, failure.reason) == ("list:0", "http 500")
    assert 1 < failure.attempts < 1000


def test_when_no_backend_answers_for_too_long_it_is_said():
    async def broken(text, nth):
        return web.Response(status=503)

    with serve(broken) as service, pytest.raises(StageError, match=r"no backend has answered for \d+ s \(.*http 503"):
        retrieve(service, [[f"place {i}"] for i in range(50)], retries=1000, deadline=1.0)


def test_all_that_was_sent_is_counted():
    async def fault(text, nth):
        return web.Response(status=500) if nth == 1 and text.endswith(("3", "7")) else None

    with serve(fault) as service:
        counters = retrieve(service, [[f"place {i}"] for i in range(50)]).counters
        assert counters["requests"] == sum(service.asked.values())
    failed = sum(count for name, count in counters.items() if name.startswith("requests_failed_"))
    assert failed == counters["requests_failed_http_500"] == counters["retries"] == 10
    assert counters["requests"] - failed == 50


def test_a_redirect_is_not_followed_but_told():
    async def moved(text, nth):
        return web.HTTPMovedPermanently("https://elsewhere.org/knn-service")

    with serve(moved) as service:
        (failure,) = retrieve(service, [["a"]]).failures
    assert (failure.reason, failure.attempts) == ("http 301", 1)
    assert "https://elsewhere.org" in failure.detail


def test_a_body_without_end_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(clip_service, "MIN_BODY", 100_000)
    monkeypatch.setattr(clip_service, "MAX_BODY_PER_ROW", 1)

    async def endless(text, nth):
        return web.Response(body=b"[" + b" " * 200_000 + b"]")

    with serve(endless) as service:
        (failure,) = retrieve(service, [["a"]]).failures
    assert failure.reason == "body too large"


@pytest.mark.parametrize("host", ["127.0.0.1", "backend.example"])
def test_descriptors_lacking_here_are_not_blamed_on_the_backend(host, monkeypatch):
    monkeypatch.setattr(shortage, "raise_limit", lambda: None)
    service = ClipServiceSettings(url=(f"http://{host}:1",), indice_name="main")

    async def ask():
        async with clip_service.session(service) as session:
            with descriptors(free=0):
                await clip_service.post(session, f"http://{host}:1/knn-service", b"{}", 5)

    with pytest.raises(ShortageError, match="lacks file descriptors: raise `ulimit -n`"):
        asyncio.run(ask())


def test_a_session_raises_the_limit_of_descriptors():
    with descriptors(free=10):
        low, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with serve() as service:
            assert retrieve(service, [[f"place {i}"] for i in range(40)], concurrency=40).failures == []
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 1 << 16), hard)
        assert low < min(hard, 1 << 16)
