"""Writes operations on tiles as Gluon: Triton's text where the two languages agree, and where they do not, why.

Gluon's elementwise functions have Triton's names, so that arithmetic is written by Triton's emitters. What
differs is that a tile has a layout over threads, and that a program's rows are shared out to two groups of warps.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ...ir.attributes import TensorType
from ...ir.core import Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.tile import BroadcastOp, SliceOp, StoreOp
from ..triton import arithmetic, tiles
from ..triton.expression import Expression, call, index_with, infix, name
from ..triton.memory import advanced
from ..triton.places import argument_of, sizes_of
from ..triton.writer import Emitter, KernelWriter


@dataclass
class GluonWriter(KernelWriter):
    """The state of writing one kernel, of which each part becomes a function of its own.

    In the `epilogue`, numbers of rows go with tiles of the output, which have a layout of their own.
    """

    epilogue: bool = False

    def full(self, value: Value) -> Expression:
        x = self.operand(value)
        if isinstance(value.type, TensorType) and x.shape != sizes_of(value.type):
            op_error(self.kernel.operation, "has no warp-specialised form in Gluon: it needs a tile of equal numbers")
        return x

    def library_function(self, function: str) -> str:
        op_error(self.kernel.operation, f"has no warp-specialised form in Gluon: it needs the function '{function}'")

    def positions(self, extent: int) -> NoReturn:
        op_error(self.kernel.operation, f"has no warp-specialised form in Gluon: it counts {extent} positions anew")

    def _can_reuse(self, variable: str, op: Operation, shape: tuple[int, ...]) -> bool:
        """Never: functions are written apart, and read what others assigned."""
        return False

    def section(self, ops: Sequence[Operation], depth: int = 1) -> list[str]:
        """The lines for `ops`, apart from what was written before."""
        before, self.lines, self.depth = self.lines, [], depth
        self.body(ops)
        written, self.lines = self.lines, before
        return written


def skip(op: Operation, writer: KernelWriter) -> None:
    """Positions stand for variables of the function they are in, which the frame defines."""


def broadcast(op: Operation, writer: KernelWriter) -> None:
    """As in Triton; numbers of rows first get the layout of the tile they are for."""
    assert isinstance(writer, GluonWriter)
    x = writer.operand(BroadcastOp(op).x)
    if not writer.epilogue or not x.shape:
        tiles.broadcast(op, writer)
        return
    kept = [axis not in BroadcastOp(op).axes.values for axis in range(2)]
    writer.alias(op.result, index_with(call("tl.convert_layout", x, "OUTPUT_ROWS"), kept))


def slice_(op: Operation, writer: KernelWriter) -> None:
    """A pointer to the first element of a head of a result."""
    view = SliceOp(op)
    place, base = argument_of(view.source, writer), writer.operand(view.source)
    for axis, position in enumerate(view.indices):
        base = advanced(base, writer.operand(position), writer.stride(place.argument, place.first_axis + axis))
    writer.assign(op, base)


def store(op: Operation, writer: KernelWriter) -> None:
    """The rows of this group of warps, as far as there are so many; a tile goes out in the layout of memory."""
    view = StoreOp(op)
    place, shape = argument_of(view.target, writer), sizes_of(view.tile.type)
    strides = [writer.stride(place.argument, place.first_axis + axis) for axis in range(len(shape))]
    start = writer.operand(view.offsets[0])
    pointer = advanced(writer.operand(view.target), start, strides[0])
    tile, rows = writer.full(view.tile), name("rows", shape[:1])
    if len(shape) == 2:
        tile, rows = call("tl.convert_layout", tile, "STORED"), name("stored_rows[:, None]", (shape[0], 1))
        columns = infix("*", name("stored_columns[None, :]", (1, shape[1])), strides[1])
        pointer = infix("+", pointer, columns)
    pointer = infix("+", pointer, infix("*", rows, strides[0]))
    mask = infix("<", infix("+", start, rows), writer.size(place.argument, place.first_axis))
    writer.line(call("tl.store", pointer, tile, f"mask={mask.text}").text, op)


EMITTERS: Mapping[str, Emitter] = {
    **arithmetic.EMITTERS,
    **tiles.EMITTERS,
    "arith.maximumf": arithmetic.Call("tl.maximum", ("propagate_nan=PROPAGATE_NAN",)),
    "arith.minimumf": arithmetic.Call("tl.minimum", ("propagate_nan=PROPAGATE_NAN",)),
    "tile.iota": skip,
    "tile.broadcast": broadcast,
    "tile.slice": slice_,
    "tile.store": store,
}


def free_names(lines: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of `known` that some lines of a function read before they assign them, in the order of `known`."""
    assigned, read = set[str](), set[str]()
    for statement in _statements(lines):
        read |= _names(statement, ast.Load) - assigned
        assigned |= _names(statement, ast.Store)
    return [variable for variable in known if variable in read]


def assigned_names(lines: Sequence[str]) -> list[str]:
    """The variables that some lines of a function assign, each once."""
    return list(dict.fromkeys(n for s in _statements(lines) for n in sorted(_names(s, ast.Store))))


def _statements(lines: Sequence[str]) -> list[ast.stmt]:
    (function,) = ast.parse("\n".join(["def function():", *lines, "    return"])).body
    assert isinstance(function, ast.FunctionDef)
    return function.body


def _names(statement: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, context)}
