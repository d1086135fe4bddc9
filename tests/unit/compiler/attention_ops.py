"""Attention ops built by hand, for tests of what happens after raising."""

from __future__ import annotations

from attir.ir.attributes import FloatAttr, IntegerAttr, Symbol, TensorType, Type, f32
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.dialects import arith
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.dialects.tensor import ExtractOp

BATCH = Symbol("s0")


def arguments(*types: TensorType, names: tuple[str, ...] = ("q", "k", "v", "slopes")) -> list[Value]:
    return Block.with_arguments(types, names).arguments


def attention(operands: list[Value], score: bool = False, mask: bool = False, group: int = 1) -> AttentionOp:
    """Attention on `operands`; `score` adds slopes[h] (n - m), `mask` keeps n <= m."""
    q, v = operands[0].type, operands[2].type
    assert isinstance(q, TensorType) and isinstance(v, TensorType)
    results: list[Type] = [q.with_shape(*q.shape[:3], v.shape[3]), TensorType(q.shape[:3], f32)]
    regions = [_alibi(operands[3:]) if score else Region(), _causal(operands[3:]) if mask else Region()]
    properties = {"scale": FloatAttr(0.125), "group": IntegerAttr(group)}
    return AttentionOp.create(operands, results, properties, regions)


def _alibi(captures: list[Value]) -> Region:
    block = region_block("score", captures)
    s, _, h, m, n, slopes = block.arguments
    build = Builder(block)
    slope = build.create(ExtractOp, [slopes, h], [f32]).out
    distance = build.create(arith.SubIOp, [m, n], [m.type]).out
    as_int = build.create(arith.IndexCastOp, [distance], [arith_i64()]).out
    as_float = build.create(arith.SIToFPOp, [as_int], [f32]).out
    penalty = build.binary(arith.MulFOp, slope, as_float)
    build.create(YieldOp, [build.binary(arith.SubFOp, s, penalty)])
    return Region([block])


def arith_i64() -> Type:
    return IntegerAttr(0).type


def _causal(captures: list[Value]) -> Region:
    block = region_block("mask", captures)
    m, n = block.arguments[2:4]
    build = Builder(block)
    properties = {"predicate": arith.CmpIOp.predicate_attr("sle")}
    build.create(YieldOp, [build.create(arith.CmpIOp, [n, m], [i1_type()], properties).out])
    return Region([block])


def i1_type() -> Type:
    from attir.ir.attributes import i1

    return i1


def module_ops(module: Operation, name: str) -> list[Operation]:
    return [op for op in module.walk() if op.name == name]
