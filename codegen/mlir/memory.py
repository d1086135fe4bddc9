"""Tiles between tensors and scratch memory: conversion to f32, transposition, ragged ends, gathers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .codes import code_order, float8, unpacked
from .state import State
from .values import Buffer, Loaded, Rows, View
from .writer import POINTER, Ssa, Writer, bytes_of, vector

STORAGE = {
    "f16": "f16", "bf16": "i16", "f32": "f32", "i1": "i8",
    "f8E4M3FN": "i8", "f8E5M2": "i8", "int8": "i8", "uint8": "i8",
}  # fmt: skip
"""The type that memory is read as. Integers called `int8` and `uint8` are numbers of a tile: read as f32."""

FLOAT8 = ("f8E4M3FN", "f8E5M2")


def stored_as(element: str) -> str:
    """The scalar type in which a tensor's elements lie in memory."""
    return STORAGE.get(element, element.removeprefix("u").removeprefix("s") if element[0] in "us" else element)


def widened(w: Writer, x: Ssa, element: str) -> Ssa:
    """What was read from memory in the type kernels compute in."""
    if element == "f16":
        return w.cast("arith.extf", x, "f32")
    if element == "bf16":
        bits = w.cast("arith.extui", x, "i32")
        return w.bitcast(w.binary("arith.shli", bits, w.constant(16, bits.type)), "f32")
    if element == "i1":
        return w.compare("ne", x, w.constant(0, x.type))
    if element in FLOAT8:
        return float8(w, x, element)
    if element in ("int8", "uint8"):
        word = w.cast("arith.extsi" if element == "int8" else "arith.extui", x, "i32")
        return w.cast("arith.sitofp", word, "f32")
    return w.cast("arith.extsi", x, "i64") if element == "index" else x


def narrowed(w: Writer, x: Ssa, element: str) -> Ssa:
    """An f32 that was rounded to `element` already, as it lies in memory."""
    if element == "f16":
        return w.cast("arith.truncf", x, "f16")
    if element == "bf16":
        bits = w.bitcast(x, "i32")
        return w.cast("arith.trunci", w.binary("arith.shrui", bits, w.constant(16, bits.type)), "i16")
    return x


def read(w: Writer, pointer: Ssa, element: str, lanes: int = 0, count: int | None = None) -> Ssa:
    """A number, or `lanes` neighbours as f32; only the first `count` are touched, the others are 0."""
    type_ = vector(stored_as(element), lanes)
    if count is None or count >= lanes:
        return widened(w, w.load(pointer, type_), element)
    mask, zero = first_lanes(w, lanes, count), w.constant(0, type_)
    alignment = bytes_of(stored_as(element))
    text = (
        f"llvm.intr.masked.load {pointer.name}, {mask.name}, {zero.name} {{alignment = {alignment} : i32}} : "
        f"({POINTER}, {mask.type}, {type_}) -> {type_}"
    )
    return widened(w, w.op(text, type_), element)


def read_codes(
    w: Writer, row: Ssa, view: View, start: Ssa, lanes: int, count: int | None, seen: dict[int, Ssa] | None = None
) -> Ssa:
    """`lanes` neighbouring numbers of a row of packed integers, `start` (a constant) channels into a tile, as f32."""
    assert view.codes is not None
    place, size = w.number(start), view.codes.storage.stored_width
    assert isinstance(place, int), "packed integers are read at constant places"

    def fetch(byte: int, wanted: int) -> Ssa:
        if byte + lanes <= size or size < lanes:
            return w.cast("arith.extui", bytes_from(byte, wanted), "i32")
        # The last bytes of the row, moved down: none behind it is touched. They are moved as words, since there are
        # shuffles of eight bytes with which LLVM does not come to an end.
        last = w.cast("arith.extui", bytes_from(size - lanes, lanes), "i32")
        return w.shuffle(last, last, [min(byte + lane - size + lanes, lanes - 1) for lane in range(lanes)])

    def bytes_from(byte: int, wanted: int) -> Ssa:
        if not is_one(w, view.strides[-1]):
            offsets = w.mul(w.lane_numbers(range(byte, byte + lanes), "i64"), w.broadcast(view.strides[-1], lanes))
            return gather(w, row, offsets, first_lanes(w, lanes, min(wanted, size - byte)), "i8")
        if byte + lanes <= size:
            return w.load(w.at(row, byte, "i8"), vector("i8", lanes))
        return read(w, w.at(row, byte, "i8"), "i8", lanes, size - byte)

    seen = {} if seen is None else seen
    return unpacked(w, view.codes, place, lanes, lanes if count is None else count, fetch, seen)


