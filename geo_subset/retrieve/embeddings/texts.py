"""The places' vectors: search texts through the text tower of a CLIP model, or rows of a file.

Several texts of a place become one vector: each is encoded and normalised, the mean is normalised again. That is how
CLIP's zero-shot classifiers put the prompts of a class together (Radford et al., Learning Transferable Visual Models
From Natural Language Supervision, 2021, section 3.1.4: an ensemble in the space of embeddings, cached as one vector).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from geo_subset import inputs
from geo_subset.errors import SettingsError
from geo_subset.inputs import InputFile
from geo_subset.retrieve.embeddings import arrays, metadata
from geo_subset.retrieve.embeddings.arrays import Matrix
from geo_subset.retrieve.embeddings.metadata import Metadata
from geo_subset.retrieve.embeddings.vectors import Floats

MODEL, FILE = "retrieve.embeddings.model", "retrieve.embeddings.query_vectors"
#: Names that clip-retrieval's loader (all_clip) takes besides those of OpenAI's models.
_LOADERS = ("open_clip:", "hf_clip:", "nm:", "ja_clip:")
_BATCH = 256

Encode = Callable[[Sequence[str]], Floats]
"""Texts to vectors (n, columns) float32."""


def check_model(model: str) -> int | None:
    """How long the model's vectors are, where that can be told without loading it.

    Raises SettingsError: its library is not installed, or does not know the name or the pretrained tag.
    """
    if model.startswith(_LOADERS):
        if find_spec("all_clip") is None:
            raise SettingsError(f"{MODEL} = {model!r}: install clip-retrieval, whose loader knows such names")
        return None
    if find_spec("open_clip") is None:
        raise SettingsError(f"{MODEL} = {model!r}: pip install 'geo-subset[clip]', or name {FILE} instead")
    import open_clip

    name, _, pretrained = model.partition("/")
    if model.startswith(("hf-hub:", "local-dir:")):
        return None
    config = open_clip.get_model_config(name)
    if config is None:
        raise SettingsError(
            f"{MODEL} = {model!r}: open_clip knows no model {name!r} (open_clip.list_models() names them)"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise SettingsError(
            f"{MODEL} = {model!r}: {pretrained!r} is neither a checkpoint file nor one of {', '.join(tags)}; write "
            "'ViT-B-32/laion2b_s34b_b79k', a model and its weights"
        )
    return int(config["embed_dim"])


@lru_cache(maxsize=1)
def load(model: str, device: str) -> Encode:
    """The text tower of a model, kept for the next chunk of the same process. Raises as `check_model` does."""
    check_model(model)
    import torch

    if model.startswith(_LOADERS):
        from all_clip import load_clip

        tower, _, tokenizer = load_clip(clip_model=model, use_jit=False, device=device)
    else:
        import open_clip

        name, _, pretrained = model.partition("/")
        whole = model.startswith(("hf-hub:", "local-dir:"))
        with _told(model):
            tower = open_clip.create_model(
                model if whole else name, None if whole else pretrained, device=device, precision="fp32"
            )
        tokenizer = open_clip.get_tokenizer(model if whole else name)
    tower.eval()

    def encode(texts: Sequence[str]) -> Floats:
        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                tokens = tokenizer(list(texts[start : start + _BATCH])).to(device)
                found.append(tower.encode_text(tokens).float().cpu().numpy())
        return np.concatenate(found).astype(np.float32)

    return encode


@contextlib.contextmanager
def _told(model: str) -> Any:
    try:
        yield
    except Exception as error:  # downloads and checkpoints fail in ways of their own
        raise SettingsError(f"{MODEL} = {model!r} cannot be loaded: {' '.join(str(error).split())}") from error


def of_places(queries: Sequence[Sequence[str]], encode: Encode) -> Floats:
    """A vector of length 1 for each place (n, columns) float32, from all its search texts."""
    vectors = encode([text for texts in queries for text in texts]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ends = np.cumsum([len(texts) for texts in queries])
    means = np.add.reduceat(vectors, [0, *ends[:-1]], axis=0)
    made: Floats = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    return made


def is_there(path: str) -> bool:
    """Whether there is such a file yet."""
    try:
        fs, root = fsspec.core.url_to_fs(path)
        return bool(fs.exists(root))
    except Exception:  # noqa: BLE001  # whatever is wrong is told when it is read
        return True


def find_file(path: str) -> InputFile:
    """The file of the places' vectors. Raises SettingsError if it is not there, or of no such kind."""
    if not path.lower().endswith((".npy", ".parquet")):
        raise SettingsError(f"{FILE} = {path!r}: it must be an .npy or a .parquet file, a row a place")
    return inputs.find(FILE, [path], [".npy", ".parquet"])[0]


def describe_file(path: str) -> Matrix | Metadata:
    """What a file of vectors holds. Raises SettingsError, naming it, if that is no matrix and no column of vectors."""
    file = find_file(path)
    if path.lower().endswith(".npy"):
        return arrays.describe(file.url, file.bytes, None)
    try:
        with fsspec.open(file.url, "rb") as stream:
            return metadata.vectors_in(file.url, pq.ParquetFile(stream))
    except SettingsError:
        raise
    except Exception as error:  # object stores raise kinds of their own
        raise SettingsError(f"{FILE} = {path!r} cannot be read: {' '.join(str(error).split())}") from error


def read_file(path: str, start: int, stop: int) -> npt.NDArray[np.floating]:
    """Rows [start, stop) of a file of vectors. Raises SettingsError if it cannot be read."""
    file = describe_file(path)
    if isinstance(file, Matrix):
        return next(arrays.read(file, start, stop, stop - start))
    return np.concatenate(list(metadata.vectors(file, start, stop, stop - start)))
