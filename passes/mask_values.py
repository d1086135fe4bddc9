"""What a mask region says of single scores, in numbers, with captured tensors read as kernels read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir.core import Operation, Region, Value
from ..ir.dialects.attn import YieldOp
from ..ir.dialects.tensor import ExtractOp
from ..ir.interpreter.call import Call
from ..ir.interpreter.machine import HANDLERS
from ..ir.interpreter.rounding import round_array
from .tile_regions import RegionPositions

Array = np.ndarray[Any, np.dtype[Any]]


def kept_scores(
    region: Region,
    positions: tuple[Array, Array, Array, Array],
    exists: tuple[Array, Array],
    captures: Mapping[Value, Array],
) -> Array | None:
    """Whether each score is kept; None where that depends on a captured tensor that is not given.

    `positions` are batch, head, query and key, which broadcast; `exists` says of rows and of keys whether there are
    such. Of those that do not exist, kernels take 0 for what is captured.
    """
    at = RegionPositions.of(region)
    known: dict[Value, Array] = dict(zip((at.b, at.h, at.m, at.n), positions, strict=True))
    axes: dict[Value, str] = {at.b: "", at.h: "m", at.m: "m", at.n: "n"}
    with np.errstate(all="ignore"):
        for op in region.block.ops[:-1]:
            axes[op.result] = "".join(sorted({a for v in op.operands for a in axes.get(v, "")}))
            found = _value(op, known, axes[op.result], exists, captures)
            if found is None:
                return None
            known[op.result] = found
    return known[YieldOp(region.block.terminator).value]


def _value(
    op: Operation, known: Mapping[Value, Array], axes: str, exists: tuple[Array, Array], captures: Mapping[Value, Array]
) -> Array | None:
    if (extract := ExtractOp.match(op)) is not None:
        source = captures.get(extract.source)
        return None if source is None else _loaded(source, [known[i] for i in extract.indices], axes, exists)
    call = Call(op, [known[v] for v in op.operands], False, (), lambda region, arguments: [])
    (found,) = HANDLERS[op.name](call)
    return round_array(found, op.result.type, False)


def _loaded(source: Array, indices: list[Array], axes: str, exists: tuple[Array, Array]) -> Array:
    """Elements, 0 where the row or the key they belong to does not exist."""
    valid: Array = np.asarray(True)
    for axis, there in zip("mn", exists, strict=True):
        valid = valid & there if axis in axes else valid
    places = tuple(np.clip(i, 0, size - 1) for i, size in zip(indices, source.shape, strict=True))
    return np.where(valid, source[places], np.zeros((), source.dtype))