def write(w: Writer, value: Ssa, pointer: Ssa, element: str, count: int | None = None) -> None:
    """Store a number or a vector as `element`; only the first `count` lanes."""
    value = narrowed(w, value, element)
    if count is None or count >= value.lanes:
        w.store(value, pointer)
        return
    mask, alignment = first_lanes(w, value.lanes, count), bytes_of(value.element)
    w.line(
        f"llvm.intr.masked.store {value.name}, {pointer.name}, {mask.name} {{alignment = {alignment} : i32}} : "
        f"{value.type}, {mask.type} into {POINTER}"
    )


def first_lanes(w: Writer, lanes: int, count: int) -> Ssa:
    """A mask of the first `count` lanes."""
    return w.compare("slt", w.lane_numbers(range(lanes), "i32"), w.constant(count, vector("i32", lanes)))


def is_one(w: Writer, stride: Ssa) -> bool:
    return stride == w.index(1)


def chunks(width: int, lanes: int) -> list[tuple[int, int]]:
    """(start, count) of the vectors that cover `width` numbers; the last may be short."""
    return [(start, min(lanes, width - start)) for start in range(0, width, lanes)]


def first_row(w: Writer, tile: Loaded) -> Ssa:
    """The address of the tile's first element, if its rows are not grouped."""
    view = tile.view
    offset = w.mul(tile.offsets[0], view.strides[0])
    if len(tile.offsets) > 1:
        offset = w.add(offset, w.mul(tile.offsets[1], view.strides[1]))
    return w.at(view.pointer, offset, stored_as(view.element))


def row_address(w: Writer, tile: Loaded, row: Ssa) -> Ssa:
    """The address of the first element of one row of a tile."""
    view = tile.view
    offset = view.row(w, w.add(tile.offsets[0], row))
    if len(tile.offsets) > 1:
        offset = w.add(offset, w.mul(tile.offsets[1], view.strides[1]))
    return w.at(view.pointer, offset, stored_as(view.element))


