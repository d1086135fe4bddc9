"""Which argument of a kernel a tensor in memory is a part of."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.attributes import TensorType
from ...ir.core import Value
from ...ir.dialects.tile import GroupRowsOp, SliceOp
from .writer import KernelWriter


@dataclass(frozen=True)
class Place:
    """Where a tensor in memory lies: a kernel argument, without its first axes.

    Where rows are `grouped`, row r is query r // grouped of head r % grouped among those that share a key head.
    """

    argument: int
    first_axis: int
    grouped: int = 0


def argument_of(value: Value, writer: KernelWriter) -> Place:
    """The kernel argument that a tensor in memory is, or is a part of."""
    if (grouped := GroupRowsOp.producing(value)) is not None:
        outer = argument_of(grouped.source, writer)
        return Place(outer.argument, outer.first_axis + 2, grouped.group.value)
    view = SliceOp.producing(value)
    if view is None:
        return Place(writer.kernel.body.block.arguments.index(value), 0)
    outer = argument_of(view.source, writer)
    return Place(outer.argument, outer.first_axis + len(view.indices))


def sizes_of(type_: object) -> tuple[int, ...]:
    """The sizes of a tile."""
    assert isinstance(type_, TensorType)
    return tuple(d for d in type_.shape if isinstance(d, int))
