"""Words of UTF-8 text as hashes, straight from an Arrow string buffer (compiled).

A word is a run of letters, digits and marks as `folding` has them; a character that stands alone is a word. An HTML
entity for an apostrophe is one; any other entity is a boundary, as is a byte that is no UTF-8. Apostrophes are dropped,
but of a word that ends in one and an s it is known what it would be without.
"""

from __future__ import annotations

import numpy as np

from geo_subset.compiled import compiled, inlined
from geo_subset.intrinsics import eight_bytes, leading_zeros
from geo_subset.retrieve.captions.folding import (
    ALONE,
    DROPPED,
    LOWER,
    MANY,
    OTHER,
    POINT,
    SEPARATOR,
    UPPER,
)  # fmt: skip

#: Flags of a word: its first letter is upper case; it has lower case; it has more than one character and no lower case.
CAPITAL, HAS_LOWER, ALL_CAPITALS = 1, 2, 4
SEED = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0xD6E8FEB86659FD93)
_SHIFT, _TOP, _BYTE, _NONE = np.uint64(32), np.uint64(56), np.uint64(8), np.uint64(0)
_NO_ASCII = np.uint64(1 << 63)  # such a character is none of the eight
S = 115
_ALL, _LOW, _TWO, _THREE, _EIGHT, _BITS = (np.uint64(n) for n in ((1 << 64) - 1, 255, 2, 3, 8, 64))
_SEVEN, _HIGH, _CASE, _FROM_A, _AFTER_Z, _FROM_0, _AFTER_9 = (
    np.uint64(byte * 0x0101010101010101) for byte in (0x7F, 0x80, 0x20, 0x1F, 0x05, 0x50, 0x46)
)
_LONGEST_ENTITY = 8
#: Bytes between & and ; that stand for an apostrophe, read as a number in base 256 each.
_ENTITIES = np.array(
    [int.from_bytes(b, "big") for b in (b"#39", b"#039", b"#x27", b"apos", b"#8217", b"#8216", b"rsquo", b"lsquo")],
    np.int64,
)


@inlined
def _decode(data, at, stop):  # type: ignore[no-untyped-def]
    """(code point, bytes it takes) of UTF-8 at `at`; (-1, 1) for a byte that begins none, surrogates included."""
    lead = np.int32(data[at])
    if lead < 0xC2 or lead > 0xF4:
        return np.int32(-1), 1
    size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if at + size > stop:
        return np.int32(-1), 1
    point = lead & (0x7F >> size)
    for i in range(1, size):
        byte = np.int32(data[at + i])
        if byte & 0xC0 != 0x80:
            return np.int32(-1), 1
        point = point << 6 | (byte & 0x3F)
    if (size == 3 and (point < 0x800 or 0xD800 <= point < 0xE000)) or (size == 4 and not 0x10000 <= point < 0x110000):
        return np.int32(-1), 1
    return point, size


@compiled
def entity(data, at, stop):  # type: ignore[no-untyped-def]
    """Bytes of the HTML entity whose & is at `at`, negative if it is an apostrophe; 0 if there is none."""
    body = np.int64(0)
    for i in range(1, _LONGEST_ENTITY + 2):
        if at + i >= stop:
            return 0
        byte = data[at + i]
        if byte == 59:  # ;
            if i < 3:
                return 0
            for known in _ENTITIES:
                if body == known:
                    return -(i + 1)
            return i + 1
        letter = 48 <= byte < 58 or 65 <= byte < 91 or 97 <= byte < 123
        if not letter and not (byte == 35 and i == 1):
            return 0
        body = body << 8 | np.int64(byte)
    return 0


@inlined
def mixed(word, part):  # type: ignore[no-untyped-def]
    word = (word ^ part) * _PRIME
    return word ^ (word >> _SHIFT)


@inlined
def whole(word, part):  # type: ignore[no-untyped-def]
    """The hash of a word whose last characters, in ASCII, are still held in `part`."""
    return mixed(word, part) if part else word


@inlined
def appended(word, part, letter):  # type: ignore[no-untyped-def]
    """(word, part) with one more character of ASCII."""
    if part >> _TOP:
        return mixed(word, part), letter
    return word, part << _BYTE | letter


@inlined
def _character(word, part, point):  # type: ignore[no-untyped-def]
    """(word, part) with one more character: eight of ASCII are held, and then mixed in at once."""
    if point >= 128:
        return mixed(whole(word, part), np.uint64(point) | _NO_ASCII), _NONE
    return appended(word, part, np.uint64(point))


@inlined
def _flags(capital, lower, length):  # type: ignore[no-untyped-def]
    if capital == 0:
        return HAS_LOWER if lower else 0
    return CAPITAL | HAS_LOWER if lower else CAPITAL | ALL_CAPITALS if length > 1 else CAPITAL


