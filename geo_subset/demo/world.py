"""The embedded world on disk: which images an index knows, where they are on its web, and what they truly show.

A world is a folder:

    index.parquet   one row per image record of the index: image_id int64, url string, caption string, nsfw string,
                    look int64 (its own image_id, or that of the image it is a near-duplicate of)
    truth.parquet   one row per URL and place it shows: url string, name string, latitude and longitude float64
                    (WGS84 degrees); a URL of which nothing is known has one row of nulls
    world.json      what it was built from, its port, and what was left out; written last: it declares the world whole

Equal parameters and port give equal bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geo_subset import runfolder, storage
from geo_subset.demo.web import SERVICE_HOST
from geo_subset.errors import SettingsError

#: Raised when what is built changes: older worlds are then built again.
FORMAT = 1

INDEX = pa.schema(
    [
        pa.field("image_id", pa.int64()),
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("nsfw", pa.string()),
        pa.field("look", pa.int64()),
    ]
)
TRUTH = pa.schema(
    [
        pa.field("url", pa.string()),
        pa.field("name", pa.string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Content:
    """What fills a world: its two tables, and how many rows of the source were left out, by reason."""

    index: pa.Table
    truth: pa.Table
    skipped: dict[str, int] = field(default_factory=dict)


#: The world is there once the first of them is.
_FILES = ("world.json", "index.parquet", "truth.parquet")


@dataclass(frozen=True)
class World:
    """A world that is built. `rows` counts records of the index, `urls` distinct URLs, `skipped` rows by reason."""

    folder: Path
    port: int
    places: int
    corpus: str | None
    rows: int
    urls: int
    skipped: dict[str, int]

    @property
    def service_url(self) -> str:
        return f"http://{SERVICE_HOST}:{self.port}"

    def index(self) -> pa.Table:
        return pq.read_table(self.folder / "index.parquet")

    def truth(self) -> pa.Table:
        return pq.read_table(self.folder / "truth.parquet")


def parameters(places: int, images: int | None, corpus: Path | None) -> dict[str, Any]:
    """What a world was asked to be, the port aside. Raises SettingsError if the corpus cannot be read."""
    source = None if corpus is None else runfolder.file_digest(str(corpus))
    return {"format": FORMAT, "places": places, "images": images, "corpus_sha256": source}


def is_there(folder: Path) -> bool:
    """Whether the folder holds a world, of whatever version."""
    return (folder / _FILES[0]).is_file()


def kept_port(folder: Path) -> int | None:
    """The port of the world in `folder`, None if there is none."""
    tree = _read(folder)
    return int(tree["port"]) if tree else None


def load(folder: Path) -> World:
    """The world in `folder`. Raises SettingsError if there is none."""
    tree = _read(folder)
    if tree is None:
        raise SettingsError(f"{folder} holds no world: build one with `geo-subset demo`")
    return World(folder=folder, **tree["world"], port=tree["port"])


def load_if(folder: Path, wanted: dict[str, Any], port: int) -> World | None:
    """The world in `folder` if it has these parameters and this port."""
    tree = _read(folder)
    return load(folder) if tree and tree["parameters"] == wanted and tree["port"] == port else None


def save(folder: Path, content: Content, wanted: dict[str, Any], port: int, places: int, corpus: Path | None) -> World:
    """Writes a world in the place of the one that `folder` holds. Raises SettingsError if it cannot be written."""
    urls = len(content.truth["url"].unique())
    source = None if corpus is None else str(corpus)
    world = World(folder, port, places, source, content.index.num_rows, urls, content.skipped)
    told = {name: value for name, value in asdict(world).items() if name not in ("folder", "port")}
    tree = {"parameters": wanted, "port": port, "world": told}
    try:
        for name in _FILES:  # what else lies there is not ours
            (folder / name).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(content.index, folder / "index.parquet", compression="zstd")
        pq.write_table(content.truth, folder / "truth.parquet", compression="zstd")
        storage.write_text(str(folder / "world.json"), json.dumps(tree, indent=1))
    except OSError as error:
        raise SettingsError(f"the world cannot be written to {folder}: {error}") from error
    return world


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        tree: dict[str, Any] = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder}/world.json cannot be read ({error}): remove {folder}") from error
    return tree if tree.get("parameters", {}).get("format") == FORMAT else None
