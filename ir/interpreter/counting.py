"""Counts what kernels do while they run: operations of products, exponentials, bytes of each argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..attributes import FloatType, IntegerType, TensorType, Type, element_type
from ..core import Operation, Value
from ..dialects.tile import DotOp, GatherOp, GroupRowsOp, LoadCodesOp, LoadOp, SliceOp, StoreOp
from .call import Array

EXPONENTIALS = ("math.exp", "math.exp2")


@dataclass
class WorkCounter:
    """What kernels have done so far; `loaded` and `stored` are bytes by the names of their arguments.

    A multiply-add of a product counts as two operations, zeros that fill up a tile included. Only elements inside of
    a tensor count as loaded or stored.
    """

    flops: int = 0
    exponentials: int = 0
    loaded: Counter[str] = field(default_factory=Counter[str])
    stored: Counter[str] = field(default_factory=Counter[str])

    def note(self, op: Operation, operands: Sequence[Array], results: Sequence[Array]) -> None:
        """One execution of `op`."""
        if op.name in EXPONENTIALS:
            self.exponentials += int(np.size(results[0]))
        elif op.name == DotOp.op_name:
            self.flops += 2 * int(np.size(results[0])) * operands[0].shape[1]
        elif op.name == LoadOp.op_name:
            elements = _inside(operands[0], results[0].shape, operands[1:])
            self.loaded[_name(op.operands[0])] += elements * _bytes(op.operands[0])
        elif op.name == LoadCodesOp.op_name:
            self.loaded[_name(op.operands[0])] += _code_bytes(op, operands, results[0])
        elif op.name == GatherOp.op_name:
            self.loaded[_name(op.operands[0])] += _gathered(op, operands) * _bytes(op.operands[0])
        elif op.name == StoreOp.op_name:
            elements = _inside(operands[1], operands[0].shape, operands[2:])
            self.stored[_name(op.operands[1])] += elements * _bytes(op.operands[1])


def _inside(memory: Array, shape: Sequence[int], offsets: Sequence[Array]) -> int:
    """How many elements of a tile lie inside `memory`."""
    sides = zip(shape, memory.shape, offsets, strict=True)
    return int(np.prod([min(length, max(0, size - int(start))) for length, size, start in sides]))


def _code_bytes(op: Operation, operands: Sequence[Array], result: Array) -> int:
    """The part of whole rows of codes that a tile holds."""
    load, source = LoadCodesOp(op), operands[0]
    rows = min(result.shape[0], max(0, source.shape[0] - int(operands[1])))
    channels = min(result.shape[1], max(0, load.width.value - int(operands[2])))
    return rows * source.shape[1] * _bytes(op.operands[0]) * channels // load.width.value


def _gathered(op: Operation, operands: Sequence[Array]) -> int:
    """How many elements are read: those for which the mask holds."""
    if GatherOp(op).masked is None:
        return int(np.broadcast(*operands[1:]).size)
    return int(np.count_nonzero(np.broadcast_arrays(*operands[1:])[-1]))


def _name(memory: Value) -> str:
    """The kernel argument that `memory` is a part of."""
    while (part := SliceOp.producing(memory) or GroupRowsOp.producing(memory)) is not None:
        memory = part.source
    return memory.name_hint or "argument"


def _bytes(memory: Value) -> int:
    """Of an element; booleans take one byte, positions eight."""
    type_: Type = element_type(memory.type) if isinstance(memory.type, TensorType) else memory.type
    return max(1, type_.width // 8) if isinstance(type_, FloatType | IntegerType) else 8
