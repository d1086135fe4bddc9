"""The meaning of `tile`: loads and stores that are checked, products, and reshaping of tiles.

What a GPU would do silently is an error here: a load or store outside of a tensor on an axis that
is not declared a boundary, and any position before the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ..attributes import DenseArrayAttr, TensorType, element_type, f32, is_float
from ..core import Operation
from ..diagnostics import op_error
from ..dialects.tile import (
    AtomicAddOp,
    BroadcastOp,
    DotOp,
    GatherOp,
    GroupRowsOp,
    LoadCodesOp,
    LoadOp,
    ProgramIdOp,
    ReduceOp,
    StoreOp,
)
from .call import Array, Call, Handler
from .rounding import TF32_DROPPED_BITS, drop_mantissa, numpy_dtype, round_array
from .storage import unpack
from .tensor import check_positions

Window = tuple[slice, ...]


def program_id(call: Call) -> Sequence[Array]:
    axis = ProgramIdOp(call.op).axis.value
    if not 0 <= axis < len(call.program):
        op_error(call.op, f"axis is {axis}, but the grid has {len(call.program)} axes")
    return [np.asarray(call.program[axis])]


def slice_memory(call: Call) -> Sequence[Array]:
    """The same memory at fixed leading indices."""
    source = call.operands[0]
    indices = [call.integer(i) for i in range(1, len(call.operands))]
    for axis, position in enumerate(indices):
        check_positions(call.op, np.asarray(position), source.shape[axis], axis)
    return [source[(*indices, ...)]]


class GroupedRows(np.ndarray[Any, np.dtype[Any]]):
    """Memory of (group, queries, ...) whose row r is [r % group, r // group].

    numpy has no view of this form where both are more than one, so indexing goes to `memory`, for
    reading and for writing; the array itself holds nothing.
    """

    memory: Array

    @staticmethod
    def of(memory: Array) -> GroupedRows:
        group, queries, *rest = memory.shape
        nothing = np.zeros((), memory.dtype)
        result = np.broadcast_to(nothing, (group * queries, *rest)).view(GroupedRows)
        result.memory = memory
        return result

    def __getitem__(self, key: Any) -> Any:
        return self.memory[self._inside(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.memory[self._inside(key)] = value

    def _inside(self, key: Any) -> Any:
        first, *rest = key
        rows = cast(Any, np.arange(self.shape[0])[first] if isinstance(first, slice) else first)
        return (rows % self.memory.shape[0], rows // self.memory.shape[0], *rest)


def group_rows(call: Call) -> Sequence[Array]:
    """The same memory, queries and the heads of one group as one axis."""
    source, group = call.operands[0], GroupRowsOp(call.op).group.value
    batch, first = call.integer(1), call.integer(2) * group
    for axis, position in ((0, batch), (1, first), (1, first + group - 1)):
        check_positions(call.op, np.asarray(position), source.shape[axis], axis)
    return [GroupedRows.of(source[batch, first : first + group])]


def load(call: Call) -> Sequence[Array]:
    op = LoadOp(call.op)
    assert isinstance(op.out.type, TensorType)
    shape = [d for d in op.out.type.shape if isinstance(d, int)]
    source = call.operands[0]
    inside, memory = _windows(call, source, shape, 1, op.boundary)
    tile = np.zeros(shape, source.dtype)
    tile[inside] = source[memory]
    return [tile]


def load_codes(call: Call) -> Sequence[Array]:
    """Whole rows are unpacked, and a tile is cut out of them; codes are whole numbers that every type holds."""
    op = LoadCodesOp(call.op)
    assert isinstance(op.out.type, TensorType)
    rows, channels = (d for d in op.out.type.shape if isinstance(d, int))
    start, first, source = call.integer(1), call.integer(2), call.operands[0]
    if first < 0:
        _out_of_range(call.op, first, channels, 1, op.width.value)
    if start < 0 or (start + rows > source.shape[0] and 0 not in op.boundary.values):
        _out_of_range(call.op, start, rows, 0, source.shape[0])
    stored = source[start : min(start + rows, source.shape[0]), 0 : source.shape[1]]
    found = unpack(stored, op.storage, len(stored))[:, first : first + channels]
    tile = np.zeros((rows, channels), numpy_dtype(op.out.type, call.precise))
    tile[: found.shape[0], : found.shape[1]] = found
    return [tile]


def store(call: Call) -> Sequence[Array]:
    tile, target = call.operands[:2]
    inside, memory = _windows(call, target, tile.shape, 2, StoreOp(call.op).boundary)
    target[memory] = tile[inside]
    return []


def atomic_add(call: Call) -> Sequence[Array]:
    """Add in memory; a sum of low precision is rounded each time, as hardware does."""
    tile, target = call.operands[:2]
    inside, memory = _windows(call, target, tile.shape, 2, AtomicAddOp(call.op).boundary)
    target[memory] = round_array(target[memory] + tile[inside], call.op.operands[1].type, call.precise)
    return []


def _windows(
    call: Call, memory: Array, shape: Sequence[int], first_offset: int, boundary: DenseArrayAttr
) -> tuple[Window, Window]:
    """The part of a tile that lies inside `memory`, and where it lies there."""
    inside: list[slice] = []
    outside: list[slice] = []
    for axis, (length, size) in enumerate(zip(shape, memory.shape, strict=True)):
        start = call.integer(first_offset + axis)
        if start < 0 or (start + length > size and axis not in boundary.values):
            _out_of_range(call.op, start, length, axis, size)
        count = min(length, max(0, size - start))
        inside.append(slice(0, count))
        outside.append(slice(start, start + count))
    return tuple(inside), tuple(outside)


def _out_of_range(op: Operation, start: int, length: int, axis: int, size: int) -> None:
    hint = "" if start < 0 else " and is not listed in 'boundary'"
    op_error(op, f"touches positions {start} to {start + length - 1} of axis {axis}, which has size {size}{hint}")


def gather(call: Call) -> Sequence[Array]:
    """Elements at positions; zero, and no access, where the mask is false."""
    op = GatherOp(call.op)
    source, *indices = call.operands
    mask = indices.pop() if op.masked is not None else np.asarray(True)
    *indices, mask = np.broadcast_arrays(*indices, mask)
    for axis, positions in enumerate(indices):
        check_positions(call.op, positions[mask], source.shape[axis], axis)
    found = np.zeros(mask.shape, source.dtype)
    found[mask] = source[tuple(positions[mask] for positions in indices)]
    return [found]


def dot(call: Call) -> Sequence[Array]:
    """acc + a b, in float32 at least; `tf32` rounds f32 factors to 10 bits of mantissa."""
    op = DotOp(call.op)
    a, b, acc = call.operands
    if op.precision.value == "tf32" and element_type(op.a.type) == f32 and not call.precise:
        a, b = (drop_mantissa(x, TF32_DROPPED_BITS) for x in (a, b))
    kept = np.result_type(acc.dtype, np.float32) if is_float(op.acc.type) else acc.dtype
    return [acc + np.matmul(a.astype(kept), b.astype(kept))]


def reduce(call: Call) -> Sequence[Array]:
    """The largest (nan passed over) or the sum along an axis; f16 is summed in f32."""
    op, x = ReduceOp(call.op), call.operands[0]
    if op.kind.value == "max":
        return [np.fmax.reduce(x, axis=op.axis.value)]
    kept = np.result_type(x.dtype, np.float32) if is_float(op.x.type) else x.dtype
    return [np.sum(x, axis=op.axis.value, dtype=kept)]


def broadcast(call: Call) -> Sequence[Array]:
    op = BroadcastOp(call.op)
    assert isinstance(op.out.type, TensorType)
    shape = [d for d in op.out.type.shape if isinstance(d, int)]
    return [np.broadcast_to(np.expand_dims(call.operands[0], op.axes.values), shape)]


def iota(call: Call) -> Sequence[Array]:
    type_ = call.op.result.type
    assert isinstance(type_, TensorType) and isinstance(type_.shape[0], int)
    return [np.arange(type_.shape[0])]


TILE: Mapping[str, Handler] = {
    "tile.program_id": program_id,
    "tile.slice": slice_memory,
    "tile.group_rows": group_rows,
    "tile.load": load,
    "tile.load_codes": load_codes,
    "tile.store": store,
    "tile.gather": gather,
    "tile.dot": dot,
    "tile.reduce": reduce,
    "tile.any": lambda call: [np.asarray(np.any(call.operands[0]))],
    "tile.broadcast": broadcast,
    "tile.transpose": lambda call: [call.operands[0].T],
    "tile.iota": iota,
    "tile.atomic_add": atomic_add,
}
