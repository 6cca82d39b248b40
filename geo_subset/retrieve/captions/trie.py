"""Names as a trie over words, found by hashing: (node, word) is looked up in one open-addressing table.

A slot is two uint64: the key, mixed from node and word (0: empty), and child << 32 | name + 1 (0 in the low half: no
name ends here). Words that begin a name have a table of their own, as most looks are for one, and it is small. Bitmaps
keep most words of a caption from touching the tables, whose slots are mostly far away in memory: of words that begin a
name, of those that are one by themselves, and of pairs of words that a name begins with (with them, of the other keys).
Words are 64-bit hashes: two of a million different words, or two keys, are taken for one another with a probability
below 1e-6 for all names together, and for a caption's word and some key below 1e-12.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geo_subset.compiled import compiled, inlined
from geo_subset.intrinsics import prefetch
from geo_subset.retrieve.captions import folding
from geo_subset.retrieve.captions.words import split

_NODE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_SIX = np.uint64(6)
_ELSEWHERE = np.uint64(24)
_BITS = np.uint64(63)
_ONE, _NONE = np.uint64(1), np.uint64(0)
_FILTER_WORDS, _STEP_WORDS = 1 << 15, 1 << 18
"""Rows of the bitmaps at most: 512 KB and 2 MB, which stay in a core's caches where the tables do not."""


@dataclass(frozen=True)
class Trie:
    """`firsts` and `slots` uint64 (S, 2): first words and those that go on; `starts` uint64 (B, 2) and `steps` uint64
    (B,): their bitmaps, of words that begin a name and that are one, and of what may follow. All sizes are powers
    of two. `names`: how many."""

    firsts: npt.NDArray[np.uint64]
    slots: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.uint64]
    steps: npt.NDArray[np.uint64]
    names: int


@inlined
def _key(node, word):  # type: ignore[no-untyped-def]
    key = (word ^ (np.uint64(node) * _NODE)) * _MIX
    key ^= key >> _HALF
    return key if key else _ONE


@inlined
def look_up(slots, node, word):  # type: ignore[no-untyped-def]
    """The slot's value for a word after a node; 0 if no name goes on like this."""
    key = _key(node, word)
    mask = np.uint64(slots.shape[0] - 1)
    place = key & mask
    while True:
        found = slots[place, 0]
        if found == key:
            return slots[place, 1]
        if found == 0:
            return np.uint64(0)
        place = (place + _ONE) & mask


@inlined
def _may_step(steps, before, word):  # type: ignore[no-untyped-def]
    """Whether some name may go on with the word after `before`: a node, or the hash of a name's first word."""
    bit = (_key(before, word) >> _ELSEWHERE) & np.uint64(steps.size * 64 - 1)
    return steps[bit >> _SIX] >> (bit & _BITS) & _ONE


@inlined
def may_start(starts, word):  # type: ignore[no-untyped-def]
    """Whether some name may begin with the word."""
    bit = word & np.uint64(starts.shape[0] * 64 - 1)
    return starts[bit >> _SIX, 0] >> (bit & _BITS) & _ONE


@inlined
def may_be_name(starts, word):  # type: ignore[no-untyped-def]
    """Whether the word may be a name by itself."""
    bit = word & np.uint64(starts.shape[0] * 64 - 1)
    return starts[bit >> _SIX, 1] >> (bit & _BITS) & _ONE


@inlined
def ask_ahead(starts, steps, before, word):  # type: ignore[no-untyped-def]
    """Asks for what will be looked at in the bitmaps for a word after another, and does not wait for it."""
    prefetch(starts, (word & np.uint64(starts.shape[0] * 64 - 1)) >> _SIX)
    prefetch(steps, (_key(before, word) >> _ELSEWHERE & np.uint64(steps.size * 64 - 1)) >> _SIX)


def starts_of(words: npt.NDArray[np.uint64], rows: int) -> npt.NDArray[np.uint64]:
    """A bitmap for `may_start` alone, (rows, 2), of names that begin with these words."""
    bits = words & np.uint64(rows * 64 - 1)
    found = np.zeros((rows, 2), np.uint64)
    np.bitwise_or.at(found[:, 0], bits >> _SIX, _ONE << (bits & _BITS))
    found.setflags(write=False)
    return found


