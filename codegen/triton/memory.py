"""Loads and stores as pointer arithmetic: 64-bit bases and starts, 32-bit offsets inside a tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ...ir.attributes import DenseArrayAttr, TensorType
from ...ir.core import Operation, Value
from ...ir.dialects.tile import AtomicAddOp, GatherOp, GroupRowsOp, LoadCodesOp, LoadOp, SliceOp, StoreOp
from .descriptors import bulk_load, bulk_shapes, define_descriptor, is_bulk, only_host_descriptors
from .expression import Expression, call, combine, index_with, infix, is_zero, name
from .places import argument_of, sizes_of
from .writer import Emitter, KernelWriter, zero_of


def slice_(op: Operation, writer: KernelWriter) -> None:
    """A pointer to the first element, and beside it the offsets of every tile read through it."""
    view = SliceOp(op)
    if only_host_descriptors(op.result, writer):
        return
    place, base = argument_of(view.source, writer), writer.operand(view.source)
    for axis, position in enumerate(view.indices):
        base = advanced(base, writer.operand(position), writer.stride(place.argument, place.first_axis + axis))
    writer.assign(op, base, f"{writer.arguments[place.argument]}_base")
    for shape in tile_shapes(op.result):
        variable = define_offsets(op.result, shape, writer)
        writer.line(f"{variable[0]} = {variable[1]}")
    for shape, by_column in bulk_shapes(op.result):
        define_descriptor(op.result, shape, by_column, writer)


def group_rows(op: Operation, writer: KernelWriter) -> None:
    """A pointer to the first query of the first head of a group."""
    view = GroupRowsOp(op)
    place, base = argument_of(view.source, writer), writer.operand(view.source)
    first_head = infix("*", writer.operand(view.key_head), Expression(str(view.group.value), literal=True))
    for axis, position in enumerate((writer.operand(view.batch), first_head)):
        base = advanced(base, position, writer.stride(place.argument, place.first_axis + axis))
    writer.assign(op, base, f"{writer.arguments[place.argument]}_base")


def advanced(base: Expression, position: Expression, stride: Expression) -> Expression:
    """A pointer moved by `position` rows, in 64 bits: batches times heads times lengths overflow 32."""
    if is_zero(position):
        return base
    return infix("+", base, infix("*", call("tl.cast", position, "tl.int64"), stride))


def tile_shapes(value: Value) -> list[tuple[int, ...]]:
    """The shapes of the tiles that are read or written through pointers to a tensor, each once."""
    shapes: dict[tuple[int, ...], None] = {}
    for user in value.users:
        tile = _tile_of(user)
        if tile is not None and not is_bulk(user) and user.operands[user.name != LoadOp.op_name] is value:
            shapes[sizes_of(tile.type)] = None
    return list(shapes)


def _tile_of(op: Operation) -> Value | None:
    if op.name == LoadOp.op_name:
        return op.result
    return op.operands[0] if op.name in (StoreOp.op_name, AtomicAddOp.op_name) else None


def define_offsets(value: Value, shape: tuple[int, ...], writer: KernelWriter) -> tuple[str, str]:
    """The variable for the offsets inside a tile of `shape`, and its text."""
    place = argument_of(value, writer)
    terms = [
        infix("*", along(writer, shape, axis), writer.stride(place.argument, place.first_axis + axis))
        for axis in range(len(shape))
    ]
    text = terms[0]
    for term in terms[1:]:
        text = infix("+", text, term)
    variable = writer.keep(writer.fresh(f"{writer.arguments[place.argument]}_offsets"))
    writer.offsets[value, shape] = name(variable, shape)
    return variable, text.text


def along(writer: KernelWriter, shape: tuple[int, ...], axis: int) -> Expression:
    """0, 1, 2, ... along one axis of a tile."""
    return index_with(writer.positions(shape[axis]), [a == axis for a in range(len(shape))])


def load(op: Operation, writer: KernelWriter) -> None:
    view, shape = LoadOp(op), sizes_of(op.result.type)
    if view.bulk is not None:
        writer.assign(op, bulk_load(view, shape, writer))
        return
    pointers, mask = tile_pointers(writer, view.source, view.offsets, shape, view.boundary)
    extra = [*_mask_argument(mask), *([f"other={zero_of(op.result)}"] if mask is not None else [])]
    text = call("tl.load", pointers, *extra).text
    writer.assign(op, Expression(text, shape=shape))


def store(op: Operation, writer: KernelWriter) -> None:
    view = StoreOp(op)
    shape = sizes_of(view.tile.type)
    pointers, mask = tile_pointers(writer, view.target, view.offsets, shape, view.boundary)
    writer.line(call("tl.store", pointers, writer.full(view.tile), *_mask_argument(mask)).text, op)


def atomic_add(op: Operation, writer: KernelWriter) -> None:
    view = AtomicAddOp(op)
    shape = sizes_of(view.tile.type)
    pointers, mask = tile_pointers(writer, view.target, view.offsets, shape, view.boundary)
    extra = [*_mask_argument(mask), 'sem="relaxed"']
    writer.line(call("tl.atomic_add", pointers, writer.full(view.tile), *extra).text, op)


def _mask_argument(mask: Expression | None) -> list[str]:
    return [] if mask is None else [f"mask={mask.text}"]


def tile_pointers(
    writer: KernelWriter, memory: Value, starts: Sequence[Value], shape: tuple[int, ...], boundary: DenseArrayAttr
) -> tuple[Expression, Expression | None]:
    """Pointers to a tile of `memory` that begins at `starts`, and where it must be masked."""
    place = argument_of(memory, writer)
    if place.grouped:
        return grouped_pointers(writer, memory, starts, shape, boundary)
    if (memory, shape) not in writer.offsets:
        variable, text = define_offsets(memory, shape, writer)
        writer.prologue.append(f"    {variable} = {text}")
    pointer = writer.operand(memory)
    mask: Expression | None = None
    for axis, start in enumerate(starts):
        first, position = place.first_axis + axis, writer.operand(start)
        pointer = advanced(pointer, position, writer.stride(place.argument, first))
        if axis in boundary.values:
            mask = _within(mask, moved(position, along(writer, shape, axis)), writer.size(place.argument, first))
    return infix("+", pointer, writer.offsets[memory, shape]), mask


def moved(position: Expression, index: Expression) -> Expression:
    """Positions from a first one on."""
    return index if is_zero(position) else infix("+", position, index)


def _within(mask: Expression | None, index: Expression, size: Expression) -> Expression:
    inside = infix("<", index, size)
    return inside if mask is None else infix("&", mask, inside)


def grouped_pointers(
    writer: KernelWriter, memory: Value, starts: Sequence[Value], shape: tuple[int, ...], boundary: DenseArrayAttr
) -> tuple[Expression, Expression | None]:
    """As `tile_pointers` for grouped rows: heads and queries lie any distance apart, so each row is multiplied out."""
    place = argument_of(memory, writer)
    pointer, mask = grouped_rows(writer, memory, starts[0], shape, cut=0 in boundary.values)
    for axis, start in enumerate(starts[1:], 1):
        columns = moved(writer.operand(start), along(writer, shape, axis))
        pointer = infix("+", pointer, infix("*", columns, writer.stride(place.argument, place.first_axis + axis)))
        if axis in boundary.values:
            mask = _within(mask, columns, writer.size(place.argument, place.first_axis + axis))
    return pointer, mask


def grouped_rows(
    writer: KernelWriter, memory: Value, start: Value, shape: tuple[int, ...], *, cut: bool
) -> tuple[Expression, Expression | None]:
    """Pointers to the first column of each row of a tile of grouped rows, and which rows exist if some may not."""
    place, pointer, mask = argument_of(memory, writer), writer.operand(memory), None
    group = Expression(str(place.grouped), literal=True)
    rows = moved(writer.operand(start), along(writer, shape, 0))
    for operator, axis in (("//", place.first_axis), ("%", place.first_axis - 1)):
        pointer = advanced(pointer, infix(operator, rows, group), writer.stride(place.argument, axis))
    if cut:
        queries = writer.size(place.argument, place.first_axis)
        mask = _within(mask, rows, infix("*", queries, group))
    return pointer, mask


def gather(op: Operation, writer: KernelWriter) -> None:
    """Elements at arbitrary positions of each axis."""
    view = GatherOp(op)
    masked = view.masked is not None
    indices = [writer.operand(v) for v in (view.indices[:-1] if masked else view.indices)]
    pointers = element_pointers(writer, view.source, indices)
    default = f"{writer.arguments[argument_of(view.source, writer).argument]}_value"
    if not masked:
        writer.assign(op, Expression(call("tl.load", pointers).text, shape=pointers.shape), default)
        return
    mask = writer.operand(view.indices[-1])
    if mask.shape != pointers.shape and prod(mask.shape) >= prod(pointers.shape):
        pointers = spread(pointers, combine("", [pointers, mask], 0).shape)
    text = call("tl.load", pointers, f"mask={mask.text}", f"other={zero_of(op.result)}").text
    writer.assign(op, Expression(text, shape=pointers.shape), default)


def spread(x: Expression, shape: tuple[int, ...]) -> Expression:
    """`x` repeated to `shape`; a mask may not be larger than the pointers it is for."""
    sizes = f"[{', '.join(map(str, shape))}]"
    return x if x.shape == shape else Expression(f"tl.broadcast_to({x.text}, {sizes})", shape=shape, names=x.names)


def extract(op: Operation, writer: KernelWriter) -> None:
    """One element; every position is a scalar."""
    pointer = element_pointers(writer, op.operands[0], [writer.operand(v) for v in op.operands[1:]])
    writer.assign(op, call("tl.load", pointer))


def element_pointers(writer: KernelWriter, memory: Value, indices: Sequence[Expression]) -> Expression:
    """Pointers to the elements at `indices`, those with the fewest positions first.

    Rows and columns are multiplied out in 64 bits, which costs little for a vector; whole tiles of
    positions in 32 bits, which the runtime checks to be enough.
    """
    place, pointer = argument_of(memory, writer), writer.operand(memory)
    order = sorted(range(len(indices)), key=lambda axis: prod(indices[axis].shape))
    for axis in order:
        index = indices[axis]
        if is_zero(index):
            continue
        stride = writer.stride(place.argument, place.first_axis + axis)
        if is_whole_tile(index):
            pointer = infix("+", pointer, infix("*", index, stride))
        else:
            pointer = advanced(pointer, index, stride)
    return pointer


def is_whole_tile(index: Expression) -> bool:
    """Whether positions vary along more than one axis."""
    return sum(size > 1 for size in index.shape) > 1


EMITTERS: Mapping[str, Emitter] = {
    "tile.slice": slice_,
    "tile.group_rows": group_rows,
    "tile.load": load,
    "tile.store": store,
    "tile.atomic_add": atomic_add,
    "tile.gather": gather,
    "tensor.extract": extract,
}


@dataclass(frozen=True)
class OffsetBound:
    """How far 32-bit offsets reach from a pointer into one kernel argument: (axis, extent) pairs.

    An extent of None means the whole axis.
    """

    argument: int
    extents: tuple[tuple[int, int | None], ...]


def offset_bounds(writer: KernelWriter) -> tuple[OffsetBound, ...]:
    """What a launcher must check: the tiles of each argument, and whole tiles of positions."""
    bounds: dict[OffsetBound, None] = {}
    for value, shape in writer.offsets:
        place = argument_of(value, writer)
        bounds[OffsetBound(place.argument, tuple((place.first_axis + i, n) for i, n in enumerate(shape)))] = None
    for op in writer.kernel.operation.walk():
        if (view := GatherOp.match(op)) is not None:
            bounds[_gather_bound(view, writer)] = None
        if (codes := LoadCodesOp.match(op)) is not None:
            place = argument_of(codes.source, writer)
            rows = [(place.first_axis, sizes_of(codes.out.type)[0])] if not place.grouped else []
            bounds[OffsetBound(place.argument, (*rows, (place.first_axis + 1, None)))] = None
    return tuple(b for b in bounds if b.extents)


def _gather_bound(view: GatherOp, writer: KernelWriter) -> OffsetBound:
    place = argument_of(view.source, writer)
    source = view.source.type
    assert isinstance(source, TensorType)
    axes = [i for i, v in enumerate(view.indices[: source.rank]) if is_whole_tile(writer.operand(v))]
    return OffsetBound(place.argument, tuple((place.first_axis + axis, None) for axis in axes))
