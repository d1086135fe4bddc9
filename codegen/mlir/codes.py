"""Turns packed integers of fewer than 8 bits into f32: bytes are spread over lanes, and tables hold the numbers.

A table is a vector whose lanes a permutation picks by the lowest bits of an index. It needs no mask for the bits above
them, and a code's bias, or the place of its bits among others, costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.storage import BYTE, Storage
from .values import Codes
from .writer import Ssa, Writer, vector

Fetch = Callable[[int, int], Ssa]
"""fetch(byte, count): bytes of a row from `byte` on, each in an i32 lane of a vector, of which `count` are wanted."""

PICK = {
    (16, 4): ("llvm.x86.avx512.permvar.sf.512", 16),
    (16, 2): ("llvm.x86.avx512.vpermilvar.ps.512", 4),
    (16, 1): ("llvm.x86.avx512.vpermilvar.ps.512", 4),
    (8, 2): ("llvm.x86.avx.vpermilvar.ps.256", 4),
    (8, 1): ("llvm.x86.avx.vpermilvar.ps.256", 4),
}
"""What picks lanes of a table, by the lanes of a vector and the bits of an index, and how long tables are."""


def code_order(storage: Storage, columns: list[int]) -> list[int]:
    """Columns in the order of their bytes, so that those that share some follow each other."""
    size = storage.part_bytes(storage.parts[0], storage.width)
    return sorted(columns, key=lambda c: (c % size, c))


def unpacked(w: Writer, codes: Codes, start: int, lanes: int, count: int, fetch: Fetch, seen: dict[int, Ssa]) -> Ssa:
    """`lanes` neighbouring channels of a row, `start` channels into a tile, as f32; those past the `count` first are 0.

    `seen` holds bytes of this row that were spread over lanes before.
    """
    storage, first = codes.storage, codes.first + start
    count = min(count, storage.width - first)
    zero = w.constant(0, vector("f32", lanes))
    if count <= 0:
        return zero
    total, base, low = zero, 0, 0
    for part in storage.parts:
        size = storage.part_bytes(part, storage.width)
        found = _bits(w, part, size, base, first, min(count, lanes), lanes, fetch, seen)
        number = _numbers(w, found, part, low, storage.bias)
        total = number if low == 0 else w.add(total, number)
        base, low = base + size, low + part
    if count >= lanes:
        return total
    exists = w.compare("slt", w.lane_numbers(range(lanes), "i32"), w.constant(count, vector("i32", lanes)))
    return w.select(exists, total, zero)


def _bits(
    w: Writer, part: int, size: int, base: int, first: int, count: int, lanes: int, fetch: Fetch, seen: dict[int, Ssa]
) -> Ssa:
    """i32 lanes whose lowest `part` bits are those of channels from `first` on; what stands above them is left.

    The part has `size` bytes from byte `base` of the row on.
    """
    group, byte = divmod(first, size)
    if byte + count <= size:
        if base + byte not in seen:
            seen[base + byte] = fetch(base + byte, count)
        x, shift = seen[base + byte], part * group
        return w.binary("arith.shrui", x, w.constant(shift, x.type)) if shift else x
    # Lanes that nobody wants repeat the last one that somebody does.
    channels = [first + min(lane, count - 1) for lane in range(lanes)]
    if size <= lanes:
        bytes_ = fetch(base, size)
        places, other = [c % size for c in channels], bytes_
    else:
        bytes_, other = fetch(base + byte, size - byte), fetch(base, byte + count - size)
        places = [c - first if c // size == group else lanes + c % size for c in channels]
    x = w.shuffle(bytes_, other, places)
    return w.binary("arith.shrui", x, w.lane_numbers([part * (c // size) for c in channels], "i32"))


def _numbers(w: Writer, index: Ssa, part: int, low: int, bias: int) -> Ssa:
    """The number that the lowest `part` bits of an index stand for, at place `low` in a code; less the bias at 0."""
    lanes, offset = index.lanes, 0 if low else -bias
    if (lanes, part) in PICK:
        name, length = PICK[lanes, part]
        table = [(lane % length % (1 << part) << low) + offset for lane in range(lanes)]
        return w.intrinsic(name, [w.lane_numbers(table, "f32"), index], vector("f32", lanes))
    kept = w.binary("arith.andi", index, w.constant((1 << part) - 1, index.type))
    number = w.cast("arith.sitofp", kept, "f32")
    if low:
        return w.mul(number, w.constant(1 << low, number.type))
    return w.add(number, w.constant(offset, number.type)) if offset else number


def float8(w: Writer, x: Ssa, element: str) -> Ssa:
    """Bytes that are 8-bit floats as f32, through f16, which holds all of them; for e4m3 with another bias."""
    if element == "f8E5M2":
        bits = w.cast("arith.extui", x, "i16")
        half = w.binary("arith.shli", bits, w.constant(BYTE, bits.type))
        return w.cast("arith.extf", w.bitcast(half, "f16"), "f32")
    bits = w.cast("arith.extsi", x, "i16")
    half = w.binary("arith.shli", bits, w.constant(BYTE - 1, bits.type))
    half = w.binary("arith.andi", half, w.constant(-0x4001, bits.type))
    number = w.cast("arith.extf", w.bitcast(half, "f16"), "f32")
    number = w.mul(number, w.constant(2.0**8, number.type))
    rest = w.binary("arith.andi", x, w.constant(0x7F, x.type))
    nan = w.compare("eq", rest, w.constant(0x7F, x.type))
    return w.select(nan, w.constant(float("nan"), number.type), number)
