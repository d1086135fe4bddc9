"""Reads every spelling of a matrix product as one: Σ over c of lhs[..., m, c] rhs[..., n, c]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.attributes import TensorType, bf16, f16, f32
from ..ir.core import Operation, Value
from ..ir.dialects.aten import AtenOp
from .index_function import argument_list, tensor_type
from .views import permutation_of, repeated, same_elements


@dataclass(frozen=True)
class Rows:
    """A tensor read as rows: `order` permutes its axes to (lead..., row, contracted)."""

    value: Value
    order: tuple[int, ...]

    @property
    def shape(self) -> TensorType:
        """The type of the rows, permuted."""
        type_ = tensor_type(self.value)
        return type_.with_shape(*(type_.shape[i] for i in self.order))

    def swapped(self) -> Rows:
        """The same tensor read as columns."""
        return Rows(self.value, (*self.order[:-2], self.order[-1], self.order[-2]))


@dataclass(frozen=True)
class Contraction:
    """A product of rows; `out_order` permutes (lead..., m, n) to the axes of the result."""

    lhs: Rows
    rhs: Rows
    out_order: tuple[int, ...]

    @property
    def natural(self) -> bool:
        return self.out_order == tuple(range(len(self.out_order)))


def contraction_of(operation: Operation) -> Contraction | None:
    """The matrix product that `operation` is; None for anything else."""
    if operation.dialect != "aten" or len(operation.results) != 1:
        return None
    op = AtenOp(operation)
    names = {
        "matmul": ("self", "other"),
        "bmm": ("self", "mat2"),
        "mm": ("self", "mat2"),
        "baddbmm": ("batch1", "batch2"),
    }
    if op.packet == "einsum":
        return _einsum(op)
    if op.packet not in names:
        return None
    lhs, rhs = (op.operand(name) for name in names[op.packet])
    if lhs is None or rhs is None or min(tensor_type(lhs).rank, tensor_type(rhs).rank) < 2:
        return None
    return Contraction(_rows(lhs), _rows(rhs).swapped(), tuple(range(tensor_type(op.out).rank)))


def _rows(value: Value) -> Rows:
    return Rows(value, tuple(range(tensor_type(value).rank)))


def _einsum(op: AtenOp) -> Contraction | None:
    equation, tensors = op.argument("equation"), argument_list(op.argument("tensors"))
    if not isinstance(equation, str) or len(tensors) != 2 or "." in equation:
        return None
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    left, comma, right = inputs.partition(",")
    if not arrow or not comma or any(len(set(t)) != len(t) for t in (left, right, out)):
        return None
    summed = [c for c in left if c in right and c not in out]
    lead = [c for c in out if c in left and c in right]
    rows = [[c for c in term if c not in lead and c not in summed] for term in (left, right)]
    if len(summed) != 1 or any(len(r) != 1 for r in rows) or not all(isinstance(t, Value) for t in tensors):
        return None
    lhs, rhs = (
        Rows(value, tuple(term.index(c) for c in (*lead, row[0], summed[0])))
        for value, term, row in zip(tensors, (left, right), rows, strict=True)
        if isinstance(value, Value)
    )
    natural = [*lead, rows[0][0], rows[1][0]]
    return Contraction(lhs, rhs, tuple(natural.index(c) for c in out))


@dataclass(frozen=True)
class Operand:
    """Rows traced back to where they come from, with what was taken off on the way."""

    rows: Rows
    factor: float = 1.0
    group: int = 1


def trace(rows: Rows, *, heads: bool) -> Operand:
    """Look through views that only reorder, copies, constant factors and, for `heads`, repeats.

    Taking a factor out is exact only in real arithmetic: the model rounds the scaled tensor.
    """
    operand = Operand(rows)
    while (step := _step(operand, heads)) is not None:
        operand = step
    return operand


def _step(operand: Operand, heads: bool) -> Operand | None:
    rows = operand.rows
    op = rows.value.defining_op
    if op is None or op.dialect != "aten":
        return None
    if (source := same_elements(op)) is not None:
        return Operand(Rows(source, rows.order), operand.factor, operand.group)
    if (view := permutation_of(op)) is not None:
        source, order = view
        return Operand(Rows(source, tuple(order[i] for i in rows.order)), operand.factor, operand.group)
    if heads and len(rows.order) == 4 and (found := repeated(op, rows.order[1])) is not None:
        return Operand(Rows(found[0], rows.order), operand.factor, operand.group * found[1])
    if (scaled := _constant_factor(AtenOp(op))) is not None:
        return Operand(Rows(scaled[0], rows.order), operand.factor * scaled[1], operand.group)
    return None


def _constant_factor(op: AtenOp) -> tuple[Value, float] | None:
    if op.packet not in ("mul", "div") or op.argument("rounding_mode") is not None:
        return None
    source, number = op.operand("self"), op.argument("other")
    if source is None or source.type != op.out.type or isinstance(number, bool) or not isinstance(number, int | float):
        return None
    if number == 0:
        return None
    return source, float(number) if op.packet == "mul" else 1.0 / number


def without_upcast(operands: Sequence[Operand]) -> list[Operand] | None:
    """The same operands before they were widened from one half type to f32, if all were.

    Products of half values are exact in f32, so a dot that accumulates in f32 gives the same.
    """
    sources: list[Operand] = []
    for operand in operands:
        op = operand.rows.value.defining_op
        view = AtenOp(op) if op is not None and op.dialect == "aten" else None
        source = view.operand("self") if view is not None and view.packet in ("to", "_to_copy") else None
        if source is None or tensor_type(source).element not in (f16, bf16) or operand.rows.shape.element != f32:
            return None
        sources.append(Operand(Rows(source, operand.rows.order), operand.factor, operand.group))
    kinds = {str(tensor_type(o.rows.value).element) for o in sources}
    return sources if len(kinds) == 1 else None
