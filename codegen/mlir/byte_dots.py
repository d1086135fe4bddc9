"""Products of tiles of signed bytes, added up in 32 bits by one instruction for four terms (`vpdpbusd`).

It takes unsigned bytes times signed ones. So the first factor lies in scratch memory as bytes + 128, four neighbours
along the sum to a word, and 128 times the sum of the second factor's column is taken off. Where a CPU has no such
instruction, the same numbers are multiplied as f32, which is as exact for sums below 2^24.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.attributes import element_type, i8
from ...ir.core import Operation, Value
from ...ir.dialects.tile import LoadOp
from .expressions import Step, is_transposed
from .memory import read, row_address, transposed
from .state import State
from .values import Buffer, Loaded
from .writer import Ssa, Writer, vector

WORD = 4
"""Bytes that are multiplied and added up into one 32-bit lane."""

OFFSET, SIGN_BITS = 128, -128
UNROLL = 4
LARGEST_FLOAT_DEPTH = 1 << 10
"""Terms of a sum of products of bytes that f32 adds up without rounding: 2^24 / 128^2."""


def takes_bytes(state: State, dot: Operation) -> bool:
    """Whether a product reads bytes as they lie in memory; else it reads them as f32."""
    a, b = dot.operands[0].defining_op, _root(dot.operands[1])
    loads = [op is not None and LoadOp.match(op) is not None and _is_bytes(op.result) for op in (a, b)]
    return state.byte_dots and state.unit_strides and all(loads) and is_transposed(dot.operands[1])


def _root(value: Value) -> Operation | None:
    while (op := value.defining_op) is not None and op.name == "tile.transpose":
        value = op.operands[0]
    return value.defining_op


def _is_bytes(value: Value) -> bool:
    return element_type(value.type) == i8


def pack_bytes(state: State, tile: Loaded) -> Buffer:
    """The first factor in words of four bytes + 128: all rows of a word after each other, or few rows one by one."""
    w, lanes = state.w, state.lanes
    rows, width = tile.shape
    words = -(-width // (WORD * lanes)) * lanes
    buffer = state.buffer(words, state.rows) if state.wide else state.buffer(rows, words)
    valid = tile.valid_rows(w)
    last = w.greatest(w.sub(valid, w.index(1)), w.index(0))

    def part(number: Ssa, start: int) -> Ssa:
        source = row_address(w, tile, w.least(number, last))
        return w.view_as(_shifted(w, _bytes(w, source, start, width, lanes)), vector("i32", lanes))

    def group(first: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        numbers = [w.add(first, w.index(r)) for r in range(lanes)]
        for start in range(0, width, WORD * lanes):
            for line, x in enumerate(transposed(w, [part(n, start) for n in numbers])):
                place = w.add(w.index((start // WORD + line) * state.rows), first)
                w.store(x, w.at(buffer.pointer, place, "i32"), WORD * lanes)
        return ()

    def one(number: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        line = w.at(buffer.pointer, w.mul(number, w.index(buffer.pitch)), "i32")
        for start in range(0, width, WORD * lanes):
            w.store(part(number, start), w.at(line, start // WORD, "i32"), WORD * lanes)
        return ()

    w.loop(w.index(0), w.index(rows), w.index(lanes if state.wide else 1), (), group if state.wide else one)
    return buffer


def _bytes(w: Writer, row: Ssa, start: int, width: int, lanes: int) -> Ssa:
    """Bytes of a row for one vector, from `start` on; 0 past its end."""
    return read(w, w.at(row, start, "i8"), "i8", WORD * lanes, width - start)


def _shifted(w: Writer, x: Ssa) -> Ssa:
    """Signed bytes + 128, as unsigned ones."""
    return w.binary("arith.xori", x, w.constant(SIGN_BITS, x.type))


def multiply_add(w: Writer, total: Ssa, unsigned: Ssa, signed: Ssa) -> Ssa:
    """Each 32-bit lane plus the products of its four bytes."""
    bits, bytes_ = 32 * total.lanes, vector("i8", WORD * total.lanes)
    operands = [total, w.view_as(unsigned, bytes_), w.view_as(signed, bytes_)]
    return w.intrinsic(f"llvm.x86.avx512.vpdpbusd.{bits}", operands, total.type)


def columns_of_bytes(
    state: State, a: Buffer, b: Loaded, steps: Sequence[Step], starts: list[list[Ssa]]
) -> list[list[Ssa]]:
    """The product at neighbouring steps, in i32; what is added lies in `starts`."""
    w = state.w
    valid = b.valid_rows(w)
    last = w.greatest(w.sub(valid, w.index(1)), w.index(0))

    def row(column: Ssa) -> Ssa:
        return row_address(w, b, w.least(column, last) if 0 in b.boundary else column)

    if state.wide:
        columns = [step.column for step in steps]
        sums = _rows_across(state, a, [row(c) for c in columns], b.shape[1])
    else:
        count = state.lanes // state.rows
        sums = [
            [_few_rows(state, a, [row(w.add(s.column, w.index(i))) for i in range(count)], b.shape[1])] for s in steps
        ]
    found: list[list[Ssa]] = []
    for step, start, here in zip(steps, starts, sums, strict=True):
        if 0 in b.boundary:
            here = [_where_there(state, x, step, valid) for x in here]
        found.append([w.add(x, y) for x, y in zip(here, start, strict=True)])
    return found


def _where_there(state: State, x: Ssa, step: Step, valid: Ssa) -> Ssa:
    """0 in columns past the end."""
    w, lanes = state.w, state.lanes
    zero = w.constant(0, x.type)
    if state.wide:
        return w.select(w.compare("slt", step.column, valid), x, zero)
    rest = w.broadcast(w.cast("arith.trunci", w.sub(valid, step.column), "i32"), lanes)
    columns = w.lane_numbers([lane // state.rows for lane in range(lanes)], "i32")
    return w.select(w.compare("slt", columns, rest), x, zero)


def _rows_across(state: State, a: Buffer, columns: Sequence[Ssa], depth: int) -> list[list[Ssa]]:
    """Words of a column, repeated in all lanes, by words of all rows."""
    w, lanes, groups = state.w, state.lanes, state.groups
    type_ = vector("i32", lanes)

    def terms(first: Ssa, count: int, sums: Sequence[Ssa], rest: int = WORD) -> list[Ssa]:
        sums = list(sums)
        line = w.at(a.pointer, w.mul(first, w.index(a.pitch)), "i32")
        heads = [w.at(pointer, w.mul(first, w.index(WORD)), "i8") for pointer in columns]
        for term in range(count):
            words = [w.load(w.at(line, term * a.pitch + g * lanes, "i32"), type_, WORD * lanes) for g in range(groups)]
            for i, head in enumerate(heads):
                word = w.broadcast(_word(w, w.at(head, WORD * term, "i8"), rest), lanes)
                for g in range(groups):
                    sums[i * groups + g] = multiply_add(w, sums[i * groups + g], words[g], word)
        return sums

    taken_off = [_column_sum(w, pointer, depth, lanes) for pointer in columns]
    flat = [x for x in taken_off for _ in range(groups)]
    words = depth // WORD
    whole = words // UNROLL * UNROLL
    flat = w.loop(w.index(0), w.index(whole), w.index(UNROLL), flat, lambda k, sums: terms(k, UNROLL, sums))
    if whole < words:
        flat = terms(w.index(whole), words - whole, flat)
    if depth % WORD:
        flat = terms(w.index(words), 1, flat, depth % WORD)
    return [flat[i * groups : (i + 1) * groups] for i in range(len(columns))]


def _word(w: Writer, pointer: Ssa, count: int) -> Ssa:
    """Four bytes, of which the first `count` exist; the others are 0."""
    if count == WORD:
        return w.load(pointer, "i32", 1)
    parts = [w.cast("arith.extui", w.load(w.at(pointer, i, "i8"), "i8"), "i32") for i in range(count)]
    word = parts[0]
    for i, x in enumerate(parts[1:], 1):
        word = w.binary("arith.ori", word, w.binary("arith.shli", x, w.constant(8 * i, "i32")))
    return word


def _column_sum(w: Writer, row: Ssa, depth: int, lanes: int) -> Ssa:
    """-128 times the sum of a column's bytes, in all lanes."""
    type_ = vector("i32", lanes)
    ones, total = w.constant(1, vector("i8", WORD * lanes)), w.constant(0, type_)
    for start in range(0, depth, WORD * lanes):
        total = multiply_add(w, total, ones, _bytes(w, row, start, depth, lanes))
    sum_ = w.op(f"vector.reduction <add>, {total.name} : {type_} into i32", "i32")
    return w.broadcast(w.mul(sum_, w.constant(-OFFSET, "i32")), lanes)


