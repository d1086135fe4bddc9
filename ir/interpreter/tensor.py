"""The meaning of `tensor`: element loads, checked against the size, and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..core import Operation
from ..diagnostics import op_error
from .call import Array, Call, Handler


def extract(call: Call) -> Sequence[Array]:
    """One element for each position that the indices vary over."""
    source, *indices = call.operands
    for axis, positions in enumerate(indices):
        check_positions(call.op, positions, source.shape[axis], axis)
    return [source[tuple(indices)]]


def check_positions(op: Operation, positions: Array, size: int, axis: int) -> None:
    """Fail, naming the first one, where a position lies outside of an axis of `size`."""
    outside = (positions < 0) | (positions >= size)
    if np.any(outside):
        first = int(np.asarray(positions)[outside].flat[0])
        op_error(op, f"reads index {first} of axis {axis}, which has size {size}")


def dim(call: Call) -> Sequence[Array]:
    source, axis = call.operands[0], call.integer(1)
    if not 0 <= axis < source.ndim:
        op_error(call.op, f"axis must lie below {source.ndim}, but is {axis}")
    return [np.asarray(source.shape[axis])]


TENSOR: Mapping[str, Handler] = {"tensor.extract": extract, "tensor.dim": dim}
