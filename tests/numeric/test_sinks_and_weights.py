"""Kernels whose rows have a score without a value, and whose weights change after the softmax.

Lowered for GPUs and for CPUs, whole, folded and split, in the reference interpreter against
attention in float64. The bound is that of `test_lowering`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numeric.test_lowering import Case, Element, Rule, alibi, causal, check, lower, padding, softcap, window
from numeric.test_native_lowering import PREFILL, folded, split_into

from attir.ir.attributes import FloatType, bf16, f16, f32, i1
from attir.ir.builder import Builder
from attir.ir.core import Operation, Region, Value
from attir.ir.dialects import arith
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.interpreter import interpret


@dataclass(frozen=True)
class Changed(Case):
    """A case with a `weight` region, whose score is the weight, and a `sink` region, without a key."""

    weight: Rule | None = None
    sink: Rule | None = None

    def module(self) -> Operation:
        module = super().module()
        (attention,) = [AttentionOp(op) for op in module.walk() if AttentionOp.match(op)]
        if self.weight is not None:
            attention.set_region("weight", self._region("weight", self.weight, attention))
        if self.sink is not None:
            attention.set_region("sink", self._region("sink", self.sink, attention))
        return module

    def _region(self, name: str, rule: Rule, attention: AttentionOp) -> Region:
        block = region_block(name, attention.captures)
        arguments = block.arguments
        weight = arguments[0] if name == "weight" else None
        b, h, m, n = arguments[1:5] if weight is not None else (*arguments[:3], arguments[2])
        captures = arguments[len(arguments) - len(attention.captures) :]
        builder = Builder(block)
        builder.create(YieldOp, [rule(Element(builder, weight, b, h, m, n, captures))])
        return Region([block])


def of_head(x: Element) -> Value:
    return x.load(0, x.h)


def of_row(x: Element) -> Value:
    """Another sink for each query, -inf for some."""
    third = x.compare("eq", x.binary(arith.RemSIOp, x.m, 3), 0)
    known = x.binary(arith.MulFOp, x.as_float(x.m), 0.125)
    return x.builder.create(arith.SelectOp, [third, x.builder.constant(float("-inf"), f32), known], [f32]).out


def number(value: float) -> Rule:
    return lambda x: x.builder.constant(value, f32)


def scaled_by_head(x: Element) -> Value:
    return x.binary(arith.MulFOp, x.raw, x.load(0, x.h))


def dropped(x: Element) -> Value:
    """No weight for every fifth sum of query and key."""
    fifth = x.compare("eq", x.binary(arith.RemSIOp, x.binary(arith.AddIOp, x.m, x.n), 5), 0)
    return x.builder.create(arith.SelectOp, [fifth, x.builder.constant(0.0, f32), x.raw], [f32]).out


def by_key(x: Element) -> Value:
    return x.binary(arith.MulFOp, x.raw, x.load(0, x.b, x.zero, x.zero, x.n))


HEADS = (((4,), f32),)
CASES: dict[str, Changed] = {
    "sink of a head": Changed(37, 53, sink=of_head, captures=HEADS, key_heads=2, group=2, mask=causal(16)),
    "sink of a row": Changed(37, 53, sink=of_row, mask=window(9)),
    "sink and no key": Changed(20, 37, sink=of_row, mask=causal(-8)),
    "sink and no key at all": Changed(5, 0, sink=number(0.5)),
    "no sink": Changed(20, 37, sink=number(float("-inf")), mask=causal(-8)),
    "small sink": Changed(20, 37, sink=number(-1e30)),
    "large sink": Changed(20, 37, sink=number(40.0)),
    "sink beside capped scores": Changed(20, 37, sink=number(1.5), score=softcap),
    "sink beside alibi": Changed(20, 37, sink=of_head, score=alibi, captures=HEADS, key_heads=4, mask=causal(17)),
    "sink and padding": Changed(
        9, 45, sink=number(0.0), mask=padding, captures=(((2, 1, 1, 45), i1),), batch=2, key_heads=2
    ),
    "weights of a head": Changed(37, 53, weight=scaled_by_head, captures=HEADS, key_heads=2, group=2, mask=causal(16)),
    "dropped weights": Changed(37, 53, weight=dropped, mask=window(20)),
    "weights of a key": Changed(9, 45, weight=by_key, captures=(((2, 1, 1, 45), f32),), batch=2),
    "both": Changed(37, 53, weight=dropped, sink=of_head, captures=HEADS, key_heads=2, group=2),
}


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_gpu_kernels(name: str, dtype: FloatType) -> None:
    check(replace(CASES[name], dtype=dtype))


@pytest.mark.parametrize("name", CASES)
def test_cpu_kernels(name: str) -> None:
    check(replace(CASES[name], schedule=PREFILL))


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", CASES)
def test_rows_of_a_group_share_a_tile(name: str, rows: int) -> None:
    check(replace(CASES[name], schedule=folded(rows)))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_sink_counts_once_where_keys_are_split(name: str, splits: int) -> None:
    check(replace(CASES[name], schedule=replace(folded(4), split=1)), split_into(splits))


def test_a_row_of_a_sink_and_no_key_is_zero() -> None:
    case = replace(CASES["sink and no key"], sink=number(0.5))
    outputs = case.outputs()
    interpret(lower(case.module()), "attention", *case.inputs(), *outputs)
    empty = outputs[0][0, 0, :8]
    assert not empty.any() and outputs[0][0, 0, 9:].any()
    np.testing.assert_allclose(outputs[1][0, 0, :8], 0.5, rtol=2.0**-22)
