"""Operations on whole tiles, and sizes, as Triton calls."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.attributes import IntegerAttr, SplatAttr, TensorType, is_float
from ...ir.core import Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.arith import ConstantOp
from ...ir.dialects.tensor import DimOp
from ...ir.dialects.tile import AnyOp, BroadcastOp, DotOp, ProgramIdOp, ReduceOp
from .expression import Expression, call, index_with
from .memory import argument_of
from .writer import Emitter, KernelWriter


def program_id(op: Operation, writer: KernelWriter) -> None:
    writer.assign(op, call("tl.program_id", str(ProgramIdOp(op).axis.value)))


def iota(op: Operation, writer: KernelWriter) -> None:
    type_ = op.result.type
    assert isinstance(type_, TensorType) and isinstance(type_.shape[0], int)
    writer.alias(op.result, writer.positions(type_.shape[0]))


def broadcast(op: Operation, writer: KernelWriter) -> None:
    """Triton repeats tiles by itself; it only has to be told which axes are new."""
    view, type_ = BroadcastOp(op), op.result.type
    assert isinstance(type_, TensorType)
    x = writer.operand(view.x)
    kept = [axis not in view.axes.values for axis in range(type_.rank)]
    if not x.is_name and not x.literal and len(op.result.uses) > 1:
        writer.assign(op, index_with(x, kept))
    else:
        writer.alias(op.result, index_with(x, kept))


def transpose(op: Operation, writer: KernelWriter) -> None:
    x = writer.full(op.operands[0])
    writer.define(op, Expression(f"tl.trans({x.text})", shape=_shape(op.result), names=x.names))


def reduce(op: Operation, writer: KernelWriter) -> None:
    view = ReduceOp(op)
    x = writer.full(view.x)
    text = f"tl.{view.kind.value}({x.text}, {view.axis.value})"
    writer.define(op, Expression(text, shape=_shape(op.result), names=x.names))


def any_true(op: Operation, writer: KernelWriter) -> None:
    x = writer.full(AnyOp(op).x)
    writer.define(op, Expression(f"(tl.max(tl.cast({x.text}, tl.int32)) > 0)", names=x.names))


def dot(op: Operation, writer: KernelWriter) -> None:
    """a b + acc; an accumulator of zeros needs no mention."""
    view = DotOp(op)
    a, b = writer.full(view.a), writer.full(view.b)
    parts, text = [a, b], f"{a.text}, {b.text}"
    if not _is_zero(view.acc):
        acc = writer.full(view.acc)
        parts, text = [*parts, acc], f"{text}, {acc.text}"
    names = frozenset[str]().union(*(p.names for p in parts))
    if is_float(view.acc.type):
        options = f'input_precision="{view.precision.value}", out_dtype=tl.float32'
    else:
        options = "out_dtype=tl.int32"
    text = f"tl.dot({text}, {options})"
    writer.assign(op, Expression(text, shape=_shape(op.result), names=names))


def dimension(op: Operation, writer: KernelWriter) -> None:
    view = DimOp(op)
    axis = ConstantOp.producing(view.axis)
    if axis is None or not isinstance(axis.value, IntegerAttr):
        op_error(op, "needs a constant axis inside a kernel")
    place = argument_of(view.source, writer)
    writer.alias(op.result, writer.size(place.argument, place.first_axis + axis.value.value))


def _is_zero(value: Value) -> bool:
    constant = ConstantOp.producing(value)
    return constant is not None and isinstance(constant.value, SplatAttr) and constant.value.value.value == 0


def _shape(value: Value) -> tuple[int, ...]:
    assert isinstance(value.type, TensorType)
    return tuple(d for d in value.type.shape if isinstance(d, int))


EMITTERS: Mapping[str, Emitter] = {
    "tile.program_id": program_id,
    "tile.iota": iota,
    "tile.broadcast": broadcast,
    "tile.transpose": transpose,
    "tile.reduce": reduce,
    "tile.any": any_true,
    "tile.dot": dot,
    "tensor.dim": dimension,
}
