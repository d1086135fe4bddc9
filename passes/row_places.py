"""Finds indices within a row that are the row's own position, however they are written, by trying all of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ..ir.core import Block, Operation, Value
from ..ir.dialects.arith import CmpIOp, IndexCastOp, SelectOp
from ..ir.dialects.tensor import ExtractOp
from .region_math import literal_of


def name_places(block: Block, extents: Mapping[Value, int]) -> None:
    """t[d % 2 == 0 ? d // 2 * 2 : d // 2 * 2 + 1]  →  t[d]

    `extents` are the positions there are of each coordinate along a row.
    """
    known: dict[Value, tuple[Value, list[int]] | None] = {c: (c, list(range(n))) for c, n in extents.items()}
    for op in _all_ops(block):
        if ExtractOp.match(op) is None:
            continue
        for number, index in enumerate(op.operands[1:], 1):
            found = _numbers(index, known)
            if found is not None and found[1] == list(range(len(found[1]))) and found[0] is not index:
                op.set_operand(number, found[0])


def _all_ops(block: Block) -> list[Operation]:
    return [inner for op in block.ops for inner in op.walk()]


def _numbers(value: Value, known: dict[Value, tuple[Value, list[int]] | None]) -> tuple[Value, list[int]] | None:
    """The one coordinate that an integer is computed from, and what it is at each of its positions."""
    if value not in known:
        known[value] = _computed(value, known)
    return known[value]


def _computed(value: Value, known: dict[Value, tuple[Value, list[int]] | None]) -> tuple[Value, list[int]] | None:
    op = value.defining_op
    meaning = None if op is None else _meaning(op)
    if op is None or meaning is None:
        return None
    constants = [literal_of(v) for v in op.operands]
    found = [_numbers(v, known) for v, c in zip(op.operands, constants, strict=True) if c is None]
    if not found or any(f is None for f in found) or len({id(f[0]) for f in found if f}) != 1:
        return None
    coordinate, numbers = next(f for f in found if f)
    columns = [
        [int(c)] * len(numbers) if c is not None else (_numbers(v, known) or (v, []))[1]
        for v, c in zip(op.operands, constants, strict=True)
    ]
    return coordinate, [int(meaning(row)) for row in zip(*columns, strict=True)]


def _meaning(op: Operation) -> Callable[[Sequence[int]], int] | None:
    """What an operation makes of integers."""
    if op.name == SelectOp.op_name:
        return lambda row: row[1] if row[0] else row[2]
    if op.name == IndexCastOp.op_name:
        return lambda row: row[0]
    compare = CmpIOp.match(op)
    binary = MEANINGS.get(op.name) if compare is None else COMPARISONS.get(compare.predicate_name)
    return None if binary is None else lambda row: binary(row[0], row[1])


Binary: TypeAlias = Callable[[int, int], int]

MEANINGS: Mapping[str, Binary] = {
    "arith.addi": operator.add,
    "arith.subi": operator.sub,
    "arith.muli": operator.mul,
    "arith.floordivsi": lambda x, y: x // y,
    "arith.minsi": min,
    "arith.maxsi": max,
    "arith.remsi": lambda x, y: abs(x) % abs(y) * (1 if x >= 0 else -1),
}
COMPARISONS: Mapping[str, Binary] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "slt": operator.lt,
    "sle": operator.le,
    "sgt": operator.gt,
    "sge": operator.ge,
}
