"""Loops over the columns of a tile: what fuses elementwise work, products and reductions into one pass.

A nest computes one value, and with it everything of two axes that the value needs and that lies
nowhere yet. What others need too is written to scratch memory on the way; what is cheap is
computed again instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...ir.core import Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.tile import AnyOp, ReduceOp, StoreOp
from ...ir.storage import Storage
from .codes import code_order
from .dots import REGISTERS_FOR_SUMS, Product, compute_block, prepare
from .expressions import Layout, Step, evaluate, is_tile, layout_of, store_step, tree
from .memory import pack, row_address, stored_as, unpack, write
from .state import State
from .values import Buffer, Loaded, Rows, Spread, shape_of
from .writer import Ssa, vector

Body = Callable[[Step, list[Ssa]], Sequence[Ssa]]


def for_each_step(state: State, value: Value, layout: Layout, carried: Sequence[Ssa], body: Body) -> list[Ssa]:
    """Run `body` at every step of the tile `value`, with the products it needs at hand."""
    w, width = state.w, shape_of(value.type)[1]
    products = [prepare(state, op) for op in tree(state, value) if op.name == "tile.dot"]
    block = _block_steps(state, layout, bool(products))
    steps = width // layout.step

    def run(columns: Sequence[Ssa], values: Sequence[Ssa], last: int | None = None) -> list[Ssa]:
        here = [Step(layout, column, last) for column in columns]
        for step in here:
            step.block = here
        for product in products:
            for step, found in zip(here, compute_block(state, product, here), strict=True):
                step.dots[product.op.out] = found
        values = list(values)
        for step in here:
            values = list(body(step, values))
        return values

    def neighbours(start: Ssa, count: int) -> list[Ssa]:
        return [w.add(start, w.index(i * layout.step)) for i in range(count)]

    values, whole = list(carried), steps // block * block
    if layout.along and (storage := _packed(state, value, products)) is not None:
        order = code_order(storage, list(range(0, steps * layout.step, layout.step)))
        for first in range(0, steps, block):
            values = run([w.index(c) for c in order[first : first + block]], values)
    else:
        if whole:
            upper, span = w.index(whole * layout.step), w.index(block * layout.step)
            values = w.loop(w.index(0), upper, span, values, lambda c, xs: run(neighbours(c, block), xs))
        if whole < steps:
            values = run(neighbours(w.index(whole * layout.step), steps - whole), values)
    if rest := width % layout.step:
        values = run([w.index(steps * layout.step)], values, rest)
    return values


def _packed(state: State, value: Value, products: Sequence[Product]) -> Storage | None:
    """The format of packed integers that a nest reads, which must be read at constant places."""
    views = [product.b.packed for product in products]
    operands = [value, *(v for op in tree(state, value) if op.name != "tile.dot" for v in op.operands)]
    views += [tile.view for v in operands if (tile := state.loaded(v)) is not None]
    return next((view.codes.storage for view in views if view is not None and view.codes is not None), None)


def _block_steps(state: State, layout: Layout, has_products: bool) -> int:
    """The steps computed together: as many as registers hold sums of products."""
    if not layout.along:
        return (state.columns if has_products else 2) if state.wide else 1
    return max(1, REGISTERS_FOR_SUMS[state.lanes] // state.rows) if has_products else 1


def new_buffer(state: State, value: Value, layout: Layout) -> Buffer:
    """Scratch memory for a tile."""
    width = shape_of(value.type)[1]
    if layout.along:
        return state.buffer(state.rows, -(-width // state.lanes) * state.lanes, along=True)
    return state.buffer(width, state.rows)


def materialise(state: State, value: Value, target: Buffer | None = None) -> Buffer:
    """Compute a tile into scratch memory, `target` if that is given."""
    held = state.known.get(value)
    if isinstance(held, Buffer) and target in (None, held):
        return held
    layout = layout_of(state, value)
    reused = _settle(state, value, tree(state, value))
    if isinstance(settled := state.known.get(value), Buffer) and target is None:
        return settled
    buffer = target or reused or new_buffer(state, value, layout)
    kept = _kept(state, value, (), None)

    def body(step: Step, _: list[Ssa]) -> Sequence[Ssa]:
        found = evaluate(state, value, step)
        _store_kept(state, kept, step)
        store_step(state, found, buffer, step)
        return ()

    for_each_step(state, value, layout, (), body)
    state.known.update(kept)
    state.known[value] = buffer
    return buffer


def _settle(state: State, root: Value, ops: Iterable[Operation]) -> Buffer | None:
    """Bring what a nest reads into scratch memory; a tile that only this nest reads, for its result to go to."""
    inside, free = set(ops), None
    for value in dict.fromkeys([root, *(v for op in inside for v in op.operands if is_tile(v))]):
        held = state.known.get(value)
        if isinstance(held, Loaded) and state.wide and not held.transposed and _is_computed_with(value, root):
            buffer = new_buffer(state, value, layout_of(state, value))
            pack(state, held, buffer)
            held = state.known[value] = buffer
        if isinstance(held, Buffer) and value is not root and all(user in inside for user in value.users):
            free = held if len(value.users) == 1 and not _is_factor(value) else free
    for op in inside:
        if op.name == "tile.dot" and state.stored(op.operands[0]) is None:
            materialise(state, op.operands[0])
    return free


def _is_factor(value: Value) -> bool:
    return any(user.name == "tile.dot" for user in value.users)


def _is_computed_with(value: Value, root: Value) -> bool:
    """Whether a tile in memory is needed number by number, not just as the second factor of products."""
    return value is root or any(user.name != "tile.dot" or user.operands[0] is value for user in value.users)


def _kept(state: State, root: Value, consumers: Sequence[Operation], free: Buffer | None) -> dict[Value, Buffer]:
    """What is computed on the way to `root`, is needed elsewhere too, and costs more than reading it back.

    One of them may take the place of a tile that nothing else reads.
    """
    ops = tree(state, root)
    inside, costly, kept = {*ops, *consumers}, set[Value](), dict[Value, Buffer]()
    places = [free] if free is not None else []
    for op in ops:
        if op.dialect == "math" or op.name in ("tile.dot", "tile.gather") or any(v in costly for v in op.operands):
            costly.add(op.result)
        elsewhere = any(user not in inside for user in op.result.users)
        if op.result in costly and elsewhere and op.result is not root and str(op.result.type).endswith("xf32>"):
            kept[op.result] = new_buffer(state, op.result, layout_of(state, op.result))
    if consumers and root in costly and any(user not in inside for user in root.users):
        kept[root] = places.pop() if places else new_buffer(state, root, layout_of(state, root))
    return kept


def _store_kept(state: State, kept: dict[Value, Buffer], step: Step) -> None:
    for value, buffer in kept.items():
        store_step(state, evaluate(state, value, step), buffer, step)


def reduce_columns(state: State, op: ReduceOp) -> Rows:
    """Fold the columns of a tile: the largest number of each row, nan passed over, or the sum."""
    w, lanes = state.w, state.lanes
    layout = layout_of(state, op.x)
    if op.axis.value != 1:
        op_error(op.operation, "folds an axis that no kernel for CPUs folds")
    free = _settle(state, op.x, tree(state, op.x))
    kept = _kept(state, op.x, [op.operation], free)
    largest = op.kind.value == "max"
    start = w.constant(float("-inf") if largest else 0.0, vector("f32", lanes))

    def combine(x: Ssa, total: Ssa) -> Ssa:
        return w.greatest(x, total) if largest else w.add(total, x)

    def body(step: Step, totals: list[Ssa]) -> Sequence[Ssa]:
        found = evaluate(state, op.x, step)
        _store_kept(state, kept, step)
        parts = found if isinstance(found, list) else [found] * len(totals)
        return [combine(w.broadcast(x, lanes), total) for x, total in zip(parts, totals, strict=True)]

    count = state.rows if layout.along else state.groups
    totals = for_each_step(state, op.x, layout, [start] * count, body)
    state.known.update(kept)
    if layout.along:
        return Rows([_one_lane_each(state, [_across_lanes(state, total, combine, 1) for total in totals])])
    if not state.wide:
        totals = [_across_lanes(state, totals[0], combine, state.rows)]
    return Rows(totals)


def any_true(state: State, op: AnyOp) -> Ssa:
    """Whether a condition holds anywhere in a tile."""
    w, lanes = state.w, state.lanes
    false = w.constant(0, vector("i1", lanes))

    def joined(found: Spread, totals: list[Ssa]) -> list[Ssa]:
        for x in found if isinstance(found, list) else [found]:
            totals = [w.binary("arith.ori", totals[0], w.broadcast(x, lanes))]
        return totals

    if is_tile(op.x):
        layout = layout_of(state, op.x)
        _settle(state, op.x, tree(state, op.x))
        (total,) = for_each_step(
            state, op.x, layout, [false], lambda step, totals: joined(evaluate(state, op.x, step), totals)
        )  # fmt: skip
    else:
        (total,) = joined(state.spread(op.x).spread, [false])
    word = f"i{lanes}"
    bits = w.op(f"llvm.bitcast {total.name} : {total.type} to {word}", word)
    return w.compare("ne", bits, w.constant(0, word))


def _one_lane_each(state: State, totals: Sequence[Ssa]) -> Ssa:
    """One vector whose lanes hold the rows' numbers in turn, of vectors with one row's number everywhere."""
    w, lanes = state.w, state.lanes
    rows = w.lane_numbers([lane % state.rows for lane in range(lanes)], "i32")
    result = totals[0]
    for row, total in enumerate(totals[1:], 1):
        result = w.select(w.compare("eq", rows, w.constant(row, rows.type)), total, result)
    return result


def _across_lanes(state: State, total: Ssa, combine: Callable[[Ssa, Ssa], Ssa], rows: int) -> Ssa:
    """Fold the columns that share a vector with those of `rows` rows; each lane then holds its row's result."""
    distance = state.lanes // 2
    while distance >= rows:
        turned = [(lane + distance) % state.lanes for lane in range(state.lanes)]
        total = combine(state.w.shuffle(total, total, turned), total)
        distance //= 2
    return total


def store_tile(state: State, op: StoreOp) -> None:
    """Write a tile of two axes to a tensor."""
    shape = shape_of(op.tile.type)
    offsets = tuple(state.scalar(v) for v in op.offsets)
    target = Loaded(state.view(op.target), offsets, shape, tuple(op.boundary.values))
    layout = layout_of(state, op.tile)
    if not layout.along:
        unpack(state, materialise(state, op.tile), target)
        return
    _settle(state, op.tile, tree(state, op.tile))
    w, memory = state.w, stored_as(target.view.element)
    valid = target.valid_rows(w)

    def body(step: Step, _: list[Ssa]) -> Sequence[Ssa]:
        found = evaluate(state, op.tile, step)
        parts = found if isinstance(found, list) else [found] * state.rows
        for row, x in enumerate(parts):
            with w.when(w.compare("slt", w.index(row), valid)):
                address = w.at(row_address(w, target, w.index(row)), step.column, memory)
                write(w, w.broadcast(x, state.lanes), address, target.view.element, step.count)
        return ()

    for_each_step(state, op.tile, layout, (), body)
