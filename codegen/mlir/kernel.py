"""Walks a tile program and writes it as MLIR: scalars at once, rows as vectors, tiles when something needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...ir.attributes import DenseArrayAttr, IntegerAttr, StringAttr, bf16, element_type, f16, f32, i8
from ...ir.core import Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.arith import ConstantOp
from ...ir.dialects.scf import ForOp, IfOp, YieldOp
from ...ir.dialects.tile import AnyOp, KernelOp, ReduceOp, StoreOp
from ...ir.dialects.tile import YieldOp as GridYieldOp
from .arguments import tensor_views
from .arithmetic import held_element
from .axes import find_needs
from .byte_dots import pack_bytes, takes_bytes
from .expressions import COLUMNS, ROWS, Step, compute, evaluate, is_tile, layout_of, rows_of, store_step
from .factors import compute_factor, computed_factors
from .loads import as_numbers, converted_tile, loaded_tile
from .memory import load_rows, store_rows, stored_as
from .nests import any_true, for_each_step, materialise, new_buffer, reduce_columns, store_tile
from .state import FLOAT_DEGREE, HALF_DEGREE, State
from .values import Buffer, Loaded, Rows, View, shape_of
from .writer import POINTER, Ssa, Writer, vector


def block(state: State, ops: Sequence[Operation]) -> None:
    for op in ops:
        if op in state.factors:
            continue
        with state.w.named(op.results[0].name_hint if op.results else None):
            STATEMENTS.get(op.name, expression)(state, op)


def expression(state: State, op: Operation) -> None:
    """An op with one result: computed now if it is a number or lies along the rows, later if it has two axes."""
    if len(op.results) != 1 or op.regions:
        op_error(op, "cannot be written for CPUs")
    value, axes = op.result, len(shape_of(op.result.type))
    if axes == 0:
        found = compute(state, op, lambda v: state.scalar(v))
        assert isinstance(found, Ssa)
        state.known[value] = found
    elif axes == 1 and ROWS in state.needs.get(value, ()):
        state.known[value] = Rows(rows_of(state, op))
    elif axes == 2:
        _tile(state, op)


def _tile(state: State, op: Operation) -> None:
    if (tile := converted_tile(state, op)) is not None:
        state.known[op.result] = tile
    # Conditions are computed again where they are needed: scratch memory holds floats.
    if element_type(op.result.type) == f32 and _outlives(op) and (_multiplied(op) or _costly(state, op.result)):
        materialise(state, op.result)


def _multiplied(op: Operation) -> bool:
    """Whether a tile is the first factor of a product, which reads it from scratch memory."""
    return any(user.name == "tile.dot" and user.operands[0] is op.result for user in op.result.users)


def _outlives(op: Operation) -> bool:
    """Whether a loop inside this block reads a value, again and again."""
    return any(user.parent is not op.parent for user in op.result.users)


def _costly(state: State, value: Value) -> bool:
    held, op = state.known.get(value), value.defining_op
    if isinstance(held, Loaded):
        return True
    if isinstance(held, Buffer) or op is None or not is_tile(value):
        return False
    return op.name in ("tile.dot", "tile.gather") or any(_costly(state, v) for v in op.operands)


def _dimension(state: State, op: Operation) -> None:
    axis = ConstantOp.producing(op.operands[1])
    if axis is None or not isinstance(axis.value, IntegerAttr):
        op_error(op, "must ask for a constant axis")
    state.known[op.result] = state.view(op.operands[0]).sizes[axis.value.value]


def _slice(state: State, op: Operation) -> None:
    w, view = state.w, state.view(op.operands[0])
    offset = w.index(0)
    for stride, index in zip(view.strides, op.operands[1:], strict=False):
        offset = w.add(offset, w.mul(stride, state.scalar(index)))
    rest = len(op.operands) - 1
    pointer = w.at(view.pointer, offset, stored_as(view.element))
    state.known[op.result] = View(pointer, view.element, view.sizes[rest:], view.strides[rest:])


def _group_rows(state: State, op: Operation) -> None:
    """(B, H, M, …) at batch b and key head kh, as rows (query, head of the group)."""
    w, view = state.w, state.view(op.operands[0])
    group = op.properties["group"]
    assert isinstance(group, IntegerAttr)
    b, key_head = (state.scalar(v) for v in op.operands[1:])
    head = w.mul(key_head, w.index(group.value))
    offset = w.add(w.mul(b, view.strides[0]), w.mul(head, view.strides[1]))
    pointer = w.at(view.pointer, offset, stored_as(view.element))
    rows = w.mul(view.sizes[2], w.index(group.value))
    sizes, strides = (rows, *view.sizes[3:]), view.strides[2:]
    state.known[op.result] = View(pointer, view.element, sizes, strides, group.value, view.strides[1])


def _check_widths(op: Operation, boundary: DenseArrayAttr) -> None:
    if COLUMNS in boundary.values:
        op_error(op, "has columns beyond the tensor's; tiles of kernels for CPUs are as wide as what they read")


def _load(state: State, op: Operation) -> None:
    tile = loaded_tile(state, op)
    if len(tile.shape) == 1:
        if COLUMNS in state.needs.get(op.result, ()):
            op_error(op, "kernels for CPUs load no tile along the columns")
        state.known[op.result] = load_rows(state, tile)
        return
    products = [user for user in op.result.users if user.name == "tile.dot" and user.operands[0] is op.result]
    if products and element_type(op.result.type) == i8:
        if all(takes_bytes(state, dot) for dot in products):
            state.known[op.result] = pack_bytes(state, tile)
            return
        tile = as_numbers(tile)
    state.known[op.result] = tile
    if _outlives(op) and _multiplied(op):
        materialise(state, op.result)


def _store(state: State, op: Operation) -> None:
    store = StoreOp(op)
    shape = shape_of(store.tile.type)
    _check_widths(op, store.boundary)
    state.w.comment(f"write {store.target.name_hint or 'a result'}")
    with state.scratch.scope():
        if len(shape) == 2:
            store_tile(state, store)
            return
        offsets = tuple(state.scalar(v) for v in store.offsets)
        target = Loaded(state.view(store.target), offsets, shape, tuple(store.boundary.values))
        store_rows(state, state.spread(store.tile), target)


def _reduce(state: State, op: Operation) -> None:
    reduce = ReduceOp(op)
    state.w.comment(f"{op.result.name_hint or reduce.kind.value}: the {reduce.kind.value} of each row")
    state.known[op.result] = reduce_columns(state, reduce)


def _program_id(state: State, op: Operation) -> None:
    axis = op.properties["axis"]
    if not isinstance(axis, IntegerAttr) or axis.value != 0:
        op_error(op, "kernels for CPUs have a grid of one axis")
    state.known[op.result] = Ssa("%program", "i64")


def _dot(state: State, op: Operation) -> None:
    """The product itself is computed where it is needed; its second factor must lie in memory then."""
    compute_factor(state, op)
    expression(state, op)


def _any(state: State, op: Operation) -> None:
    state.w.comment(f"{op.result.name_hint or 'any'}: whether the tile has any")
    state.known[op.result] = any_true(state, AnyOp(op))


def _if(state: State, op: Operation) -> None:
    """A branch that leaves a carried tile as it is, or changes it in place; numbers and rows are chosen."""
    w, branch = state.w, IfOp(op)
    if branch.otherwise.empty:
        with w.when(state.scalar(branch.condition)), state.scratch.scope():
            block(state, branch.then.block.ops[:-1])
        return
    unchanged = YieldOp(branch.otherwise.block.terminator).values
    kinds: list[Buffer | int] = []
    types: list[str] = []
    for value in unchanged:
        if len(shape_of(value.type)) == 2:
            held = state.stored(value)
            if held is None:
                op_error(op, "must leave tiles as they are in its second branch to run on a CPU")
            kinds.append(held)
            continue
        here = _part_types(state, value)
        kinds.append(len(here))
        types += here

    def arm(number: int) -> list[Ssa]:
        inner = op.regions[number].block
        with state.scratch.scope():
            block(state, inner.ops[:-1])
            return _carry_on(state, YieldOp(inner.terminator).values, kinds)

    found = w.branch(state.scalar(branch.condition), types, lambda: arm(0), lambda: arm(1))
    _bind(state, op.results, kinds, found)


def _for(state: State, op: Operation) -> None:
    """A loop carries numbers and rows in registers, and tiles in scratch memory, where they change in place."""
    w, loop = state.w, ForOp(op)
    inner = loop.body.block
    yielded = YieldOp(inner.terminator).values
    carried: list[Ssa] = []
    kinds: list[Buffer | int] = []
    for initial, after in zip(loop.initial, yielded, strict=True):
        axes = len(shape_of(initial.type))
        if axes == 2:
            kinds.append(_carried_tile(state, initial, after))
            continue
        parts = _parts(state, initial)
        kinds.append(len(parts))
        carried += parts
    if isinstance(about := op.attributes.get("about"), StringAttr):
        w.comment(about.value)

    def body(position: Ssa, values: list[Ssa]) -> Sequence[Ssa]:
        with state.scratch.scope():
            state.known[inner.arguments[0]] = position
            _bind(state, inner.arguments[1:], kinds, values)
            block(state, inner.ops[:-1])
            return _carry_on(state, yielded, kinds)

    bounds = [state.scalar(v) for v in (loop.lower, loop.upper, loop.step)]
    results = w.loop(bounds[0], bounds[1], bounds[2], carried, body)
    _bind(state, loop.results, kinds, results)


def _carried_tile(state: State, initial: Value, after: Value) -> Buffer:
    """The scratch memory of a carried tile, filled with what it begins with."""
    held = state.known.get(initial)
    if isinstance(held, Buffer) and len(initial.uses) == 1:
        return held
    layout = layout_of(state, after)
    buffer = new_buffer(state, initial, layout)

    def fill(step: Step, _: list[Ssa]) -> Sequence[Ssa]:
        store_step(state, evaluate(state, initial, step), buffer, step)
        return ()

    for_each_step(state, initial, layout, (), fill)
    return buffer


def _parts(state: State, value: Value) -> list[Ssa]:
    """A number, or the vectors of a tile along the rows."""
    w = state.w
    if not shape_of(value.type):
        return [state.scalar(value)]
    spread = state.spread(value).spread
    parts = spread if isinstance(spread, list) else [spread] * state.groups
    return [w.broadcast(x, state.lanes) for x in parts]


def _part_types(state: State, value: Value) -> list[str]:
    """The types of `_parts`."""
    if not shape_of(value.type):
        return [held_element(value.type, 0)]
    return [vector(held_element(value.type, state.lanes), state.lanes)] * state.groups


def _bind(state: State, values: Sequence[Value], kinds: Sequence[Buffer | int], parts: Sequence[Ssa]) -> None:
    """Give loop arguments or results what they stand for."""
    rest = list(parts)
    for value, kind in zip(values, kinds, strict=True):
        if isinstance(kind, Buffer):
            state.known[value] = kind
            continue
        here, rest = rest[:kind], rest[kind:]
        state.known[value] = Rows(here) if shape_of(value.type) else here[0]


def _carry_on(state: State, yielded: Sequence[Value], kinds: Sequence[Buffer | int]) -> list[Ssa]:
    parts: list[Ssa] = []
    for value, kind in zip(yielded, kinds, strict=True):
        if isinstance(kind, Buffer):
            state.w.comment(f"{value.name_hint or 'tile'}, in place")
            materialise(state, value, kind)
        else:
            parts += _parts(state, value)
    return parts


def _nothing(state: State, op: Operation) -> None:
    """A kernel ends where its text ends."""


STATEMENTS: Mapping[str, Callable[[State, Operation], None]] = {
    "tensor.dim": _dimension,
    "tile.program_id": _program_id,
    "tile.slice": _slice,
    "tile.group_rows": _group_rows,
    "tile.load": _load,
    "tile.load_codes": _load,
    "tile.store": _store,
    "tile.reduce": _reduce,
    "tile.return": _nothing,
    "tile.any": _any,
    "tile.dot": _dot,
    "scf.for": _for,
    "scf.if": _if,
}


# --- the functions around a program


def program_state(view: KernelOp, unit_strides: bool, byte_dots: bool = False) -> State:
    """The body of one program, written; `rows` is taken from what the kernel stores."""
    lanes, columns = (view.operation.properties.get(n) for n in ("lanes", "columns"))
    if not isinstance(lanes, IntegerAttr) or not isinstance(columns, IntegerAttr):
        op_error(view.operation, "is not scheduled for a CPU: it has no 'lanes' and 'columns'")
    body = view.body.block
    base, degree = Ssa("%scratch", POINTER), HALF_DEGREE if _reads_halves(view) else FLOAT_DEGREE
    state = State(Writer(), lanes.value, _rows(view), columns.value, unit_strides, base, degree, byte_dots)
    if state.rows % state.lanes and (state.rows > state.lanes or state.lanes % state.rows):
        op_error(view.operation, f"tiles of {state.rows} rows do not fit vectors of {state.lanes} lanes")
    state.known.update(zip(body.arguments, tensor_views(state.w, body.arguments, unit_strides), strict=True))
    state.factors |= computed_factors(view.operation)
    find_needs(body.ops, state.needs, state.factors)
    block(state, body.ops)
    return state


def _reads_halves(view: KernelOp) -> bool:
    """Whether what a kernel multiplies is f16 or bf16, or stored in fewer bits."""
    loads = {element_type(op.result.type) for op in view.operation.walk() if op.name == "tile.load"}
    return bool(loads & {f16, bf16}) and f32 not in loads


def _rows(view: KernelOp) -> int:
    """The rows of the tiles that a kernel stores."""
    for op in view.operation.walk():
        if (store := StoreOp.match(op)) is not None:
            return shape_of(store.tile.type)[0]
    return op_error(view.operation, "stores nothing")


def grid_state(view: KernelOp) -> tuple[Writer, Ssa]:
    """The number of programs, computed from sizes."""
    grid = view.grid.block
    w = Writer()
    state = State(w, 0, 1, 1, True, Ssa("%scratch", POINTER))
    state.known.update(zip(grid.arguments, tensor_views(w, grid.arguments, False), strict=True))
    block(state, grid.ops[:-1])
    counts = GridYieldOp(grid.terminator).values
    total = state.scalar(counts[0])
    for value in counts[1:]:
        total = w.mul(total, state.scalar(value))
    return w, total
