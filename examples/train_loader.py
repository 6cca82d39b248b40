"""Feeds a training loop from the shards of a run: `python examples/train_loader.py runs/demo`

Needs webdataset, Pillow and numpy. With PyTorch installed, what `batches` returns is an IterableDataset:

    loader = torch.utils.data.DataLoader(batches(shards, "train"), batch_size=None, num_workers=4)

and `torch.from_numpy` turns its arrays into tensors. (webdataset gives each worker shards of its own: have at least as
many of them as workers.)

The model here is the simplest one that has something to learn: it answers every image with the mean place of those it
was trained on. What yours should beat is the distance it prints.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import webdataset
from PIL import Image

SIDE = 224
"""Pixels of the square that a batch's images are cut to."""
EARTH_KM = 6371.0088

Floats = npt.NDArray[np.float64]
Batch = dict[str, Any]
"""image: uint8 [batch, SIDE, SIDE, 3]; place: float64 [batch, 2], latitude and longitude in degrees; uid: list."""


def batches(
    shards: Sequence[str], split: str, by: str = "split_place", size: int = 64, seed: int | None = None
) -> Iterable[Batch]:
    """Batches of one split: 'train', 'val' or 'test'.

    `by` names the column of the json that goes by: 'split_place' keeps all places of a block of 1 km on one side, for a
    test on places never seen; 'split' draws images at random. With a `seed`, shards and samples are shuffled.
    """

    def of_split(sample: dict[str, Any]) -> bool:
        return bool(sample["json"][by] == split and sample["json"]["longitude"] is not None)

    shuffled = seed is not None
    samples = webdataset.WebDataset(
        list(shards), shardshuffle=len(shards) if shuffled else False, seed=seed, empty_check=False
    )
    samples = samples.map_dict(json=json.loads).select(of_split)  # before any image is decoded
    if shuffled:
        samples = samples.shuffle(1000, seed=seed)
    return samples.map(example).batched(size, collation_fn=collated)  # type: ignore[no-any-return]


def example(sample: dict[str, Any]) -> Batch:
    """One image, cut to a square, and where its place lies."""
    image = next(sample[kind] for kind in ("jpg", "png", "webp") if kind in sample)
    about = sample["json"]
    return {"image": square(image), "place": (about["latitude"], about["longitude"]), "uid": about["uid"]}


def square(image: bytes) -> npt.NDArray[np.uint8]:
    """The middle of an image, [SIDE, SIDE, 3]."""
    with Image.open(io.BytesIO(image)) as opened:
        side = min(opened.size)
        left, top = (opened.width - side) // 2, (opened.height - side) // 2
        box = (left, top, left + side, top + side)
        return np.asarray(opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box))


def collated(examples: Sequence[Batch]) -> Batch:
    """Examples put together to arrays."""
    return {
        "image": np.stack([one["image"] for one in examples]),
        "place": np.array([one["place"] for one in examples], np.float64),
        "uid": [one["uid"] for one in examples],
    }


def directions(places: Floats) -> Floats:
    """[n, 2] degrees -> [n, 3] unit vectors: the mean of places on both sides of 180 degrees is then between them."""
    latitude, longitude = np.radians(places).T
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )


def kilometres(places: Floats, guess: Floats) -> Floats:
    """Great-circle distances of [n, 2] degrees to a unit vector."""
    return EARTH_KM * np.arccos(np.clip(directions(places) @ guess, -1, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the run folder")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--by", choices=["split_place", "split"], default="split_place")
    options = parser.parse_args()
    shards = sorted(map(str, Path(options.run, "shards").glob("*.tar")))
    if not shards:
        raise SystemExit(f"{options.run}/shards has no shard: is it a finished run?")

    total = np.zeros(3)
    for epoch in range(options.epochs):
        seen = 0
        for batch in batches(shards, "train", options.by, seed=epoch):
            total += directions(batch["place"]).sum(axis=0)  # here a model takes its step
            seen += len(batch["image"])
        print(f"epoch {epoch}: {seen} images")
    guess = total / max(1e-12, float(np.linalg.norm(total)))
    for split in ("val", "test"):
        errors = [kilometres(batch["place"], guess) for batch in batches(shards, split, options.by)]
        if errors:
            together = np.concatenate(errors)
            print(f"{split}: {len(together)} images, median error {np.median(together):.0f} km")
        else:
            print(f"{split}: no images")


if __name__ == "__main__":
    main()