@inlined
def _ascii(eight):  # type: ignore[no-untyped-def]
    """(how many of eight bytes are letters or digits of ASCII before one that is not, the bytes with letters in lower
    case, whether some of those many are in lower case). All eight at once, each in its part of a uint64."""
    low = eight & _SEVEN
    folded = low | _CASE
    # The highest bit of a byte's sum is set from the bound on.
    letters = (folded + _FROM_A) & ~(folded + _AFTER_Z) & _HIGH
    digits = (low + _FROM_0) & ~(low + _AFTER_9) & _HIGH
    letters &= ~eight
    other = ~(letters | (digits & ~eight)) & _HIGH
    many = leading_zeros(other) >> _THREE
    ours = ~(_ALL >> (many << _THREE)) if many < _EIGHT else _ALL
    return many, eight | (letters >> _TWO), (letters >> _TWO) & eight & ours != 0


@inlined
def split(data, start, stop, entry, more, separators, hashes, bases, starts, stops, flags, before):  # type: ignore[no-untyped-def]
    """Words of data[start:stop] (uint8) into the scratch arrays; returns how many.

    Args:
        data: uint8 (B,), an Arrow string buffer.
        entry, more, separators: `folding.Folding`'s tables.
        hashes: uint64, one per word. bases: uint64, what a possessive is of ("Boston" in "Boston's"), else 0.
        starts, stops: int32, its bytes counted from `start`. flags: uint8.
        before: uint8, kinds of separators before word i; that of index `n` is what follows the last word.
            All must hold stop - start + 2 entries.
    """
    count = 0
    seen = np.uint8(0)
    word, part = SEED, _NONE
    length = 0
    last = np.int32(0)
    lower = np.int32(0)
    capital = np.int32(0)
    owner, owned = _NONE, -1  # the word as it was before its last apostrophe, and how long it was then
    at = start
    first = start
    while at < stop:
        byte = data[np.uint64(at)]
        if byte < 128 and entry[byte] > 0:  # letters and digits of ASCII, most of most captions: nothing but hashing
            value = entry[byte]
            if length == 0:
                first = at
                capital = value & UPPER
            if part == 0 or part >> _TOP:
                while np.uint64(at) + _EIGHT <= np.uint64(stop):
                    many, folded, has_lower = _ascii(eight_bytes(data, np.uint64(at)))
                    if many == 0:
                        break
                    if part:
                        word = mixed(word, part)
                    part = folded >> (_BITS - (many << _THREE))
                    last = np.int32(part & _LOW)
                    lower |= np.int32(has_lower)
                    length += np.int64(many)
                    at += np.int64(many)
                    if many < _EIGHT:
                        break
                if at == stop:
                    break
                byte = data[np.uint64(at)]
                if byte >= 128:
                    continue
                value = entry[byte]
                if value <= 0:
                    continue
            while True:
                if part >> _TOP:
                    word, part = mixed(word, part), _NONE
                last = value & POINT
                part = part << _BYTE | np.uint64(last)
                lower |= value & LOWER
                length += 1
                at += 1
                if at == stop:
                    break
                byte = data[np.uint64(at)]
                if byte >= 128:
                    break
                value = entry[byte]
                if value <= 0:
                    break
            continue
        size = 1
        point = np.int32(byte)
        if byte >= 128:
            point, size = _decode(data, at, stop)
        elif byte == 38:  # &
            taken = entity(data, at, stop)
            if taken < 0:
                owner, owned = whole(word, part), length
                at -= taken
                continue
            size = max(1, taken)
        value = np.int32(SEPARATOR) if point < 0 else entry[point]
        if value == DROPPED:
            owner, owned = whole(word, part), length
            at += size
            continue
        alone = value & ALONE != 0
        if (value == SEPARATOR or alone) and length:
            hashes[count], starts[count], stops[count], before[count] = (
                whole(word, part),
                first - start,
                at - start,
                seen,
            )
            flags[count] = _flags(capital, lower, length)
            bases[count] = owner if owned > 0 and owned + 1 == length and last == S else _NONE
            count += 1
            seen, word, part, length, lower, owned = np.uint8(0), SEED, _NONE, 0, np.int32(0), -1
        if value == SEPARATOR:
            seen |= separators[point] if 0 <= point < separators.size else np.uint8(OTHER)
        else:
            if length == 0:
                first = at
                capital = value & UPPER
            lower |= value & LOWER
            length += 1
            if value & MANY:
                place = value & POINT
                last = np.int32(0)
                for i in range(1, more[place] + 1):
                    word, part = _character(word, part, more[place + i])
            else:
                last = value & POINT
                word, part = _character(word, part, last)
            if alone:
                hashes[count], starts[count], stops[count], before[count] = (
                    whole(word, part), first - start, at + size - start, seen
                )  # fmt: skip
                flags[count], bases[count] = 0, 0
                count += 1
                seen, word, part, length, lower, owned = np.uint8(0), SEED, _NONE, 0, np.int32(0), -1
        at += size
    if length:
        hashes[count], starts[count], stops[count], before[count] = (
            whole(word, part),
            first - start,
            stop - start,
            seen,
        )
        flags[count] = _flags(capital, lower, length)
        bases[count] = owner if owned > 0 and owned + 1 == length and last == S else _NONE
        count += 1
        seen = np.uint8(0)
    before[count] = seen
    return count
