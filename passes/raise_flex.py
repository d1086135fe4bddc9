"""raise-flex: a captured flex_attention becomes one attn.attention.

Its score_mod and mask_mod are regions of operators on single elements, read by the same rules as
masks and biases elsewhere. Its block lists are part of its meaning (see flex_blocks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.attributes import FloatAttr, IntegerAttr, TensorType, f32
from ..ir.builder import Builder
from ..ir.core import Operation, Region, Value
from ..ir.dialects import attn
from ..ir.dialects.aten import AtenOp, YieldOp, aten_op
from .attention_parts import Parts, operands_of
from .contraction import Rows
from .cse import CommonSubexpressionElimination
from .flex_blocks import Blocks
from .index_function import IndexFunction, tensor_type
from .index_rules import RULES
from .manager import Pass, PassContext
from .pattern import Rewriter, apply_greedily, aten_pattern
from .region_math import Scalar, literal_of
from .score_regions import finish_regions

OUT, LSE, LARGEST = range(3)
"""The results of the operator; the two statistics in powers of 2, but for one of its backends."""


@aten_pattern("flex_attention")
def raise_flex(call: AtenOp, rw: Rewriter) -> bool:
    """flex_attention(q, k, v, score_mod, mask_mod, blocks)  →  attention(q, k, v) {score, mask}"""
    op = call.operation
    if op.results[LARGEST].uses:
        return rw.no_match("the largest score of each row is asked for, which no kernel returns")
    q, k, v = (call.operand(name) for name in ("query", "key", "value"))
    scale = call.argument("scale")
    if q is None or k is None or v is None or not isinstance(scale, int | float):
        return rw.no_match("the scale is not a constant")
    lead = tensor_type(q).shape[:2]
    blocks = Blocks.of(call)
    if isinstance(blocks, str):
        return rw.no_match(blocks)
    parts = operands_of([Rows.of(t) for t in (q, k, v)], lead, Builder.before(op))
    if isinstance(parts, str):
        return rw.no_match(parts)
    parts.scale *= float(scale)
    function = IndexFunction(attn.region_block("score", []), RULES, lambda _op, _at: None)
    score = flex_score(op, function, blocks)
    if problem := _unread(op, function):
        return rw.no_match(problem)
    return _finish(call, function, parts, score, rw)


def flex_score(op: Operation, function: IndexFunction, blocks: Blocks) -> Scalar:
    """The score of one position: score_mod where the blocks and mask_mod keep it, else -inf."""
    start, *position = function.block.arguments
    score = called(op.regions[0], (start, *position), function)
    mask = called(op.regions[1], position, function)
    kept = blocks.kept(mask, tuple(position), function)
    return score if literal_of(kept) == 1 else function.math.select(kept, score, -math.inf)


def called(region: Region, arguments: Sequence[Value], function: IndexFunction) -> Scalar:
    """What a region of operators on single elements computes, written where `function` writes."""
    for argument, value in zip(region.block.arguments, arguments, strict=True):
        function.memo[argument, ()] = value
    return function.at(YieldOp(region.block.terminator).value, ())


def _unread(op: Operation, function: IndexFunction) -> str:
    """Why the functions were not read to the end, if they were not; the innermost operator that stops it."""
    inside = {result for region in op.regions for inner in region.block.ops for result in inner.results}
    for value in [*function.captures, *function.numbers]:
        if value in inside and (stop := value.defining_op) is not None:
            what = "a constant tensor" if stop.name == "fx.get_attr" else f"'{stop.name}'"
            where = "score_mod" if stop in op.regions[0].block.ops else "mask_mod"
            return f"{where} uses {what}, which is not understood"
    return ""


def _finish(call: AtenOp, function: IndexFunction, parts: Parts, score: Scalar, rw: Rewriter) -> bool:
    """Build the attention in front of the call and put it in its place."""
    op = call.operation
    function.math.builder.create(attn.YieldOp, [function.math.as_float(score)])
    q, v = tensor_type(parts.q), tensor_type(parts.v)
    types = [q.with_shape(*q.shape[:3], v.shape[3]), TensorType(q.shape[:3], f32)]
    if [r.type for r in op.results[: LSE + 1]] != types:
        return rw.no_match(f"the result would be {types[0]}, but the model has {op.results[OUT].type}")
    attention = attn.AttentionOp.create(
        [parts.q, parts.k, parts.v, *function.captures],
        types,
        {"scale": FloatAttr(parts.scale, f32), "group": IntegerAttr(parts.group)},
        [Region([function.block]), Region()],
        location=op.location,
    )
    Builder.before(op).insert(attention.operation)
    finish_regions(attention, rw.ctx)
    lse = _statistic(call, attention.lse) if op.results[LSE].uses else attention.lse
    rw.ctx.statistics["attention sites raised"] += 1
    return rw.replace(op, attention.out, lse, attention.lse)


def _statistic(call: AtenOp, lse: Value) -> Value:
    """log Σ exp in the unit of the call: powers of 2, which PyTorch's own code turns back at once."""
    if call.argument("option_backend") == "FLASH":
        return lse
    for user in call.operation.results[LSE].users:
        factor = AtenOp(user).argument("other") if user.name.startswith("aten.mul.") else None
        if isinstance(factor, float) and abs(factor - math.log(2)) < 1e-15:
            user.result.replace_all_uses_with(lse)
    scaled = aten_op("mul.Tensor", {"self": lse, "other": 1.0 / math.log(2)}, [lse.type])
    return Builder.before(call.operation).insert(scaled).result


@dataclass(frozen=True)
class RaiseFlexAttention(Pass):
    """Replace captured calls of flex_attention by attn.attention with score and mask regions."""

    name = "raise-flex"

    def run(self, module: Operation, ctx: PassContext) -> None:
        if apply_greedily(module, (raise_flex,), ctx):
            # Layers that share a block mask share the table made of it.
            CommonSubexpressionElimination().run(module, ctx)
