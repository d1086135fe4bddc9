"""Reads every spelling of a matrix product as one: Σ over c of lhs[..., m, c] rhs[..., n, c]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.attributes import TensorType, bf16, f16, f32
from ..ir.core import Operation, Value
from ..ir.dialects.aten import AtenOp
from .einsum import Einsum
from .index_function import tensor_type
from .views import permutation_of, repeated, same_elements


@dataclass(frozen=True)
class Rows:
    """A tensor read as rows: `order` permutes its axes to (lead..., row, contracted).

    None stands for an axis of size 1 that the tensor does not have.
    """

    value: Value
    order: tuple[int | None, ...]

    @staticmethod
    def of(value: Value) -> Rows:
        """A tensor as it lies."""
        return Rows(value, tuple(range(tensor_type(value).rank)))

    @property
    def shape(self) -> TensorType:
        """The type of the rows, permuted."""
        type_ = tensor_type(self.value)
        return type_.with_shape(*(1 if i is None else type_.shape[i] for i in self.order))

    def before(self, source: Value, order: Sequence[int]) -> Rows:
        """The same rows of the tensor whose axes were permuted by `order`."""
        return Rows(source, tuple(None if i is None else order[i] for i in self.order))


@dataclass(frozen=True)
class Contraction:
    """A product of rows of two tensors."""

    lhs: Rows
    rhs: Rows


def is_product(operation: Operation) -> bool:
    """Whether an operation is a matrix product, or may be one."""
    return operation.dialect == "aten" and AtenOp(operation).packet in (*_PRODUCTS, "einsum")


def product_of(operation: Operation) -> Einsum | None:
    """The product that an operation computes, beside what it adds; None where it is none of two tensors."""
    if not is_product(operation) or len(operation.results) != 1:
        return None
    op = AtenOp(operation)
    if op.packet == "einsum":
        return Einsum.of(op)
    lhs, rhs = (op.operand(name) for name in _PRODUCTS[op.packet])
    return Einsum.of_matrices(lhs, rhs) if lhs is not None and rhs is not None else None


_PRODUCTS = {
    "matmul": ("self", "other"),
    "bmm": ("self", "mat2"),
    "mm": ("self", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addmm": ("mat1", "mat2"),
}
ADDING = ("baddbmm", "addmm")
"""Products that are beta * self + alpha * product."""


def rows_of(value: Value, term: str, lead: Sequence[str | None], row: str, summed: str) -> Rows:
    """A tensor with one letter of `term` for each axis as rows; along letters that it lacks it is broadcast."""
    return Rows(value, tuple(term.index(c) if c is not None and c in term else None for c in (*lead, row, summed)))


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
        return Operand(rows.before(source, order), operand.factor, operand.group)
    head = rows.order[1] if heads and len(rows.order) == 4 else None
    if head is not None and (found := repeated(op, head)) is not None:
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
