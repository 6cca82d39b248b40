"""100,000 places through a service that answers after 50 ms, on a cluster whose nodes come and go, and on one machine.

The cluster is Ray's own autoscaler over nodes that are raylets on this machine (tests/autoscaling.py): it begins with
one and grows to four, since four workers are asked for, and lets them go when the stage ends. What is printed: whether
both runs left the same table; wall and CPU a place beyond the service's own time (places x latency / requests at a
time); the driver's memory from the 1,000th place on; nodes over time.

    python benchmarks/many_places.py [--places 100000] [--images 100] [--latency 0.05] [--concurrency 32] [--skip-local]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from autoscaling import AutoscalingCluster, autoscaling_cluster

#: Distinct answers of the service, given in turn.
ANSWERS = 2_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--places", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--port", type=int, default=21600)
    parser.add_argument("--skip-local", action="store_true")
    options = parser.parse_args()
    with serving(options.port, options.latency, options.images), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "names.txt").write_text("".join(f"place {i}\n" for i in range(options.places)))
        (folder / "run.toml").write_text(
            f'run = "{folder}/run"\n[places]\nsource = "list"\npath = "{folder}/names.txt"\n'
            f"[retrieve]\nnum_images = {options.images}\n[retrieve.clip-service]\n"
            f'url = "http://127.0.0.1:{options.port}"\nconcurrency = {options.concurrency}\n'
        )
        runs = {}
        with autoscaling_cluster(folder, most=4) as cluster:
            places(folder, "cluster")
            runs["cluster"] = retrieve(folder, "cluster", cluster, [f"--address={cluster.address}"])
            runs["cluster"].nodes += until_few(cluster)
        if not options.skip_local:
            places(folder, "local")
            runs["local"] = retrieve(folder, "local", None, [])
        own = options.places * options.latency / options.concurrency
        for which, run in runs.items():
            early, late = run.memory_from(1_000)
            print(
                f"{which:<8} {run.seconds:7.1f} s, {own:.1f} s of them the service's own: "
                f"{1e3 * (run.seconds - own) / options.places:.2f} ms a place over it; "
                f"CPU {1e3 * run.cpu / options.places:.2f} ms a place; "
                f"driver {early:.0f} MB at place 1,000, {late:.0f} MB at most after it ({late - early:+.0f})"
            )
        print("nodes, second by second:", *shortened(runs["cluster"].nodes))
        if not options.skip_local:
            same = digests(folder / "cluster") == digests(folder / "local")
            print(f"{len(digests(folder / 'cluster'))} files, {'the same' if same else 'DIFFERENT'}, byte for byte")


@dataclass
class Run:
    """What was seen of a run."""

    seconds: float = 0.0
    cpu: float = 0.0
    nodes: list[int] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    """Places done, MB resident in the driver."""

    def memory_from(self, places: int) -> tuple[float, float]:
        """At that place, and at most from it on."""
        later = [megabytes for done, megabytes in self.memory if done >= places]
        return later[0], max(later)


def places(folder: Path, run: str) -> None:
    command = [sys.executable, "-m", "geo_subset.cli", "places", str(folder / "run.toml"), f"--set=run={folder / run}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def retrieve(folder: Path, run: str, cluster: AutoscalingCluster | None, more: list[str]) -> Run:
    """The stage retrieve, watched."""
    words = ["retrieve", str(folder / "run.toml"), f"--set=run={folder / run}", "--set=cluster.workers=4", *more]
    seen, spent = Run(), dict[tuple[int, float], float]()
    parts = folder / run / "matches"
    roots = [cluster.head] if cluster else []
    before = sum(cpu_times(roots).values())
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", "geo_subset.cli", *words], stdout=subprocess.DEVNULL) as driver:
        process = psutil.Process(driver.pid)
        while driver.poll() is None:
            spent |= cpu_times([process, *roots])
            with contextlib.suppress(psutil.Error):
                seen.memory.append((places_done(parts), process.memory_info().rss / 2**20))
            if cluster:
                seen.nodes.append(cluster.nodes())
            time.sleep(1)
    if driver.returncode != 0:
        raise SystemExit(f"{run}: the run failed")
    seen.seconds = json.loads((parts / "_manifest.json").read_text())["seconds"]
    seen.cpu = sum(spent.values()) - before
    print(f"{run}: {time.monotonic() - started:.1f} s with the start of the command", flush=True)
    return seen


def places_done(parts: Path) -> int:
    """From the chunks that are recorded, which are of 256 places."""
    records = parts / "_records"
    return 256 * sum(1 for _ in records.glob("chunk-*.json")) if records.exists() else 0


def until_few(cluster: AutoscalingCluster) -> list[int]:
    """How many nodes there are each second, until one is left (a minute at most)."""
    nodes: list[int] = []
    while len(nodes) < 60 and (not nodes or nodes[-1] > 1):
        time.sleep(1)
        nodes.append(cluster.nodes())
    return nodes


def cpu_times(roots: list[psutil.Process]) -> dict[tuple[int, float], float]:
    """CPU seconds of every process of these trees."""
    times = {}
    for root in roots:
        with contextlib.suppress(psutil.Error):
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    spent = process.cpu_times()
                    times[process.pid, process.create_time()] = spent.user + spent.system
    return times


def shortened(nodes: list[int]) -> list[str]:
    """Runs of equal numbers: 1 x 12, 2 x 5, ..."""
    runs: list[list[int]] = []
    for count in nodes:
        if runs and runs[-1][0] == count:
            runs[-1][1] += 1
        else:
            runs.append([count, 1])
    return [f"{count} x {length}" for count, length in runs]


def digests(run: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((run / "matches").glob("*.parquet"))}


@contextlib.contextmanager
def serving(port: int, latency: float, images: int) -> Iterator[None]:
    """The service, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    server = context.Process(target=serve, args=(port, latency, images, ready), daemon=True)
    server.start()
    ready.wait()
    try:
        yield
    finally:
        server.kill()


def serve(port: int, latency: float, images: int, ready: object) -> None:
    """Answers /knn-service after `latency` seconds with `images` rows."""
    from aiohttp import web

    bodies = [json.dumps(rows(number, images)).encode() for number in range(ANSWERS)]

    async def knn(request: web.Request) -> web.Response:
        number = zlib.crc32(json.loads(await request.read())["text"].encode())
        await asyncio.sleep(latency)
        return web.Response(body=bodies[number % ANSWERS], content_type="application/json")

    async def listed(_request: web.Request) -> web.Response:
        return web.json_response(["many"])

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/knn-service", knn)
        app.router.add_get("/indices-list", listed)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ready.set()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    asyncio.run(run())


def rows(number: int, images: int) -> list[dict[str, object]]:
    return [
        {
            "url": f"http://images-{(number * 7 + rank) % 5000}.example/photos/{number}/{rank}.jpg",
            "caption": f"a photograph of place number {number} in the united states, picture {rank}",
            "id": number * 1000 + rank,
            "similarity": round(0.35 - rank / 10_000, 6),
            "NSFW": "UNLIKELY",
        }
        for rank in range(images)
    ]


if __name__ == "__main__":
    main()
