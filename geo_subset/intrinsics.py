"""Single instructions that numba has no function for. Each takes what numba hands an intrinsic, used or not."""

# ruff: noqa: ARG001

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import unpack_tuple
from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing: Any, rows: Any, row: Any) -> tuple[Any, Any]:
    """Asks for the cache line that rows[row] of a C-contiguous array begins in, and does not wait for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        (stride, *_), byte = unpack_tuple(builder, array.strides), ir.IntType(8).as_pointer()
        start = builder.ptrtoint(array.data, stride.type)
        address = builder.inttoptr(builder.add(start, builder.mul(arguments[1], stride)), byte)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        call = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(call, [address, number(0), number(3), number(1)])  # to read, kept close, data
        return context.get_dummy_value()

    return types.void(rows, types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def eight_bytes(typing: Any, data: Any, at: Any) -> tuple[Any, Any]:
    """data[at:at + 8] of uint8 as one uint64, the first byte highest. Nothing is checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        eight = builder.bitcast(builder.gep(start, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.bswap(builder.load(eight, align=1))

    return types.uint64(data, types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def leading_zeros(typing: Any, value: Any) -> tuple[Any, Any]:
    """Zeros above the highest bit of a uint64 that is set; 64 if none is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.IntType(1)(0))

    return types.uint64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(typing: Any, value: Any) -> tuple[Any, Any]:
    """Zeros below the lowest bit of a uint64 that is set; 64 if none is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.uint64(types.uint64), generate
