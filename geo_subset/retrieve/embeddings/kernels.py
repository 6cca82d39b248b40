"""What runs once for every vector or candidate, compiled: plain loops over arrays that are handed in."""

from __future__ import annotations

# ruff: noqa: ARG001
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from geo_subset.compiled import compiled
from geo_subset.intrinsics import trailing_zeros

#: Columns of a padded vector are a multiple of this, so that halves stay even for long.
PAD = 16
#: Norms within this of 1 are left as they are: a unit vector rounded to float16 is within 2**-11 of it.
NORM_TOLERANCE = 1e-3
#: What `prepare` says of a row.
GOOD, NORMALISED, ZERO, NOT_FINITE = range(4)

_ROWS = 512  # of a tile that is scored exactly: they stay in cache
_CHUNK = 64  # scores looked at together: a few comparisons of vector registers, without a branch


@compiled
def tree_dot(a, b, work):  # type: ignore[no-untyped-def]
    """The product of two padded float32 vectors (d,), float64: products of halves are added while the length is even
    and over 16, what is left from left to right. `work` is float64 of d / 2.

    Products of two float32 are exact in float64, and this order does not depend on how wide a processor's registers
    are, so a score is the same number on every machine, in torch (`device.exact`), and in triton (`triton_kernels`).
    """
    half = len(a) // 2
    for c in range(half):
        work[c] = np.float64(a[c]) * np.float64(b[c]) + np.float64(a[half + c]) * np.float64(b[half + c])
    while half > 16 and half % 2 == 0:
        half //= 2
        for c in range(half):
            work[c] += work[half + c]
    total = work[0]
    for c in range(1, half):
        total += work[c]
    return total


@compiled
def widen(halves, out, bits, status):  # type: ignore[no-untyped-def]
    """Rows of float16, given by their bits (n, columns) uint16, into `out` (n, d) float32, padded by zeros.

    `bits` is `out` seen as uint32. `status` (n,) uint8 becomes NOT_FINITE where a row holds NaN or infinity.
    """
    scale = np.float32(2.0**112)  # the bias of float32's exponents over that of float16's: subnormals come right too
    for i in range(halves.shape[0]):
        given, line, row = halves[i], bits[i], out[i]
        for c in range(len(given)):
            line[c] = np.uint32(given[c] & np.uint16(0x7FFF)) << np.uint32(13)
        beyond = np.int32(0)
        for c in range(len(given)):
            row[c] *= scale
            beyond += np.int32(row[c] > np.float32(65504.0))  # what infinity and NaN have become
        for c in range(len(given)):
            line[c] |= np.uint32(given[c] & np.uint16(0x8000)) << np.uint32(16)
        for c in range(len(given), len(row)):
            row[c] = np.float32(0.0)
        if beyond:
            status[i] = NOT_FINITE


@compiled
def normalise(out, status, work):  # type: ignore[no-untyped-def]
    """Divides those rows of `out` (n, d) by their norm for which it is not within NORM_TOLERANCE of 1, in place.

    `status` (n,) uint8 comes in as NOT_FINITE or GOOD and goes out as what was found. Rows that are ZERO or NOT_FINITE
    become zeros. `work` is float64 (d / 2,).
    """
    for i in range(out.shape[0]):
        row = out[i]
        square = tree_dot(row, row, work)
        if status[i] == NOT_FINITE or not np.isfinite(square):
            status[i] = NOT_FINITE
            for c in range(len(row)):
                row[c] = np.float32(0.0)
        elif square == 0.0:
            status[i] = ZERO
        elif abs(np.sqrt(square) - 1.0) > NORM_TOLERANCE:
            status[i] = NORMALISED
            norm = np.sqrt(square)
            for c in range(len(row)):
                row[c] = np.float32(np.float64(row[c]) / norm)


@compiled
def kth_largest(values, count, k):  # type: ignore[no-untyped-def]
    """The k-th largest (1 is the largest) of the first `count` values, float32 between -2 and 2, as scores are.

    Bisection between neighbouring numbers: to count what lies above a number takes one comparison of a vector register
    after another, where quickselect, four times as slow, takes a branch that nobody can foresee for every value.
    """
    part = values[:count]
    low, high = np.float32(-2.0), np.float32(2.0)
    while True:
        middle = np.float32(0.5) * (low + high)
        if middle <= low or middle >= high:
            return low
        above = np.int32(0)
        for i in range(len(part)):
            above += np.int32(part[i] >= middle)
        if above >= k:
            low = middle
        else:
            high = middle


