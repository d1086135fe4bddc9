"""The meaning of `attn`: attention over whole score matrices, a chunk of query rows at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..diagnostics import op_error
from ..dialects.attn import OPERANDS, AttentionOp, QueryPositionsOp, RowSumOp
from .attn_tokens import TOKEN_HANDLERS
from .call import Array, Call, Handler
from .quantize import QUANTIZE
from .rounding import round_array
from .select import SELECT
from .storage import STORAGE

SCORES_AT_ONCE = 1 << 22
"""How many scores are held in memory; bounds the chunks, never the result."""


def attention(call: Call) -> Sequence[Array]:
    """out and lse as `AttentionOp` defines them, scores in float32 (float64 when precise).

    The regions run once a chunk, over arrays that broadcast to (B, H, rows, N). A value row takes
    part with weight 0 where its key is masked, so a nan there reaches the output, as in PyTorch;
    a row without any key reads no value.
    """
    op, real = AttentionOp(call.op), call.real
    q, k, v = (_rows(call, name, position) for position, name in enumerate(OPERANDS))
    _check_sizes(op, q, k, v)
    k, v = (np.repeat(x, op.group.value, axis=1) for x in (k, v))
    batch, heads, rows, _ = q.shape
    out, lse = np.empty((batch, heads, rows, v.shape[3]), real), np.empty((batch, heads, rows), real)
    step = max(1, SCORES_AT_ONCE // max(1, batch * heads * k.shape[2]))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        scores = _scores(call, q[:, :, part], k, start)
        if op.normaliser.value == "max":
            lse[:, :, part] = scores.max(axis=-1, initial=-np.inf)
            continue
        weights, lse[:, :, part] = _normalise(scores, _sinks(call, scores.shape, start))
        if not op.weight.empty:
            (weights,) = call.run(op.weight, [weights, *_positions(scores.shape, start), *call.operands[3:]])
        empty = lse[:, :, part, None] == -np.inf
        out[:, :, part] = np.where(empty, 0, np.matmul(np.broadcast_to(weights, scores.shape), v))
    if not op.output.empty:
        (out,) = call.run(op.output, [out, *_positions(out.shape, 0), *call.operands[3:]])
    return [np.broadcast_to(out, (batch, heads, rows, v.shape[3])), lse]


def _rows(call: Call, region: str, position: int) -> Array:
    """The rows of q, k or v as they enter the products."""
    op, source = AttentionOp(call.op), call.operands[position]
    if op.region(region).empty:
        return source.astype(call.real)
    shape = _logical_shape(op, region, call.operands)
    (rows,) = call.run(op.region(region), [*_positions(shape, 0), source, *call.operands[3:]])
    rounded = round_array(rows, op.shapes[position], call.precise)
    return np.broadcast_to(rounded, shape).astype(call.real)


def _logical_shape(op: AttentionOp, region: str, operands: Sequence[Array]) -> tuple[int, ...]:
    """The shape of the numbers behind q, k or v, which may be stored in few bits."""
    shape, storage = operands[OPERANDS.index(region)].shape, op.stored(region)
    if storage is None:
        return shape
    tokens = operands[OPERANDS.index("key")].shape[2] if storage.axis == "tokens" else shape[2]
    return (*shape[:2], tokens, storage.width)


def _sinks(call: Call, shape: Sequence[int], start: int) -> Array:
    """The score without a value of each row, along axes (b, h, m, 1)."""
    op = AttentionOp(call.op)
    if op.sink.empty:
        return np.full((1, 1, 1, 1), -np.inf, call.real)
    (sinks,) = call.run(op.sink, [*_positions(shape, start)[:3], *call.operands[3:]])
    return np.broadcast_to(sinks, (*shape[:3], 1))


def _check_sizes(op: AttentionOp, q: Array, k: Array, v: Array) -> None:
    """Fail where sizes that the types left open do not fit together."""
    wanted = (q.shape[0], q.shape[1] // op.group.value, k.shape[2])
    if q.shape[1] % op.group.value or k.shape[:3] != wanted or v.shape[:3] != wanted or q.shape[3] != k.shape[3]:
        op_error(
            op.operation,
            f"sizes do not fit in groups of {op.group.value}: q is {q.shape}, k is {k.shape}, v is {v.shape}",
        )


def _scores(call: Call, q: Array, k: Array, start: int) -> Array:
    """The scores of query rows from `start` on, -inf where the mask drops a key."""
    op = AttentionOp(call.op)
    scores = np.matmul(q, k.swapaxes(2, 3)) * call.real(op.scale.value)
    shape, captures = scores.shape, call.operands[3:]
    positions = _positions(shape, start)
    if not op.score.empty:
        (scores,) = call.run(op.score, [scores, *positions, *captures])
    if not op.mask.empty:
        (kept,) = call.run(op.mask, [*positions, *captures])
        scores = np.where(kept, scores, call.real(-np.inf))
    scores = np.broadcast_to(scores, shape)
    if op.empty_score is not None:
        empty = np.all(scores == -np.inf, axis=-1, keepdims=True)
        scores = np.where(empty, call.real(op.empty_score.value), scores)
    return scores


def _positions(shape: Sequence[int], start: int) -> list[Array]:
    """b, h, m and n, each along an axis of its own; m counts from `start`."""
    ranges: list[Array] = [np.arange(size) for size in shape]
    ranges[2] = ranges[2] + start
    return [x.reshape([-1 if i == axis else 1 for i in range(4)]) for axis, x in enumerate(ranges)]


def _normalise(scores: Array, sinks: Array) -> tuple[Array, Array]:
    """The weights of each row and its log Σ exp; 0 and -inf for a row of no keys and no sink."""
    largest: Array = np.maximum(scores.max(axis=-1, keepdims=True, initial=-np.inf), sinks)
    shift: Array = np.where(largest == -np.inf, scores.dtype.type(0), largest)
    weights: Array = np.exp(scores - shift)
    total: Array = weights.sum(axis=-1, keepdims=True) + np.exp(sinks - shift)
    lse: Array = np.squeeze(np.log(total) + shift, axis=-1)
    return weights / np.where(total == 0, scores.dtype.type(1), total), lse


def row_sum(call: Call) -> Sequence[Array]:
    """Σ over an axis put before all others."""
    op = RowSumOp(call.op)
    width = op.width.value
    positions = np.arange(width).reshape(-1, 1, 1, 1, 1)
    (terms,) = call.run(op.body, [positions])
    full = np.broadcast_to(terms, np.broadcast_shapes(terms.shape, positions.shape))
    return [full.astype(call.real).sum(axis=0)]


def query_positions(call: Call) -> Sequence[Array]:
    """The last key that the mask lets each query see."""
    op, (batch, heads, queries, _), keys = QueryPositionsOp(call.op), call.operands[0].shape, call.operands[1].shape[2]
    shape, first = (batch, heads, queries, keys), max(0, keys - queries)
    last = np.broadcast_to(np.arange(first, first + queries, dtype=np.int64), (batch, queries))
    if op.mask.empty or 0 in shape:
        return [last]
    (kept,) = call.run(op.mask, [*_positions(shape, 0), *call.operands[2:]])
    seen: Array = np.any(np.broadcast_to(kept, shape), axis=1)
    found: Array = keys - 1 - np.argmax(seen[..., ::-1], axis=-1)
    return [np.where(seen.any(axis=-1), found, last)]


ATTN: Mapping[str, Handler] = {
    "attn.attention": attention,
    "attn.row_sum": row_sum,
    "attn.query_positions": query_positions,
    **SELECT,
    **STORAGE,
    **QUANTIZE,
    **TOKEN_HANDLERS,
}
