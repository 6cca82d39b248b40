"""CPU per image of decoding, resizing and encoding, against img2dataset's Resizer and Pillow on the same images.

Every contender works in a process of its own, as the first two change how the process frees memory; they take turns.
Also how far the pixels are from the Resizer's, before encoding.

    .venv/bin/python benchmarks/pixels.py [--repeats 7] [--photos FILE ...]
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import cbook
from PIL import Image

SIZE, QUALITY = 256, 95
OURS, RESIZER, KEEPING, PILLOW = "geo_subset", "Resizer", "Resizer, memory kept", "Pillow, draft"


def image(width: int, height: int, quality: int, progressive: bool = False) -> bytes:
    """A photograph, or a mosaic of it where it is too small: every pixel is as sharp as in a real one."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        photo = np.asarray(Image.open(file).convert("RGB"))
    wide = np.concatenate([photo, photo[:, ::-1]], axis=1)
    tile = np.concatenate([wide, wide[::-1]])
    times = -(-height // tile.shape[0]), -(-width // tile.shape[1]), 1
    out = io.BytesIO()
    picture = Image.fromarray(np.tile(tile, times)[:height, :width])
    if width < photo.shape[1]:
        picture = Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS)
    picture.save(out, "JPEG", quality=quality, progressive=progressive)
    return out.getvalue()


def images() -> dict[str, bytes]:
    return {
        "384 x 450": image(384, 450, quality=75),
        "640 x 750": image(640, 750, quality=85),
        "1024 x 1200": image(1024, 1200, quality=85),
        "1024 x 1200 progressive": image(1024, 1200, quality=85, progressive=True),
        "3000 x 3500": image(3000, 3500, quality=85),
    }


def ours(form: str, quality: int) -> Callable[[bytes], bytes]:
    from geo_subset.download.pixels import header, resized
    from geo_subset.settings import DownloadSettings

    settings = DownloadSettings(image_size=SIZE, encode_format=form, encode_quality=quality)  # type: ignore[arg-type]
    return lambda body: resized(body, header(body), settings).data


def resizer(form: str, quality: int) -> Callable[[bytes], bytes]:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from img2dataset.resizer import Resizer

    work: Any = Resizer(SIZE, "keep_ratio", resize_only_if_bigger=True, encode_quality=quality, encode_format=form)
    return lambda body: work(io.BytesIO(body))[0]  # type: ignore[no-any-return]


def resizer_keeping(form: str, quality: int) -> Callable[[bytes], bytes]:
    import geo_subset.download.pixels  # noqa: F401 - sets what is done with freed memory

    return resizer(form, quality)


def pillow(form: str, quality: int) -> Callable[[bytes], bytes]:
    def work(body: bytes) -> bytes:
        with Image.open(io.BytesIO(body)) as picture:
            scale = min(1.0, SIZE / min(picture.size))
            size = round(picture.width * scale), round(picture.height * scale)
            picture.draft("RGB", (2 * size[0], 2 * size[1]))
            small = picture.convert("RGB").resize(size, Image.Resampling.BOX)
        out = io.BytesIO()
        small.save(out, "JPEG" if form == "jpg" else form, quality=quality)
        return out.getvalue()

    return work


CONTENDERS = {OURS: ours, RESIZER: resizer, KEEPING: resizer_keeping, PILLOW: pillow}


def serve(name: str, bodies: dict[str, bytes], pipe: Connection) -> None:
    """Answers (image, rounds) with the CPU milliseconds an image, and (image, 0) with the pixels it makes of it."""
    work, exact = CONTENDERS[name]("jpg", QUALITY), CONTENDERS[name]("png", 1)
    while request := pipe.recv():
        label, rounds = request
        if not rounds:
            pipe.send(np.asarray(Image.open(io.BytesIO(exact(bodies[label]))).convert("RGB")))
            continue
        work(bodies[label])
        begun = time.process_time()
        for _ in range(rounds):
            work(bodies[label])
        pipe.send((time.process_time() - begun) / rounds * 1000)


def asked(pipe: Connection, label: str, rounds: int) -> Any:
    pipe.send((label, rounds))
    return pipe.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="image files to measure besides")
    options = parser.parse_args()
    bodies = images() | {path.name: path.read_bytes() for path in options.photos}
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in CONTENDERS:
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, bodies, theirs), daemon=True).start()
    print(f"keep_ratio {SIZE}, jpg q{QUALITY}; ms CPU an image: median (least to most) of {options.repeats} repeats\n")
    for label, body in bodies.items():
        reference = asked(pipes[RESIZER], label, 0).astype(float)
        difference = asked(pipes[OURS], label, 0) - reference
        psnr = 10 * np.log10(255**2 / max(1e-9, float(np.mean(difference**2))))
        print(f"{label}, {len(body) / 1000:,.0f} kB: {psnr:.1f} dB, mean difference {np.abs(difference).mean():.2f}")
        rounds = max(3, 30_000_000 // (len(body) * 20))
        times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(options.repeats):
            for name, pipe in pipes.items():
                times[name].append(asked(pipe, label, rounds))
        own = statistics.median(times[OURS])
        for name, found in times.items():
            middle = statistics.median(found)
            print(f"    {name:22} {middle:7.2f} ({min(found):.2f} to {max(found):.2f})  x {middle / own:.2f}")
    for pipe in pipes.values():
        pipe.send(None)


if __name__ == "__main__":
    main()
