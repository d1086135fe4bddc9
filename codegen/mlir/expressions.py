"""Computes elementwise tile values where a loop needs them: one step of columns at a time, nothing stored.

A value of two axes is never whole in registers. It is evaluated at a `Step`: a column (or the few
that share a vector) of all rows, or a vector of columns of all rows, by what its tile's layout is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from ...ir.attributes import IndexType, TensorType, element_type
from ...ir.core import Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.tile import BroadcastOp, GatherOp
from .arithmetic import check_supported, constant_number, elementwise, held_element, scaled_exponent
from .elementary import exp2_scaled
from .memory import (
    element_address,
    first_lanes,
    gather,
    load_element,
    read,
    row_address,
    row_part,
    stored_as,
    widened_type,
)
from .runs import FLOATS, RUN, ColumnRun, read_runs, reads_runs
from .state import FLOAT_DEGREE, State
from .values import Buffer, Loaded, Spread, shape_of, together
from .writer import Ssa, vector

ROWS, COLUMNS = 0, 1
ELEMENTWISE = ("arith", "math")
CONVERSIONS = ("arith.extf", "arith.sitofp")
"""What a tile that is still in memory goes through as it is read."""

LOADS = ("tile.load", "tile.load_codes")

NEAR = 4
"""Elements that lie between those of neighbouring columns, at most, for them to be read with what is between."""

Resolve = Callable[[Value], Spread]


@dataclass(frozen=True)
class Layout:
    """How a tile of two axes is cut into vectors, and how it lies in scratch memory.

    `along` columns: a vector holds neighbouring columns of one row, tiles lie row after row. Else
    a vector holds neighbouring rows of one column, or all rows of a few columns, and tiles lie
    column after column. `step` counts the columns of one step.
    """

    along: bool
    step: int


def layout_across(state: State) -> Layout:
    return Layout(along=False, step=1 if state.wide else state.lanes // state.rows)


def layout_along(state: State) -> Layout:
    return Layout(along=True, step=state.lanes)


@dataclass(eq=False)
class Step:
    """The columns being computed: from `column` on, `count` of them if fewer than a whole step.

    `block` are the neighbouring steps that are computed together, this one among them.
    """

    layout: Layout
    column: Ssa
    count: int | None = None
    block: list[Step] = field(default_factory=list["Step"])
    dots: dict[Value, Spread] = field(default_factory=dict[Value, Spread])
    done: dict[tuple[Value, int], Spread] = field(default_factory=dict[tuple[Value, int], Spread])


def is_tile(value: Value) -> bool:
    """Whether a value has two axes."""
    return len(shape_of(value.type)) == 2


def layout_of(state: State, value: Value) -> Layout:
    """The layout of a tile of two axes: that of the products and loads that it is computed from."""
    along = not state.wide and (_is_first_factor(value) or _runs_along(state, value))
    return layout_along(state) if along else layout_across(state)


def _is_first_factor(value: Value) -> bool:
    """Whether a product reads a tile row after row, as few rows of queries are read."""
    return any(
        user.name == "tile.dot" and user.operands[0] is value and is_transposed(user.operands[1])
        for user in value.users
    )


def _runs_along(state: State, value: Value) -> bool:
    held = state.known.get(value)
    if isinstance(held, Buffer):
        return held.along
    op = value.defining_op
    if op is None:
        return False
    if op.name == "tile.dot":
        return not is_transposed(op.operands[1])
    if op.name == "scf.if":
        return _runs_along(state, yielded_by(op, 0)[op.results.index(value)])
    return op.name in LOADS or any(_runs_along(state, v) for v in op.operands if is_tile(v))


def yielded_by(op: Operation, region: int) -> Sequence[Value]:
    """What a region of a loop or branch hands on."""
    return op.regions[region].block.ops[-1].operands


def is_transposed(value: Value) -> bool:
    """Whether the second factor of a product is a transposed tile, so that its sum runs along memory."""
    flips = 0
    while (op := value.defining_op) is not None and op.name in ("tile.transpose", *CONVERSIONS):
        flips += op.name == "tile.transpose"
        value = op.operands[0]
    return flips % 2 == 1


def tree(state: State, root: Value) -> list[Operation]:
    """The ops of two axes that must be computed to know `root`, operands first."""
    found: dict[Operation, None] = {}

    def visit(value: Value) -> None:
        op = value.defining_op
        if value in state.known or op is None or not is_tile(value) or op in found:
            return
        for operand in op.operands if op.name != "tile.dot" else op.operands[2:]:
            visit(operand)
        found[op] = None

    visit(root)
    return list(found)


def evaluate(state: State, value: Value, step: Step) -> Spread:
    """A tile of two axes at a step: one number, or a vector for each group of rows."""
    key = (value, COLUMNS + ROWS)
    if key not in step.done:
        with state.w.named(value.name_hint):
            step.done[key] = _evaluate(state, value, step)
    return step.done[key]


def _evaluate(state: State, value: Value, step: Step) -> Spread:
    held, op = state.known.get(value), value.defining_op
    if isinstance(held, Buffer):
        return load_step(state, held, step)
    if value in step.dots:
        return step.dots[value]
    if isinstance(held, Loaded):
        return _read_rows(state, held, step)
    assert op is not None, "a carried tile lies in scratch memory"
    if op.name == "tile.broadcast":
        return _broadcast(state, BroadcastOp(op), step)
    if op.name == "tile.gather" and (found := _read_run(state, GatherOp(op), step)) is not None:
        return found
    there = _lanes_there(state, step)
    return compute(state, op, lambda v: evaluate(state, v, step) if is_tile(v) else state.scalar(v), there)


def _lanes_there(state: State, step: Step) -> int | None:
    """How many lanes of a vector have columns that exist, where not all do."""
    if step.count is None:
        return None
    return step.count * (1 if step.layout.along else state.rows)


def compute(state: State, op: Operation, resolve: Resolve, there: int | None = None) -> Spread:
    """One elementwise op or gather; `resolve` gives its operands as they are where it is needed.

    Only `there` lanes, if that is given, stand for elements that exist.
    """
    check_supported(op)
    w = state.w
    if op.name == "arith.constant":
        return w.constant(constant_number(op), held_element(op.result.type, 0))
    if op.name == "tile.gather":
        return _gather(state, GatherOp(op), resolve, there)
    if op.dialect not in ELEMENTWISE:
        op_error(op, "cannot be computed on tiles by a kernel for CPUs")
    if (scaled := scaled_exponent(op)) is not None:
        product, factor = scaled
        # A softmax knows that nothing lies above its maximum, and may round as coarsely as its inputs are.
        hot = "nonpositive" in op.attributes
        degree = state.exponential_degree if hot else FLOAT_DEGREE
        x = resolve(product.operands[0])
        return together(w, [x], [False], lambda xs: exp2_scaled(w, xs[0], factor, degree=degree, saturate=not hot))
    values = [resolve(v) for v in op.operands]
    indices = [isinstance(element_type(v.type), IndexType) for v in op.operands]
    return together(w, values, indices, lambda xs: elementwise(w, op, xs))


def load_step(state: State, buffer: Buffer, step: Step) -> list[Ssa]:
    w, type_ = state.w, vector("f32", state.lanes)
    return [w.load(a, type_, 4 * state.lanes) for a in _step_addresses(state, buffer, step)]


def store_step(state: State, values: Spread, buffer: Buffer, step: Step) -> None:
    w, addresses = state.w, _step_addresses(state, buffer, step)
    parts = values if isinstance(values, list) else [values] * len(addresses)
    for x, address in zip(parts, addresses, strict=True):
        w.store(w.broadcast(x, state.lanes), address, 4 * state.lanes)


def _step_addresses(state: State, buffer: Buffer, step: Step) -> list[Ssa]:
    w = state.w
    if step.layout.along:
        start = w.at(buffer.pointer, step.column, "f32")
        return [w.at(start, row * buffer.pitch, "f32") for row in range(state.rows)]
    start = w.at(buffer.pointer, w.mul(step.column, w.index(buffer.pitch)), "f32")
    return [w.at(start, group * state.lanes, "f32") for group in range(state.groups)]


def _read_rows(state: State, tile: Loaded, step: Step) -> list[Ssa]:
    """A step of a tile in memory whose vectors run along columns; rows that do not exist are zero."""
    w = state.w
    valid, zero = tile.valid_rows(w), w.constant(0, vector("f32", state.lanes))
    last = w.greatest(w.sub(valid, w.index(1)), w.index(0))
    found: list[Ssa] = []
    for row in range(state.rows):
        number = w.index(row)
        source = row_address(w, tile, w.least(number, last) if 0 in tile.boundary else number)
        x = row_part(state, tile, source, step.column, step.count or state.lanes)
        found.append(w.select(w.compare("slt", number, valid), x, zero) if 0 in tile.boundary else x)
    return found


def _broadcast(state: State, op: BroadcastOp, step: Step) -> Spread:
    missing = tuple(op.axes.values)
    if missing == (ROWS, COLUMNS):
        return state.scalar(op.x)
    return along_columns(state, op.x, step) if missing == (ROWS,) else along_rows(state, op.x, step)


def along_rows(state: State, value: Value, step: Step) -> Spread:
    """A tile of one axis, the rows, at a step of a tile of two."""
    spread = state.spread(value).spread
    if not isinstance(spread, list) or not step.layout.along:
        return spread
    key = (value, ROWS)
    if key not in step.done:
        step.done[key] = [state.w.extract(spread[0], row) for row in range(state.rows)]
    return step.done[key]


def along_columns(state: State, value: Value, step: Step) -> Spread:
    """A tile of one axis, the columns, at a step: a number, or a vector if a vector spans columns."""
    key = (value, COLUMNS)
    if key not in step.done:
        step.done[key] = _along_columns(state, value, step)
    return step.done[key]


def _along_columns(state: State, value: Value, step: Step) -> Spread:
    op = value.defining_op
    assert op is not None, "a loop carries no tile along the columns"
    if op.name == "tile.iota":
        return _column_numbers(state, step)
    if op.name == "tile.broadcast":
        return state.scalar(op.operands[0])

    def resolve(v: Value) -> Spread:
        return along_columns(state, v, step) if shape_of(v.type) else state.scalar(v)

    if op.name == "tile.gather" and not state.wide and (found := _column_run(state, GatherOp(op), step)) is not None:
        return found
    return compute(state, op, resolve, _lanes_there(state, step))


def _column_run(state: State, op: GatherOp, step: Step) -> Spread | None:
    """Elements of the columns of one vector, which are read together where they are near each other in memory.

    None where one index does not count columns, or where not all elements exist.
    """
    w, view, run = state.w, state.view(op.source), ColumnRun.of(op)
    if run is None or step.count is not None or view.element not in FLOATS:
        return None
    pitch, place = _pitch(state, op, run)
    address = w.index(0)
    for i, (value, stride) in enumerate(zip(op.indices, view.strides, strict=True)):
        position = _first_column(state, value, step) if i == run.axis else state.scalar(value)
        if pitch == 1 or i == run.axis or i < len(view.strides) - 1:
            address = w.add(address, w.mul(position, stride))
    pointer, stride, count = element_address(w, view, address), view.strides[run.axis], step.layout.step
    lanes = [lane if step.layout.along else lane // state.rows for lane in range(state.lanes)]

    def at_once() -> list[Ssa]:
        found = read(w, pointer, view.element, count * pitch)
        return [
            found
            if pitch == 1 and count == state.lanes
            else w.shuffle(found, found, [pitch * x + place for x in lanes])
        ]

    def one_by_one() -> list[Ssa]:
        offsets = w.mul(w.lane_numbers(lanes, "i64"), w.broadcast(stride, state.lanes))
        if place:
            offsets = w.add(offsets, w.broadcast(w.mul(w.index(place), view.strides[-1]), state.lanes))
        return [gather(w, pointer, offsets, w.constant(1, vector("i1", state.lanes)), view.element)]

    type_ = vector(widened_type(view.element), state.lanes)
    near = w.compare("eq", stride, w.index(pitch))
    if pitch > 1:
        near = w.binary("arith.andi", near, w.compare("eq", view.strides[-1], w.index(1)))
    (found,) = w.branch(near, [type_], at_once, one_by_one)
    return found


def _pitch(state: State, op: GatherOp, run: ColumnRun) -> tuple[int, int]:
    """How far neighbouring columns lie from each other as a rule, and which of the elements between is read."""
    source = op.source.type
    assert isinstance(source, TensorType)
    last, place = source.shape[-1], state.w.number(state.scalar(op.indices[-1])) if run.axis < source.rank - 1 else 0
    if run.axis == source.rank - 2 and isinstance(last, int) and 1 < last <= NEAR and isinstance(place, int):
        return last, place
    return 1, 0


def _first_column(state: State, value: Value, step: Step) -> Ssa:
    """A position that counts columns, at the first column of a step."""
    op = value.defining_op
    assert op is not None
    if op.name == "tile.iota":
        return step.column
    if op.name == "tile.broadcast":
        return state.scalar(op.operands[0])
    return state.w.add(*(_first_column(state, v, step) for v in op.operands))


def _column_numbers(state: State, step: Step) -> Ssa:
    w, lanes = state.w, state.lanes
    if step.layout.step == 1:
        return step.column
    numbers = [lane if step.layout.along else lane // state.rows for lane in range(lanes)]
    start = w.broadcast(w.cast("arith.trunci", step.column, "i32"), lanes)
    return w.add(start, w.lane_numbers(numbers, "i32"))


def rows_of(state: State, op: Operation) -> Spread:
    """A tile of one axis, the rows, for all of them."""
    w, lanes = state.w, state.lanes
    if op.name == "tile.iota":
        if not state.wide:
            return [w.lane_numbers([lane % state.rows for lane in range(lanes)], "i32")]
        starts = range(0, state.rows, lanes)
        return [w.lane_numbers(range(start, start + lanes), "i32") for start in starts]
    if op.name == "tile.broadcast":
        return state.scalar(op.operands[0])
    return compute(state, op, lambda v: state.spread(v).spread if shape_of(v.type) else state.scalar(v))


# --- elements of captured tensors


def _gather(state: State, op: GatherOp, resolve: Resolve, there: int | None) -> Spread:
    """Scalar positions move the address, those in lanes become offsets from it."""
    w, view = state.w, state.view(op.source)
    w.source(op.operation.location)
    uniform, offsets, mask = _places(state, op, resolve)
    if not isinstance(offsets, list) and not isinstance(mask, list) and not offsets.lanes and not _lanes(mask):
        return load_element(w, view, uniform, mask)
    address, truth = element_address(w, view, uniform), w.constant(1, "i1")
    operands: list[Spread] = [offsets, mask if mask is not None else truth]
    return together(
        w, operands, [False, False], lambda xs: gather(w, address, *_in_lanes(state, xs, there), view.element)
    )


def _lanes(mask: Ssa | None) -> int:
    return mask.lanes if mask is not None else 0


def _in_lanes(state: State, xs: Sequence[Ssa], there: int | None) -> tuple[Ssa, Ssa]:
    offsets, mask = (state.w.broadcast(x, state.lanes) for x in xs)
    if there is not None:
        mask = state.w.binary("arith.andi", mask, first_lanes(state.w, state.lanes, there))
    return offsets, mask


def _places(state: State, op: GatherOp, resolve: Resolve) -> tuple[Ssa, Spread, Spread | None]:
    """Where elements lie: elements from the start of the tensor for all rows, what rows add (i64), and the mask."""
    w, view = state.w, state.view(op.source)
    uniform, offsets = w.index(0), cast("Spread", w.index(0))
    for value, stride in zip(op.indices, view.strides, strict=False):
        position = resolve(value)
        if isinstance(position, Ssa) and not position.lanes:
            uniform = w.add(uniform, w.mul(position, stride))
            continue
        part = together(w, [position], [True], lambda xs: w.cast("arith.extsi", xs[0], "i64"))
        part = together(w, [part, stride], [False, False], lambda xs: w.mul(*xs))
        offsets = together(w, [offsets, part], [False, False], lambda xs: w.add(*xs))
    return uniform, offsets, resolve(op.indices[-1]) if op.masked is not None else None


def _read_run(state: State, op: GatherOp, step: Step) -> Spread | None:
    """Elements of neighbouring columns, read together where they are neighbours in memory; None where they are not."""
    w, view, block = state.w, state.view(op.source), step.block
    first = block.index(step) // RUN * RUN if step in block else 0
    steps = block[first : first + RUN]
    if not state.wide or len(steps) < RUN or not reads_runs(op, view.element):
        return None
    w.source(op.operation.location)
    start = steps[0]
    uniform, offsets, mask = _places(state, op, lambda v: evaluate(state, v, start) if is_tile(v) else state.scalar(v))
    address, groups = element_address(w, view, uniform), state.groups
    rows = [w.broadcast(x, state.lanes) for x in (offsets if isinstance(offsets, list) else [offsets] * groups)]
    masks = mask if isinstance(mask, list) else [None if mask is None else w.broadcast(mask, state.lanes)] * groups

    def one_by_one() -> list[Ssa]:
        truth = w.constant(1, vector("i1", state.lanes))
        pointers = [w.at(address, w.mul(w.index(i), view.strides[-1]), stored_as(view.element)) for i in range(RUN)]
        return [
            gather(w, pointer, x, m if m is not None else truth, view.element)
            for pointer in pointers
            for x, m in zip(rows, masks, strict=True)
        ]

    types = [vector(widened_type(view.element), state.lanes)] * (RUN * groups)
    neighbours = w.compare("eq", view.strides[-1], w.index(1))
    found = w.branch(neighbours, types, lambda: read_runs(w, view, address, rows, masks), one_by_one)
    for number, here in enumerate(steps):
        here.done[op.out, COLUMNS + ROWS] = found[number * groups : (number + 1) * groups]
    return step.done[op.out, COLUMNS + ROWS]
