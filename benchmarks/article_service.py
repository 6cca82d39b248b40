"""A service of the 2022 article's size: 1,096 places, 484,714 rows, 44,992 hosts, 20 of which hold 37.88 % of the rows.

Answers /knn-service after a fixed latency from bodies made beforehand, so that what is measured is the client; and
any image URL with one of a few JPEGs. Hosts are loopback addresses. Started by article_size.py.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import socket

import numpy as np
import orjson
from aiohttp import web
from PIL import Image

PLACES, ROWS, WITH_IMAGES, HOSTS, TOP_SHARE = 1096, 484_714, 945, 44_992, 0.3788


def rows_per_place() -> np.ndarray:
    """Rows of each of the 1,096 places: 151 have none, the others 512.9 on average and at most 1,000."""
    rng = np.random.default_rng(2022)
    counts = np.zeros(PLACES, dtype=int)
    counts[:WITH_IMAGES] = np.clip(rng.normal(513, 200, WITH_IMAGES), 1, 1000)
    while (missing := ROWS - counts.sum()) != 0:
        i = rng.integers(WITH_IMAGES)
        if 1 < counts[i] + np.sign(missing) < 1000:
            counts[i] += np.sign(missing)
    return rng.permutation(counts)


def host_of(rng: np.random.Generator) -> str:
    top = rng.random() < TOP_SHARE
    index = int(rng.integers(20)) if top else 20 + int(rng.integers(HOSTS - 20))
    return f"127.{1 + index // 65_536}.{index // 256 % 256}.{index % 256}"


def bodies(port: int) -> dict[str, bytes]:
    """Search text -> JSON answer. About a tenth of the images is found by a second place too."""
    rng = np.random.default_rng(1)
    urls: list[str] = []
    answers = {}
    for place, count in enumerate(rows_per_place()):
        rows = []
        for rank in range(count):
            if urls and rng.random() < 0.1:
                url = urls[int(rng.integers(len(urls)))]
            else:
                url = f"http://{host_of(rng)}:{port}/photos/{place}/{rank}.jpg"
                urls.append(url)
            rows.append(
                {
                    "url": url,
                    "caption": f"a photograph of place number {place} in midtown east new york city, picture {rank}",
                    "id": place * 1000 + rank,
                    "similarity": round(0.35 - rank / 10_000, 6),
                    "NSFW": "UNLIKELY",
                }
            )
        answers[f"place {place} in midtown east, united states"] = orjson.dumps(rows)
    return answers


def pictures(width: int) -> list[bytes]:
    """Sixteen JPEGs of 4:3; 384 pixels wide they have about 35 kB."""
    rng = np.random.default_rng(3)
    result = []
    for _ in range(16):
        small = Image.fromarray(rng.integers(0, 255, (72, 96, 3), dtype=np.uint8))
        stream = io.BytesIO()
        small.resize((width, width * 3 // 4), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=88)
        result.append(stream.getvalue())
    return result


async def serve(port: int, latency: float, width: int) -> None:
    answers, jpegs = bodies(port), pictures(width)

    async def knn(request: web.Request) -> web.Response:
        text = orjson.loads(await request.read())["text"]
        await asyncio.sleep(latency)
        return web.Response(body=answers.get(text, b"[]"), content_type="application/json")

    async def listed(_request: web.Request) -> web.Response:
        return web.json_response(["article"])

    async def image(request: web.Request) -> web.Response:
        return web.Response(body=jpegs[hash(request.path) % len(jpegs)], content_type="image/jpeg")

    app = web.Application()
    app.router.add_post("/knn-service", knn)
    app.router.add_get("/indices-list", listed)
    app.router.add_get("/photos/{place}/{name}", image)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = socket.create_server(("0.0.0.0", port), backlog=4096, reuse_port=False)  # all of 127.0.0.0/8
    await web.SockSite(runner, listener).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=21500)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--picture-width", type=int, default=384)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.latency, options.picture_width))
