"""The meaning of `aten.flex_attention`: its functions run on one element of the scores at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..attributes import NoneType
from ..diagnostics import op_error
from .aten_arguments import Arguments
from .call import Array, Call


def flex_attention(call: Call) -> Sequence[Array]:
    """The result, and of each row log Σ exp and the largest score, both in powers of 2.

    A position is kept where its block is listed as full, or listed and mask_mod holds there. A row
    that keeps no key gives 0 and -inf.
    """
    a = Arguments(call)
    q, k, v = (np.asarray(a.required(name)).astype(call.real) for name in ("query", "key", "value"))
    k, v = (np.repeat(np.broadcast_to(x, (len(q), *x.shape[1:])), q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    scores = np.matmul(q, k.swapaxes(2, 3)) * call.real(a.required("scale"))
    states = _states(a, scores.shape)
    for position in np.ndindex(*scores.shape):
        scores[position] = _score(call, scores[position], position, int(states[position]))
    largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(largest == -np.inf, 0, largest))
    total = weights.sum(axis=-1, keepdims=True)
    out = np.where(total == 0, 0, np.matmul(weights, v) / total)
    lse = np.log(total) + np.where(largest == -np.inf, 0, largest)
    return [out, lse[..., 0] / np.log(2), largest[..., 0] / np.log(2)]


def _score(call: Call, score: Array, position: tuple[int, ...], state: int) -> Array:
    """score_mod where the position is kept, else -inf."""
    at: list[Array] = [np.asarray(i, np.int32) for i in position]
    kept = state == 2 or (state == 1 and bool(call.run(call.op.regions[1], at)[0]))
    return call.run(call.op.regions[0], [np.asarray(score), *at])[0] if kept else np.asarray(-np.inf)


def _states(a: Arguments, shape: tuple[int, ...]) -> Array:
    """For each score 2 in a full block, 1 in another one that is listed, and 0 elsewhere."""
    rows, columns = int(a.required("q_block")), int(a.required("kv_block"))
    states = np.zeros(shape, np.int8)
    for state, counts, indices in ((1, "kv_num_blocks", "kv_indices"), (2, "full_kv_num_blocks", "full_kv_indices")):
        if a.value(counts) is None:
            continue
        used, listed = (np.broadcast_to(x, (*shape[:2], *x.shape[2:])) for x in (a.value(counts), a.value(indices)))
        for b, h, row in np.ndindex(*used.shape):
            for column in listed[b, h, row, : used[b, h, row]]:
                area = slice(row * rows, (row + 1) * rows), slice(column * columns, (column + 1) * columns)
                states[b, h][area] = state
    return states


def get_attr(call: Call) -> Sequence[Array]:
    """The name of a function that stands in the regions of its user; there is nothing to compute."""
    if not isinstance(call.op.results[0].type, NoneType):
        op_error(call.op, "reads a tensor that the module does not hold")
    return [np.zeros(())]
