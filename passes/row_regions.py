"""Turns query, key, value and output regions, written for one element, into arithmetic on tiles of rows.

A tile of rows has positions along ROWS and the head dimension along COLUMNS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..ir.attributes import IntegerAttr, StringAttr, TensorType, Type, element_type, f32, index
from ..ir.builder import Builder
from ..ir.core import Operation, Region, Value
from ..ir.dialects.arith import ExtFOp, SelectOp, TruncFOp
from ..ir.dialects.attn import REGIONS, RowSumOp, YieldOp
from ..ir.dialects.tensor import ExtractOp
from ..ir.dialects.tile import IotaOp, ReduceOp
from .expand_dequantize import expand_dequantize
from .tile_builder import COLUMNS, ROWS, Tile, TileBuilder
from .tile_regions import emit_op

FULL = (ROWS, COLUMNS)


@dataclass(frozen=True)
class RowPlace:
    """Which rows a tile holds: batch, head and position of each, and which of them exist (None: all)."""

    b: Tile
    h: Tile
    position: Tile
    valid: Tile | None


@dataclass(frozen=True)
class RowRegion:
    """A region that changes rows, inside a kernel.

    `captures` are the kernel's arguments for what it reads. `width` is that of the rows, of which
    tiles may be wider; `ragged` says that a vector of the target may reach beyond a row. What is `computed` of codes is
    not loaded in tiles, but becomes a tile of that element type.
    """

    name: str
    region: Region
    captures: Mapping[Value, Value]
    width: int
    ragged: bool = False
    computed: Type | None = None

    @staticmethod
    def of(
        name: str, region: Region, captures: Sequence[Value], width: int, source: Value | None,
        computed: Type | None = None,
    ) -> RowRegion | None:  # fmt: skip
        """The region called `name`, None where it is empty; `source` is the operand it reads."""
        if region.empty:
            return None
        if computed is not None:
            region = region.clone()
            expand_dequantize(region)
        arguments = region.block.arguments
        first = len(arguments) - len(captures)
        known = dict(zip(arguments[first:], captures, strict=True))
        if source is not None:
            known[arguments[first - 1]] = source
        return RowRegion(name, region, known, width, computed=computed)

    def along(self, lanes: int) -> RowRegion:
        """The same where vectors of `lanes` run along the rows and may reach beyond them; 0 for none."""
        return replace(self, ragged=lanes > 0 and self.width % lanes != 0)

    def inline(self, tiles: TileBuilder, place: RowPlace, loaded: Tile | None) -> Tile:
        """The tile of rows as the region makes it of `loaded`, in f32; 0 in columns and rows that do not exist."""
        return _Writer(self, tiles, place, loaded).result()

    def rounded(
        self, tiles: TileBuilder, place: RowPlace, loaded: Value | None, *, widen: bool, name: str | None
    ) -> Value:
        """The rows as they enter a product: rounded to the type of `loaded`, as a tensor of them would be.

        `widen` for products in f32.
        """
        result = self.inline(tiles, place, None if loaded is None else Tile(loaded, FULL))
        element = self.computed if loaded is None else element_type(loaded.type)
        assert element is not None, "rows are loaded or computed"
        if element != f32:
            result = tiles.elementwise(TruncFOp.op_name, [result], element)
            if widen:
                result = tiles.elementwise(ExtFOp.op_name, [result], f32)
        result.value.name_hint = name
        return tiles.spread(result, FULL)


class _Writer:
    """Writes one region for one tile."""

    def __init__(self, region: RowRegion, tiles: TileBuilder, place: RowPlace, loaded: Tile | None) -> None:
        self.region, self.tiles, self.loaded = region, tiles, loaded
        builder = tiles.builder
        self.columns = Tile(builder.create(IotaOp, [], [tiles.type_along((COLUMNS,), index)], name="offs_d").out, (1,))
        self.valid = {} if place.valid is None else {ROWS: place.valid}
        if tiles.shape[COLUMNS] != region.width or region.ragged:
            width = tiles.index(region.width)
            self.valid[COLUMNS] = tiles.compare("slt", self.columns, width, "column_valid")
        form, arguments = REGIONS[region.name], region.region.block.arguments
        start = 1 if form.value else 0
        tiles_of = (place.b, place.h, place.position, self.columns)
        self.positions = arguments[start : start + 4]
        self.known: dict[Value, Tile] = dict(zip(self.positions, tiles_of, strict=True))
        if form.value and loaded is not None:
            self.known[arguments[0]] = loaded
        self.source = arguments[start + 4] if form.source else None

    def result(self) -> Tile:
        block = self.region.region.block
        self._write(block.ops[:-1])
        found = self.known[YieldOp(block.terminator).value]
        return self._where_it_exists(Tile(self.tiles.spread(found, FULL), FULL), [COLUMNS, ROWS])

    def _where_it_exists(self, x: Tile, axes: Sequence[int]) -> Tile:
        """x, but 0 beyond the ends along `axes`."""
        conditions = [self.valid[axis] for axis in axes if axis in self.valid]
        if not conditions:
            return x
        condition = self.tiles.conjunction(conditions)
        zero = Tile(self.tiles.builder.constant(0.0, f32))
        return self.tiles.elementwise(SelectOp.op_name, [condition, x, zero], f32)

    def _write(self, ops: Sequence[Operation]) -> None:
        for op in ops:
            if (total := RowSumOp.match(op)) is not None:
                self.known[op.result] = self._row_sum(total)
            else:
                own = self._own_element(op)
                self.known[op.result] = own or emit_op(op, self.tiles, self.known, self.region.captures, self.valid)

    def _own_element(self, op: Operation) -> Tile | None:
        """The tile of the operand itself, for a load at its own position."""
        extract = ExtractOp.match(op)
        if extract is None or self.loaded is None or self.source is None or extract.source is not self.source:
            return None
        *lead, place = extract.indices
        same = all(x is y for x, y in zip(lead, self.positions, strict=False)) and self.known[place] is self.columns
        return self.loaded if same else None

    def _row_sum(self, total: RowSumOp) -> Tile:
        """Σ along the columns, of which those beyond its width count as 0."""
        body = total.body.block
        self.known[body.arguments[0]] = self.columns
        self._write(body.ops[:-1])
        term = self.known[YieldOp(body.terminator).value]
        full = Tile(self.tiles.spread(term, FULL), FULL)
        if total.width.value != self.region.width:
            condition = self.tiles.compare("slt", self.columns, self.tiles.index(total.width.value))
            zero = Tile(self.tiles.builder.constant(0.0, f32))
            full = self.tiles.elementwise(SelectOp.op_name, [condition, full, zero], f32)
        else:
            full = self._where_it_exists(full, [COLUMNS])
        properties = {"axis": IntegerAttr(COLUMNS), "kind": StringAttr("sum")}
        type_ = self.tiles.type_along((ROWS,), f32)
        reduced = self.tiles.builder.create(ReduceOp, [full.value], [type_], properties, name="row_total").out
        return Tile(reduced, (ROWS,))


@dataclass(frozen=True)
class KeyRows:
    """The region that changes the keys or the values of one head."""

    region: RowRegion
    b: Value
    key_head: Value

    def changed(
        self, tiles: TileBuilder, tile: Value | None, start_n: Value, key_end: Tile | None, *, widen: bool, name: str
    ) -> Value:
        """A tile of rows from `start_n` on, of which those from `key_end` on do not exist."""
        position = tiles.positions(start_n, ROWS, "offs_row")
        valid = None if key_end is None else tiles.compare("slt", position, key_end, "row_exists")
        place = RowPlace(Tile(self.b), Tile(self.key_head), position, valid)
        return self.region.rounded(tiles, place, tile, widen=widen, name=name)


OutputChange: TypeAlias = Callable[[TileBuilder, Tile], Tile]
"""What an output region makes of a tile of the output."""


def output_change(region: RowRegion | None, place: RowPlace) -> OutputChange | None:
    """The change of the output's rows at `place`, None without a region."""
    return None if region is None else lambda tiles, out: region.inline(tiles, place, out)


def tiles_like(builder: Builder, tile: Value) -> TileBuilder:
    """Arithmetic on tiles of the shape of `tile`."""
    type_ = tile.type
    assert isinstance(type_, TensorType), "rows lie in tiles"
    rows, columns = type_.shape
    assert isinstance(rows, int) and isinstance(columns, int), "tiles have constant sizes"
    return TileBuilder(builder, (rows, columns))
