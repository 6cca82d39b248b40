from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from aiohttp import web
from retrieve.service import rows_for, serve

from geo_subset.errors import StageError
from geo_subset.retrieve import backends
from geo_subset.settings import ClipServiceSettings

DEAD = "http://127.0.0.1:1"


def check(*urls, **settings):
    return asyncio.run(backends.check(ClipServiceSettings(url=urls, **settings), 1000))


def test_the_only_index_need_not_be_named():
    with serve() as service:
        assert check(service.url).indice_name == "main"
        service.indices = ["one", "two"]
        with pytest.raises(StageError, match=r"indice_name is not set: .* has one, two"):
            check(service.url)
        with pytest.raises(StageError, match=r"'three' is unknown: .* has one, two"):
            check(service.url, indice_name="three")


@pytest.mark.parametrize("name", ["x" * 5_000_000, "a\nretrieve  all is well", "\x1b[2J", "\u202e"])
def test_names_of_indices_are_plain_and_short(name):
    with serve() as service:
        service.indices = [name, "other"]
        with pytest.raises(StageError, match="odd name of an index") as error:
            check(service.url)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


def test_messages_show_some_of_very_many_names():
    async def many(text, nth):
        return web.json_response([{f"key\x1b{i:05}" + "k" * 1000: 1 for i in range(5000)}])

    with serve(many) as service:
        with pytest.raises(StageError, match=r"without usable URLs .* and 4,990 more") as keys:
            check(service.url)
        service.indices = [f"index{i}" for i in range(5000)]
        with pytest.raises(StageError, match=r"has index0, .*, index9 and 4,990 more$") as indices:
            check(service.url)
    assert str(keys.value).isprintable() and len(str(keys.value)) < 2000
    assert len(str(indices.value)) < 1000


def test_a_backend_that_is_down_stays_and_one_without_the_index_does_not(caplog):
    with serve() as one, serve() as other:
        other.indices = ["another"]
        assert check(DEAD, one.url, other.url, indice_name="main").url == (DEAD, one.url)
    assert f"{DEAD} does not answer well now" in caplog.text
    assert f"left out: {other.url} has no index 'main'" in caplog.text


def test_no_backend_is_one_clear_error():
    with pytest.raises(StageError, match=rf"no clip-retrieval backend answers \({DEAD}: .*retrieve\.clip-service\.url"):
        check(DEAD)


def test_no_backend_names_the_other_strategies_and_the_page_on_hosting_one():
    with pytest.raises(StageError) as error:
        check(DEAD)
    said = str(error.value)
    assert "retrieve.strategy = 'captions' or 'embeddings'" in said and "\n" not in said
    page = re.search(r"\S+/docs/hosting-a-backend\.md", said)
    assert page and "clip-retrieval" in Path(page[0]).read_text()


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"modality": "text"}, "modality = 'text' needs an index of texts"),
        ({"use_mclip": True}, "use_mclip = true needs a backend started with --enable_mclip_option=True"),
        ({}, "its metadata may be shorter than its index"),
    ],
)
def test_a_backend_that_cannot_answer_such_questions_is_told_before_any_work(settings, hint):
    async def broken(text, nth):
        return web.json_response({"message": "Internal Server Error"}, status=500)

    with (
        serve(broken) as service,
        pytest.raises(StageError, match=r"cannot answer a test question .*http 500") as error,
    ):
        check(service.url, **settings)
    assert hint in str(error.value)


def test_a_backend_behind_a_proxy_that_is_down_is_told():
    async def down(text, nth):
        return web.Response(status=502)

    with serve(down) as service, pytest.raises(StageError, match=r"no clip-retrieval backend answers \(.*http 502"):
        check(service.url)


def test_a_single_failure_is_no_reason_to_give_up():
    async def flaky(text, nth):
        return web.Response(status=500) if nth <= 2 else None

    with serve(flaky) as service:
        assert check(service.url).url == (service.url,)


def test_answers_without_urls_are_told_before_any_work():
    async def no_urls(text, nth):
        return web.json_response([{k: v for k, v in row.items() if k != "url"} for row in rows_for(text, 5)])

    with (
        serve(no_urls) as service,
        pytest.raises(StageError, match=r"without usable URLs \(its rows have NSFW, caption"),
    ):
        check(service.url)


def test_an_index_that_finds_nothing_is_no_error():
    async def nothing(text, nth):
        return web.json_response([])

    with serve(nothing) as service:
        assert check(service.url).indice_name == "main"


def test_backends_that_differ_are_warned_of(caplog):
    async def other_rows(text, nth):
        return web.json_response(rows_for("something else", 5))

    with serve() as one, serve() as same, serve(other_rows) as other:
        check(one.url, same.url, other.url)
    assert f"{one.url} and {other.url} answer the same question differently" in caplog.text
    assert same.url not in caplog.text


@pytest.mark.parametrize(
    "page", [web.Response(text="<html>log in</html>", content_type="text/html"), web.Response(status=404)]
)
def test_something_else_that_answers_is_no_backend(page):
    async def app():
        async def answer(_request):
            return web.Response(body=page.body, status=page.status, content_type=page.content_type)

        server = web.Application()
        server.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = "http://{}:{}".format(*runner.addresses[0][:2])
        try:
            with pytest.raises(StageError, match="no clip-retrieval backend answers"):
                await backends.check(ClipServiceSettings(url=(url,)), 10)
        finally:
            await runner.cleanup()

    asyncio.run(app())
