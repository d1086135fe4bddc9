"""ATen overloads that only rearrange data: shapes, axes, slices, joins and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .aten_arguments import Arguments, Meaning
from .call import Array


def reshape(size: str) -> Meaning:
    return lambda a: a.array("self").reshape(a.integers(size))


def like_other(a: Arguments) -> Array:
    return a.array("self").reshape(a.array("other").shape)


def expand(a: Arguments) -> Array:
    """Repeat axes of size 1; -1 keeps a size, new axes come first."""
    x, size = a.array("self"), a.integers("size")
    old = [1] * (len(size) - x.ndim) + list(x.shape)
    return np.broadcast_to(x, [n if wanted == -1 else wanted for wanted, n in zip(size, old, strict=True)])


def unsqueeze(a: Arguments) -> Array:
    return np.expand_dims(a.array("self"), a.integer("dim"))


def squeeze(a: Arguments) -> Array:
    """Drop the axes of `dim` (all, without it) whose size is 1."""
    x = a.array("self")
    axes = a.integers("dim", range(x.ndim)) if x.ndim else []
    return np.squeeze(x, axis=tuple({d % x.ndim for d in axes if x.shape[d] == 1}))


def flatten(a: Arguments) -> Array:
    x = a.array("self")
    if x.ndim == 0:
        return x.reshape(1)
    first, last = a.integer("start_dim", 0) % x.ndim, a.integer("end_dim", -1) % x.ndim
    return x.reshape(*x.shape[:first], int(np.prod(x.shape[first : last + 1])), *x.shape[last + 1 :])


def unflatten(a: Arguments) -> Array:
    x = a.array("self")
    axis = a.integer("dim") % x.ndim
    known = np.zeros(x.shape[axis], np.bool_).reshape(a.integers("sizes"))
    return x.reshape(*x.shape[:axis], *known.shape, *x.shape[axis + 1 :])


def transposed(a: Arguments) -> Array:
    """The transpose of a matrix; a vector or a number stays."""
    return a.array("self").T


def swapped(first: str, second: str) -> Meaning:
    def run(a: Arguments) -> Array:
        x = a.array("self")
        return x.swapaxes(a.integer(first), a.integer(second)) if x.ndim else x

    return run


def slice_axis(a: Arguments) -> Array:
    """Positions start, start + step, ... below end, both clamped to the size; negative ones count back."""
    x, axis = a.array("self"), a.integer("dim", 0)
    end = a.value("end")
    part = slice(a.integer("start", 0), None if end is None else int(end), a.integer("step", 1))
    return _along(x, axis, part)


def narrow(a: Arguments) -> Array:
    x, axis, start, length = a.array("self"), a.integer("dim"), a.integer("start"), a.integer("length")
    start += x.shape[axis] if start < 0 else 0
    if start + length > x.shape[axis]:
        a.fail(f"takes positions {start} to {start + length - 1} of axis {axis}, which has size {x.shape[axis]}")
    return _along(x, axis, slice(start, start + length))


def _along(x: Array, axis: int, part: slice | int) -> Array:
    return np.asarray(x[(slice(None),) * (axis % x.ndim) + (part,)])


def join(a: Arguments) -> Array:
    """All tensors one after the other; an empty vector joins with anything."""
    tensors = a.tensors("tensors")
    return np.concatenate([x for x in tensors if x.shape != (0,)] or tensors[:1], axis=a.integer("dim", 0))


def split_sizes(size: str) -> Meaning:
    """Pieces of the given sizes."""

    def run(a: Arguments) -> Sequence[Array]:
        x, axis, sizes = a.array("self"), a.integer("dim", 0), a.integers(size)
        if sum(sizes) != x.shape[axis]:
            a.fail(f"splits into {sizes}, which do not add up to the size {x.shape[axis]} of axis {axis}")
        return np.split(x, np.cumsum(sizes)[:-1], axis=axis)

    return run


def split_equal(a: Arguments) -> Sequence[Array]:
    return _pieces(a.array("self"), a.integer("dim", 0), a.integer("split_size"))


def chunk(a: Arguments) -> Sequence[Array]:
    """At most `chunks` pieces of one size, the last one smaller."""
    x, axis, chunks = a.array("self"), a.integer("dim", 0), a.integer("chunks")
    size = -(-x.shape[axis] // chunks)
    return _pieces(x, axis, size) if size else [x] * chunks


def _pieces(x: Array, axis: int, size: int) -> Sequence[Array]:
    return [_along(x, axis, slice(i, i + size)) for i in range(0, max(1, x.shape[axis]), max(1, size))]


def unbind(a: Arguments) -> Sequence[Array]:
    x, axis = a.array("self"), a.integer("dim", 0)
    return [_along(x, axis, i) for i in range(x.shape[axis])]


def repeat(a: Arguments) -> Array:
    return np.tile(a.array("self"), a.integers("repeats"))


def repeat_interleave(a: Arguments) -> Array:
    """Each element `repeats` times in a row along `dim`, or in the flattened tensor."""
    axis = a.value("dim")
    return np.repeat(a.array("self"), a.integer("repeats"), axis=None if axis is None else int(axis))


def roll(a: Arguments) -> Array:
    return np.roll(a.array("self"), a.integers("shifts"), tuple(a.integers("dims", [])) or None)


def pad(a: Arguments) -> Array:
    """A constant around the last axes; pairs are given last axis first, negative ones crop."""
    if a.value("mode", "constant") != "constant":
        a.fail(f"pads with mode '{a.value('mode')}'; the interpreter knows 'constant'")
    x, given = a.array("self"), a.integers("pad")
    pairs = [(0, 0)] * (x.ndim - len(given) // 2) + list(zip(given[-2::-2], given[-1::-2], strict=True))
    x = np.pad(x, [(max(0, p), max(0, q)) for p, q in pairs], constant_values=a.value("value", 0))
    return x[tuple(slice(max(0, -p), n - max(0, -q)) for n, (p, q) in zip(x.shape, pairs, strict=True))]


VIEWS: Mapping[str, Meaning] = {
    "view": reshape("size"),
    "_unsafe_view": reshape("size"),
    "reshape": reshape("shape"),
    "view_as": like_other,
    "reshape_as": like_other,
    "expand": expand,
    "expand_as": lambda a: np.broadcast_to(a.array("self"), a.array("other").shape),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "squeeze.dim": squeeze,
    "squeeze.dims": squeeze,
    "flatten.using_ints": flatten,
    "unflatten.int": unflatten,
    "t": transposed,
    "numpy_T": transposed,
    "mT": lambda a: a.array("self").swapaxes(-1, -2),
    "transpose.int": swapped("dim0", "dim1"),
    "swapaxes": swapped("axis0", "axis1"),
    "permute": lambda a: a.array("self").transpose(a.integers("dims")),
    "movedim.int": lambda a: np.moveaxis(a.array("self"), a.integer("source"), a.integer("destination")),
    "slice.Tensor": slice_axis,
    "narrow": narrow,
    "select.int": lambda a: _along(a.array("self"), a.integer("dim"), a.integer("index")),
    "cat": join,
    "stack": lambda a: np.stack(a.tensors("tensors"), axis=a.integer("dim", 0)),
    "split.Tensor": split_equal,
    "split.sizes": split_sizes("split_size"),
    "split_with_sizes": split_sizes("split_sizes"),
    "chunk": chunk,
    "unbind.int": unbind,
    "repeat": repeat,
    "repeat_interleave.self_int": repeat_interleave,
    "roll": roll,
    "flip": lambda a: np.flip(a.array("self"), tuple(a.integers("dims"))),
    "pad": pad,
    "constant_pad_nd": pad,
    "tril": lambda a: np.tril(a.array("self"), a.integer("diagonal", 0)),
    "triu": lambda a: np.triu(a.array("self"), a.integer("diagonal", 0)),
}
