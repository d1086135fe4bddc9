"""Builds operations one after the other at a place in a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .attributes import Attribute, FloatAttr, FloatType, IntegerAttr, SplatAttr, TensorType, Type, element_type, index
from .core import Block, Operation, Region, Value
from .define import Op
from .dialects.arith import ConstantOp
from .location import UNKNOWN, Location

OpT = TypeVar("OpT", bound=Op)


@dataclass
class Builder:
    """Inserts at `anchor` (before it), or at the end of `block` without one."""

    block: Block
    anchor: Operation | None = None
    location: Location = UNKNOWN

    @staticmethod
    def before(operation: Operation) -> Builder:
        assert operation.parent is not None
        return Builder(operation.parent, operation, operation.location)

    def insert(self, operation: Operation) -> Operation:
        if not operation.location.known:
            operation.location = self.location
        if self.anchor is None:
            return self.block.append(operation)
        return self.block.insert_before(self.anchor, operation)

    def create(
        self,
        kind: type[OpT],
        operands: Sequence[Value] = (),
        result_types: Sequence[Type] = (),
        properties: Mapping[str, Attribute] | None = None,
        regions: Sequence[Region] = (),
        name: str | None = None,
    ) -> OpT:
        """Insert an op; `name` hints at what its first result is called."""
        op = kind.create(operands, result_types, properties, regions)
        self.insert(op.operation)
        if name is not None:
            op.operation.results[0].name_hint = name
        return op

    def constant(self, value: float | int | bool, type_: Type, name: str | None = None) -> Value:
        """A number of a scalar type, or a tile filled with it."""
        scalar_type = element_type(type_)
        scalar = (
            FloatAttr(float(value), scalar_type)
            if isinstance(scalar_type, FloatType)
            else IntegerAttr(int(value), scalar_type)
        )
        attr = SplatAttr(scalar, type_) if isinstance(type_, TensorType) else scalar
        return self.create(ConstantOp, [], [type_], {"value": attr}, name=name).out

    def index(self, value: int, name: str | None = None) -> Value:
        return self.constant(value, index, name)

    def binary(self, kind: type[OpT], lhs: Value, rhs: Value, name: str | None = None) -> Value:
        """An op of two operands whose result has the type of the first."""
        return self.create(kind, [lhs, rhs], [lhs.type], name=name).operation.result

    def unary(self, kind: type[OpT], x: Value, name: str | None = None) -> Value:
        """An op of one operand whose result has its type."""
        return self.create(kind, [x], [x.type], name=name).operation.result
