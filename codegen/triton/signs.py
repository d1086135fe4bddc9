"""Which integers of a kernel can be shown never to be negative."""

from __future__ import annotations

from ...ir.attributes import FloatAttr, IntegerAttr, SplatAttr
from ...ir.core import Operation, Value
from ...ir.dialects.arith import ConstantOp
from ...ir.dialects.scf import ForOp

_ALWAYS = ("tensor.dim", "tile.program_id", "tile.iota", "math.absi", "arith.extui")
_IF_ALL_OPERANDS = (
    "arith.addi", "arith.muli", "arith.divsi", "arith.floordivsi", "arith.minsi", "arith.ori", "arith.xori",
    "arith.index_cast", "arith.extsi", "tile.broadcast", "tile.transpose",
)  # fmt: skip
_IF_ANY_OPERAND = ("arith.maxsi", "arith.andi")


def never_negative(value: Value) -> bool:
    """Whether an integer (or every element of a tile) is at least 0, overflow aside."""
    if (op := value.defining_op) is None:
        return _counts_up(value)
    if op.name == ConstantOp.op_name:
        return _constant(op) >= 0
    if op.name in _IF_ALL_OPERANDS:
        return all(never_negative(v) for v in op.operands)
    if op.name in _IF_ANY_OPERAND:
        return any(never_negative(v) for v in op.operands)
    if op.name == "arith.remsi":
        return never_negative(op.operands[0])
    if op.name == "arith.select":
        return all(never_negative(v) for v in op.operands[1:])
    return op.name in _ALWAYS


def _counts_up(value: Value) -> bool:
    """A loop's position starts at the lower bound and grows."""
    loop = None if isinstance(value.owner, Operation) or value.owner.parent is None else value.owner.parent.parent
    match = ForOp.match(loop)
    return match is not None and value.index == 0 and never_negative(match.lower)


def _constant(op: Operation) -> float:
    value = op.properties["value"]
    scalar = value.value if isinstance(value, SplatAttr) else value
    assert isinstance(scalar, IntegerAttr | FloatAttr)
    return scalar.value
