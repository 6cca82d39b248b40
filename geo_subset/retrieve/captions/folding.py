"""How code points become letters of words: case and accents folded, apostrophes dropped, everything else a boundary.

A code point's entry is an int32: SEPARATOR, DROPPED, or what it folds to in the low 21 bits with flags above. One that
folds to several (ß to ss) has MANY set, and the low bits point into `more`, where their number comes first.
"""

from __future__ import annotations

import sys
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

SEPARATOR, DROPPED = 0, -1
POINT = (1 << 21) - 1
UPPER, LOWER, ALONE, MANY = 1 << 24, 1 << 25, 1 << 26, 1 << 27
"""Upper case, lower case, a word by itself (scripts without spaces whose characters mean something), several."""

#: As typed and as typeset; Hawaiian's okina; the accents that are typed for want of one.
APOSTROPHES = "'’‘‛ʼʻʹ′`´＇"
#: What separates words, as a bit of a mask: how two words of a caption hang together is read from it.
SPACE, COMMA, STOP, OPEN, CLOSE, HYPHEN, OTHER = 1, 2, 4, 8, 16, 32, 64
_SEPARATORS = {
    SPACE: " \t\n\r\x0b\x0c\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))),
    COMMA: ",，、،",
    STOP: ".!?。！？।",
    OPEN: "([{（［【",
    CLOSE: ")]}）］】",
    HYPHEN: "-‐‑‒–—",
}
#: Marks that are accents of letters; those of other scripts (Thai, Devanagari) are vowels, and stay.
_ACCENTS = ((0x300, 0x370), (0x1AB0, 0x1B00), (0x1DC0, 0x1E00), (0x20D0, 0x2100), (0xFE20, 0xFE30))
_ALONE = (
    (0x3005, 0x3008), (0x3040, 0x3100), (0x31F0, 0x3200), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00),
    (0x20000, 0x40000),
)  # fmt: skip
_ZERO_WIDTH_SPACE = 0x200B


@dataclass(frozen=True)
class Folding:
    """`entry` int32 (0x110000,), one per code point; `more` int32 (M,); `separator` uint8 (0x3100,): its kind's bit."""

    entry: npt.NDArray[np.int32]
    more: npt.NDArray[np.int32]
    separator: npt.NDArray[np.uint8]


def fold(character: str) -> str:
    """What a character is compared as; '' if it is dropped, ' ' if it ends a word.

    Letters, digits and marks by their compatibility decomposition (NFKD) and full case folding, accents taken off.
    """
    if character in APOSTROPHES:
        return ""
    category = unicodedata.category(character)
    if category == "Cf":  # soft hyphens, joiners, marks of direction
        return " " if ord(character) == _ZERO_WIDTH_SPACE else ""
    if category[0] not in "LNM":
        return " "
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    kept = [c for c in folded if unicodedata.category(c)[0] in "LNM" and not _within(ord(c), _ACCENTS)]
    return unicodedata.normalize("NFC", "".join(kept))


@lru_cache(maxsize=1)
def table() -> Folding:
    """Every code point's entry, made in half a second from Python's own Unicode tables."""
    entry = np.zeros(sys.maxunicode + 1, np.int32)
    more: list[int] = []
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        category = unicodedata.category(character)
        if category[0] not in "LNM" and category != "Cf" and character not in APOSTROPHES:
            continue
        folded = fold(character)
        if folded in ("", " "):
            entry[point] = SEPARATOR if folded else DROPPED
            continue
        if len(folded) == 1:
            value = ord(folded)
        else:
            value = MANY | len(more)
            more += [len(folded), *map(ord, folded)]
        flags = UPPER if category in ("Lu", "Lt") else LOWER if category == "Ll" else 0
        entry[point] = value | flags | (ALONE if _within(ord(folded[0]), _ALONE) else 0)
    separator = np.full(0x10000, OTHER, np.uint8)
    for bit, characters in _SEPARATORS.items():
        separator[[ord(c) for c in characters]] = bit
    tables = Folding(entry, np.array([*more, 0], np.int32), separator)
    for array in (tables.entry, tables.more, tables.separator):
        array.setflags(write=False)  # as they come out of Ray's object store: one type, one compilation
    return tables


def _within(point: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(start <= point < stop for start, stop in ranges)
