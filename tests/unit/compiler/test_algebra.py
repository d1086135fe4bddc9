"""Attention reads as algebra."""

from __future__ import annotations

from unit.compiler.attention_ops import arguments, attention

from attir.compiler.algebra import describe
from attir.ir.attributes import TensorType, f32, i1, index
from attir.ir.builder import Builder
from attir.ir.core import Region
from attir.ir.dialects import arith, math
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block

SHAPE = TensorType((2, 4, 8, 64), f32)
SLOPES = TensorType((4,), f32)


def test_attention_without_regions() -> None:
    assert describe(attention(arguments(SHAPE, SHAPE, SHAPE))) == "softmax(q·k/√d) v"


def test_bias_mask_and_groups() -> None:
    grouped = TensorType((2, 2, 8, 64), f32)
    op = attention(arguments(SHAPE, grouped, grouped, SLOPES), score=True, mask=True, group=2)
    assert describe(op) == "softmax(q·k/√d - slopes[h]·(m - n) | n ≤ m) v, heads 4/2"


def with_score(build_score: str) -> AttentionOp:
    """Attention whose score region is made by one of the functions below."""
    op = attention(arguments(SHAPE, SHAPE, SHAPE))
    block = region_block("score", [])
    build, s = Builder(block), block.arguments[0]
    if build_score == "softcap":
        inner = build.unary(math.TanhOp, build.binary(arith.DivFOp, s, build.constant(30.0, f32)))
        build.create(YieldOp, [build.binary(arith.MulFOp, build.constant(30.0, f32), inner)])
    else:
        positive = {"predicate": arith.CmpFOp.predicate_attr("ogt")}
        is_positive = build.create(arith.CmpFOp, [s, build.constant(0.0, f32)], [i1], positive).out
        half = build.binary(arith.MulFOp, s, build.constant(0.5, f32))
        build.create(YieldOp, [build.create(arith.SelectOp, [is_positive, s, half], [f32]).out])
    op.operation.regions[0] = Region([block])
    return op


def test_functions_and_parentheses() -> None:
    assert describe(with_score("softcap")) == "softmax(softcap(30, q·k/√d)) v"


def test_a_score_that_is_used_twice_is_named() -> None:
    assert describe(with_score("leaky")) == "softmax(s if s > 0 else s·0.5) v, s = q·k/√d"


def test_logic_binds_as_in_python() -> None:
    op = attention(arguments(SHAPE, SHAPE, SHAPE))
    block = region_block("mask", [])
    m, n = block.arguments[2:4]
    build = Builder(block)

    def compare(predicate: str, x: int) -> arith.CmpIOp:
        distance = build.create(arith.SubIOp, [m, n], [index]).out
        properties = {"predicate": arith.CmpIOp.predicate_attr(predicate)}
        return build.create(arith.CmpIOp, [distance, build.index(x)], [i1], properties)

    window = build.binary(arith.AndIOp, compare("sge", 0).out, compare("slt", 128).out)
    outside = build.binary(arith.XOrIOp, window, build.constant(True, i1))
    build.create(YieldOp, [build.binary(arith.AndIOp, outside, compare("ne", 7).out)])
    op.operation.regions[1] = Region([block])
    assert describe(op) == "softmax(q·k/√d | ¬(m - n ≥ 0 ∧ m - n < 128) ∧ m - n ≠ 7) v"
