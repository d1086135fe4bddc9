"""Raises calls of scaled_dot_product_attention, whose parts are named."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.attributes import Dim, i1
from ..ir.builder import Builder
from ..ir.dialects.aten import AtenOp
from .attention_parts import operands_of, result_like
from .build_attention import Between, build_attention
from .contraction import Rows
from .index_function import tensor_type
from .pattern import Rewriter, aten_pattern
from .region_math import Scalar
from .score_program import ScoreProgram


@aten_pattern("scaled_dot_product_attention")
def raise_sdpa(call: AtenOp, rw: Rewriter) -> bool:
    """scaled_dot_product_attention(q, k, v, ...)  →  attention(q, k, v) {score, mask}"""
    q, k, v = (call.operand(name) for name in ("query", "key", "value"))
    if q is None or k is None or v is None or min(tensor_type(t).rank for t in (q, k, v)) < 2:
        return rw.no_match("query, key and value must be tensors of rank 2 or more")
    if call.argument("dropout_p", 0.0) != 0.0:
        return rw.no_match(f"dropout of {call.argument('dropout_p')} is not expressible yet")
    scale = call.argument("scale")
    width = tensor_type(q).shape[-1]
    if scale is None and isinstance(width, int):
        scale = 1.0 / math.sqrt(width) if width else 1.0
    if not isinstance(scale, int | float):
        return rw.no_match("the scale is not a constant")
    rows = [Rows.of(t) for t in (q, k, v)]
    mask = call.operand("attn_mask")
    shapes = [tensor_type(t).shape[:-2] for t in (q, k, v, mask) if t is not None]
    lead = _broadcast_lead(shapes, bool(call.argument("enable_gqa", False)))
    if lead is None:
        return rw.no_match("the leading sizes of query, key, value and mask do not broadcast")
    parts = operands_of(rows, lead, Builder.before(call.operation))
    if isinstance(parts, str):
        return rw.no_match(parts)
    parts.scale *= float(scale)
    program = ScoreProgram.start(lead, (tensor_type(q).shape[-2], tensor_type(k).shape[-2]), parts)
    score = sdpa_score(call, program)
    return build_attention(call.operation, call.out, program, Between(score), rw, result_like(lead, lead))


def sdpa_score(call: AtenOp, program: ScoreProgram) -> Scalar:
    """The score of one position with the call's own masks applied."""
    build, score = program.function.math, program.score
    if call.argument("is_causal", False):
        # PyTorch aligns the triangle with the first key, whatever the two lengths.
        m, n = program.coordinates[-2:]
        score = build.select(build.compare("le", n, m), score, -math.inf)
    mask = call.operand("attn_mask")
    if mask is None:
        return score
    at_mask = program.function.broadcast(mask, program.coordinates)
    assert at_mask is not None, "attn_mask is a tensor"
    if tensor_type(mask).element == i1:
        return build.select(at_mask, score, -math.inf)
    return build.add(score, at_mask)


def _broadcast_lead(shapes: Sequence[tuple[Dim, ...]], gqa: bool) -> tuple[Dim, ...] | None:
    """The leading sizes that those of query, key, value and mask broadcast to; heads are q's under GQA."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    lead: list[Dim] = []
    for axis in range(rank):
        sizes = [s[axis] for s in padded[: 1 if gqa and axis == rank - 1 else None]]
        wide = {s for s in sizes if s != 1}
        if len(wide) > 1:
            return None
        lead.append(wide.pop() if wide else 1)
    return tuple(lead)
