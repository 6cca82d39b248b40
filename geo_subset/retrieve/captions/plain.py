"""Words of text that is plain ASCII, as most captions are: what `words.split` finds, in less time (compiled).

Sixty-four bytes at a time are classified by comparisons of vector registers. Where letters and digits begin and end is
then a matter of bits, and the words follow one another without a branch that depends on their bytes.
"""

# ruff: noqa: ARG001

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from geo_subset.compiled import inlined
from geo_subset.intrinsics import eight_bytes, trailing_zeros
from geo_subset.retrieve.captions.words import ALL_CAPITALS, CAPITAL, HAS_LOWER, SEED, mixed

CHUNK = 64
#: What is not plain: an apostrophe, as typed or by an accent, which belongs to a word, and the beginning of an entity.
_ODD = b"'`&"
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
    """Of data[at:at + 64], uint8, as bits of uint64: letters and digits, upper case, lower case, and what is not plain.
    The bytes in lower case go to folded[to:to + 64]. Nothing is checked."""

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
        odd = builder.icmp_signed("<", given, all_of(0))
        for byte in _ODD:
            odd = builder.or_(odd, builder.icmp_unsigned("==", given, all_of(byte)))
        upper = builder.and_(letters, builder.not_(lower))
        masks = (builder.or_(letters, among(given, b"0", 10)), upper, lower, odd)
        return context.make_tuple(builder, signature.return_type, [builder.bitcast(mask, word) for mask in masks])

    return types.UniTuple(types.uint64, 4)(data, types.int64, folded, types.int64), generate


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
def split_plain(data, start, stop, separators, s):  # type: ignore[no-untyped-def]
    """As `words.split`, into the arrays of `s` (features.Scratch); -1 if the text is not plain, or ends so close to
    the end of `data` that it cannot be read by 64 bytes."""
    size = stop - start
    chunks = (size + CHUNK - 1) // CHUNK
    if start + chunks * CHUNK > data.size:
        return -1
    odd = carry = _NONE
    number = 0
    for chunk in range(chunks):
        at = chunk * CHUNK
        ours, upper, lower, other = _classify(data, start + at, s.folded, at)
        if at + CHUNK > size:
            inside = _ALL >> np.uint64(at + CHUNK - size)
            ours &= inside
            other &= inside
        s.upper[chunk], s.lower[chunk] = upper, lower
        odd |= other
        edges = ours ^ (ours << _ONE | carry)  # where a word begins, or has ended
        carry = ours >> _LAST
        while edges:
            s.edges[number] = at + np.int64(trailing_zeros(edges))
            edges &= edges - _ONE
            number += 1
    if odd:
        return -1
    s.edges[number] = size
    words = (number + 1) >> 1
    ended = 0
    for n in range(np.uint64(words)):
        first, last = np.int64(s.edges[n + n]), np.int64(s.edges[n + n + _ONE])
        seen = np.uint8(0)
        if first > ended:  # most often a space, or a comma and a space
            near, next_ = np.uint64(start + ended), np.uint64(start + min(ended + 1, first - 1))
            seen = separators[data[near]] | separators[data[next_]]
            while ended + 2 < first:
                seen |= separators[data[np.uint64(start + ended + 2)]]
                ended += 1
        s.before[n] = seen
        at, left = np.uint64(first), np.uint64(last - first)
        word = SEED
        while left > _SIXTEEN:
            word = mixed(word, eight_bytes(s.folded, at))
            at += _EIGHT
            left -= _EIGHT
        one, other = eight_bytes(s.folded, at), eight_bytes(s.folded, at + _EIGHT)
        longer = left > _EIGHT
        word = mixed(word, one if longer else one >> (_BITS - (left << _THREE)))
        second = mixed(word, other >> ((_TWICE - (left << _THREE)) & _LAST))
        s.hashes[n], s.bases[n] = second if longer else word, _NONE
        s.begins[n], s.ends[n] = first, last
        begin = np.uint64(first)
        capital = s.upper[begin >> _SIX] >> (begin & _LAST) & _ONE
        has_lower = np.uint64(_any(s.lower, begin, np.uint64(last - 1)))
        s.flags[n] = _FLAGS[capital | has_lower << _ONE | np.uint64(last - first > 1) << np.uint64(2)]
        ended = last
    seen = np.uint8(0)
    while ended < size:
        seen |= separators[data[np.uint64(start + ended)]]
        ended += 1
    s.before[words] = seen
    return words