@compiled
def settle(best_s, best_r, held, new_s, new_r, fill, scores):  # type: ignore[no-untyped-def]
    """Keeps the k best of the `held` rows of a query and of the `fill` new ones, all with exact scores.

    Lists are by row, and of equal scores the first stay. Returns how many are held and the score that a later row has
    to exceed. `new_s`, `new_r` and `scores` are overwritten.
    """
    k = len(best_s)
    floor = np.float32(-np.inf)
    if held == k:
        floor = best_s[0]
        for i in range(1, k):
            floor = min(floor, best_s[i])
    count = 0
    for i in range(fill):
        if new_s[i] > floor:
            new_s[count], new_r[count] = new_s[i], new_r[i]
            count += 1
    if held + count > k:
        for i in range(held):
            scores[i] = best_s[i]
        for i in range(count):
            scores[held + i] = new_s[i]
        cut = kth_largest(scores, held + count, k)
        equal = k
        for i in range(held):
            equal -= int(best_s[i] > cut)
        for i in range(count):
            equal -= int(new_s[i] > cut)
        kept = 0
        for i in range(held):
            if best_s[i] > cut or (best_s[i] == cut and equal > 0):
                equal -= int(best_s[i] == cut)
                best_s[kept], best_r[kept] = best_s[i], best_r[i]
                kept += 1
        for i in range(count):
            if new_s[i] > cut or (new_s[i] == cut and equal > 0):
                equal -= int(new_s[i] == cut)
                best_s[kept], best_r[kept] = new_s[i], new_r[i]
                kept += 1
        return kept, cut
    for i in range(count):
        best_s[held + i], best_r[held + i] = new_s[i], new_r[i]
    if held + count < k:
        return held + count, np.float32(-np.inf)
    for i in range(held + count):
        scores[i] = best_s[i]
    return k, kth_largest(scores, k, k)


@compiled
def _margin(score, error, rounding):  # type: ignore[no-untyped-def]
    return np.float32(np.float64(error) + np.float64(rounding) * abs(np.float64(score)))


@compiled
def reach(floor, error, rounding):  # type: ignore[no-untyped-def]
    """What an approximate score must reach so that the exact one may exceed `floor`."""
    if floor == -np.inf:
        return floor
    return np.float32(floor - _margin(floor, error, rounding))


@intrinsic  # type: ignore[untyped-decorator]
def _score(typing: Any, number: Any) -> tuple[Any, Any]:
    """A score of a tile as float32: bfloat16 comes as its bits, an int16, and is the upper half of a float32."""
    halves = isinstance(number, types.Integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not halves:
            return arguments[0]
        bits = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(number), generate


@intrinsic  # type: ignore[untyped-decorator]
def _comparable(typing: Any, bound: Any, like: Any) -> tuple[Any, Any]:
    """`bound`, float32, as a tile's numbers are, such as `like`: only those from it on may be scores of at least that.

    Seen as signed integers, the bits of floats of which one is positive are in the order of the floats, so that no
    score has to be made a float32 before it is known to count. Where `bound` is not positive, all numbers may.
    """
    halves = isinstance(like, types.Integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not halves:
            return arguments[0]
        word, short = ir.IntType(32), ir.IntType(16)
        bits = builder.bitcast(arguments[0], word)
        upper = builder.trunc(builder.lshr(builder.add(bits, word(0xFFFF)), word(16)), short)
        positive = builder.fcmp_ordered(">", arguments[0], ir.Constant(ir.FloatType(), 0.0))
        return builder.select(positive, upper, short(-0x8000))

    return like(types.float32, like), generate


@intrinsic  # type: ignore[untyped-decorator]
def _reaching(typing: Any, line: Any, at: Any, bound: Any) -> tuple[Any, Any]:
    """Which of the 64 numbers line[at:at + 64] are at least `bound`, as bits of a uint64. Nothing is checked."""
    halves = isinstance(line.dtype, types.Integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        chunk = ir.VectorType(data.type.pointee, _CHUNK)
        numbers = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), chunk.as_pointer()), align=2)
        one = builder.insert_element(ir.Constant(chunk, ir.Undefined), arguments[2], ir.IntType(32)(0))
        same = ir.Constant(ir.VectorType(ir.IntType(32), _CHUNK), [0] * _CHUNK)
        bounds = builder.shuffle_vector(one, ir.Constant(chunk, ir.Undefined), same)
        compare = builder.icmp_signed if halves else builder.fcmp_ordered
        return builder.bitcast(compare(">=", numbers, bounds), ir.IntType(64))

    return types.uint64(line, types.int64, line.dtype), generate


@compiled
def _make_room(best_s, held, lower, new_s, new_r, fill, scores, error, rounding):  # type: ignore[no-untyped-def]
    """Drops what cannot be among the k best, by approximate scores alone. Returns fill and lower bound."""
    k = len(best_s)
    if held + fill < k:
        return fill, lower
    for i in range(held):
        scores[i] = best_s[i]
    for i in range(fill):
        scores[held + i] = new_s[i]
    # k rows score at least `kth` in approximation, so the k-th best exact score is at least kth less one margin, and
    # a row among the best has an approximate score of at least kth less two.
    kth = kth_largest(scores, held + fill, k)
    lower = max(lower, np.float32(kth - 2 * _margin(kth, error, rounding)))
    kept = 0
    for i in range(fill):
        if new_s[i] >= lower:
            new_s[kept], new_r[kept] = new_s[i], new_r[i]
            kept += 1
    return kept, lower


