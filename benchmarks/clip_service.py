"""Retrieval against clip-retrieval's own client in a loop, on the same server in the same run.

    a  a service that takes 50 ms an answer and works on 32 at a time: answers a second
    b  a real backend (--backend URL --index NAME): what the adaptive client gets, against every fixed number of
       requests in flight
    c  CPU of the client per answer, from a

Needs clip-retrieval beside geo-subset (`make test-clip-retrieval` makes such an environment, .venv-clip):

    .venv-clip/bin/python benchmarks/clip_service.py [--repeats 3]
    .venv-clip/bin/python benchmarks/clip_service.py --backend http://127.0.0.1:1234 --index NAME
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import io
import multiprocessing
import pstats
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from geo_subset.retrieve import clip_service
from geo_subset.retrieve.limits import Limits, Reply
from geo_subset.settings import ClipServiceSettings

LATENCY, SLOTS = 0.05, 32
FIXED = (1, 2, 4, 8, 16)
NAMES = ("station", "park", "bridge", "tower", "museum", "square", "market", "theatre", "library", "harbour")


def texts(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [f"{chance.choice(NAMES)} {chance.randrange(10**6)} in midtown east, united states" for _ in range(count)]


def body(rows: int) -> bytes:
    """An answer with the backend's keys, about 230 bytes a row."""
    chance = random.Random(rows)
    return orjson.dumps(
        [
            {
                "url": f"https://host{chance.randrange(10**5)}.example.com/photos/2022/{chance.randrange(10**9)}.jpg",
                "NSFW": "UNLIKELY",
                "caption": " ".join(chance.choice(NAMES) for _ in range(12)),
                "id": chance.randrange(5 * 10**9),
                "similarity": 0.4 - rank / 10_000,
            }
            for rank in range(rows)
        ]
    )


def serve(rows: int, ready: Any) -> None:
    """The service of (a), in a process of its own; tells its port."""

    async def work() -> None:
        answer, slots = body(rows), asyncio.Semaphore(SLOTS)

        async def knn(request: web.Request) -> web.Response:
            await request.read()
            async with slots:
                await asyncio.sleep(LATENCY)
            return web.Response(body=answer, content_type="application/json")

        app = web.Application()
        app.router.add_post("/knn-service", knn)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(work())


@contextlib.contextmanager
def service(rows: int) -> Iterator[str]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(rows, sender), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}"
    finally:
        process.kill()
        process.join()


def ours(url: str, index: str, queries: list[str], num_images: int, fixed: int | None = None) -> tuple[float, float]:
    """Answers a second, and CPU seconds an answer, of one worker's client; adaptive, or with `fixed` in flight."""

    async def work() -> int:
        options = ClipServiceSettings(url=(url,), indice_name=index)
        limits = Limits(options.url, options.concurrency, None, options.deadline, time.monotonic())

        async def exchange(wanted: int, tallies: Any, tokens: int) -> Reply:
            if fixed is not None:
                return Reply((fixed,), None, 0.25)
            return limits.exchange(0, "", wanted, tallies, tokens, time.monotonic())

        client = clip_service.ClipService(options, num_images, exchange)
        done = 0
        try:
            # As the stage does: two chunks at a time, the next one when one is done.
            chunk = max(1, 32_000 // num_images)
            chunks = iter([queries[i : i + chunk] for i in range(0, len(queries), chunk)])

            async def through() -> int:
                count = 0
                for part in chunks:
                    found = await client.retrieve(part, [[text] for text in part])
                    if found.failures:
                        raise SystemExit(f"failed: {found.failures[0]}")
                    count += len(part)
                return count

            done = sum(await asyncio.gather(through(), through()))
        finally:
            await client.close()
        return done

    cpu, wall = time.process_time(), time.perf_counter()
    done = asyncio.run(work())
    return done / (time.perf_counter() - wall), (time.process_time() - cpu) / done


def theirs(url: str, index: str, queries: list[str], num_images: int) -> tuple[float, float]:
    """The same of ClipClient in a loop."""
    from clip_retrieval.clip_client import ClipClient

    client = ClipClient(url=f"{url}/knn-service", indice_name=index, num_images=num_images)
    cpu, wall = time.process_time(), time.perf_counter()
    for text in queries:
        client.query(text=text)
    return len(queries) / (time.perf_counter() - wall), (time.process_time() - cpu) / len(queries)


def show(name: str, values: list[float], unit: str) -> float:
    middle = statistics.median(values)
    print(f"  {name:<34} median {middle:10.2f} {unit:<12} min {min(values):.2f}   max {max(values):.2f}", flush=True)
    return middle


def stub(repeats: int) -> None:
    for rows, many, few in ((100, 4000, 40), (1000, 4000, 40)):
        print(f"\n{rows:,} rows an answer, {LATENCY * 1000:.0f} ms, {SLOTS} at a time")
        with service(rows) as url:
            theirs(url, "main", texts(3, 0), rows)  # imports, and warms up
            runs = [
                (ours(url, "main", texts(many, r), rows), theirs(url, "main", texts(few, r), rows))
                for r in range(repeats)
            ]
        show("geo_subset", [run[0][0] for run in runs], "answers/s")
        show("ClipClient in a loop", [run[1][0] for run in runs], "answers/s")
        show("ratio", [run[0][0] / run[1][0] for run in runs], "x")
        show("CPU an answer, geo_subset", [run[0][1] * 1000 for run in runs], "ms")
        show("CPU an answer, ClipClient", [run[1][1] * 1000 for run in runs], "ms")


def real(url: str, index: str, repeats: int, seconds: float) -> None:
    """What the backend gives to every fixed number of requests in flight, and to the adaptive client."""
    for num_images in (100, 1000):
        print(f"\n{url}, index {index}, {num_images:,} images; queries for about {seconds:.0f} s each")
        probe, _ = ours(url, index, texts(20, 0), num_images, fixed=2)
        count = max(20, int(probe * seconds))
        rates: dict[str, list[float]] = {}
        runs: dict[str, Callable[[], float]] = {
            f"{n} in flight": partial(_rate, ours, url, index, texts(count, 1), num_images, fixed=n) for n in FIXED
        }
        runs["adaptive"] = partial(_rate, ours, url, index, texts(count, 1), num_images)
        runs["ClipClient in a loop"] = partial(_rate, theirs, url, index, texts(max(10, count // 4), 1), num_images)
        for r in range(repeats):
            for name in random.Random(r).sample(sorted(runs), len(runs)):
                rates.setdefault(name, []).append(runs[name]())
        medians = {name: show(name, rates[name], "answers/s") for name in runs}
        best = max(value for name, value in medians.items() if "flight" in name)
        print(f"  adaptive / best fixed = {medians['adaptive'] / best:.3f}; / ClipClient = ", end="")
        print(f"{medians['adaptive'] / medians['ClipClient in a loop']:.2f}")


def _rate(measure: Callable[..., tuple[float, float]], *arguments: Any, **options: Any) -> float:
    return measure(*arguments, **options)[0]


def profile() -> None:
    """Where the client's time goes, at 1,000 rows an answer."""
    with service(1000) as url:
        profiler = cProfile.Profile()
        profiler.runcall(ours, url, "main", texts(1000, 0), 1000)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(18)
    print(text.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backend")
    parser.add_argument("--index", default="main")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.profile:
        profile()
    elif options.backend:
        real(options.backend, options.index, options.repeats, options.seconds)
    else:
        stub(options.repeats)
