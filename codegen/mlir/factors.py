"""Second factors of products that are computed rather than loaded: rows of keys and values that a region changes.

Such a tile has rows of its own, as many as there are keys, so it is computed row after row, its
columns along the lanes, into scratch memory, where products read it as they would read a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.core import Operation, Value
from ...ir.dialects.tile import DotOp, ReduceOp
from .axes import find_needs
from .expressions import CONVERSIONS, LOADS, ROWS, Step, evaluate, layout_along, rows_of, store_step
from .loads import converted_tile, loaded_row, loaded_tile
from .nests import for_each_step, reduce_columns
from .state import State
from .values import Buffer, Rows, View, shape_of
from .writer import Ssa, vector

IN_MEMORY = ("tile.slice", "tile.group_rows")
"""Operations that compute no tile, but say where one lies."""


def computed_factors(root: Operation) -> set[Operation]:
    """The operations of tiles that nothing but second factors needs; they are computed with the products."""
    ops = {op for dot in root.walk() if DotOp.match(dot) is not None for op in factor_ops(dot)}
    while shared := {
        op for op in ops if any(user not in ops and not _multiplies(user, op) for user in op.result.users)
    }:
        ops -= shared
    return ops


def _multiplies(user: Operation, op: Operation) -> bool:
    """Whether an operation brings the result of another into a product as its second factor."""
    if user.name == "tile.transpose":
        return all(_multiplies(u, user) for u in user.result.users)
    return user.name == "tile.dot" and user.operands[1] is op.result and user.operands[0] is not op.result


def factor_root(dot: Operation) -> Value:
    """The second factor before it was transposed."""
    value = dot.operands[1]
    while (op := value.defining_op) is not None and op.name == "tile.transpose":
        value = op.operands[0]
    return value


def factor_ops(dot: Operation) -> list[Operation]:
    """What computes a second factor, operands first; nothing where it is loaded."""
    root = factor_root(dot)
    loaded = root
    while (op := loaded.defining_op) is not None and op.name in CONVERSIONS:
        loaded = op.operands[0]
    if loaded.defining_op is None or loaded.defining_op.name in LOADS:
        return []
    found: dict[Operation, None] = {}

    def visit(value: Value) -> None:
        op = value.defining_op
        if op is None or op in found or op.name in IN_MEMORY or not shape_of(value.type):
            return
        for operand in op.operands:
            visit(operand)
        found[op] = None

    visit(root)
    return list(found)


def compute_factor(state: State, dot: Operation) -> None:
    """Compute the second factor of a product into scratch memory, unless it is loaded or there already."""
    root, ops = factor_root(dot), factor_ops(dot)
    if not ops or state.stored(root) is not None:
        return
    w, lanes = state.w, state.lanes
    count, width = shape_of(root.type)
    buffer = state.buffer(count, -(-width // lanes) * lanes, along=True)
    w.comment(f"{root.name_hint or 'rows'}: {count} rows of {width}, computed")
    end = _rows_there(state, ops, count)

    def one(row: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        with state.scratch.scope():
            _compute_row(state, root, ops, row, buffer)
        return ()

    def clear(row: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        line = w.at(buffer.pointer, w.mul(row, w.index(buffer.pitch)), "f32")
        for start in range(0, width, lanes):
            w.store(w.constant(0, vector("f32", lanes)), w.at(line, start, "f32"), 4 * lanes)
        return ()

    w.loop(w.index(0), end, w.index(1), (), one)
    w.loop(end, w.index(count), w.index(1), (), clear)
    state.known[root] = buffer


def _rows_there(state: State, ops: Sequence[Operation], count: int) -> Ssa:
    """How many of the rows exist, as far as a tile that is loaded tells."""
    for op in ops:
        if op.name in LOADS and len(shape_of(op.result.type)) == 2:
            return loaded_tile(state, op).valid_rows(state.w)
    return state.w.index(count)


def _compute_row(state: State, root: Value, ops: Sequence[Operation], row: Ssa, buffer: Buffer) -> None:
    """One row, as a tile of a single row of a program of its own."""
    w = state.w
    outer = {value: held for value, held in state.known.items() if isinstance(held, Ssa | View)}
    inner = State(w, state.lanes, 1, 1, state.unit_strides, state.base, scratch=state.scratch, known={**outer})
    find_needs(ops, inner.needs)
    for op in ops:
        with w.named(op.result.name_hint):
            _compute_op(inner, op, row)
    line = Buffer(w.at(buffer.pointer, w.mul(row, w.index(buffer.pitch)), "f32"), buffer.pitch, along=True)

    def body(step: Step, _: list[Ssa]) -> Sequence[Ssa]:
        store_step(inner, evaluate(inner, root, step), line, step)
        return ()

    for_each_step(inner, root, layout_along(inner), (), body)


def _compute_op(state: State, op: Operation, row: Ssa) -> None:
    """What is the same along a row now; what varies along it when it is needed."""
    value, axes = op.result, len(shape_of(op.result.type))
    if op.name in LOADS:
        state.known[value] = loaded_row(state, op, row)
    elif op.name in CONVERSIONS and (source := converted_tile(state, op)) is not None:
        state.known[value] = source
    elif (reduce := ReduceOp.match(op)) is not None:
        state.known[value] = reduce_columns(state, reduce)
    elif axes == 1 and ROWS in state.needs.get(value, ()):
        state.known[value] = Rows(row if op.name == "tile.iota" else rows_of(state, op))
