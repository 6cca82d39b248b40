"""What the dearest pictures cost that a host could send, for every format that is decoded.

    table   for 64 kB and 1 MB as sent (packed by gzip, up to 64 MiB unpacked): CPU seconds of reading the head and of
            all the rest, and the memory beside what the interpreter and its libraries take, of the dearest file of each
            format; with --all, of every file
    shard   60 honest pictures alone, with 6 hostile ones among them, and with 6 dear ones, which are decoded or nearly
            so, by turns: seconds by the clock

Every picture is read in a process of its own, with a first picture of every format done before it is measured.

    .venv/bin/python benchmarks/hostile_pictures.py [table] [shard] [--all] [--formats PNG,GIF] [--repeats 3]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import pyarrow as pa
from download import dearest
from download.conftest import image_bytes, samples_of
from PIL import Image

SIZES = {"64 kB": 64 << 10, "1 MB": 1 << 20}
#: CPU seconds after which a process is ended.
MOST = 200
HOSTILE = {
    "hostile": [
        dearest.jpeg_of_segments, dearest.jpeg_of_scans, dearest.png_of_chunks, dearest.gif_of_clear_codes,
        dearest.ppm_of_comment, dearest.avif_of_frames,
    ],
    "dear": [
        dearest.jpeg_of_large_scans, dearest.png_of_paeth, dearest.gif_of_few_clear_codes, dearest.webp_of_trees,
        dearest.tiff_of_scans, dearest.jpeg2000_flat,
    ],
}  # fmt: skip


def measured(path: str) -> dict[str, object]:
    """In a process of its own: what reading the picture at `path` costs."""
    resource.setrlimit(resource.RLIMIT_CPU, (MOST, resource.RLIM_INFINITY))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    from geo_subset.download.pixels import PictureError, header, resized
    from geo_subset.settings import DownloadSettings

    body, settings = Path(path).read_bytes(), DownloadSettings()
    for form in ("JPEG", "PNG", "GIF", "WEBP", "AVIF"):
        first = dearest.encoded(dearest.flat(600), form)
        resized(first, header(first), settings)
    progressive = dearest.encoded(dearest.flat(600), "JPEG", progressive=True)
    resized(progressive, header(progressive), settings)
    before, children = _cpu_of_children(), _peak("self")
    end, found = "stored", None
    heads = []
    for _ in range(5):  # by the clock: that of a process's CPU may be too coarse
        begun = time.perf_counter()
        try:
            found = header(body)
        except PictureError as error:
            end = str(error)
        heads.append(time.perf_counter() - begun)
    begun = time.process_time()
    try:
        if found:
            resized(body, found, settings)
    except PictureError as error:
        end = str(error)
    rest = time.process_time() - begun + _cpu_of_children() - before
    memory = max(_peak("self") - children, _peak("children"))
    return {"end": end, "head": min(heads), "rest": rest, "memory": memory}


_BASE = {"children": 0}


def _children() -> list[int]:
    mine = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in mine.read_text().split()] if mine.exists() else []


def _cpu_of_children() -> float:
    """Of those that run and of those that have ended, in which a picture was decoded apart."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for pid in _children():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        _BASE.setdefault(f"rss {pid}", _high_water(pid))
    return ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def _high_water(pid: int | str) -> int:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) << 10


def _peak(whose: str) -> int:
    if whose == "self":
        return _high_water("self")
    running = max((_high_water(pid) - _BASE.get(f"rss {pid}", 0) for pid in _children()), default=0)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    first = min((size for name, size in _BASE.items() if name.startswith("rss")), default=0)
    return max(running, ended - first)


def measure(body: bytes, folder: Path) -> dict[str, object]:
    path = folder / "picture"
    path.write_bytes(body)
    done = subprocess.run([sys.executable, __file__, "--measure", str(path)], capture_output=True, text=True)
    if done.returncode:
        return {"end": f"ended by signal {-done.returncode}", "head": float(MOST), "rest": 0.0, "memory": 0}
    return json.loads(done.stdout)


def table(formats: list[str], everything: bool) -> None:
    print("| format | sent | file | bytes sent | unpacked | head, CPU s | rest, CPU s | memory, MB | ends as |")
    print("|---|---|---|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        for form in formats:
            for label, size in SIZES.items():
                rows = []
                for make in dearest.DEAREST[form]:
                    body = dearest.largest(make, size)
                    found = measure(body, Path(folder))
                    sent = min(len(body), len(gzip.compress(body, 6)))
                    rows.append((found["head"] + found["rest"], make.__name__, sent, len(body), found))
                rows.sort(key=lambda row: -row[0])
                for _, name, sent, length, found in rows if everything else rows[:1]:
                    print(
                        f"| {form} | {label} | {name} | {sent:,} | {length:,} | {found['head']:.3f} | "
                        f"{found['rest']:.2f} | {found['memory'] / 1e6:.0f} | {found['end']} |",
                        flush=True,
                    )


def serve(hostile: dict[str, bytes]) -> ThreadingHTTPServer:
    honest = image_bytes(640, 480)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path[1:]
            body = hostile.get(name, honest)
            if name not in hostile:
                time.sleep(1 + int(name) % 4)
            self.send_response(200)
            if name in hostile:
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def shard(repeats: int) -> None:
    from geo_subset.download.pixels import silent_decoders
    from geo_subset.download.shard import download_shard
    from geo_subset.settings import DownloadSettings

    bodies = {
        make.__name__: gzip.compress(dearest.largest(make, SIZES["64 kB"]), 6)
        for makes in HOSTILE.values() for make in makes
    }  # fmt: skip
    server = serve(bodies)
    base = f"http://127.0.0.1:{server.server_address[1]}/"
    settings = DownloadSettings(allow_private_hosts=True, samples_per_shard=100, retries=1)
    honest = [f"{base}{n}" for n in range(60)]
    links = {"honest": honest} | {
        name: [*(base + make.__name__ for make in makes), *honest] for name, makes in HOSTILE.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in links}
    for turn in range(repeats + 1):
        for name, urls in links.items():
            samples = samples_of(urls)
            column = samples.schema.get_field_index("domain")
            samples = samples.set_column(column, "domain", pa.array([f"{n}.example" for n in range(len(urls))]))
            with tempfile.TemporaryDirectory() as folder:
                begun = time.monotonic()
                with silent_decoders():
                    counts = download_shard(samples, 0, Path(folder), settings)[1]
                if turn:  # the first makes machine code and starts a process
                    seconds[name].append(time.monotonic() - begun)
                else:
                    print(f"{name}: {dict(counts)}")
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        ratio = middle[name] / middle["honest"]
        print(f"{name}: {middle[name]:.2f} s ({', '.join(f'{t:.2f}' for t in times)}), ratio {ratio:.2f}")
    server.shutdown()


def main() -> None:
    Image.MAX_IMAGE_PIXELS = None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["table", "shard", []], default=[])
    parser.add_argument("--all", action="store_true", help="every file, not only the dearest of a format")
    parser.add_argument("--formats", default=",".join(dearest.DEAREST))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return
    parts = options.parts or ["table", "shard"]
    if "table" in parts:
        table(options.formats.split(","), options.all)
    if "shard" in parts:
        shard(options.repeats)


if __name__ == "__main__":
    main()
