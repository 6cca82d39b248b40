"""Shrinks pictures by area: each pixel of the result is the mean of the part of the picture that it covers.

That is OpenCV's INTER_AREA to within a rounding, for a fifth of its CPU (INTER_AREA is quick for whole factors only).
Eight rows of the result are worked out side by side: first down, row upon row, then across, where a weight that is
loaded once serves all eight, and the channels of a pixel are the lanes of a register.

Weights and sums are float32, each addition by itself, so every processor comes to the same bytes.
"""

# ruff: noqa: ARG001

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from geo_subset.compiled import compiled

#: Rows of the result that are worked out together, and values that a register is taken to hold: a pixel's channels.
_ROWS, _LANES = 8, 4


def shrunk(image: Any, size: tuple[int, int], factors: tuple[float, float]) -> Any:
    """`image` (height, width) or (height, width, channels), uint8 with 1, 3 or 4 channels, at `size` (width, height).

    `factors` are pixels of `image` for one of the result, across and down, each at least 1; what the last pixels would
    cover beyond the picture's edge is left out of their mean.
    """
    (width, height), (across, down) = size, factors
    channels = 1 if image.ndim == 2 else image.shape[2]
    lines = image.reshape(image.shape[0], -1)
    taps = math.ceil(across) + 1
    out = np.empty((height, width * channels), np.uint8)
    rows = np.empty((_ROWS, lines.shape[1] + taps * channels + _LANES), np.float32)
    sums = np.empty((_ROWS, out.shape[1] + _LANES), np.float32)
    starts, weights = np.empty(width, np.uint64), np.empty((width, taps), np.float32)
    _shrink(lines, out, channels, across, down, starts, weights, rows, sums)
    return out.reshape(height, width, *image.shape[2:])


def bytes_needed(width: int, channels: int) -> int:
    """Of the room that `shrunk` works in, for a picture of this width, beside the result."""
    return 4 * (_ROWS * channels + 1) * width


@compiled
def _covered(at, factor, length, weights):  # type: ignore[no-untyped-def]
    """The pixels, of `length`, that pixel `at` of the result covers: the first; `weights` become their shares."""
    low = min(at * factor, length - 1.0)
    high = min(low + factor, np.float64(length))
    first = int(low)
    for n in range(len(weights)):
        weights[n] = max(0.0, min(high, first + n + 1.0) - max(low, np.float64(first + n))) / (high - low)
    return first


@compiled
def _shrink(lines, out, channels, across, down, starts, weights, rows, sums):  # type: ignore[no-untyped-def]
    """From `lines` (height, width x channels) to `out`; what else is handed in is room to work in."""
    length = lines.shape[1]
    for x in range(len(starts)):
        starts[x] = np.uint64(_covered(x, across, length // channels, weights[x]) * channels)
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            rows[r, c] = np.float32(0.0)  # a weight of zero may fall beyond the row's end, or on a row of none
    for top in range(0, out.shape[0], len(rows)):
        here = min(len(rows), out.shape[0] - top)
        for r in range(here):
            _mean_of_rows(lines, top + r, down, rows[r, :length])
        for x in range(len(starts)):
            _mean_across(sums, x * channels, rows, starts[x], weights, x, channels)
        for r in range(here):
            line, done = sums[r], out[top + r]
            for c in range(len(done)):
                done[c] = np.uint8(np.int32(line[c] + np.float32(0.5)))


@compiled
def _mean_of_rows(lines, at, factor, row):  # type: ignore[no-untyped-def]
    height = lines.shape[0]
    low = min(at * factor, height - 1.0)
    high = min(low + factor, np.float64(height))
    first, last = int(low), int(np.ceil(high))
    for y in range(first, last):
        weight = np.float32((min(high, y + 1.0) - max(low, np.float64(y))) / (high - low))
        line = lines[y]
        if y == first:
            for c in range(len(row)):
                row[c] = weight * np.float32(line[c])
        else:
            for c in range(len(row)):
                row[c] += weight * np.float32(line[c])


@intrinsic  # type: ignore[untyped-decorator]
def _mean_across(
    typing: Any, sums: Any, at: Any, rows: Any, start: Any, weights: Any, pixel: Any, step: Any
) -> tuple[Any, Any]:
    """sums[r, at + c] = sum over t of weights[pixel, t] * rows[r, start + t * step + c], for all r and each lane c.

    Of arrays in C order, float32. Nothing is checked. numba works on one lane at a time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, number = ir.VectorType(ir.FloatType(), _LANES), ir.IntType(32)
        to, at, source, start, factors, pixel, step = arguments
        to, source, factors = (
            context.make_array(kind)(context, builder, value)
            for kind, value in ((sums, to), (rows, source), (weights, factors))
        )
        to_length, length, taps = (cgutils.unpack_tuple(builder, a.shape)[1] for a in (to, source, factors))
        first_weight = builder.mul(pixel, taps)
        found = [cgutils.alloca_once_value(builder, ir.Constant(lanes, [0.0] * _LANES)) for _ in range(_ROWS)]
        with cgutils.for_range(builder, taps) as loop:
            weight = builder.load(builder.gep(factors.data, [builder.add(first_weight, loop.index)]))
            one = builder.insert_element(ir.Constant(lanes, ir.Undefined), weight, number(0))
            same = ir.Constant(ir.VectorType(number, _LANES), [0] * _LANES)
            weight = builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), same)
            position = builder.add(start, builder.mul(loop.index, step))
            for r, total in enumerate(found):
                value = _lanes_at(builder, source.data, position, r, length, lanes)
                product = builder.fmul(builder.load(value, align=4), weight)
                builder.store(builder.fadd(builder.load(total), product), total)
        for r, total in enumerate(found):
            builder.store(builder.load(total), _lanes_at(builder, to.data, at, r, to_length, lanes), align=4)
        return context.get_dummy_value()

    return types.void(sums, types.int64, rows, types.uint64, weights, types.int64, types.int64), generate


def _lanes_at(builder: Any, data: Any, position: Any, row: int, length: Any, lanes: Any) -> Any:
    position = builder.add(position, builder.mul(length, ir.Constant(length.type, row)))
    return builder.bitcast(builder.gep(data, [position]), lanes.as_pointer())
