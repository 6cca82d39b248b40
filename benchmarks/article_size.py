"""A run of the 2022 article's size: wall time of each stage, peak memory of the driver and of the whole tree.

The service (article_service.py) answers each query after 50 ms. Without --download the run ends with merge: on two
cores, shared with the host of the images, downloading takes many times as long as all the rest.

    python benchmarks/article_size.py [--download [--picture-width 384]] [--latency 0.05] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

HERE = Path(__file__).parent
SERVICE_OPTIONS = ("port", "latency", "picture-width")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--picture-width", type=int, default=384)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--port", type=int, default=21500)
    options = parser.parse_args()
    service_options = [f"--{name}={getattr(options, name.replace('-', '_'))}" for name in SERVICE_OPTIONS]
    command = [sys.executable, HERE / "article_service.py", *service_options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline().strip() == "ready"
            runs = [run(options.port, options.download) for _ in range(options.repeats)]
        finally:
            service.kill()
    for name in runs[0]:
        values = [r[name] for r in runs]
        print(
            f"{name:<28} median {statistics.median(values):>12,.2f}   min {min(values):,.2f}   max {max(values):,.2f}"
        )


def run(port: int, download: bool) -> dict[str, float]:
    """One run in a fresh folder; the figures by name."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "names.txt")
        names.write_text("".join(f"place {i}\n" for i in range(1096)))
        run_file = Path(folder, "run.toml")
        run_file.write_text(
            f'run = "{folder}/run"\n'
            f'[places]\nsource = "list"\npath = "{names}"\ncontext = "midtown east, united states"\n'
            f'[retrieve.clip-service]\nurl = "http://127.0.0.1:{port}"\nconcurrency = 32\n'
            "[download]\nallow_private_hosts = true\n"
        )
        command = [sys.executable, "-m", "geo_subset.cli", "run" if download else "merge", str(run_file)]
        process = subprocess.Popen(command)
        peaks = {"driver_rss_mb": 0.0, "tree_pss_mb": 0.0}
        watcher = threading.Thread(target=watch, args=(process.pid, peaks))
        watcher.start()
        if process.wait() != 0:
            raise SystemExit("the run failed")
        watcher.join()
        figures: dict[str, float] = {}
        for stage in ("places", "matches", "samples", "shards", "report"):
            manifest = Path(folder, "run", stage, "_manifest.json")
            if manifest.exists():
                tree = json.loads(manifest.read_text())
                figures[f"{stage}_seconds"] = tree["seconds"]
                for counter in ("rows", "samples", "succeeded"):
                    if counter in tree["counters"]:
                        figures[f"{stage}_{counter}"] = tree["counters"][counter]
        return {**figures, **peaks}


def watch(pid: int, peaks: dict[str, float]) -> None:
    """Samples memory until the process ends: resident of the driver, proportional set size of it and its children."""
    process = psutil.Process(pid)
    gone = (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, FileNotFoundError)
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        total = 0
        try:
            peaks["driver_rss_mb"] = max(peaks["driver_rss_mb"], process.memory_info().rss / 2**20)
            family = [process, *process.children(recursive=True)]
        except gone:
            return
        for member in family:
            try:
                total += member.memory_full_info().pss
            except gone:
                continue
        peaks["tree_pss_mb"] = max(peaks["tree_pss_mb"], total / 2**20)
        threading.Event().wait(0.5)


if __name__ == "__main__":
    main()
