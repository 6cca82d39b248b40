"""Words of text that is plain ASCII, as most captions are: what `words.split` finds, in less time (compiled).

Sixty-four bytes at a time are classified by comparisons of vector registers. Where letters and digits begin and end is
then a matter of bits, and the words follow one another without a branch that depends on their bytes. Only of a caption
with apostrophes the words that hold one are read byte by byte.
"""

# ruff: noqa: ARG001

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from geo_subset.compiled import compiled, inlined
from geo_subset.intrinsics import eight_bytes, trailing_zeros
from geo_subset.retrieve.captions.trie import ask_ahead
from geo_subset.retrieve.captions.words import ALL_CAPITALS, CAPITAL, HAS_LOWER, SEED, S, appended, entity, mixed, whole

CHUNK = 64
#: Apostrophes, as typed and by an accent: they are part of a word, but not of its letters. Where an entity may begin.
_QUOTE, _ACCENT, _AMPERSAND = b"'`&"
_ONE, _THREE, _SIX, _EIGHT, _SIXTEEN, _LAST, _BITS, _TWICE = (np.uint64(n) for n in (1, 3, 6, 8, 16, 63, 64, 128))
_ALL, _NONE = np.uint64((1 << 64) - 1), np.uint64(0)
#: A word's flags by whether its first letter is upper case (1), it has lower case (2), and more than one character (4).
_FLAGS = np.array(
    [
        CAPITAL * (n & 1) | HAS_LOWER * (n >> 1 & 1) | (ALL_CAPITALS if n & 7 == 5 else 0)
        for n in range(8)
    ],
    np.uint8,
)  # fmt: skip