@inlined
def find(firsts, slots, steps, hashes, bases, count, candidates, found):  # type: ignore[no-untyped-def]
    """Leftmost-longest names among the words: fills `found` int32 (M, 3) with (first word, word after, name).

    Where a name was found, the search goes on after it, so that names never overlap. The last word of a name may be a
    possessive of it, unless a name as long is called like the possessive itself. Returns how many.

    `found` has in its first `candidates` rows the words that may begin a name, and whether each may be one by itself;
    `hashes` and `bases` have room for one word more. What the walk will look at is asked for ahead, for all of these
    at once, so that the waits for memory overlap; until names take their rows, `found` holds (word, node, name).
    """
    if candidates == 0:
        return 0
    hashes[count] = bases[count] = _NONE
    kept = 0
    for candidate in range(candidates):
        word = np.uint64(found[candidate, 0])
        goes_on = _may_step(steps, hashes[word], hashes[word + _ONE])
        if bases[word + _ONE]:
            goes_on |= _may_step(steps, hashes[word], bases[word + _ONE])
        alone = found[candidate, 1]
        found[kept, 0], found[kept, 1] = word, goes_on
        prefetch(firsts, _key(_NONE, hashes[word]) & np.uint64(firsts.shape[0] - 1))
        kept += np.int64(goes_on) | np.int64(alone)
    for candidate in range(kept):
        word = np.uint64(found[candidate, 0])
        value = look_up(firsts, _NONE, hashes[word])
        node = value >> _HALF if found[candidate, 1] else _NONE
        found[candidate, 1], found[candidate, 2] = node, value & _LOW
        if node:
            prefetch(slots, _key(node, hashes[word + _ONE]) & np.uint64(slots.shape[0] - 1))
    number = 0
    done = 0
    for candidate in range(kept):
        word = np.int64(found[candidate, 0])
        if word < done:
            continue
        node, name = np.uint64(np.uint32(found[candidate, 1])), np.uint64(np.uint32(found[candidate, 2]))
        if name == 0 and bases[word]:
            name = look_up(firsts, _NONE, bases[word]) & _LOW
        at = stop = word + 1
        while node and at < count:
            value = _NONE
            if at == word + 1 or _may_step(steps, node, hashes[at]):
                value = look_up(slots, node, hashes[at])
            longer = value & _LOW
            if longer == 0 and bases[at]:
                longer = look_up(slots, node, bases[at]) & _LOW
            at += 1
            if longer:
                name, stop = longer, at
            node = value >> _HALF
        if name:
            found[number, 0], found[number, 1], found[number, 2] = word, stop, np.int64(name) - 1
            number += 1
            done = stop
    return number


@inlined
def _put(slots, key, nodes):  # type: ignore[no-untyped-def]
    """(the key's place, whether it is new there: the node of that number)."""
    mask = np.uint64(slots.shape[0] - 1)
    place = key & mask
    while slots[place, 0] != 0 and slots[place, 0] != key:
        place = (place + _ONE) & mask
    if slots[place, 0]:
        return place, False
    slots[place, 0] = key
    slots[place, 1] = nodes << _HALF
    return place, True


@compiled
def _insert(firsts, slots, starts, steps, words, offsets, names):  # type: ignore[no-untyped-def]
    """Puts every sequence of words into the tables; names[i] becomes the number of the distinct name, -1 for no word.

    Returns how many nodes there are, how many of them are of first words, and how many distinct names.
    """
    nodes = np.uint64(1)
    first_nodes = 0
    distinct = np.uint64(0)
    for i in range(offsets.size - 1):
        node = np.uint64(0)
        names[i] = -1
        for at in range(offsets[i], offsets[i + 1]):
            key = _key(node, words[at])
            if at == offsets[i]:
                table = firsts
                bit = words[at] & np.uint64(starts.shape[0] * 64 - 1)
                starts[bit >> _SIX, 0] |= _ONE << (bit & _BITS)
                if at + 1 == offsets[i + 1]:
                    starts[bit >> _SIX, 1] |= _ONE << (bit & _BITS)
            else:
                table = slots
                before = node if at > offsets[i] + 1 else words[at - 1]
                bit = (_key(before, words[at]) >> _ELSEWHERE) & np.uint64(steps.size * 64 - 1)
                steps[bit >> _SIX] |= _ONE << (bit & _BITS)
            place, new = _put(table, key, nodes)
            if new:
                nodes += _ONE
                first_nodes += at == offsets[i]
            if at + 1 == offsets[i + 1]:
                if table[place, 1] & _LOW == 0:
                    distinct += _ONE
                    table[place, 1] |= distinct
                names[i] = np.int64(table[place, 1] & _LOW) - 1
            node = table[place, 1] >> _HALF
    return nodes, first_nodes, distinct


