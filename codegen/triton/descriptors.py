"""Bulk loads: tiles that a tensor descriptor copies, which the host makes for a call or each program for itself.

A descriptor of the host stands for a whole tensor, so that tiles have leading sizes of 1; one made on the device
stands for the rows of one head. Both read zeros outside.
"""

from __future__ import annotations

from ...ir.attributes import TensorType
from ...ir.core import Operation, Value
from ...ir.dialects.tensor import DimOp
from ...ir.dialects.tile import LoadOp, SliceOp
from .expression import Expression, call, name, signature_type
from .places import argument_of, sizes_of
from .writer import KernelWriter, Parameter


def is_bulk(op: Operation) -> bool:
    """Whether an op loads through a descriptor."""
    load = LoadOp.match(op)
    return load is not None and load.bulk is not None


def bulk_shapes(value: Value) -> list[tuple[int, ...]]:
    """The shapes of the tiles that descriptors copy from a tensor, each once."""
    return list(dict.fromkeys(sizes_of(user.result.type) for user in value.users if is_bulk(user)))


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


def define_descriptor(value: Value, shape: tuple[int, ...], writer: KernelWriter) -> None:
    """A descriptor of the tiles of `shape` in the rows of one head: a parameter, or made here."""
    if from_host(writer):
        return
    place = argument_of(value, writer)
    variable = writer.keep(writer.fresh(f"{writer.arguments[place.argument]}_desc"))
    sizes = ", ".join(writer.size(place.argument, place.first_axis + axis).text for axis in range(len(shape)))
    strides = [writer.stride(place.argument, place.first_axis + axis).text for axis in range(len(shape) - 1)]
    tile = ", ".join(map(str, shape))
    # Triton takes only the number 1 for the stride of the last axis.
    arguments = [f"[{sizes}]", f"[{', '.join([*strides, '1'])}]", f"[{tile}]"]
    writer.line(f"{variable} = {call('tl.make_tensor_descriptor', writer.operand(value), *arguments).text}")
    writer.descriptors[value, shape] = name(variable)


def bulk_load(view: LoadOp, shape: tuple[int, ...], writer: KernelWriter) -> Expression:
    """The tile at the offsets of a load."""
    offsets = [writer.operand(v).text for v in view.offsets]
    if not from_host(writer):
        if (view.source, shape) not in writer.descriptors:
            define_descriptor(view.source, shape, writer)
        descriptor = writer.descriptors[view.source, shape]
        return Expression(f"{descriptor.text}.load([{', '.join(offsets)}])", shape=shape, names=descriptor.names)
    place, leading = argument_of(view.source, writer), _leading(view.source, writer)
    parameter = _parameter(place.argument, (*(1 for _ in leading), *shape), writer)
    loaded = f"{parameter.name}.load([{', '.join([*leading, *offsets])}])"
    sizes = ", ".join(map(str, shape))
    return Expression(f"tl.reshape({loaded}, [{sizes}])", shape=shape, names=frozenset({parameter.name}))


def _leading(value: Value, writer: KernelWriter) -> list[str]:
    """The positions along the axes that a slice fixes."""
    view = SliceOp.producing(value)
    return [] if view is None else [*_leading(view.source, writer), *(writer.operand(v).text for v in view.indices)]


def _parameter(argument: int, block: tuple[int, ...], writer: KernelWriter) -> Parameter:
    """The kernel's parameter for a descriptor of tiles of `block`."""
    tensor, type_ = writer.arguments[argument], writer.tensor_types[argument]
    assert isinstance(type_, TensorType)
    sizes = f"[{', '.join(map(str, block))}]"
    text = f"tensordesc<{signature_type(type_.element)}{sizes}>"
    value = f"TensorDescriptor.from_tensor({tensor}, {sizes})"
    known = (p for p in writer.parameters.values() if (p.argument, p.type) == (argument, text))
    if (found := next(known, None)) is not None:
        return found
    parameter = Parameter(writer.keep(writer.fresh(f"{tensor}_desc")), text, value, argument, block=block)
    writer.parameters[parameter.name] = parameter
    return parameter
