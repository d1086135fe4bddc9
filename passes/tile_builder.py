"""Builds elementwise arithmetic on score tiles, in which a value is no larger than it must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..ir.attributes import (
    Attribute,
    DenseArrayAttr,
    FloatAttr,
    IntegerAttr,
    TensorType,
    Type,
    element_type,
    i1,
    index,
)
from ..ir.builder import Builder
from ..ir.core import Operation, Value
from ..ir.define import Op
from ..ir.dialects.arith import AddIOp, AndIOp, CmpIOp, ConstantOp, DivSIOp, MaxSIOp, MinSIOp, MulIOp, SubIOp
from ..ir.dialects.tile import BroadcastOp, IotaOp

ROWS, COLUMNS = 0, 1


@dataclass(frozen=True)
class Tile:
    """A value and the axes of the score tile along which it varies: none for a scalar."""

    value: Value
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class TileBuilder:
    """Elementwise ops on tiles of `shape` (queries, keys); operands are repeated along missing axes."""

    builder: Builder
    shape: tuple[int, int]

    def type_along(self, axes: tuple[int, ...], element: Type) -> Type:
        return TensorType(tuple(self.shape[axis] for axis in axes), element) if axes else element

    def spread(self, tile: Tile, axes: tuple[int, ...]) -> Value:
        """The value of `tile`, repeated to vary along exactly `axes`."""
        if tile.axes == axes:
            return tile.value
        type_ = self.type_along(axes, element_type(tile.value.type))
        constant = ConstantOp.producing(tile.value)
        if constant is not None and isinstance(constant.value, IntegerAttr | FloatAttr):
            return self.builder.constant(constant.value.value, type_)
        missing = tuple(i for i, axis in enumerate(axes) if axis not in tile.axes)
        return self.builder.create(BroadcastOp, [tile.value], [type_], {"axes": DenseArrayAttr(missing)}).out

    def elementwise(
        self,
        op_name: str,
        operands: Iterable[Tile],
        element: Type,
        properties: Mapping[str, Attribute] | None = None,
        label: str | None = None,
    ) -> Tile:
        """One op on all operands, whose result holds `element`."""
        operands = list(operands)
        axes = union(operands)
        values = [self.spread(tile, axes) for tile in operands]
        op = Operation.create(op_name, values, [self.type_along(axes, element)], properties)
        result = self.builder.insert(op).result
        result.name_hint = label
        return Tile(result, axes)

    def binary(self, kind: type[Op], lhs: Tile, rhs: Tile, label: str | None = None) -> Tile:
        return self.elementwise(kind.op_name, [lhs, rhs], element_type(lhs.value.type), label=label)

    def compare(self, predicate: str, lhs: Tile, rhs: Tile, label: str | None = None) -> Tile:
        """Compare integers."""
        properties = {"predicate": CmpIOp.predicate_attr(predicate)}
        return self.elementwise(CmpIOp.op_name, [lhs, rhs], i1, properties, label)

    def conjunction(self, conditions: Iterable[Tile], label: str | None = None) -> Tile:
        """All of `conditions`, at least one; small ones are joined before they are repeated."""
        first, *rest = sorted(conditions, key=lambda tile: len(tile.axes))
        for tile in rest:
            first = self.binary(AndIOp, first, tile, label)
        return first

    def index(self, value: int) -> Tile:
        return Tile(self.builder.index(value))

    def shifted(self, tile: Tile, distance: int, label: str | None = None) -> Tile:
        """Positions moved by a constant."""
        if distance < 0:
            return self.binary(SubIOp, tile, self.index(-distance), label)
        return self.binary(AddIOp, tile, self.index(distance), label) if distance else tile

    def positions(self, start: Value, axis: int, label: str) -> Tile:
        """start, start + 1, ... along `axis`."""
        iota = self.builder.create(IotaOp, [], [self.type_along((axis,), index)]).out
        return self.binary(AddIOp, Tile(start), Tile(iota, (axis,)), label)


def union(tiles: Iterable[Tile]) -> tuple[int, ...]:
    """The axes along which any of `tiles` varies."""
    return tuple(sorted({axis for tile in tiles for axis in tile.axes}))


@dataclass(frozen=True)
class IndexMath:
    """Positions as `index` values: the arithmetic that `key_ranges` asks for."""

    builder: Builder

    def constant(self, value: int) -> Value:
        return self.builder.index(value)

    def add(self, x: Value, value: int) -> Value:
        """x + value; a constant that `x` already adds is merged with it."""
        for kind, sign in ((AddIOp, 1), (SubIOp, -1)):
            inner = kind.producing(x)
            offset = ConstantOp.producing(inner.rhs) if inner is not None else None
            if inner is not None and offset is not None and isinstance(offset.value, IntegerAttr):
                return self.add(inner.lhs, sign * offset.value.value + value)
        if value < 0:
            return self.builder.binary(SubIOp, x, self.constant(-value))
        return self.builder.binary(AddIOp, x, self.constant(value)) if value else x

    def sum(self, x: Value, y: Value) -> Value:
        return self.builder.binary(AddIOp, x, y)

    def difference(self, x: Value, y: Value) -> Value:
        return self.builder.binary(SubIOp, x, y)

    def least(self, *values: Value) -> Value:
        return self._fold(MinSIOp, values)

    def greatest(self, *values: Value) -> Value:
        return self._fold(MaxSIOp, values)

    def round_down(self, x: Value, step: int) -> Value:
        if (constant := ConstantOp.producing(x)) is not None and isinstance(constant.value, IntegerAttr):
            return self.constant(constant.value.value // step * step)
        tiles = self.builder.binary(DivSIOp, x, self.constant(step))
        return self.builder.binary(MulIOp, tiles, self.constant(step))

    def ceiling_quotient(self, x: Value, step: int, label: str) -> Value:
        """How many steps cover `x`, which is not negative."""
        return self.builder.binary(DivSIOp, self.add(x, step - 1), self.constant(step), label)

    def _fold(self, kind: type[Op], values: tuple[Value, ...]) -> Value:
        first, *rest = values
        for value in rest:
            first = self.builder.binary(kind, first, value)
        return first
