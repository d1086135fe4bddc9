"""How many machine instructions the elementwise arithmetic of a loop over key tiles is, counted on the tile IR.

One operation on a tile is one instruction for each element a thread holds, with these exceptions.
A product whose only use is a sum is one instruction with it. Two conversions to half precision are
one instruction. Constants, broadcasts and conversions between integers of 32 bits are none. A
function of the kernel library is as many as its text has operations, where exponentials and roots
are one each. What only moves, loads or reduces data is left out.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping

from attir.codegen.triton.library import LIBRARY
from attir.ir.attributes import IndexType, IntegerType, TensorType, element_type
from attir.ir.core import Operation, Value
from attir.ir.dialects.arith import AddFOp, MulFOp, SubFOp
from attir.ir.dialects.math import TanhOp
from attir.ir.dialects.tile import BroadcastOp

FREE = ("arith.constant",)
ARITHMETIC = ("arith", "math")
WARP = 32
LANES_OF_A_ROW = 4
"""Lanes of a warp that share each row of a product, so that a thread holds a quarter of the columns."""

HALVED: Mapping[str, float] = {"arith.truncf": 0.5}


def loop_arithmetic(loop: Operation, warps: int) -> float:
    """Instructions of one warp for the elementwise arithmetic of one step."""
    return sum(_instructions(op) * _elements(op.result, warps) for op in loop.walk() if _counts(op))


def _counts(op: Operation) -> bool:
    return op.name.partition(".")[0] in ARITHMETIC and op.name not in FREE and isinstance(op.result.type, TensorType)


def _instructions(op: Operation) -> float:
    """Of one element."""
    if op.name == "arith.index_cast" and all(_is_narrow(v) for v in (op.operands[0], op.result)):
        return 0.0
    if MulFOp.match(op) is not None and _joins_a_sum(op):
        return 0.0
    if (tanh := TanhOp.match(op)) is not None:
        return float(library_operations("tanh" if tanh.absolute is None else "tanh_of_cap"))
    return HALVED.get(op.name, 1.0)


def _is_narrow(value: Value) -> bool:
    """Whether elements are integers of 32 bits inside a kernel, as indices are."""
    type_ = element_type(value.type)
    return isinstance(type_, IndexType) or (isinstance(type_, IntegerType) and type_.width == 32)


def _joins_a_sum(op: Operation) -> bool:
    """Whether a product is used by one sum alone, which does not already take its other operand as a product."""
    if len(op.result.uses) != 1:
        return False
    (user,) = op.result.users
    if AddFOp.match(user) is None and SubFOp.match(user) is None:
        return False
    other = next((v for v in user.operands if v is not op.result), None)
    product = MulFOp.producing(other) if other is not None else None
    return product is None or user.operands[1] is op.result


def _elements(value: Value, warps: int) -> float:
    """How many elements of a tile one thread holds; rows and columns are held by all threads that need them."""
    assert isinstance(value.type, TensorType)
    sizes = [size for size in value.type.shape if isinstance(size, int)]
    if len(sizes) == 1:
        return sizes[0] / LANES_OF_A_ROW if _is_row_of_keys(value) else sizes[0] * LANES_OF_A_ROW / (warps * WARP)
    return math.prod(sizes) / (warps * WARP)


def _is_row_of_keys(value: Value) -> bool:
    """Whether a vector has an element for each key: what becomes of it is repeated along the axis of queries."""
    for user in value.users:
        broadcast = BroadcastOp.match(user)
        if broadcast is not None:
            return broadcast.axes.values == (0,)
        if user.results and _counts(user):
            return _is_row_of_keys(user.result)
    return False


def library_operations(name: str) -> int:
    """Operations in the text of a library function, a product and the sum that takes it as one."""
    found = 0
    for node in ast.walk(ast.parse(LIBRARY[name].strip())):
        if isinstance(node, ast.Call | ast.Compare | ast.BinOp):
            found += 1
        if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
            found += 1
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            found -= any(isinstance(x, ast.BinOp) and isinstance(x.op, ast.Mult) for x in (node.left, node.right))
    return found
