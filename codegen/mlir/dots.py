"""Products of tiles: the innermost loops, in which nearly all time goes.

The second factor is read where it lies, number by number or vector by vector, never transposed.
Three forms, by the layout of the result: rows across lanes (numbers of the second factor are
repeated in all lanes; no sum ever crosses lanes), few rows (vectors run along the sum and are
added up at the end), and columns along lanes (vectors of the second factor, numbers of the first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.attributes import element_type, i32
from ...ir.core import Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.tile import DotOp
from .byte_dots import LARGEST_FLOAT_DEPTH, columns_of_bytes, takes_bytes, totals
from .codes import code_order
from .expressions import Layout, Step, evaluate
from .loads import as_numbers
from .memory import chunks, first_row, is_one, read, read_codes, stage, stored_as
from .state import State
from .values import Buffer, Loaded, Spread, View, shape_of
from .writer import POINTER, Ssa, bytes_of, vector

CACHE_LINE = 64
FETCHED_AHEAD = 32 * 1024
"""Bytes between what is read and what is asked for, where keys and values stream past a few rows: far enough
for the latency of memory, near enough to be in a cache still. Half to four times as much was as fast."""

UNROLL_ALONG_MEMORY, UNROLL_ACROSS_MEMORY = 4, 2
"""Terms of a sum in one step of the innermost loop: more where they share an address."""

REGISTERS_FOR_SUMS = {16: 16, 8: 8}
"""Vector registers that sums with columns along lanes may take, by lanes: half of what there is."""


@dataclass(frozen=True)
class Factor:
    """The second factor in memory: term k of column c lies at k * along_sum + c * along_columns.

    Where it is read once, from afar, `row_bytes` is the length of one of its rows there. Of a `packed` one
    the distance between neighbours in a row does not count: they are read as its codes are.
    """

    pointer: Ssa
    element: str
    along_sum: Ssa
    along_columns: Ssa
    row_bytes: int = 0
    packed: View | None = None

    def chunks(self, width: int, lanes: int) -> list[tuple[int, int]]:
        """(start, count) of the vectors that cover a row, those that share bytes beside each other."""
        codes = self.packed.codes if self.packed is not None else None
        if codes is None:
            return chunks(width, lanes)
        return [(c, min(lanes, width - c)) for c in code_order(codes.storage, list(range(0, width, lanes)))]

    def chunk(self, state: State, row: Ssa, start: int, count: int, seen: dict[int, Ssa]) -> Ssa:
        """A vector of neighbours in one row, as f32; `seen` is for the packed bytes of that row."""
        w = state.w
        if self.packed is not None:
            return read_codes(w, row, self.packed, w.index(start), state.lanes, count, seen)
        return read(w, w.at(row, start, stored_as(self.element)), self.element, state.lanes, count)


@dataclass(frozen=True)
class Product:
    """One product, ready to be computed block by block: `depth` terms a sum.

    Where bytes are multiplied as they are, the second factor is `bytes`, and `b` is not read.
    """

    op: DotOp
    a: Buffer
    b: Factor
    depth: int
    bytes: Loaded | None = None

    @property
    def whole(self) -> bool:
        """Whether whole numbers are multiplied."""
        return element_type(self.op.out.type) == i32


def prepare(state: State, op: Operation) -> Product:
    """Bring the second factor into a form that can be read; the first lies in scratch memory already."""
    dot = DotOp(op)
    a = state.stored(dot.a)
    if a is None:
        op_error(op, "reads a first factor that was not kept")
    depth = shape_of(dot.a.type)[1]
    if (computed := _computed(state, dot.b)) is not None:
        return Product(dot, a, computed, depth)
    tile = state.loaded(dot.b)
    if tile is None:
        op_error(op, "must have a loaded tile as its second factor to run on a CPU")
    if element_type(dot.out.type) != i32:
        return Product(dot, a, _factor(state, tile), depth)
    if takes_bytes(state, op):
        return Product(dot, a, Factor(a.pointer, "i8", state.w.index(1), state.w.index(1)), depth, tile)
    if depth > LARGEST_FLOAT_DEPTH:
        op_error(op, f"sums of bytes have at most {LARGEST_FLOAT_DEPTH} terms on this CPU, but there are {depth}")
    return Product(dot, a, _factor(state, as_numbers(tile)), depth)


def _computed(state: State, value: Value) -> Factor | None:
    """A second factor that was computed into scratch memory, row after row."""
    transposed = False
    while (op := value.defining_op) is not None and op.name == "tile.transpose":
        value, transposed = op.operands[0], not transposed
    buffer = state.stored(value)
    if buffer is None:
        return None
    rows, columns = state.w.index(buffer.pitch), state.w.index(1)
    along_sum, along_columns = (columns, rows) if transposed else (rows, columns)
    return Factor(buffer.pointer, "f32", along_sum, along_columns)


def _factor(state: State, tile: Loaded) -> Factor:
    w = state.w
    rows, columns = (tile.view.strides[0], tile.view.strides[1])
    pointer, element, row_bytes, packed = None, tile.view.element, 0, None
    if tile.boundary or (element != "f32" if state.wide else not is_one(w, columns)):
        buffer = stage(state, tile)
        pointer, element, rows, columns = buffer.pointer, "f32", w.index(buffer.pitch), w.index(1)
        packed = None
    elif not state.wide:
        row_bytes = tile.shape[1] * bytes_of(stored_as(element))
        if tile.view.codes is not None:
            packed, row_bytes = tile.view, tile.view.codes.storage.stored_width
    pointer = pointer or first_row(w, tile)
    along_sum, along_columns = (columns, rows) if tile.transposed else (rows, columns)
    return Factor(pointer, element, along_sum, along_columns, row_bytes, packed)


def compute_block(state: State, product: Product, steps: Sequence[Step]) -> list[Spread]:
    """The product at neighbouring steps."""
    name = product.op.out.name_hint
    state.w.comment(
        f"{name or 'a product'}: {len(steps)} x {steps[0].layout.step} columns, {product.depth} terms a sum"
    )
    layout = steps[0].layout
    starts = [_as_list(state, evaluate(state, product.op.acc, step), layout) for step in steps]
    if product.bytes is not None:
        return [*columns_of_bytes(state, product.a, product.bytes, steps, starts)]
    if product.whole:
        w = state.w
        starts = [[w.cast("arith.sitofp", x, "f32") for x in start] for start in starts]
        return [[w.cast("arith.fptosi", x, "i32") for x in found] for found in _sums(state, product, steps, starts)]
    return [*_sums(state, product, steps, starts)]


def _sums(state: State, product: Product, steps: Sequence[Step], starts: list[list[Ssa]]) -> list[list[Ssa]]:
    layout = steps[0].layout
    if state.wide:
        return _rows_across(state, product, steps[0].column, starts)
    if not layout.along:
        return [_few_rows(state, product, step, start) for step, start in zip(steps, starts, strict=True)]
    return _columns_along(state, product, steps, starts)


def _as_list(state: State, spread: Spread, layout: Layout) -> list[Ssa]:
    count = state.rows if layout.along else state.groups
    parts = spread if isinstance(spread, list) else [spread] * count
    return [state.w.broadcast(x, state.lanes) for x in parts]


def _rows_across(state: State, product: Product, column: Ssa, starts: list[list[Ssa]]) -> list[list[Ssa]]:
    """sum over k of a[:, k] * b[k, c], for a block of columns c: one number of b for all rows."""
    w, b, lanes, groups = state.w, product.b, state.lanes, state.groups
    type_ = vector("f32", lanes)
    along = is_one(w, b.along_sum)
    block = w.at(b.pointer, w.mul(column, b.along_columns), "f32")
    columns = [w.at(block, w.mul(w.index(i), b.along_columns), "f32") for i in range(len(starts))] if along else []
    unroll = min(UNROLL_ALONG_MEMORY if along else UNROLL_ACROSS_MEMORY, product.depth)

    def terms(first: Ssa, count: int, sums: Sequence[Ssa]) -> list[Ssa]:
        sums = list(sums)
        line = w.at(product.a.pointer, w.mul(first, w.index(product.a.pitch)), "f32")
        heads = [w.at(pointer, first, "f32") for pointer in columns]
        for term in range(count):
            a = [w.load(w.at(line, term * product.a.pitch + g * lanes, "f32"), type_, 4 * lanes) for g in range(groups)]
            row = None if along else w.at(block, w.mul(w.add(first, w.index(term)), b.along_sum), "f32")
            for i in range(len(starts)):
                if row is None:
                    address = w.at(heads[i], term, "f32")
                elif is_one(w, b.along_columns):
                    address = w.at(row, i, "f32")
                else:
                    address = w.at(row, w.mul(w.index(i), b.along_columns), "f32")
                number = w.broadcast(w.load(address, "f32"), lanes)
                for g in range(groups):
                    sums[i * groups + g] = w.fma(number, a[g], sums[i * groups + g])
        return sums

    flat = [x for start in starts for x in start]
    whole = product.depth // unroll * unroll
    flat = w.loop(w.index(0), w.index(whole), w.index(unroll), flat, lambda k, sums: terms(k, unroll, sums))
    if whole < product.depth:
        flat = terms(w.index(whole), product.depth - whole, flat)
    return [flat[i * groups : (i + 1) * groups] for i in range(len(starts))]


def _few_rows(state: State, product: Product, step: Step, start: list[Ssa]) -> list[Ssa]:
    """One vector of sums, all rows of a few columns: each runs along memory and is added up at the end."""
    w, b, lanes, rows = state.w, product.b, state.lanes, state.rows
    type_ = vector("f32", lanes)
    memory = stored_as(b.element)
    places = [w.mul(w.add(step.column, w.index(i)), b.along_columns) for i in range(lanes // rows)]
    columns = [w.at(b.pointer, place, memory) for place in places]
    for column in columns:
        _fetch(state, b, column, b.along_columns, b.row_bytes)
    sums = [w.constant(0.0, type_)] * lanes
    seen: list[dict[int, Ssa]] = [{} for _ in columns]
    for first, count in b.chunks(product.depth, lanes):
        found = [b.chunk(state, x, first, count, known) for x, known in zip(columns, seen, strict=True)]
        for row in range(rows):
            a = w.load(w.at(product.a.pointer, row * product.a.pitch + first, "f32"), type_, 4 * lanes)
            for i, x in enumerate(found):
                sums[i * rows + row] = w.fma(x, a, sums[i * rows + row])
    return [w.add(totals(state, sums), start[0])]


def _fetch(state: State, b: Factor, row: Ssa, distance: Ssa, size: int) -> None:
    """Ask for `size` bytes of the row that is read FETCHED_AHEAD bytes later; `distance` lies between rows."""
    if b.row_bytes == 0:
        return
    w = state.w
    ahead = w.mul(distance, w.index(max(1, FETCHED_AHEAD // b.row_bytes)))
    later = w.at(row, ahead, stored_as(b.element))
    for byte in range(0, size, CACHE_LINE):
        w.line(
            f'"llvm.intr.prefetch"({w.at(later, byte, "i8").name}) '
            f"<{{cache = 1 : i32, hint = 3 : i32, rw = 0 : i32}}> : ({POINTER}) -> ()"
        )


def _columns_along(state: State, product: Product, steps: Sequence[Step], starts: list[list[Ssa]]) -> list[list[Ssa]]:
    """sum over k of a[r, k] * b[k, columns]: one number of a for a vector of columns."""
    w, b, lanes, rows = state.w, product.b, state.lanes, state.rows
    memory, column = stored_as(b.element), steps[0].column

    def terms(k: Ssa, sums: Sequence[Ssa]) -> Sequence[Ssa]:
        sums = list(sums)
        if b.packed is not None:
            row, seen = w.at(b.pointer, w.mul(k, b.along_sum), memory), dict[int, Ssa]()
            found = [read_codes(w, row, b.packed, s.column, lanes, s.count, seen) for s in steps]
            if w.number(column) == 0:
                _fetch(state, b, row, b.along_sum, b.row_bytes)
        else:
            line = w.at(b.pointer, w.add(w.mul(k, b.along_sum), column), memory)
            found = [read(w, w.at(line, i * lanes, memory), b.element, lanes, s.count) for i, s in enumerate(steps)]
            _fetch(state, b, line, b.along_sum, len(steps) * lanes * bytes_of(memory))
        numbers = w.at(product.a.pointer, w.mul(k, w.index(product.a.pitch)), "f32")
        for row in range(rows):
            a = w.broadcast(w.load(w.at(numbers, row, "f32"), "f32"), lanes)
            for i, x in enumerate(found):
                sums[i * rows + row] = w.fma(a, x, sums[i * rows + row])
        return sums

    flat = [x for start in starts for x in start]
    flat = w.loop(w.index(0), w.index(product.depth), w.index(1), flat, terms)
    return [flat[i * rows : (i + 1) * rows] for i in range(len(steps))]