def stage(state: State, tile: Loaded) -> Buffer:
    """The tile as f32 in scratch memory, row after row; rows past the end of the tensor are zero."""
    w, lanes = state.w, state.lanes
    rows, width = tile.shape
    buffer = state.buffer(rows, -(-width // lanes) * lanes)
    valid = tile.valid_rows(w)

    def copy(row: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        target = w.at(buffer.pointer, w.mul(row, w.index(buffer.pitch)), "f32")
        copy_row(state, row_address(w, tile, row), tile, target)
        return ()

    def clear(row: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        target = w.at(buffer.pointer, w.mul(row, w.index(buffer.pitch)), "f32")
        for start, _count in chunks(width, lanes):
            w.store(w.constant(0, vector("f32", lanes)), w.at(target, start, "f32"), 4 * lanes)
        return ()

    w.loop(w.index(0), valid, w.index(1), (), copy)
    if 0 in tile.boundary:
        w.loop(valid, w.index(rows), w.index(1), (), clear)
    return buffer


def copy_row(state: State, source: Ssa, tile: Loaded, target: Ssa) -> None:
    """One row of a tensor as f32; what the last vector has too much is zero."""
    w, lanes, element = state.w, state.lanes, tile.view.element
    if tile.view.codes is not None:
        seen: dict[int, Ssa] = {}
        order = code_order(tile.view.codes.storage, list(range(0, tile.shape[1], lanes)))
        for start in order:
            found = read_codes(w, source, tile.view, w.index(start), lanes, tile.shape[1] - start, seen)
            w.store(found, w.at(target, start, "f32"), 4 * lanes)
        return
    if is_one(w, tile.view.strides[1]):
        for start, count in chunks(tile.shape[1], lanes):
            found = read(w, w.at(source, start, stored_as(element)), element, lanes, count)
            w.store(found, w.at(target, start, "f32"), 4 * lanes)
        return
    for start, count in chunks(tile.shape[1], lanes):
        if count < lanes:
            w.store(w.constant(0, vector("f32", lanes)), w.at(target, start, "f32"), 4 * lanes)

    def one(position: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        address = w.at(source, w.mul(position, tile.view.strides[1]), stored_as(element))
        w.store(read(w, address, element), w.at(target, position, "f32"))
        return ()

    w.loop(w.index(0), w.index(tile.shape[1]), w.index(1), (), one)


def transposed(w: Writer, vectors: Sequence[Ssa]) -> list[Ssa]:
    """The transpose of a square of lanes, by log2(lanes) rounds of interleaving."""
    size = len(vectors)
    half = size // 2
    low = [lane for i in range(half) for lane in (i, i + size)]
    high = [lane + half for lane in low]
    current = list(vectors)
    for _ in range(size.bit_length() - 1):
        pairs = [(current[i], current[i + half]) for i in range(half)]
        current = [w.shuffle(x, y, lanes) for x, y in pairs for lanes in (low, high)]
    return current


def pack(state: State, tile: Loaded, buffer: Buffer) -> None:
    """Write a tile column after column, so that vectors hold neighbouring rows; missing rows are zero."""
    w, lanes = state.w, state.lanes
    rows, width = tile.shape
    valid, zero = tile.valid_rows(w), w.constant(0, vector("f32", lanes))
    # A row that does not exist is not read: the address of the last one stands in, and its numbers are dropped.
    last = w.greatest(w.sub(valid, w.index(1)), w.index(0))

    def group(first: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        numbers = [w.add(first, w.index(r)) for r in range(lanes)]
        exist = [w.compare("slt", number, valid) for number in numbers]
        sources = [row_address(w, tile, w.least(number, last)) for number in numbers]

        def square(start: Ssa, count: int) -> None:
            found = [row_part(state, tile, source, start, count) for source in sources]
            kept = [w.select(e, x, zero) for e, x in zip(exist, found, strict=True)]
            for column, x in enumerate(transposed(w, kept)[:count]):
                line = w.mul(w.add(start, w.index(column)), w.index(buffer.pitch))
                w.store(x, w.at(buffer.pointer, w.add(line, first), "f32"), 4 * lanes)

        _squares(w, width, lanes, square, unrolled=tile.view.codes is not None)
        return ()

    w.loop(w.index(0), w.index(rows), w.index(lanes), (), group)


def _squares(w: Writer, width: int, lanes: int, square: Callable[[Ssa, int], None], *, unrolled: bool = False) -> None:
    """Call square(start, count) for whole squares in a loop, or at constant places, and once for what is left."""
    whole = width // lanes * lanes
    if unrolled:
        for start, count in chunks(width, lanes):
            square(w.index(start), count)
        return

    def body(start: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        square(start, lanes)
        return ()

    w.loop(w.index(0), w.index(whole), w.index(lanes), (), body)
    if whole < width:
        square(w.index(whole), width - whole)


def row_part(state: State, tile: Loaded, source: Ssa, start: Ssa, count: int) -> Ssa:
    """`count` neighbours of a row from `start` on, as f32 lanes."""
    w, lanes, element = state.w, state.lanes, tile.view.element
    stride = tile.view.strides[1]
    if tile.view.codes is not None:
        return read_codes(w, source, tile.view, start, lanes, count)
    if is_one(w, stride):
        return read(w, w.at(source, start, stored_as(element)), element, lanes, count)
    positions = w.add(w.broadcast(start, lanes), w.lane_numbers(range(lanes), "i64"))
    offsets = w.mul(positions, w.broadcast(stride, lanes))
    mask = first_lanes(w, lanes, count) if count < lanes else w.constant(1, vector("i1", lanes))
    return gather(w, source, offsets, mask, element)


def gather(w: Writer, pointer: Ssa, offsets: Ssa, mask: Ssa, element: str) -> Ssa:
    """Elements at `offsets` from `pointer` where `mask` holds; 0 elsewhere, and no access."""
    memory, lanes = stored_as(element), offsets.lanes
    pointers, type_ = f"vector<{lanes}x{POINTER}>", vector(memory, lanes)
    text = f"llvm.getelementptr {pointer.name}[{offsets.name}] : ({POINTER}, {offsets.type}) -> {pointers}, {memory}"
    addresses = w.op(text, pointers)
    alignment = bytes_of(memory)
    text = (
        f"llvm.intr.masked.gather {addresses.name}, {mask.name}, {w.constant(0, type_).name} "
        f"{{alignment = {alignment} : i32}} : ({pointers}, {mask.type}, {type_}) -> {type_}"
    )
    return widened(w, w.op(text, type_), element)


def unpack(state: State, buffer: Buffer, tile: Loaded) -> None:
    """Write a tile that lies column after column in scratch memory to a tensor; rows past its end are dropped."""
    w, lanes = state.w, state.lanes
    rows, width = tile.shape
    valid = tile.valid_rows(w)

    def group(first: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
        numbers = [w.add(first, w.index(r)) for r in range(lanes)]
        targets = [row_address(w, tile, number) for number in numbers]

        def square(start: Ssa, count: int) -> None:
            columns: list[Ssa] = []
            for column in range(lanes):
                line = w.mul(w.add(start, w.index(min(column, count - 1))), w.index(buffer.pitch))
                address = w.at(buffer.pointer, w.add(line, first), "f32")
                columns.append(w.load(address, vector("f32", lanes), 4 * lanes))
            for number, target, x in zip(numbers, targets, transposed(w, columns), strict=True):
                with w.when(w.compare("slt", number, valid)):
                    _write_part(state, tile, x, target, start, count)

        _squares(w, width, lanes, square)
        return ()

    w.loop(w.index(0), w.index(rows), w.index(lanes), (), group)


def _write_part(state: State, tile: Loaded, x: Ssa, target: Ssa, start: Ssa, count: int) -> None:
    w, view = state.w, tile.view
    memory = stored_as(view.element)
    if is_one(w, view.strides[1]):
        write(w, x, w.at(target, start, memory), view.element, count)
        return
    for lane in range(count):
        offset = w.mul(w.add(start, w.index(lane)), view.strides[1])
        write(w, w.extract(x, lane), w.at(target, offset, memory), view.element)


def load_rows(state: State, tile: Loaded) -> Rows:
    """One number for each row; 0 for rows past the end."""
    w, lanes, view = state.w, state.lanes, tile.view
    valid = w.broadcast(w.cast("arith.trunci", tile.valid_rows(w), "i32"), lanes)
    start = row_address(w, tile, w.index(0))
    parts: list[Ssa] = []
    for first in range(0, max(state.rows, lanes), lanes):
        numbers = w.lane_numbers([(first + lane) % state.rows for lane in range(lanes)], "i32")
        offsets = w.mul(w.cast("arith.extsi", numbers, "i64"), w.broadcast(view.strides[0], lanes))
        parts.append(gather(w, start, offsets, w.compare("slt", numbers, valid), view.element))
    return Rows(parts)


def store_rows(state: State, rows: Rows, tile: Loaded) -> None:
    """Write one number for each row; the lanes pass through scratch memory to be taken one by one."""
    w, lanes = state.w, state.lanes
    if tile.shape == (1,) and isinstance(rows.spread, Ssa) and not rows.spread.lanes:
        write(w, rows.spread, row_address(w, tile, w.index(0)), tile.view.element)
        return
    parts = rows.spread if isinstance(rows.spread, list) else [rows.spread] * state.groups
    if parts[0].element == "i1":
        parts = [w.cast("arith.extui", x, "i8") for x in parts]
    element = parts[0].element
    with state.scratch.scope():
        buffer = state.buffer(1, 2 * max(state.rows, lanes))
        for number, x in enumerate(parts):
            w.store(w.broadcast(x, lanes), w.at(buffer.pointer, number * lanes, element))

        def one(row: Ssa, _: Sequence[Ssa]) -> Sequence[Ssa]:
            value = w.load(w.at(buffer.pointer, row, element), element)
            write(w, value, row_address(w, tile, row), tile.view.element)
            return ()

        w.loop(w.index(0), tile.valid_rows(w), w.index(1), (), one)


def element_address(w: Writer, view: View, offset: Ssa) -> Ssa:
    """The address of an element, `offset` elements into a tensor."""
    return w.at(view.pointer, offset, stored_as(view.element))


def load_element(w: Writer, view: View, offset: Ssa, mask: Ssa | None) -> Ssa:
    """One element; 0 where `mask` is false, without touching memory."""
    address = element_address(w, view, offset)
    if mask is None:
        return read(w, address, view.element)
    type_ = widened_type(view.element)
    zero = w.constant(0, type_)
    return w.branch(mask, [type_], lambda: [read(w, address, view.element)], lambda: [zero])[0]


def widened_type(element: str) -> str:
    """The scalar type of `read`."""
    if element in ("f16", "bf16", *FLOAT8):
        return "f32"
    return "i1" if element == "i1" else stored_as(element)
