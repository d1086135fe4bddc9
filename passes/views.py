"""Builds and undoes the views between a tensor as the model holds it and as attention reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.attributes import Dim, TensorType, index
from ..ir.builder import Builder
from ..ir.core import Operation, Value
from ..ir.dialects.aten import Argument, AtenOp, aten_op
from .index_function import tensor_type

SAME_ELEMENTS = ("alias", "clone", "contiguous", "detach", "lift_fresh_copy")
RESHAPES = ("view", "_unsafe_view", "reshape")


@dataclass
class Views:
    """Inserts ATen views in front of one operation."""

    builder: Builder

    def _make(self, name: str, arguments: dict[str, Argument], type_: TensorType) -> Value:
        value = self.builder.insert(aten_op(name, arguments, [type_])).result
        source = arguments.get("self")
        value.name_hint = source.name_hint if isinstance(source, Value) else None
        return value

    def permute(self, value: Value, order: Sequence[int]) -> Value:
        if list(order) == list(range(len(order))):
            return value
        type_ = tensor_type(value)
        out = type_.with_shape(*(type_.shape[i] for i in order))
        moved = [i for i, axis in enumerate(order) if i != axis]
        if len(moved) == 2:
            return self._make("transpose.int", {"self": value, "dim0": moved[0], "dim1": moved[1]}, out)
        return self._make("permute", {"self": value, "dims": list(order)}, out)

    def arrange(self, value: Value, order: Sequence[int | None]) -> Value:
        """Permute the axes; None puts an axis of size 1 in its place."""
        value = self.permute(value, [axis for axis in order if axis is not None])
        for position, axis in enumerate(order):
            if axis is None:
                value = self.unsqueeze(value, position)
        return value

    def unsqueeze(self, value: Value, axis: int) -> Value:
        shape = list(tensor_type(value).shape)
        shape.insert(axis, 1)
        return self._make("unsqueeze", {"self": value, "dim": axis}, tensor_type(value).with_shape(*shape))

    def squeeze(self, value: Value, axis: int) -> Value:
        shape = list(tensor_type(value).shape)
        del shape[axis]
        return self._make("squeeze.dim", {"self": value, "dim": axis}, tensor_type(value).with_shape(*shape))

    def select(self, value: Value, axis: int, position: int) -> Value:
        """The elements at one position of an axis, which goes away."""
        shape = list(tensor_type(value).shape)
        del shape[axis]
        out = tensor_type(value).with_shape(*shape)
        return self._make("select.int", {"self": value, "dim": axis, "index": position}, out)

    def slice(self, value: Value, axis: int, start: int, step: int, size: int) -> Value:
        """`size` elements of an axis, every `step`-th from `start` on."""
        shape = list(tensor_type(value).shape)
        shape[axis] = size
        given: dict[str, Argument] = {"start": start, "end": start + (size - 1) * step + 1, "step": step}
        return self._make("slice.Tensor", {"self": value, "dim": axis, **given}, tensor_type(value).with_shape(*shape))

    def concatenate(self, values: Sequence[Value], axis: int, size: Dim) -> Value:
        """The tensors one behind the other along `axis`, `size` together."""
        shape = list(tensor_type(values[0]).shape)
        shape[axis] = size
        type_ = tensor_type(values[0]).with_shape(*shape)
        return self.builder.insert(aten_op("cat", {"tensors": list(values), "dim": axis}, [type_])).result

    def scaled(self, value: Value, factor: float) -> Value:
        """The tensor times a number."""
        return (
            value if factor == 1.0 else self._make("mul.Tensor", {"self": value, "other": factor}, tensor_type(value))
        )

    def flatten(self, value: Value, first: int, last: int, size: Dim) -> Value:
        """Merge the axes from `first` to `last` into one of `size`."""
        shape = tensor_type(value).shape
        out = tensor_type(value).with_shape(*shape[:first], size, *shape[last + 1 :])
        return self._make("flatten.using_ints", {"self": value, "start_dim": first, "end_dim": last}, out)

    def unflatten(self, value: Value, axis: int, sizes: Sequence[Dim]) -> Value | None:
        """Split one axis into `sizes`; None where more than one of them is not a constant."""
        if sum(not isinstance(s, int) for s in sizes) > 1:
            return None
        shape = tensor_type(value).shape
        out = tensor_type(value).with_shape(*shape[:axis], *sizes, *shape[axis + 1 :])
        given: list[Argument] = [s if isinstance(s, int) else -1 for s in sizes]
        return self._make("unflatten.int", {"self": value, "dim": axis, "sizes": given}, out)

    def expand(self, value: Value, shape: Sequence[Dim], like: Value) -> Value:
        """Repeat axes of size 1 up to `shape`, whose symbols are the sizes of `like`."""
        type_ = tensor_type(value)
        if type_.shape == tuple(shape):
            return value
        sizes: list[Argument] = []
        for axis, (old, new) in enumerate(zip(type_.shape, shape, strict=True)):
            if old == new:
                sizes.append(-1)
            else:
                sizes.append(new if isinstance(new, int) else self.size(like, axis))
        return self._make("expand", {"self": value, "size": sizes}, type_.with_shape(*shape))

    def size(self, value: Value, axis: int) -> Value:
        return self.builder.insert(aten_op("sym_size.int", {"self": value, "dim": axis}, [index])).result


def permutation_of(op: Operation) -> tuple[Value, list[int]] | None:
    """The source and axis order of a transpose or permute."""
    if op.dialect != "aten":
        return None
    view = AtenOp(op)
    source = view.operand("self")
    if source is None or not isinstance(source.type, TensorType):
        return None
    rank = source.type.rank
    order = list(range(rank))
    if view.name == "permute":
        dims = view.argument("dims")
        return (source, [d % rank for d in dims if isinstance(d, int)]) if isinstance(dims, list) else None
    if view.name == "t" and rank < 2:
        return source, order
    if view.name not in ("transpose.int", "t", "mT", "numpy_T"):
        return None
    i, j = view.argument("dim0", -2), view.argument("dim1", -1)
    if not isinstance(i, int) or not isinstance(j, int):
        return None
    order[i % rank], order[j % rank] = order[j % rank], order[i % rank]
    return source, order


def same_elements(op: Operation) -> Value | None:
    """The source of a copy or alias that changes neither shape nor type."""
    view = AtenOp(op)
    if op.dialect != "aten" or view.packet not in SAME_ELEMENTS:
        return None
    source = view.operand("self")
    return source if source is not None and source.type == op.results[0].type else None


def repeated(op: Operation, axis: int) -> tuple[Value, int] | None:
    """The source and count of a repeat along `axis` in which equal slices are neighbours.

    `repeat_interleave(x, g, axis)`, or unsqueeze behind the axis, expand to g, reshape away, as
    transformers' `repeat_kv` writes it.
    """
    view, out = AtenOp(op), op.results[0].type
    if op.dialect != "aten" or not isinstance(out, TensorType):
        return None
    if view.name == "repeat_interleave.self_int":
        source, count, dim = view.operand("self"), view.argument("repeats"), view.argument("dim")
        fits = isinstance(dim, int) and dim % out.rank == axis
        return (source, count) if source is not None and isinstance(count, int) and fits else None
    if view.packet not in (*RESHAPES, "flatten"):
        return None
    expanded = _through_copies(view.operand("self"))
    unsqueezed = _made_by(expanded, "expand")
    source = _made_by(unsqueezed, "unsqueeze")
    if expanded is None or unsqueezed is None or source is None:
        return None
    before, wide, after = tensor_type(unsqueezed).shape, tensor_type(expanded).shape, out.shape
    count = wide[axis + 1] if len(wide) > axis + 1 else None
    shape = tensor_type(source).shape
    same_elsewhere = (
        wide[: axis + 1] == before[: axis + 1] == shape[: axis + 1] and wide[axis + 2 :] == before[axis + 2 :]
    )
    merged = (
        after[:axis] == shape[:axis] and after[axis + 1 :] == shape[axis + 1 :] and before[axis + 1 : axis + 2] == (1,)
    )
    return (source, count) if isinstance(count, int) and same_elsewhere and merged else None


def _through_copies(value: Value | None) -> Value | None:
    while (
        value is not None and value.defining_op is not None and (source := same_elements(value.defining_op)) is not None
    ):
        value = source
    return value


def _made_by(value: Value | None, packet: str) -> Value | None:
    """The source of `value` if it is made by the view `packet`, copies aside."""
    value = _through_copies(value)
    if value is None or value.defining_op is None or value.defining_op.dialect != "aten":
        return None
    view = AtenOp(value.defining_op)
    return _through_copies(view.operand("self")) if view.packet == packet else None