@intrinsic  # type: ignore[untyped-decorator]
def _classify(typing: Any, data: Any, at: Any, folded: Any, to: Any) -> tuple[Any, Any]:
    """Of data[at:at + 64], uint8, as bits of uint64: letters and digits, upper case, lower case, apostrophes,
    ampersands, and what is not ASCII. The bytes in lower case go to folded[to:to + 64]. Nothing is checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, word = ir.VectorType(ir.IntType(8), CHUNK), ir.IntType(64)

        def all_of(value: int) -> Any:
            return ir.Constant(lanes, [value] * CHUNK)

        def among(values: Any, first: bytes, many: int) -> Any:
            return builder.icmp_unsigned("<", builder.sub(values, all_of(first[0])), all_of(many))

        def from_(array: int) -> Any:
            kind, value, first = signature.args[array], arguments[array], arguments[array + 1]
            bytes_ = context.make_array(kind)(context, builder, value).data
            return builder.bitcast(builder.gep(bytes_, [first]), lanes.as_pointer())

        source, target = from_(0), from_(2)
        given = builder.load(source, align=1)
        small = builder.or_(given, all_of(32))
        letters, lower = among(small, b"a", 26), among(given, b"a", 26)
        builder.store(builder.select(letters, small, given), target, align=1)
        quotes, accents, entities = (
            builder.icmp_unsigned("==", given, all_of(byte)) for byte in (_QUOTE, _ACCENT, _AMPERSAND)
        )
        upper = builder.and_(letters, builder.not_(lower))
        masks = (
            builder.or_(letters, among(given, b"0", 10)), upper, lower, builder.or_(quotes, accents), entities,
            builder.icmp_signed("<", given, all_of(0)),
        )  # fmt: skip
        return context.make_tuple(builder, signature.return_type, [builder.bitcast(mask, word) for mask in masks])

    return types.UniTuple(types.uint64, 6)(data, types.int64, folded, types.int64), generate


@inlined
def _any(masks, first, last):  # type: ignore[no-untyped-def]
    """Whether a bit from `first` up to and with `last` is set."""
    begin, end = first >> _SIX, last >> _SIX
    if begin == end:
        return (masks[begin] >> (first & _LAST)) << (_LAST - (last - first)) != _NONE
    found = masks[begin] >> (first & _LAST) | masks[end] << (_LAST - (last & _LAST))
    while begin + _ONE < end:
        begin += _ONE
        found |= masks[begin]
    return found != _NONE


@inlined
def _apostrophe(s, at):  # type: ignore[no-untyped-def]
    where = np.uint64(at)
    return s.quotes[where >> _SIX] >> (where & _LAST) & _ONE != _NONE


@inlined
def _word_with_apostrophes(s, first, last):  # type: ignore[no-untyped-def]
    """(where its first letter is, its letters, its hash, and what it is a possessive of) of the word in between."""
    word, part, owner, final = SEED, _NONE, _NONE, _NONE
    begin, letters, owned = first, 0, -1
    for at in range(first, last):
        if _apostrophe(s, at):
            owner, owned = whole(word, part), letters
            continue
        if letters == 0:
            begin = at
        final = np.uint64(s.folded[np.uint64(at)])
        word, part = appended(word, part, final)
        letters += 1
    return begin, letters, whole(word, part), owner if owned > 0 and owned + 1 == letters and final == S else _NONE


@inlined
def _between(data, start, first, last, separators, s):  # type: ignore[no-untyped-def]
    """Kinds of the separators in between, where some of what stands there may be apostrophes, which are none."""
    seen = np.uint8(0)
    for at in range(first, last):
        if not _apostrophe(s, at):
            seen |= separators[data[np.uint64(start + at)]]
    return seen


@inlined
def _edges(bits, at, number, s):  # type: ignore[no-untyped-def]
    """Adds what the bits say of the 64 bytes from `at` on to the `number` edges known. Returns how many there are."""
    while bits:
        s.edges[number] = at + np.int64(trailing_zeros(bits))
        bits &= bits - _ONE
        number += 1
    return number


@inlined
def _kinds(data, first, last, separators):  # type: ignore[no-untyped-def]
    """Kinds of the separators in data[first:last]: most often a space, or a comma and a space."""
    seen = np.uint8(0)
    if last > first:
        seen = separators[data[np.uint64(first)]] | separators[data[np.uint64(min(first + 1, last - 1))]]
        for at in range(first + 2, last):
            seen |= separators[data[np.uint64(at)]]
    return seen


@inlined
def _hash(s, first, letters):  # type: ignore[no-untyped-def]
    at, left = np.uint64(first), np.uint64(letters)
    word = SEED
    while left > _SIXTEEN:
        word = mixed(word, eight_bytes(s.folded, at))
        at += _EIGHT
        left -= _EIGHT
    one, other = eight_bytes(s.folded, at), eight_bytes(s.folded, at + _EIGHT)
    longer = left > _EIGHT
    word = mixed(word, one if longer else one >> (_BITS - (left << _THREE)))
    second = mixed(word, other >> ((_TWICE - (left << _THREE)) & _LAST))
    return second if longer else word


@inlined
def _put(s, n, first, last, letters):  # type: ignore[no-untyped-def]
    """Sets where word n is, and its flags."""
    s.begins[n], s.ends[n] = first, last
    begin = np.uint64(first)
    capital = s.upper[begin >> _SIX] >> (begin & _LAST) & _ONE
    has_lower = np.uint64(_any(s.lower, begin, np.uint64(last - 1)))
    s.flags[n] = _FLAGS[capital | has_lower << _ONE | np.uint64(letters > 1) << np.uint64(2)]


@inlined
def split_plain(data, start, stop, separators, starts, steps, s):  # type: ignore[no-untyped-def]
    """As `words.split`, into the arrays of `s` (features.Scratch); -1 if the text is not plain (it is not ASCII, or an
    HTML entity is in it), or ends so close to the end of `data` that it cannot be read by 64 bytes.

    Of text without apostrophes it asks for what will be looked at in the bitmaps of names (`trie.Trie`).
    """
    size = stop - start
    chunks = (size + CHUNK - 1) // CHUNK
    if start + chunks * CHUNK > data.size:
        return -1
    odd = carry = _NONE
    number = 0
    for chunk in range(chunks):
        at = chunk * CHUNK
        ours, upper, lower, quotes, entities, other = _classify(data, start + at, s.folded, at)
        other |= quotes | entities
        if at + CHUNK > size:
            inside = _ALL >> np.uint64(at + CHUNK - size)
            ours &= inside
            other &= inside
        s.upper[chunk], s.lower[chunk] = upper, lower
        odd |= other
        number = _edges(ours ^ (ours << _ONE | carry), at, number, s)  # where a word begins, or has ended
        carry = ours >> _LAST
    if odd:
        return _split_with_apostrophes(data, start, stop, separators, s)
    s.edges[number] = size
    words = (number + 1) >> 1
    ended = 0
    previous = _NONE
    for n in range(np.uint64(words)):
        first, last = np.int64(s.edges[n + n]), np.int64(s.edges[n + n + _ONE])
        s.before[n] = _kinds(data, start + ended, start + first, separators)
        word = _hash(s, first, last - first)
        s.hashes[n], s.bases[n] = word, _NONE
        ask_ahead(starts, steps, previous, word)
        previous = word
        _put(s, n, first, last, last - first)
        ended = last
    s.before[words] = _kinds(data, start + ended, stop, separators)
    return words


@compiled
def _split_with_apostrophes(data, start, stop, separators, s):  # type: ignore[no-untyped-def]
    """The same, but for text with apostrophes or ampersands, once it is known that it can be read by 64 bytes."""
    size = stop - start
    carry = _NONE
    number = 0
    for chunk in range((size + CHUNK - 1) // CHUNK):
        at = chunk * CHUNK
        ours, upper, lower, quotes, entities, other = _classify(data, start + at, s.folded, at)
        if at + CHUNK > size:
            inside = _ALL >> np.uint64(at + CHUNK - size)
            ours &= inside
            quotes &= inside
            entities &= inside
            other &= inside
        if other:
            return -1
        while entities:
            if entity(data, start + at + np.int64(trailing_zeros(entities)), stop):
                return -1
            entities &= entities - _ONE
        s.upper[chunk], s.lower[chunk], s.quotes[chunk] = upper, lower, quotes
        ours |= quotes
        number = _edges(ours ^ (ours << _ONE | carry), at, number, s)
        carry = ours >> _LAST
    s.edges[number] = size
    words = ended = 0
    for n in range(np.uint64((number + 1) >> 1)):
        run, last = np.int64(s.edges[n + n]), np.int64(s.edges[n + n + _ONE])
        first, letters, base = run, last - run, _NONE
        if _any(s.quotes, np.uint64(run), np.uint64(last - 1)):
            first, letters, word, base = _word_with_apostrophes(s, run, last)
            if letters == 0:
                continue
        else:
            word = _hash(s, first, letters)
        s.before[words] = _between(data, start, ended, run, separators, s)
        s.hashes[words], s.bases[words] = word, base
        _put(s, words, first, last, letters)
        ended = last
        words += 1
    s.before[words] = _between(data, start, ended, size, separators, s)
    return words