@compiled
def _moved(slots, smaller):  # type: ignore[no-untyped-def]
    mask = np.uint64(smaller.shape[0] - 1)
    for i in range(slots.shape[0]):
        if slots[i, 0]:
            place = slots[i, 0] & mask
            while smaller[place, 0]:
                place = (place + _ONE) & mask
            smaller[place, 0], smaller[place, 1] = slots[i, 0], slots[i, 1]


@compiled
def _split_all(data, ends, entry, more, separators, words, offsets, hashes, bases, starts, stops, flags, before):  # type: ignore[no-untyped-def]
    total = 0
    for i in range(ends.size - 1):
        count = split(data, ends[i], ends[i + 1], entry, more, separators, hashes, bases, starts, stops, flags, before)
        for j in range(count):
            words[total + j] = hashes[j]
        total += count
        offsets[i + 1] = total
    return total


def split_texts(texts: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Hashes (W,) of the words of all texts (a string array; null has none), and offsets (N + 1,) of each text's."""
    texts = pa.array(texts, pa.large_string()).fill_null("")
    folds = folding.table()
    data, ends = buffers(texts)
    longest = int(np.diff(ends).max(initial=0)) + 2
    space = [np.empty(longest, kind) for kind in (np.uint64, np.uint64, np.int32, np.int32, np.uint8, np.uint8)]
    words = np.empty(len(data) + len(texts) + 1, np.uint64)
    offsets = np.zeros(len(texts) + 1, np.int64)
    total = _split_all(data, ends, folds.entry, folds.more, folds.separator, words, offsets, *space)
    return words[:total].copy(), offsets


def build(words: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64]) -> tuple[Trie, npt.NDArray[np.int64]]:
    """A trie of the names whose words are words[offsets[i]:offsets[i + 1]], and each one's number (-1: no words)."""
    firsts, slots = (np.zeros((_power_of_two(2 * count + 2), 2), np.uint64) for count in (len(offsets), len(words)))
    starts = np.zeros((min(_FILTER_WORDS, _power_of_two(4 * len(offsets) + 1)), 2), np.uint64)
    steps = np.zeros(min(_STEP_WORDS, _power_of_two(len(words) // 4 + 1)), np.uint64)
    names = np.empty(len(offsets) - 1, np.int64)
    nodes, first_nodes, distinct = _insert(firsts, slots, starts, steps, words, offsets, names)
    # Those that every caption asks for have room enough to be found at the first look.
    firsts, slots = _smaller(firsts, 2 * int(first_nodes)), _smaller(slots, int(nodes) - int(first_nodes))
    for array in (firsts, slots, starts, steps):
        array.setflags(write=False)
    return Trie(firsts, slots, starts, steps, int(distinct)), names


def _smaller(slots: npt.NDArray[np.uint64], keys: int) -> npt.NDArray[np.uint64]:
    """The same table with as many slots as so many keys need: what lies closer together is in a cache more often."""
    size = _power_of_two(keys * 3 // 2 + 2)
    if size >= len(slots):
        return slots
    smaller = np.zeros((size, 2), np.uint64)
    _moved(slots, smaller)
    return smaller


@compiled
def _numbers(firsts, slots, words, offsets, numbers):  # type: ignore[no-untyped-def]
    for i in range(offsets.size - 1):
        node = value = np.uint64(0)
        for at in range(offsets[i], offsets[i + 1]):
            value = look_up(slots if node else firsts, node, words[at])
            node = value >> _HALF
            if value == 0:
                break
        numbers[i] = np.int64(value & _LOW) - 1


def numbers(names: Trie, words: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The number of the name that each sequence of words is, -1 where it is none."""
    found = np.empty(len(offsets) - 1, np.int64)
    _numbers(names.firsts, names.slots, words, offsets, found)
    return found


def buffers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Bytes and offsets (N + 1,) of a large_string or large_binary array, without a copy; both are read-only."""
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int64, len(texts) + 1, texts.offset * 8)
    if data is None or data.size == 0:
        nothing = np.zeros(1, np.uint8)
        nothing.setflags(write=False)
        return nothing, offsets
    return np.frombuffer(data, np.uint8), offsets


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()
