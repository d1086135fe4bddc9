"""ATen overloads that make tensors from nothing or pick elements by position."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .aten_arguments import Arguments, Meaning
from .call import Array


def arange(a: Arguments) -> Array:
    """start, start + step, ... below end"""
    start, end, step = a.wide("start", 0), a.wide("end"), a.wide("step", 1)
    count = max(0, int(np.ceil((end - start) / step)))
    return start + step * np.arange(count)


def filled(value: Callable[[Arguments], Array]) -> Meaning:
    """A tensor of `size`, or of the shape of `self` where there is no size."""

    def run(a: Arguments) -> Array:
        shape = a.array("self").shape if a.value("size") is None else a.integers("size")
        return np.full(shape, value(a))

    return run


def _zero(a: Arguments) -> Array:
    return np.asarray(0)


def _one(a: Arguments) -> Array:
    return np.asarray(1)


def _fill_value(a: Arguments) -> Array:
    return a.wide("fill_value")


def embedding(a: Arguments) -> Array:
    return _picked(a, a.array("weight"), a.array("indices"), 0)


def index_select(a: Arguments) -> Array:
    return _picked(a, a.array("self"), a.array("index"), a.integer("dim"))


def _picked(a: Arguments, source: Array, positions: Array, axis: int) -> Array:
    _check(a, positions, source.shape[axis], axis)
    return np.take(source, positions, axis=axis)


def _check(a: Arguments, positions: Array, size: int, axis: int, least: int = 0) -> None:
    outside = (positions < least) | (positions >= size)
    if outside.any():
        a.fail(f"reads index {int(positions[outside].flat[0])} of axis {axis}, which has size {size}")


def gather(a: Arguments) -> Array:
    """Along `dim` the positions come from `index`, on the other axes an element keeps its own."""
    source, axis, index = a.array("self"), a.integer("dim"), a.array("index")
    if source.ndim == 0:
        return np.broadcast_to(source, index.shape)
    axis %= source.ndim
    _check(a, index, source.shape[axis], axis)
    mesh: list[Array] = list(np.indices(index.shape, sparse=True))
    mesh[axis] = index
    return source[tuple(mesh)]


def index(a: Arguments) -> Array:
    """Elements at broadcast index tensors; an axis without one is kept whole."""
    given = a.required("indices")
    return np.asarray(a.array("self")[tuple(slice(None) if i is None else np.asarray(i) for i in given)])


def scatter_value(a: Arguments) -> Array:
    """`value` at the positions along `dim` that `index` names."""
    out, axis, index = a.array("self").copy(), a.integer("dim"), a.array("index")
    axis %= out.ndim
    _check(a, index, out.shape[axis], axis)
    mesh: list[Array] = list(np.indices(index.shape, sparse=True))
    mesh[axis] = index
    out[tuple(mesh)] = a.required("value")
    return out


def index_put(a: Arguments) -> Array:
    """`values` at broadcast index tensors; of several for one element the last."""
    if a.flag("accumulate"):
        a.fail("cannot add values up here")
    out = a.array("self").copy()
    given = a.required("indices")
    out[tuple(slice(None) if i is None else np.asarray(i) for i in given)] = a.array("values")
    return out


def argsort(a: Arguments) -> Array:
    """The positions that put `self` in order, equal elements in the order they have."""
    axis, data = a.integer("dim", -1), a.wide("self")
    if not a.flag("descending"):
        return np.argsort(data, axis=axis, kind="stable")
    last = np.argsort(np.flip(data, axis), axis=axis, kind="stable")
    return np.flip(data.shape[axis] - 1 - last, axis)


CREATION: Mapping[str, Meaning] = {
    "arange": arange,
    "arange.start": arange,
    "arange.start_step": arange,
    "zeros": filled(_zero),
    "ones": filled(_one),
    "full": filled(_fill_value),
    "empty.memory_format": filled(_zero),
    "new_zeros": filled(_zero),
    "new_ones": filled(_one),
    "new_full": filled(_fill_value),
    "new_empty": filled(_zero),
    "zeros_like": filled(_zero),
    "ones_like": filled(_one),
    "full_like": filled(_fill_value),
    "empty_like": filled(_zero),
    "scalar_tensor": lambda a: a.wide("s"),
}

INDEXING: Mapping[str, Meaning] = {
    "embedding": embedding,
    "index_select": index_select,
    "gather": gather,
    "index.Tensor": index,
    "index_put": index_put,
    "scatter.value": scatter_value,
    "argsort.stable": argsort,
    "sym_size.int": lambda a: np.asarray(a.array("self").shape[a.integer("dim")]),
}
