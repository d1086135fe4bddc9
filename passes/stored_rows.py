"""Tiles of q, k or v that lie in memory as codes, and what makes numbers of them.

A scale that all channels of a token share commutes with a product over the channels, so it is applied to scores; one
that belongs to a value's token is applied to its weight, and one that all tokens share to the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..ir.attributes import (
    Attribute,
    DenseArrayAttr,
    IntegerAttr,
    TensorType,
    Type,
    UnitAttr,
    bf16,
    element_type,
    f16,
    f32,
    i1,
    i8,
    index,
    is_float8,
)
from ..ir.builder import Builder
from ..ir.core import Value
from ..ir.dialects.arith import AddFOp, DivSIOp, ExtFOp, MulFOp, SelectOp, SIToFPOp, TruncFOp
from ..ir.dialects.attn import AttentionOp, YieldOp
from ..ir.dialects.attn_storage import DequantizeOp
from ..ir.dialects.tile import GatherOp, IotaOp, LoadCodesOp, LoadOp
from ..ir.storage import BYTE, Storage
from .row_regions import RowPlace
from .tile_builder import COLUMNS, ROWS, Tile, TileBuilder, union

FULL = (ROWS, COLUMNS)

MOST_GROUPS = 4
"""Parts of a row of values that are multiplied by weights of their own, at most."""


@dataclass(frozen=True)
class StoredRows:
    """Rows whose numbers are nothing but codes, scaled.

    `scales` are the kernel's arguments for scales and zeros, `element` is what numbers are rounded to.
    """

    storage: Storage
    scales: tuple[Value, ...]
    element: Type

    @property
    def whole_bytes(self) -> bool:
        """Whether codes are signed bytes, which integer products take as they are."""
        return self.storage.kind == "int" and self.storage.bits == BYTE and self.storage.signed

    @property
    def scaled_by_token(self) -> bool:
        """Whether all channels of a token share a scale, and nothing is added."""
        return not self.storage.zero and not self.channels_differ

    @property
    def channels_differ(self) -> bool:
        """Whether a token has more than one scale."""
        return 0 < self.storage.channels < self.storage.width

    @property
    def scaled_by_channel(self) -> bool:
        """Whether all tokens share the scales, and nothing is added."""
        return not self.storage.zero and self.storage.tokens == 0

    @property
    def groups(self) -> tuple[int, ...]:
        """The widths of the parts of a row that have a scale of their own."""
        width, size = self.storage.width, self.storage.channels or self.storage.width
        return tuple(min(size, width - first) for first in range(0, width, size))

    def uniform(self, tokens: int) -> bool:
        """Whether a tile of `tokens` that starts at a multiple of them lies in one group."""
        return self.storage.tokens == 0 or self.storage.tokens % tokens == 0

    def codes(
        self, builder: Builder, memory: Value, first: tuple[Value, int], shape: tuple[int, int], wanted: Load
    ) -> Value:
        """A tile of codes from a row and a channel on, in `wanted.element`."""
        width = self.storage.width
        axes = (0,) * wanted.cut + (1,) * (first[1] + shape[1] > width)
        offsets = [memory, first[0], builder.index(first[1])]
        properties: dict[str, Attribute] = {"boundary": DenseArrayAttr(axes)}
        if self.storage.kind == "int" and not self.whole_bytes:
            properties |= {
                "bits": IntegerAttr(self.storage.bits), "signed": IntegerAttr(int(self.storage.signed), i1),
                "width": IntegerAttr(width),
            }  # fmt: skip
            properties["boundary"] = DenseArrayAttr((0,) * wanted.cut)
            type_ = TensorType(shape, wanted.element)
            return builder.create(LoadCodesOp, offsets, [type_], properties, name=wanted.name).out
        if wanted.bulk:
            properties["bulk"] = UnitAttr()
        if wanted.by_column:
            properties["by_column"] = UnitAttr()
        stored = TensorType(shape, self.storage.element)
        loaded = builder.create(LoadOp, offsets, [stored], properties, name=wanted.name).out
        return converted(builder, loaded, wanted.element)

    def numbers(
        self, tiles: TileBuilder, codes: Value, place: RowPlace, *, uniform: Value | None = None, first: int = 0
    ) -> Tile:
        """codes * scale + zero in f32; see `scale_tiles`."""
        result = Tile(converted(tiles.builder, codes, f32), FULL)
        if not self.scales:
            return result
        scale, *zero = self.scale_tiles(tiles, place, uniform=uniform, first=first)
        result = tiles.binary(MulFOp, result, scale)
        return tiles.binary(AddFOp, result, zero[0]) if zero else result

    def scale_tiles(
        self, tiles: TileBuilder, place: RowPlace, *, uniform: Value | None = None, axis: int = ROWS, first: int = 0,
        part: int | None = None,
    ) -> list[Tile]:  # fmt: skip
        """The scales, and zeros if there are any, of a tile whose tokens lie along `axis`, in f32.

        They vary along that axis unless one position, `uniform`, stands for all, and along the other, from the channel
        `first` on, where channels have scales of their own; unless those of one `part` of the row are asked for.
        """
        position = place.position if uniform is None else Tile(uniform)
        valid = {} if place.valid is None or uniform is not None else {axis: place.valid}
        other = COLUMNS if axis == ROWS else ROWS
        part = self._shared_group(first, tiles.shape[other]) if part is None else part
        channel = tiles.index(part or 0)
        if part is None:
            iota = tiles.builder.create(IotaOp, [], [tiles.type_along((other,), index)], name="offs_d").out
            offsets = tiles.shifted(Tile(iota, (other,)), first)
            channel = self._group(tiles, offsets, self.storage.channels)
            if first + tiles.shape[other] > self.storage.width:
                valid[other] = tiles.compare("slt", offsets, tiles.index(self.storage.width), "column_valid")
        token = self._group(tiles, position, self.storage.tokens)
        found: list[Tile] = []
        for scale, name in zip(self.scales, ("scale", "zero"), strict=False):
            type_ = scale.type
            assert isinstance(type_, TensorType)
            heads = [tiles.index(0) if n == 1 else x for n, x in zip(type_.shape[:2], (place.b, place.h), strict=True)]
            found.append(_gathered(tiles, scale, [*heads, token, channel], valid, name))
        return found

    def _shared_group(self, first: int, width: int) -> int | None:
        """The group of all channels of a tile, None where they lie in several."""
        size, last = self.storage.channels, min(first + width, self.storage.width) - 1
        if size == 0:
            return 0
        return first // size if first // size == last // size else None

    def _group(self, tiles: TileBuilder, position: Tile, size: int) -> Tile:
        if size == 0:
            return tiles.index(0)
        return position if size == 1 else tiles.binary(DivSIOp, position, tiles.index(size))


@dataclass(frozen=True)
class Load:
    """How a tile of codes is read: the type it shall have, its name, whether rows may be missing, and by what way."""

    element: Type
    name: str
    cut: bool = True
    bulk: bool = False
    by_column: bool = False


@dataclass(frozen=True)
class StoredKeys:
    """The keys or the values of one head, stored in few bits.

    `element` is the type in which they enter products; what `outside` means is that scales are applied elsewhere, so
    that products read codes.
    """

    rows: StoredRows
    b: Value
    key_head: Value
    element: Type
    outside: bool
    aligned: bool = True

    def place(self, position: Tile, valid: Tile | None) -> RowPlace:
        return RowPlace(Tile(self.b), Tile(self.key_head), position, valid)

    def uniform(self, start_n: Value, tokens: int) -> Value | None:
        """A position that stands for all of a tile of tokens from `start_n` on, where one does."""
        return start_n if self.rows.uniform(tokens) and (self.aligned or self.rows.storage.tokens == 0) else None

    def tile(
        self, builder: Builder, memory: Value, first: tuple[Value, int], shape: tuple[int, int], load: Load,
        key_end: Tile | None,
    ) -> Value:  # fmt: skip
        """Rows from a position and a channel on, those from `key_end` on do not exist."""
        if self.outside:
            rows = replace(self.rows, storage=replace(self.rows.storage, signed=True)) if self.centred else self.rows
            return rows.codes(builder, memory, first, shape, replace(load, element=self.element))
        tiles = TileBuilder(builder, shape)
        # Codes become f16 by cheaper means than f32, but bf16 no more so, of which arithmetic would make f32 at once.
        element = f32 if load.element == bf16 else load.element
        codes = self.rows.codes(builder, memory, first, shape, replace(load, element=element))
        position = tiles.positions(first[0], ROWS, "offs_row")
        valid = None if key_end is None else tiles.compare("slt", position, key_end, "row_exists")
        uniform = self.uniform(first[0], shape[0])
        numbers = self.rows.numbers(tiles, codes, self.place(position, valid), uniform=uniform, first=first[1])
        return converted(builder, self._where_valid(tiles, numbers, valid).value, self.element)

    def _where_valid(self, tiles: TileBuilder, numbers: Tile, valid: Tile | None) -> Tile:
        """Numbers, but 0 in rows that do not exist: a zero point would stand there."""
        if valid is None or not self.rows.storage.zero:
            return numbers
        zero = Tile(tiles.builder.constant(0.0, f32))
        return tiles.elementwise(SelectOp.op_name, [valid, numbers, zero], f32)

    @property
    def centred(self) -> bool:
        """Whether products read codes less half of what there are, and zeros are those of the code in the middle.

        Where codes and zeros enter sums of their own, both would else be larger than the result, and cost it digits.
        """
        storage = self.rows.storage
        return self.outside and self.element == f32 and storage.zero and storage.packed and not storage.signed

    def of_middle(self, tiles: TileBuilder, scales: list[Tile]) -> list[Tile]:
        """Scales, and zeros as products of `centred` codes ask for them."""
        if not self.centred:
            return scales
        scale, zero = scales
        half = Tile(tiles.builder.constant(float(1 << (self.rows.storage.bits - 1)), f32))
        return [scale, tiles.binary(AddFOp, zero, tiles.binary(MulFOp, scale, half), "middle")]

    def scales(
        self, tiles: TileBuilder, start_n: Value, columns: Tile, valid: Tile | None, part: int | None = None
    ) -> list[Tile]:
        """The scales, and zeros, of the keys of a tile of scores; of one `part` of each row where those differ."""
        uniform = self.uniform(start_n, tiles.shape[COLUMNS])
        place = self.place(columns, valid)
        return self.of_middle(tiles, self.rows.scale_tiles(tiles, place, uniform=uniform, axis=COLUMNS, part=part))


def _gathered(tiles: TileBuilder, source: Value, indices: Sequence[Tile], valid: dict[int, Tile], name: str) -> Tile:
    """Elements of `source` in f32, 0 where a position along an axis does not exist."""
    axes = union(indices)
    operands = [source, *(x.value if not x.axes else tiles.spread(x, axes) for x in indices)]
    conditions, properties = [valid[axis] for axis in axes if axis in valid], dict[str, Attribute]()
    if conditions:
        operands.append(tiles.spread(tiles.conjunction(conditions), axes))
        properties["masked"] = UnitAttr()
    type_ = tiles.type_along(axes, element_type(source.type))
    found = tiles.builder.create(GatherOp, operands, [type_], properties, name=name).out
    return Tile(converted(tiles.builder, found, f32), axes)


def converted(builder: Builder, x: Value, element: Type) -> Value:
    """A float, a byte or a tile of them as another float; bytes stay bytes where those are asked for."""
    type_, own = x.type, element_type(x.type)
    if own == element:
        return x
    result = type_.with_element(element) if isinstance(type_, TensorType) else element
    if own == i8:
        return builder.create(SIToFPOp, [x], [result], name=x.name_hint).out
    if {own, element} == {f16, bf16}:
        return converted(builder, converted(builder, x, f32), element)
    kind = ExtFOp if is_float8(own) or element == f32 else TruncFOp
    return builder.create(kind, [x], [result], name=x.name_hint).operation.result


def stored_rows(attention: AttentionOp, region: str, captures: Sequence[Value]) -> StoredRows | None:
    """What q, k or v is, where its region does no more than read codes at their own place; else None.

    `captures` are the kernel's arguments for those of the attention.
    """
    body = attention.region(region)
    if body.empty or len(body.block.ops) != 2:
        return None
    read, end = DequantizeOp.match(body.block.ops[0]), YieldOp.match(body.block.ops[1])
    if read is None or end is None or end.value is not read.out:
        return None
    arguments = body.block.arguments
    positions, inside = arguments[:4], arguments[len(arguments) - len(captures) :]
    known = dict(zip(inside, captures, strict=True))
    own = all(x is y for x, y in zip((read.b, read.h, read.n, read.d), positions, strict=True))
    if not own or read.format.axis != "channels" or any(v not in known for v in read.scales):
        return None
    return StoredRows(read.format, tuple(known[v] for v in read.scales), attention.shapes[0].element)


def value_groups(attention: AttentionOp) -> tuple[int, ...]:
    """The widths of the parts of values that products on CPUs take one by one, with weights scaled for each.

    Nothing where weights are not scaled, or for more than a few parts.
    """
    rows = stored_rows(attention, "value", attention.captures)
    if rows is None or not rows.scales or rows.scaled_by_channel or not attention.output.empty:
        return ()
    return rows.groups if len(rows.groups) <= MOST_GROUPS else ()
