"""Bulk loads: tiles that a tensor descriptor copies, which the host makes for a call or each program for itself.

A descriptor of the host stands for a whole tensor, so that tiles have leading sizes of 1; one made on the device
stands for the rows of one head. Both read zeros outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ...ir.attributes import TensorType
from ...ir.core import Operation, Value
from ...ir.dialects.tensor import DimOp
from ...ir.dialects.tile import LoadOp, SliceOp
from .expression import Expression, call, name, signature_type
from .places import argument_of, sizes_of
from .writer import KernelWriter, Parameter

T = TypeVar("T")


def is_bulk(op: Operation) -> bool:
    """Whether an op loads through a descriptor."""
    load = LoadOp.match(op)
    return load is not None and load.bulk is not None


def bulk_shapes(value: Value) -> list[tuple[tuple[int, ...], bool]]:
    """The shapes of the tiles that descriptors copy from a tensor, each once, and whether they lie by column."""
    loads = (LoadOp(user) for user in value.users if is_bulk(user))
    return list(dict.fromkeys((sizes_of(load.out.type), load.by_column is not None) for load in loads))


def from_host(writer: KernelWriter) -> bool:
    """Whether descriptors are arguments of the kernel."""
    made_by = writer.kernel.descriptors
    return made_by is not None and made_by.value == "host"


def only_host_descriptors(value: Value, writer: KernelWriter) -> bool:
    """Whether nothing needs a pointer to a tensor: all that reads it goes through descriptors of the host."""
    if not from_host(writer):
        return False

    def needs_none(user: Operation) -> bool:
        return is_bulk(user) or (SliceOp.match(user) is not None and only_host_descriptors(user.result, writer))

    readers = [user for user in value.users if DimOp.match(user) is None]
    return bool(readers) and all(map(needs_none, readers))


def define_descriptor(value: Value, shape: tuple[int, ...], by_column: bool, writer: KernelWriter) -> None:
    """A descriptor of the tiles of `shape` in the rows of one head, which has its axes in the order of memory."""
    if from_host(writer):
        return
    place = argument_of(value, writer)
    variable = writer.keep(writer.fresh(f"{writer.arguments[place.argument]}_desc"))
    axes = _in_memory(range(len(shape)), by_column)
    sizes = ", ".join(writer.size(place.argument, place.first_axis + axis).text for axis in axes)
    strides = [writer.stride(place.argument, place.first_axis + axis).text for axis in axes[:-1]]
    tile = ", ".join(str(shape[axis]) for axis in axes)
    # Triton takes only the number 1 for the stride of the last axis.
    arguments = [f"[{sizes}]", f"[{', '.join([*strides, '1'])}]", f"[{tile}]"]
    writer.line(f"{variable} = {call('tl.make_tensor_descriptor', writer.operand(value), *arguments).text}")
    writer.descriptors[value, shape] = name(variable)


def _in_memory(axes: Iterable[T], by_column: bool) -> list[T]:
    """What belongs to the axes of a tile, in the order of memory: the last one varies fastest."""
    found = list(axes)
    return [*found[:-2], found[-1], found[-2]] if by_column else found


def bulk_load(view: LoadOp, shape: tuple[int, ...], writer: KernelWriter) -> Expression:
    """The tile at the offsets of a load."""
    by_column = view.by_column is not None
    offsets = _in_memory((writer.operand(v).text for v in view.offsets), by_column)
    if not from_host(writer):
        if (view.source, shape) not in writer.descriptors:
            define_descriptor(view.source, shape, by_column, writer)
        descriptor = writer.descriptors[view.source, shape]
        text, names = f"{descriptor.text}.load([{', '.join(offsets)}])", descriptor.names
    else:
        place, leading = argument_of(view.source, writer), _leading(view.source, writer)
        sizes = _in_memory(shape, by_column)
        parameter = _parameter(place.argument, (*(1 for _ in leading), *sizes), by_column, writer)
        loaded = f"{parameter.name}.load([{', '.join([*leading, *offsets])}])"
        text, names = f"tl.reshape({loaded}, [{', '.join(map(str, sizes))}])", frozenset({parameter.name})
    return Expression(f"tl.trans({text})" if by_column else text, shape=shape, names=names)


def _leading(value: Value, writer: KernelWriter) -> list[str]:
    """The positions along the axes that a slice fixes."""
    view = SliceOp.producing(value)
    return [] if view is None else [*_leading(view.source, writer), *(writer.operand(v).text for v in view.indices)]


def _parameter(argument: int, block: tuple[int, ...], by_column: bool, writer: KernelWriter) -> Parameter:
    """The kernel's parameter for a descriptor of tiles of `block`."""
    tensor, type_ = writer.arguments[argument], writer.tensor_types[argument]
    assert isinstance(type_, TensorType)
    sizes = f"[{', '.join(map(str, block))}]"
    text = f"tensordesc<{signature_type(type_.element)}{sizes}>"
    source = f"{tensor}.transpose(-2, -1)" if by_column else tensor
    value = f"TensorDescriptor.from_tensor({source}, {sizes})"
    known = (p for p in writer.parameters.values() if (p.argument, p.type) == (argument, text))
    if (found := next(known, None)) is not None:
        return found
    parameter = Parameter(writer.keep(writer.fresh(f"{tensor}_desc")), text, value, argument, block=block)
    writer.parameters[parameter.name] = parameter
    return parameter
