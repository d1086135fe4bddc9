"""Reads elements that neighbouring columns share rows of, such as those of a dense mask, four at a time.

A vector holds one column of many rows, so that each of its elements lies in a row of memory of its
own. Where the columns of a tile are neighbours in memory too, four of them are loaded from each
row at once and transposed in registers, instead of being gathered one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.core import Value
from ...ir.dialects.tile import BroadcastOp, GatherOp
from .memory import stored_as, widened
from .values import View, shape_of
from .writer import Ssa, Writer, bytes_of, vector

RUN = 4
"""Columns that are read at once: what fits the 128-bit parts of a vector."""

FLOATS = ("f32", "f16", "bf16")
ELEMENTS = (*FLOATS, "i1", "i32")


@dataclass(frozen=True)
class ColumnRun:
    """Which index of a gather counts the columns of a row that is read; the others are numbers."""

    axis: int

    @staticmethod
    def of(op: GatherOp) -> ColumnRun | None:
        counting = [i for i, v in enumerate(op.indices) if shape_of(v.type)]
        if op.masked is not None or len(counting) != 1 or not _counts_columns(op.indices[counting[0]]):
            return None
        return ColumnRun(counting[0])


def reads_runs(op: GatherOp, element: str) -> bool:
    """Whether the last index counts columns, and the others and the mask have nothing to do with them."""
    count = len(op.indices) - (op.masked is not None)
    last, others = op.indices[count - 1], [*op.indices[: count - 1], *op.indices[count:]]
    return element in ELEMENTS and _counts_columns(last) and all(_same_in_all_columns(v) for v in others)


def _counts_columns(value: Value) -> bool:
    """column + a number that is the same for all columns"""
    op = value.defining_op
    if op is None:
        return False
    if op.name == "tile.broadcast":
        return tuple(BroadcastOp(op).axes.values) == (0,) and _counts_columns(op.operands[0])
    if op.name == "arith.addi":
        return sorted((_counts_columns(v), _is_number(v)) for v in op.operands) == [(False, True), (True, False)]
    return op.name == "tile.iota"


def _is_number(value: Value) -> bool:
    """One number in all places of a tile."""
    op = value.defining_op
    if op is None or op.name != "tile.broadcast":
        return op is not None and op.name == "arith.constant"
    return not shape_of(op.operands[0].type)


def _same_in_all_columns(value: Value) -> bool:
    """A number, or what is repeated from a tile along the rows."""
    op = value.defining_op
    if not shape_of(value.type) or _is_number(value):
        return True
    return op is not None and op.name == "tile.broadcast" and tuple(BroadcastOp(op).axes.values) == (1,)


def read_runs(w: Writer, view: View, start: Ssa, offsets: Sequence[Ssa], masks: Sequence[Ssa | None]) -> list[Ssa]:
    """RUN neighbouring columns from the address `start` on: for each column, a vector for each group of rows.

    `offsets` (i64 lanes, one vector for each group) say where rows begin; where a mask is false
    the result is 0, and nothing outside of the tensor is read.
    """
    groups = [_group(w, view, start, x, mask) for x, mask in zip(offsets, masks, strict=True)]
    return [group[column] for column in range(RUN) for group in groups]


def _group(w: Writer, view: View, start: Ssa, offsets: Ssa, mask: Ssa | None) -> list[Ssa]:
    lanes, memory = offsets.lanes, stored_as(view.element)
    if mask is not None:
        # A row that does not exist is read where the first one lies, and its numbers are dropped.
        offsets = w.select(mask, offsets, w.constant(0, offsets.type))
    parts: list[Ssa] = []
    for lane in range(lanes):
        found = w.load(w.at(start, w.extract(offsets, lane), memory), vector(memory, RUN), bytes_of(memory))
        parts.append(_as_word(w, found, view.element))
    columns = _transposed(w, parts, lanes)
    if view.element == "i1":
        columns = [w.compare("ne", x, w.constant(0, x.type)) for x in columns]
    if mask is None:
        return columns
    return [w.select(mask, x, w.constant(0, x.type)) for x in columns]


def _as_word(w: Writer, x: Ssa, element: str) -> Ssa:
    return w.cast("arith.extui", x, "i32") if element == "i1" else widened(w, x, element)


def _transposed(w: Writer, rows: list[Ssa], lanes: int) -> list[Ssa]:
    """`lanes` vectors of RUN numbers as RUN vectors of `lanes` numbers."""
    blocks = lanes // RUN
    wide: list[Ssa] = []
    for first in range(RUN):
        # Row first + RUN * b becomes part b of the vector.
        parts = rows[first::RUN]
        while len(parts) > 1:
            parts = [w.shuffle(x, y, range(2 * x.lanes)) for x, y in zip(parts[::2], parts[1::2], strict=True)]
        wide.append(parts[0])
    low = [lane for b in range(blocks) for i in (0, 1) for lane in (RUN * b + i, lanes + RUN * b + i)]
    high = [lane + 2 for lane in low]
    a, b, c, d = wide
    ab, ab2, cd, cd2 = (w.shuffle(x, y, p) for x, y in ((a, b), (c, d)) for p in (low, high))
    front = [lane for b in range(blocks) for lane in (RUN * b, RUN * b + 1, lanes + RUN * b, lanes + RUN * b + 1)]
    back = [lane + 2 for lane in front]
    return [w.shuffle(x, y, p) for x, y in ((ab, cd), (ab2, cd2)) for p in (front, back)]
