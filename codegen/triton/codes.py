"""Packed integers: bytes are loaded, and numbers are taken out of their bits without converting integers to floats.

A float's lowest bits count units where its exponent says so: 0x6400 with a code in it is 1024 + code as f16, 0x4300
128 + code as bf16, 0x4B000000 2^23 + code as f32. Subtracting the constant is exact and costs less than a conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.attributes import Type, bf16, element_type, f16, f32, i8, i16, i32
from ...ir.core import Operation
from ...ir.diagnostics import op_error
from ...ir.dialects.tile import LoadCodesOp
from ...ir.storage import BYTE
from .expression import ATOM, UNARY, Expression, call, cast, combine, index_with, infix
from .memory import advanced, along, argument_of, define_offsets, grouped_rows, moved, sizes_of
from .places import Place
from .writer import Emitter, KernelWriter

WHOLE_BYTE, HALF_BYTES = (1 << BYTE) - 1, 1 << (BYTE - 1)
"""The largest number of a byte, and what is added to a signed one to make it count from 0."""


@dataclass(frozen=True)
class Magic:
    """How codes below `limit`, in an `integer`, become floats of a kind: by a `function` of the library."""

    function: str
    integer: Type
    limit: int


MAGIC: dict[Type, Magic] = {
    f16: Magic("code_to_float16", i16, 1 << 10),
    bf16: Magic("code_to_bfloat16", i16, 1 << 7),
    f32: Magic("code_to_float32", i32, 1 << 23),
}


def magic_of(element: Type, codes: int) -> tuple[Magic, Type]:
    """How numbers below `codes` become floats, and of which kind: f32 where those of `element` are too short."""
    made = element if codes <= MAGIC[element].limit else f32
    return MAGIC[made], made


def load_codes(op: Operation, writer: KernelWriter) -> None:
    """Every part of the codes from its own bytes; tiles of the same bytes share one load."""
    view, element = LoadCodesOp(op), element_type(op.result.type)
    if not writer.operand(view.offsets[1]).literal:
        op_error(op, "must begin at a constant channel")
    bits, bias = view.bits.value, view.storage.bias
    if element == i8:
        code = _whole_code(view, writer, i16)
        writer.assign(op, cast(infix("-", code, _literal(bias)) if bias else code, i8))
        return
    magic, made = magic_of(element, 1 << bits)
    code, step = None, 1
    if len(view.storage.parts) == 1:
        # Bits may stay where they are in a byte: their power of two is divided out together with the constant.
        code, step = _Field(view, writer, bits, 0, 0, magic.integer).in_place()
    if code is None or step << bits > magic.limit:
        code, step = _whole_code(view, writer, magic.integer), 1
    if view.signed.value and not view.storage.packed:
        code, bias = infix("^", code, _literal(HALF_BYTES)), HALF_BYTES
    number = call(writer.library_function(magic.function), code, _literal(step), _literal(bias))
    writer.assign(op, number if made == element else cast(number, element))


def _whole_code(view: LoadCodesOp, writer: KernelWriter, integer: Type) -> Expression:
    """Codes put together of their parts."""
    storage, code, low, first_byte = view.storage, None, 0, 0
    for part in storage.parts:
        bits = _Field(view, writer, part, low, first_byte, integer).code()
        code = bits if code is None else infix("|", code, bits)
        low, first_byte = low + part, first_byte + storage.part_bytes(part, storage.width)
    assert code is not None
    return code


def integer_to_float(op: Operation, writer: KernelWriter) -> None:
    """Tiles of bytes become floats without a conversion, other integers by one."""
    x, element = writer.operand(op.operands[0]), element_type(op.result.type)
    if element_type(op.operands[0].type) != i8 or not x.shape or element not in MAGIC:
        writer.define(op, cast(x, element))
        return
    magic, made = magic_of(element, 1 << BYTE)
    code = infix("^", _unsigned(x, magic.integer), _literal(HALF_BYTES))
    number = call(writer.library_function(magic.function), code, _literal(1), _literal(HALF_BYTES))
    writer.define(op, number if made == element else cast(number, element))


def plane_start(view: LoadCodesOp, size: int, first: int) -> int | None:
    """The channel a tile begins at, if all of it lies beside each other in `size` bytes, at one place of each."""
    width = sizes_of(view.out.type)[1]
    return first if first % size + width <= size and first + width <= view.width.value else None


@dataclass(frozen=True)
class _Field:
    """One part of the codes of a tile: `part` bits from the bit `low` of a code on, in bytes from `first_byte` on."""

    view: LoadCodesOp
    writer: KernelWriter
    part: int
    low: int
    first_byte: int
    integer: Type

    @property
    def size(self) -> int:
        """The bytes of this part in a row."""
        return self.view.storage.part_bytes(self.part, self.view.storage.width)

    @property
    def first(self) -> int:
        """The channel that the tile begins at."""
        return int(self.writer.operand(self.view.offsets[1]).text)

    @property
    def mask(self) -> int:
        return (1 << self.part) - 1

    def in_place(self) -> tuple[Expression, int]:
        """The code times a power of two, and that power: its bits where they lie in a byte."""
        start = plane_start(self.view, self.size, self.first)
        if start is None:
            return self.code(), 1
        shift = self.part * (start // self.size)
        bytes_ = self._bytes(start % self.size)
        if self.mask << shift == WHOLE_BYTE:
            return bytes_, 1
        return infix("&", bytes_, _literal(self.mask << shift)), 1 << shift

    def code(self) -> Expression:
        """The bits at their place in a code."""
        start = plane_start(self.view, self.size, self.first)
        if start is None:
            bytes_, shift = self._spread_bytes()
        else:
            bytes_, shift = self._bytes(start % self.size), _literal(self.part * (start // self.size))
        found = bytes_ if shift.text == "0" else infix(">>", bytes_, shift)
        found = infix("&", found, _literal(self.mask))
        return infix("<<", found, _literal(self.low)) if self.low else found

    def _bytes(self, column: int) -> Expression:
        """The bytes of neighbouring channels, from a column of this part on."""
        view, writer = self.view, self.writer
        shape, place = sizes_of(view.out.type), argument_of(view.source, writer)
        first, stride = self.first_byte + column, writer.stride(place.argument, place.first_axis + 1)
        if place.grouped:
            pointer, mask = self._rows(place, shape)
            columns = moved(_literal(first), along(writer, shape, 1))
            return self._loaded(infix("+", pointer, infix("*", columns, stride)), mask, str(first))
        if (view.source, shape) not in writer.offsets:
            variable, text = define_offsets(view.source, shape, writer)
            writer.prologue.append(f"    {variable} = {text}")
        start, mask = self._first_row(place, shape)
        pointer = infix("+", start, writer.offsets[view.source, shape])
        if first:
            pointer = infix("+", pointer, infix("*", _literal(first), stride))
        return self._loaded(pointer, mask, str(first))

    def _spread_bytes(self) -> tuple[Expression, Expression]:
        """Each channel's byte, which several of a row may share, and by how much to shift it."""
        view, writer = self.view, self.writer
        shape, place, row = sizes_of(view.out.type), argument_of(view.source, writer), [False, True]
        channel, size = moved(_literal(self.first), along(writer, (shape[1],), 0)), _literal(self.size)
        column = moved(_literal(self.first_byte), infix("%", channel, size))
        columns = index_with(writer.row_vector(column, "byte_columns"), row)
        pointer, mask = self._rows(place, shape)
        pointer = infix("+", pointer, infix("*", columns, writer.stride(place.argument, place.first_axis + 1)))
        shift = infix("//", channel, size)
        shift = infix("*", shift, _literal(self.part)) if self.part > 1 else shift
        if self.first + shape[1] > view.width.value:
            exists = writer.row_vector(infix("<", channel, _literal(view.width.value)), "channel_exists")
            mask = index_with(exists, row) if mask is None else infix("&", mask, index_with(exists, row))
            shift = infix("%", shift, _literal(BYTE))
        shifts = writer.row_vector(cast(shift, self.integer), "code_shifts")
        return self._loaded(pointer, mask, f"{columns.text} of {self.part}"), index_with(shifts, row)

    def _rows(self, place: Place, shape: tuple[int, ...]) -> tuple[Expression, Expression | None]:
        """Pointers to the first byte of each row, and which rows exist where some may not."""
        view, writer = self.view, self.writer
        if place.grouped:
            return grouped_rows(writer, view.source, view.offsets[0], shape, cut=0 in view.boundary.values)
        start, mask = self._first_row(place, shape)
        stride = writer.stride(place.argument, place.first_axis)
        return infix("+", start, infix("*", along(writer, shape, 0), stride)), mask

    def _first_row(self, place: Place, shape: tuple[int, ...]) -> tuple[Expression, Expression | None]:
        """A pointer to the first row of the tile, and which rows exist where some may not."""
        view, writer = self.view, self.writer
        first, stride = writer.operand(view.offsets[0]), writer.stride(place.argument, place.first_axis)
        pointer = advanced(writer.operand(view.source), first, stride)
        if 0 not in view.boundary.values:
            return pointer, None
        rows = moved(first, along(writer, shape, 0))
        return pointer, infix("<", rows, writer.size(place.argument, place.first_axis))

    def _loaded(self, pointer: Expression, mask: Expression | None, columns: str) -> Expression:
        """The bytes at a pointer as a variable; one load for all tiles that read them in this block."""
        view, writer = self.view, self.writer
        key = (view.operation.parent, view.source, view.offsets[0], str(view.out.type), columns, self.integer)
        if key not in writer.bytes:
            extra = [] if mask is None else [f"mask={mask.text}", f"other={self._nothing()}"]
            tensor = writer.arguments[argument_of(view.source, writer).argument]
            bytes_ = writer.variable(f"{tensor}_bytes", call("tl.load", pointer, *extra), view.operation)
            writer.line(f"{bytes_.text} = {_unsigned(bytes_, self.integer).text}")
            writer.bytes[key] = bytes_
        return writer.bytes[key]

    def _nothing(self) -> int:
        """The signed byte in which every code is 0, of which these are the bits of the bias."""
        bias = (self.view.storage.bias >> self.low) & self.mask
        byte = sum(bias << bit for bit in range(0, BYTE, self.part))
        return byte - (byte >> (BYTE - 1) << BYTE)


def _unsigned(x: Expression, integer: Type) -> Expression:
    """Bytes as numbers from 0 to 255 in a wider integer."""
    return cast(combine(f"{x.within(UNARY)}.to(tl.uint8, bitcast=True)", [x], ATOM), integer)


def _literal(value: int) -> Expression:
    return Expression(str(value), literal=True)


EMITTERS: Mapping[str, Emitter] = {
    "tile.load_codes": load_codes,
    "arith.sitofp": integer_to_float,
}