@compiled
def collect(  # type: ignore[no-untyped-def]
    tile, start, first, usable, queries, vectors, error, rounding,
    best_s, best_r, held, lower, new_s, new_r, fill, scores, work,
):  # fmt: skip
    """Takes what may be among the best out of a tile of approximate scores (queries, rows), float32 or the bits of
    bfloat16 as int16.

    The tile's first row is row `start` of the block `vectors` (n, d), whose own first row has the number `first`.
    `usable` (n,) says which rows count. Approximate scores are within `error` + `rounding` x |score| of exact ones.
    Per query: `best_s`, `best_r` (queries, k) and `held` what is kept with exact scores, `lower` what an approximate
    score must reach, `new_s`, `new_r` (queries, capacity) and `fill` what has come since, with approximate ones.
    """
    capacity = new_s.shape[1]
    for q in range(tile.shape[0]):
        line = tile[q]
        least = lower[q]
        bound = _comparable(least, line[0])
        count = fill[q]
        for j in range(0, len(line), _CHUNK):
            if j + _CHUNK <= len(line):
                found = _reaching(line, j, bound)
            else:
                found = np.uint64(0)
                for i in range(len(line) - j):
                    found |= np.uint64(line[j + i] >= bound) << np.uint64(i)
            while found:
                i = j + np.int64(trailing_zeros(found))
                found &= found - np.uint64(1)
                score = _score(line[i])
                if score < least or not usable[start + i]:
                    continue
                if count == capacity:
                    count, least = _make_room(
                        best_s[q], held[q], least, new_s[q], new_r[q], count, scores, error, rounding
                    )
                    if count > capacity - capacity // 4:  # too many are as good as one another
                        for n in range(count):
                            vector = vectors[new_r[q, n] - first]
                            new_s[q, n] = np.float32(tree_dot(queries[q], vector, work))
                        held[q], floor = settle(best_s[q], best_r[q], held[q], new_s[q], new_r[q], count, scores)
                        count, least = 0, max(least, reach(floor, error, rounding))
                    bound = _comparable(least, line[i])
                    if score < least:
                        continue
                new_s[q, count] = score
                new_r[q, count] = first + start + i
                count += 1
        fill[q] = count
        lower[q] = least


@compiled
def close(  # type: ignore[no-untyped-def]
    first, queries, vectors, error, rounding, best_s, best_r, held, floor, new_s, new_r, fill, lower, scores, at, work
):
    """Ends a block: what has come is scored exactly, and `floor` is the k-th best exact score from now on.

    Scoring goes by tiles of rows, so that a row is fetched from memory once for all queries. `at` is int64 (queries,).
    """
    for q in range(queries.shape[0]):
        fill[q], _ = _make_room(best_s[q], held[q], lower[q], new_s[q], new_r[q], fill[q], scores, error, rounding)
        at[q] = 0
    for start in range(0, vectors.shape[0], _ROWS):
        stop = first + start + _ROWS
        for q in range(queries.shape[0]):
            i = at[q]
            while i < fill[q] and new_r[q, i] < stop:
                new_s[q, i] = np.float32(tree_dot(queries[q], vectors[new_r[q, i] - first], work))
                i += 1
            at[q] = i
    for q in range(queries.shape[0]):
        held[q], floor[q] = settle(best_s[q], best_r[q], held[q], new_s[q], new_r[q], fill[q], scores)
        fill[q] = 0


@compiled
def greedy(vectors, similar, first, kept, count, limit, threshold, doubt, work):  # type: ignore[no-untyped-def]
    """Goes on with removing near-duplicates, through one batch of a place's candidates, best first.

    `vectors` (n, d) are all candidates, the batch begins with number `first`, `similar` (batch, first + batch) are its
    approximate cosines to those up to and with itself. `kept` lists the numbers of the `count` that stay so far, at
    most `limit`. Cosines within `doubt` of the threshold are computed exactly. Returns how many stay, and how many of
    the batch were looked at.
    """
    for i in range(similar.shape[0]):
        if count == limit:
            return count, i
        alone = True
        for j in range(count):
            cosine = np.float64(similar[i, kept[j]])
            if abs(cosine - threshold) <= doubt:
                cosine = tree_dot(vectors[first + i], vectors[kept[j]], work)
            if cosine > threshold:
                alone = False
                break
        if alone:
            kept[count] = first + i
            count += 1
    return count, similar.shape[0]
