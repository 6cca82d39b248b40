from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from retrieve.service import rows_for, serve

from geo_subset.errors import StageError
from geo_subset.retrieve import clip_service
from geo_subset.settings import ClipServiceSettings


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(clip_service, "BASE_WAIT", 0.001)


def retrieve(service, queries, num_images=5, concurrency=4, rate=None, **settings):
    async def work():
        options = ClipServiceSettings(url=(service.url,), indice_name="main", **settings)
        client = clip_service.ClipService(options, num_images, concurrency, rate)
        try:
            return await client.retrieve([f"list:{i}" for i in range(len(queries))], queries)
        finally:
            await client.close()

    return asyncio.run(work())


def test_rows_come_in_the_places_order_with_what_the_service_said():
    queries = [[f"place {i}"] for i in range(30)]
    with serve() as service:
        found = retrieve(service, queries)
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
        retrieve(service, [[str(i)] for i in range(6)], rate=20)
        assert service.times[-1] - service.times[0] >= 5 / 20 - 0.01


def test_two_prompts_make_one_answer():
    with serve() as service:
        found = retrieve(service, [["a", "b"]], num_images=5)
    expected: dict[int, float] = {}
    for row in rows_for("a", 5) + rows_for("b", 5):
        expected[row["id"]] = max(expected.get(row["id"], 0), row["similarity"])
    best = sorted(expected.values(), reverse=True)[:5]
    assert found.matches["similarity"].to_pylist() == pytest.approx(best)


def check(service, **settings):
    return asyncio.run(clip_service.check(ClipServiceSettings(**{"url": (service.url,), **settings})))


def test_the_only_index_need_not_be_named_and_dead_backends_are_left_out():
    with serve() as service:
        checked = check(service, url=("http://127.0.0.1:1", service.url))
        assert (checked.indice_name, checked.url) == ("main", (service.url,))
        service.indices = ["one", "two"]
        with pytest.raises(StageError, match=r"indice_name is not set: .* has one, two"):
            check(service)
        with pytest.raises(StageError, match=r"'three' is unknown: .* has one, two"):
            check(service, indice_name="three")


def test_backends_without_the_index_are_left_out():
    with serve() as one, serve() as other:
        other.indices = ["another"]
        assert check(one, url=(one.url, other.url), indice_name="main").url == (one.url,)


def test_no_backend_is_one_clear_error():
    with pytest.raises(
        StageError, match=r"no clip-retrieval backend answers \(http://127\.0\.0\.1:1: .*retrieve\.clip-service\.url"
    ):
        asyncio.run(clip_service.check(ClipServiceSettings(url=("http://127.0.0.1:1",))))
