"""The frame of a kernel: its arguments and their sizes and parts, its properties. Knows no attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cost_model.schedule import Schedule
from ..ir.attributes import Attribute, FunctionType, IntegerAttr, StringAttr, TensorType, Type, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.dialects.tensor import DimOp
from ..ir.dialects.tile import KernelOp, SliceOp
from ..ir.location import Location
from .dce import drop_dead_code


@dataclass(frozen=True)
class KernelFrame:
    """A kernel without its regions' ops."""

    name: str
    types: Sequence[Type]
    names: Sequence[str | None]
    schedule: Schedule
    location: Location

    def region(self) -> tuple[Block, Builder]:
        """A block with the kernel's arguments, for its grid or its body, and what writes into it."""
        block = Block.with_arguments(list(self.types), list(self.names))
        return block, Builder(block, location=self.location)

    def kernel(self, grid: Block, body: Block) -> Operation:
        schedule = self.schedule
        properties: dict[str, Attribute] = {
            "sym_name": StringAttr(self.name),
            "function_type": FunctionType(tuple(self.types), ()),
            "num_warps": IntegerAttr(schedule.num_warps),
            "num_stages": IntegerAttr(schedule.num_stages),
        }
        if schedule.lanes:
            properties |= {"lanes": IntegerAttr(schedule.lanes), "columns": IntegerAttr(schedule.columns)}
        kernel = KernelOp.create([], [], properties, [Region([grid]), Region([body])])
        kernel.operation.location = self.location
        if self.location.known:
            kernel.source = StringAttr(f"{self.location.file}:{self.location.line}")
        drop_dead_code(kernel.operation)
        return kernel.operation


def size_of(builder: Builder, tensor: Value, axis: int, name: str) -> Value:
    """The size along `axis`, a constant where the type says it."""
    type_ = tensor.type
    assert isinstance(type_, TensorType)
    size = type_.shape[axis]
    if isinstance(size, int):
        return builder.index(size, name)
    return builder.create(DimOp, [tensor, builder.index(axis)], [index], name=name).out


def width_of(tensor: Value) -> int:
    """The constant head dimension of a (..., N, D) tensor."""
    type_ = tensor.type
    assert isinstance(type_, TensorType)
    width = type_.shape[-1]
    assert isinstance(width, int), "the planner refuses unknown head dimensions"
    return width


def part_of(builder: Builder, tensor: Value, indices: Sequence[Value], name: str) -> Value:
    """The part of `tensor` at fixed leading indices."""
    type_ = tensor.type
    assert isinstance(type_, TensorType)
    rest = type_.with_shape(*type_.shape[len(indices) :])
    return builder.create(SliceOp, [tensor, *indices], [rest], name=name).out