def _few_rows(state: State, a: Buffer, columns: Sequence[Ssa], depth: int) -> Ssa:
    """One vector of sums, all rows of a few columns: each runs along memory and is added up at the end."""
    w, lanes, rows = state.w, state.lanes, state.rows
    type_ = vector("i32", lanes)
    zero, offset = w.constant(0, type_), w.constant(SIGN_BITS, vector("i8", WORD * lanes))
    sums, extra = [zero] * lanes, [zero] * len(columns)
    for start in range(0, depth, WORD * lanes):
        found = [_bytes(w, x, start, depth, lanes) for x in columns]
        extra = [multiply_add(w, x, offset, y) for x, y in zip(extra, found, strict=True)]
        for row in range(rows):
            line = w.at(a.pointer, row * a.pitch + start // WORD, "i32")
            words = w.load(line, type_, WORD * lanes)
            for i, x in enumerate(found):
                sums[i * rows + row] = multiply_add(w, sums[i * rows + row], words, x)
    return totals(state, [w.sub(x, extra[i // rows]) for i, x in enumerate(sums)])


def totals(state: State, sums: list[Ssa]) -> Ssa:
    """Lane i of the result is the sum of all lanes of vector i: pairs are folded into each other."""
    w, half = state.w, state.lanes // 2
    while len(sums) > 1:
        lanes = range(2 * state.lanes)
        low = [lane for lane in lanes if lane // half % 2 == 0]
        high = [lane for lane in lanes if lane // half % 2 == 1]
        pairs = zip(sums[::2], sums[1::2], strict=True)
        sums = [w.add(w.shuffle(x, y, low), w.shuffle(x, y, high)) for x, y in pairs]
        half //= 2
    return sums[0]
