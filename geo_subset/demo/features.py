"""Texts as unit vectors: words and the n-grams of their letters, hashed with signs into a fixed number of dimensions.

Feature hashing after Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (ICML 2009); n-grams
within word bounds as in fastText (Bojanowski et al., TACL 2017); words weighted by inverse document frequency. It knows
no meaning, yet a caption that holds a query's rare words is found, and so is one that spells them a little differently.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int64]
_Hashes = npt.NDArray[np.uint64]

DIMENSIONS = 1024
_NGRAMS = (3, 4, 5)
# A word takes several dimensions, so that two rarely collide; its n-grams have less say than the word itself. Chosen
# by the share of right images on 49,009 real captions; pairs of adjacent words as further terms made it worse.
_SPREAD = 8
_NGRAM_SHARE = np.float32(0.8)
_WORD = re.compile(r"[^\W_]+")
_CHUNK = 2048


@dataclass(frozen=True)
class Weights:
    """Inverse document frequency of each word, learned over a collection; `unseen` is that of any other word."""

    of_word: dict[str, float]
    unseen: float


def words(text: str) -> list[str]:
    """The distinct words of a text in lower case, accents dropped."""
    if text.isascii():
        folded = text.lower()
    else:
        decomposed = unicodedata.normalize("NFKD", text.casefold())
        folded = "".join(c for c in decomposed if not unicodedata.combining(c))
    return list(dict.fromkeys(_WORD.findall(folded)))


def learn(texts: Sequence[str]) -> Weights:
    """Weights ln(1 + N / n) for a word that n of the N texts hold (n = 1/2 for one that none does)."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in words(text):
            counts[word] = counts.get(word, 0) + 1
    size = max(len(texts), 1)
    numbers = np.fromiter(counts.values(), np.float64, len(counts))
    return Weights(dict(zip(counts, np.log1p(size / numbers).tolist(), strict=True)), float(np.log1p(2 * size)))


def embed(weights: Weights, texts: Sequence[str]) -> Vectors:
    """Unit vectors of shape (texts, DIMENSIONS), float32; a text without any word gives zeros."""
    result = np.zeros((len(texts), DIMENSIONS), np.float32)
    for start in range(0, len(texts), _CHUNK):
        result[start : start + _CHUNK] = _embed(weights, texts[start : start + _CHUNK])
    return result


def normalised(vectors: Vectors) -> Vectors:
    """The same directions at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Vectors = vectors / np.maximum(lengths, np.float32(1e-12))
    return result


def _embed(weights: Weights, texts: Sequence[str]) -> Vectors:
    numbers: dict[str, int] = {}
    of_text = [[numbers.setdefault(word, len(numbers)) for word in words(text)] for text in texts]
    word = np.array([number for row in of_text for number in row], np.int64)
    row = np.repeat(np.arange(len(texts)), [len(row) for row in of_text])
    starts, dimension, value = _features(list(numbers))
    weight = np.array([weights.of_word.get(name, weights.unseen) for name in numbers], np.float32)

    # Every (text, word) pair becomes as many entries as the word has features.
    length = np.diff(starts)[word]
    entry = np.arange(length.sum()) + np.repeat(starts[word] - (np.cumsum(length) - length), length)
    cell = np.repeat(row, length) * DIMENSIONS + dimension[entry]
    cells = np.bincount(cell, value[entry] * np.repeat(weight[word], length), len(texts) * DIMENSIONS)
    return normalised(cells.reshape(len(texts), DIMENSIONS).astype(np.float32))


def _features(names: list[str]) -> tuple[_Ints, _Ints, Vectors]:
    """Features of each word: those of word i are entries starts[i] to starts[i + 1] of (dimension, value)."""
    checksum = np.array([zlib.crc32(name.encode("utf-8", "replace")) for name in names], np.uint64)
    spread = checksum[:, None] * np.uint64(_SPREAD) + np.arange(_SPREAD, dtype=np.uint64)
    ngram_owner, ngrams = _ngrams(names)
    ngram_share = _NGRAM_SHARE / np.sqrt(np.bincount(ngram_owner, minlength=len(names)))[ngram_owner]

    owner = np.concatenate([np.repeat(np.arange(len(names)), _SPREAD), ngram_owner])
    value = np.concatenate([np.full(spread.size, _SPREAD**-0.5), ngram_share]).astype(np.float32)
    order = np.argsort(owner, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(names)))]).astype(np.int64)
    dimension, sign = _hashed(np.concatenate([spread.ravel(), ngrams])[order])
    return starts, dimension, value[order] * sign


def _ngrams(names: list[str]) -> tuple[_Ints, _Hashes]:
    """Hashes of the n-grams of the words, spaces around them included, and whose they are."""
    letters = np.frombuffer("".join(f" {name} " for name in names).encode("utf-32-le", "surrogatepass"), np.uint32)
    owner = np.repeat(np.arange(len(names)), [len(name) + 2 for name in names])
    owners: list[_Ints] = []
    hashes: list[_Hashes] = []
    for n in _NGRAMS:
        windows = max(len(letters) - n + 1, 0)
        value = np.full(windows, n, np.uint64)
        for offset in range(n):
            value = value * np.uint64(0x100000001B3) + letters[offset : offset + windows].astype(np.uint64)
        inside = owner[:windows] == owner[n - 1 : n - 1 + windows]
        owners.append(owner[:windows][inside])
        hashes.append(value[inside])
    return np.concatenate(owners), np.concatenate(hashes)


def _hashed(value: _Hashes) -> tuple[_Ints, Vectors]:
    """Dimension and sign of each hash, mixed as MurmurHash3 (public domain) does at its end."""
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    value = value ^ (value >> np.uint64(33))
    sign = (value >> np.uint64(63)).astype(np.float32) * np.float32(2) - np.float32(1)
    return (value % np.uint64(DIMENSIONS)).astype(np.int64), sign
