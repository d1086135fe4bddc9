"""Builds an attn.attention from a program between two products, and cuts the program into regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.attributes import FloatAttr, FloatType, IntegerAttr, TensorType, f32
from ..ir.builder import Builder
from ..ir.core import Operation, Region, Value
from ..ir.dialects import arith, attn
from .attention_parts import Finished
from .index_function import tensor_type
from .pattern import Rewriter
from .region_math import RegionMath, Scalar, literal_of
from .score_program import ScoreProgram
from .score_regions import finish_regions, may_be_empty, slice_of, values_behind
from .views import Views


@dataclass(frozen=True)
class Between:
    """What a program computes: the score, what its weight becomes, the score without a value.

    `element` is the type of the scores in the model, whose rows without a key may be nan.
    """

    score: Scalar
    weight: Scalar | None = None
    sink: Scalar | None = None
    element: FloatType = f32
    nan_if_empty: bool = False


def build_attention(
    origin: Operation, replaced: Value, program: ScoreProgram, between: Between, rw: Rewriter, result: Finished
) -> bool:
    """Build the attention in front of the op that `replaced` comes from, and put it in its place."""
    parts, target = program.parts, replaced.defining_op
    assert parts is not None and target is not None
    regions = cut_regions(program, between)
    if isinstance(regions, str):
        return rw.no_match(regions)
    q, _, v = (tensor_type(x) for x in (parts.q, parts.k, parts.v))
    out = q.with_shape(*q.shape[:3], v.shape[3])
    op = attn.AttentionOp.create(
        [parts.q, parts.k, parts.v, *program.function.captures],
        [out, TensorType(q.shape[:3], f32)],
        {"scale": FloatAttr(parts.scale, f32), "group": IntegerAttr(parts.group)},
        [Region(), Region()],
        location=origin.location,
    )
    for name, region in regions.items():
        op.set_region(name, region)
    target_builder = Builder.before(target)
    target_builder.insert(op.operation)
    finish_regions(op, rw.ctx, between.element)
    final = result(op.out, Views(target_builder))
    if final is None or final.type != replaced.type:
        found = "sizes that cannot be told apart" if final is None else str(final.type)
        op.operation.erase()
        return rw.no_match(f"the result would be {found}, but the model has {replaced.type}")
    if between.nan_if_empty and op.sink.empty and may_be_empty(op):
        rw.ctx.remark(op.operation, "a row without a key gives 0 here, and nan in PyTorch's softmax")
    rw.ctx.statistics["attention sites raised"] += 1
    return rw.replace(target, final)


def cut_regions(program: ScoreProgram, between: Between) -> Mapping[str, Region] | str:
    """The regions of an attention, by name; or why what they compute is not theirs to compute."""
    build = program.function.math
    b, h, m, n = program.block.arguments[1:5]
    score = build.as_float(between.score)
    behind = values_behind(score)
    if program.score not in behind:
        return "the scores reach the softmax through an operator that is not understood"
    if behind & {program.beyond, *(f.stand_in for f in program.products.values())} - {program.score}:
        return "the scores are made of several products in a way that is not understood"
    regions = {"score": _cut("score", program, score, {program.score: "s", b: "b", h: "h", m: "m", n: "n"})}
    if between.weight is not None:
        weight = build.as_float(between.weight)
        if not is_multiple(weight, program.weight):
            return "the attention weights meet the values as more than a multiple of themselves"
        if weight is not program.weight:
            regions["weight"] = _cut("weight", program, weight, {program.weight: "p", b: "b", h: "h", m: "m", n: "n"})
    if between.sink is not None:
        sink = build.as_float(between.sink)
        if values_behind(sink) & {n, program.beyond, program.score, program.weight}:
            return "the score beside the others is not a function of batch, head and query"
        regions["sink"] = _cut("sink", program, sink, {b: "b", h: "h", m: "m"})
    return regions


def _cut(name: str, program: ScoreProgram, value: Value, given: Mapping[Value, str]) -> Region:
    """The region `name`, which computes `value`; `given` are values of the program and the region's arguments."""
    captures = program.function.captures
    block = attn.region_block(name, list(captures))
    names = {a.name_hint: a for a in block.arguments[: len(given)]}
    mapping = {old: names[new] for old, new in given.items()}
    mapping |= dict(zip(captures.values(), block.arguments[len(given) :], strict=True))
    needed = slice_of([value])
    for inner in program.block.ops:
        if inner in needed:
            block.append(inner.clone(mapping))
    RegionMath(Builder(block)).builder.create(attn.YieldOp, [mapping[value]])
    return Region([block])


def is_multiple(value: Value, weight: Value) -> bool:
    """Whether `value` is `weight` times something that does not depend on it."""
    if value is weight or literal_of(value) == 0:
        return True
    op = value.defining_op
    depends = [weight in values_behind(v) for v in op.operands] if op is not None else []
    if op is None or not any(depends):
        return False
    match op.name:
        case arith.MulFOp.op_name:
            return sum(depends) == 1 and is_multiple(op.operands[depends.index(True)], weight)
        case arith.DivFOp.op_name:
            return not depends[1] and is_multiple(op.operands[0], weight)
        case arith.SelectOp.op_name:
            return not depends[0] and all(is_multiple(v, weight) for v in op.operands[1:])
        case arith.AddFOp.op_name | arith.SubFOp.op_name | arith.NegFOp.op_name:
            return all(is_multiple(v, weight) for v in op.operands)
        case _:
            return False
