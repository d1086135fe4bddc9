"""Writes `attn.dequantize` out in loads, shifts and arithmetic, where a kernel has no tile of codes to read."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.attributes import TensorType, element_type, f32, i8, i32
from ..ir.builder import Builder
from ..ir.core import Region, Value
from ..ir.dialects.arith import (
    AddFOp,
    AddIOp,
    AndIOp,
    DivSIOp,
    ExtFOp,
    ExtSIOp,
    IndexCastOp,
    MulFOp,
    MulIOp,
    OrIOp,
    RemSIOp,
    ShRSIOp,
    SIToFPOp,
    SubIOp,
)
from ..ir.dialects.attn_storage import DequantizeOp
from ..ir.dialects.tensor import ExtractOp
from ..ir.storage import BYTE

MASK = 0xFF


def expand_dequantize(region: Region) -> None:
    """Replace every `attn.dequantize` of a region by what it stands for."""
    for op in list(region.walk()):
        if DequantizeOp.match(op) is not None:
            Expansion(DequantizeOp(op), Builder.before(op)).write()


class Expansion:
    """One `attn.dequantize`, written before it."""

    def __init__(self, op: DequantizeOp, builder: Builder) -> None:
        self.op, self.builder, self.storage = op, builder, op.format

    def write(self) -> None:
        b, operation = self.builder, self.op.operation
        x = self._code() if self.storage.kind == "int" else self._float()
        if self.op.scales:
            scale, *zeros = (self._scale(v) for v in self.op.scales)
            x = b.binary(MulFOp, x, scale)
            x = b.binary(AddFOp, x, zeros[0]) if zeros else x
        operation.result.replace_all_uses_with(x)
        operation.erase()

    # --- codes

    def _float(self) -> Value:
        return self._widened(self._extract(self.op.source, [self.op.b, self.op.h, self.op.n, self.op.d]))

    def _code(self) -> Value:
        """The code as f32."""
        b, storage = self.builder, self.storage
        if not storage.packed:
            code = self._byte(self.op.n, self.op.d)
            if not storage.signed:
                code = self._masked(code, MASK)
        else:
            code = self._unpacked()
            if storage.bias:
                code = b.binary(SubIOp, code, b.constant(storage.bias, i32))
        return b.create(SIToFPOp, [code], [f32]).out

    def _unpacked(self) -> Value:
        """The bits of a packed code as i32: those of each part, side by side."""
        b, storage = self.builder, self.storage
        along_tokens = storage.axis == "tokens"
        count = storage.block if along_tokens else storage.width
        number, base = self.op.d, None
        if along_tokens:
            block = b.binary(DivSIOp, self.op.n, b.index(storage.block))
            number = b.binary(RemSIOp, self.op.n, b.index(storage.block))
            base = b.binary(MulIOp, block, b.index(storage.packed_size(storage.block)))
        first, low, found = 0, 0, list[Value]()
        for part in storage.parts:
            size = b.index(storage.part_bytes(part, count))
            place = b.binary(AddIOp, b.binary(RemSIOp, number, size), b.index(first))
            if base is not None:
                place = b.binary(AddIOp, base, place)
            byte = self._byte(place, self.op.d) if along_tokens else self._byte(self.op.n, place)
            distance = b.binary(MulIOp, b.binary(DivSIOp, number, size), b.index(part))
            bits = self._masked(b.binary(ShRSIOp, self._masked(byte, MASK), self._i32(distance)), (1 << part) - 1)
            found.append(b.binary(MulIOp, bits, b.constant(1 << low, i32)) if low else bits)
            first, low = first + storage.part_bytes(part, count), low + part
        joined, *rest = found
        for bits in rest:
            joined = b.binary(OrIOp, joined, bits)
        return joined

    def _byte(self, row: Value, column: Value) -> Value:
        """A byte of the source with its sign, as i32."""
        byte = self._extract(self.op.source, [self.op.b, self.op.h, row, column])
        assert byte.type == i8, f"codes lie in bytes of {BYTE} bits"
        return self.builder.create(ExtSIOp, [byte], [i32]).out

    def _masked(self, x: Value, mask: int) -> Value:
        return self.builder.binary(AndIOp, x, self.builder.constant(mask, i32))

    def _i32(self, x: Value) -> Value:
        return self.builder.create(IndexCastOp, [x], [i32]).out

    # --- scales

    def _scale(self, scale: Value) -> Value:
        return self._widened(self._extract(scale, self._scale_place(scale)))

    def _scale_place(self, scale: Value) -> Sequence[Value]:
        op, zero = self.op, self.builder.index(0)
        heads = [zero if size == 1 else x for size, x in zip(sizes_of(scale)[:2], (op.b, op.h), strict=True)]
        sizes = (self.storage.tokens, self.storage.channels)
        return [*heads, *(self._group(x, size) for x, size in zip((op.n, op.d), sizes, strict=True))]

    def _group(self, position: Value, size: int) -> Value:
        if size == 0:
            return self.builder.index(0)
        return position if size == 1 else self.builder.binary(DivSIOp, position, self.builder.index(size))

    def _extract(self, source: Value, indices: Sequence[Value]) -> Value:
        return self.builder.create(ExtractOp, [source, *indices], [element_type(source.type)]).out

    def _widened(self, x: Value) -> Value:
        return x if x.type == f32 else self.builder.create(ExtFOp, [x], [f32]).out


def sizes_of(tensor: Value) -> Sequence[object]:
    """The sizes of a tensor as its type says them."""
    assert isinstance(tensor.type, TensorType)
    return tensor.type.shape
