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
