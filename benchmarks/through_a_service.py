"""The same vectors asked through the real clip-retrieval service, one request at a time, and searched in one batch.

    make .venv-clip/.ready
    .venv-clip/bin/python benchmarks/through_a_service.py [--rows 20000] [--places 500] [--images 100]

The backend (tests/clip_retrieval/backend.py) serves an index of its folder of embeddings as `clip-retrieval index`
makes it, metadata as parquet, which is its default, and by --use_arrow; strategy clip-service asks it with one request
at a time, deduplicate off. Strategy embeddings searches the folder itself. Printed: seconds of the stage as its
manifest has them, without the start of Ray but with the texts' encoding and all that is written, and places a second;
and recall, the share of the exact best that came, of those that have a URL.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset.runfolder import StageFolder

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "clip_retrieval"))
import backend

Found = dict[str, set[int]]


def retrieved(folder: Path, places: int, images: int, strategy: str) -> tuple[float, Found]:
    """Seconds of the stage retrieve, and the ids of the images of each place."""
    folder.mkdir()
    names = dict.fromkeys(f"{name}, {state}" for name, state in backend.cities())
    (folder / "names.txt").write_text("\n".join(list(names)[:places]), encoding="utf-8")
    (folder / "run.toml").write_text(
        f'run = "{folder}/run"\n[places]\nsource = "list"\npath = "{folder}/names.txt"\n'
        f"[retrieve]\nnum_images = {images}\n{strategy}"
    )
    command = [sys.executable, "-m", "geo_subset.cli", "retrieve", str(folder / "run.toml")]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    manifest = StageFolder(f"{folder}/run", "retrieve").manifest()
    assert manifest is not None
    rows = pa.concat_tables(pq.read_table(path) for path in folder.glob("run/matches/part-*.parquet"))
    found: Found = {}
    for place, image in zip(rows["place_id"].to_pylist(), rows["image_id"].to_pylist(), strict=True):
        found.setdefault(place, set()).add(image)
    return manifest.seconds, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--places", type=int, default=500)
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backend.build(folder / "backend", options.rows)
        of_all = (options.places, options.images)
        exact: Found = {}
        print(f"{options.places:,} places, the best {options.images:,} of {options.rows:,} images")

        def tell(what: str, seconds: float, found: Found) -> None:
            shares = [len(found.get(place, set()) & best) / len(best) for place, best in exact.items()]
            rate, recall = options.places / seconds, sum(shares) / len(shares)
            print(f"  {what:40} {seconds:8.2f} s {rate:9.1f} places/s, recall {recall:.4f}", flush=True)

        strategy = (
            'strategy = "embeddings"\n[retrieve.embeddings]\ndeduplicate = false\n'
            f'path = "{folder}/backend/embeddings"\nmodel = "hf_clip:{folder}/backend/model"\n'
        )
        seconds, exact = retrieved(folder / "batch", *of_all, strategy)
        tell("all at once, from the embeddings", seconds, exact)
        with backend.serving(folder / "backend") as url:
            for index in ("main", "arrow"):
                strategy = (
                    f'[retrieve.clip-service]\nurl = "{url}"\nindice_name = "{index}"\n'
                    "deduplicate = false\nconcurrency = 1\n"
                )
                tell(f"one at a time, index '{index}'", *retrieved(folder / index, *of_all, strategy))


if __name__ == "__main__":
    main()
