"""Which bounds the mask analysis finds in the masks people write, and what it proves of rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attir.ir.attributes import Dim, Symbol, TensorType, f32, i1, i8, i64, index
from attir.ir.builder import Builder
from attir.ir.core import Block, Region, Value
from attir.ir.dialects import arith, math
from attir.ir.dialects.attn import YieldOp, region_block
from attir.ir.dialects.tensor import ExtractOp
from attir.passes.analyze_mask import analyze_mask
from attir.passes.mask_structure import EVERYTHING, NOTHING, OPAQUE, MaskStructure

Rule = Callable[[Builder, Value, Value, Value], Value]


def region(rule: Rule) -> Region:
    """A mask region around `rule(builder, m, n, padding)`, with `padding` a captured (N,) of i1."""
    (padding,) = Block.with_arguments([TensorType((Symbol("N"),), i1)], ["padding"]).arguments
    block = region_block("mask", [padding])
    _, _, m, n, captured = block.arguments
    builder = Builder(block)
    builder.create(YieldOp, [rule(builder, m, n, captured)])
    return Region([block])


def compare(b: Builder, predicate: str, x: Value, y: Value | int) -> Value:
    y = y if isinstance(y, Value) else b.constant(y, x.type)
    return b.create(arith.CmpIOp, [x, y], [i1], {"predicate": arith.CmpIOp.predicate_attr(predicate)}).out


def plus(b: Builder, x: Value, distance: int) -> Value:
    return b.binary(arith.AddIOp, x, b.constant(distance, x.type))


def causal(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return compare(b, "sle", n, m)


def causal_turned_round(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return compare(b, "sge", m, n)


def causal_in_integers(b: Builder, m: Value, n: Value, _: Value) -> Value:
    """m - n >= 0 on i64."""
    m, n = (b.create(arith.IndexCastOp, [x], [i64]).out for x in (m, n))
    return compare(b, "sge", b.binary(arith.SubIOp, m, n), 0)


def not_in_the_future(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return b.binary(arith.XOrIOp, compare(b, "sgt", n, m), b.constant(True, i1))


def lower_triangle_of_ones(b: Builder, m: Value, n: Value, _: Value) -> Value:
    """tril(ones) != 0.0"""
    ones = b.create(arith.SelectOp, [compare(b, "sle", n, m), b.constant(1.0, f32), b.constant(0.0, f32)], [f32]).out
    properties = {"predicate": arith.CmpFOp.predicate_attr("une")}
    return b.create(arith.CmpFOp, [ones, b.constant(0.0, f32)], [i1], properties).out


def triangle_as_integer(b: Builder, m: Value, n: Value, _: Value) -> Value:
    widened = b.create(arith.ExtUIOp, [compare(b, "sle", n, m)], [i64]).out
    return compare(b, "eq", widened, 1)


def window(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return b.binary(arith.AndIOp, compare(b, "sle", n, m), compare(b, "sgt", n, plus(b, m, -128)))


def window_by_distance(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return compare(b, "slt", b.unary(math.AbsIOp, b.binary(arith.SubIOp, m, n)), 128)


def prefix_and_causal(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return b.binary(arith.AndIOp, compare(b, "slt", n, 10), causal(b, m, n, _))


def prefix_or_causal(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return b.binary(arith.OrIOp, compare(b, "slt", n, 10), causal(b, m, n, _))


def one_of_two_windows(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return b.binary(arith.OrIOp, causal(b, m, n, _), compare(b, "sle", n, plus(b, m, 5)))


def unsigned(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return compare(b, "ult", n, 7)


def doubled(b: Builder, m: Value, n: Value, _: Value) -> Value:
    """2 n <= 2 m + 3"""
    two = b.constant(2, index)
    return compare(b, "sle", b.binary(arith.MulIOp, n, two), plus(b, b.binary(arith.MulIOp, m, two), 3))


def diagonal(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return compare(b, "eq", n, m)


def padded(b: Builder, m: Value, n: Value, padding: Value) -> Value:
    return b.create(ExtractOp, [padding, n], [i1]).out


def causal_and_padded(b: Builder, m: Value, n: Value, padding: Value) -> Value:
    return b.binary(arith.AndIOp, causal(b, m, n, padding), padded(b, m, n, padding))


def causal_or_padded(b: Builder, m: Value, n: Value, padding: Value) -> Value:
    return b.binary(arith.OrIOp, causal(b, m, n, padding), padded(b, m, n, padding))


def queries_below_five(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return compare(b, "slt", m, 5)


def anti_diagonal(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return compare(b, "sle", b.binary(arith.AddIOp, m, n), 5)


def always(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return compare(b, "sge", b.binary(arith.SubIOp, m, m), 0)


def never(b: Builder, m: Value, n: Value, _: Value) -> Value:
    return b.binary(arith.AndIOp, causal(b, m, n, _), compare(b, "sgt", n, m))


@pytest.mark.parametrize(
    ("rule", "structure"),
    [
        (causal, MaskStructure(upper=0)),
        (causal_turned_round, MaskStructure(upper=0)),
        (causal_in_integers, MaskStructure(upper=0)),
        (not_in_the_future, MaskStructure(upper=0)),
        (lower_triangle_of_ones, MaskStructure(upper=0)),
        (triangle_as_integer, MaskStructure(upper=0)),
        (window, MaskStructure(upper=0, lower=-127)),
        (window_by_distance, MaskStructure(upper=127, lower=-127)),
        (prefix_and_causal, MaskStructure(upper=0, last=9)),
        (prefix_or_causal, OPAQUE),
        (one_of_two_windows, MaskStructure(upper=5)),
        (unsigned, MaskStructure(last=6)),
        (doubled, MaskStructure(upper=1)),
        (diagonal, MaskStructure(upper=0, lower=0)),
        (padded, OPAQUE),
        (causal_and_padded, MaskStructure(upper=0, opaque=True)),
        (causal_or_padded, OPAQUE),
        (queries_below_five, OPAQUE),
        (anti_diagonal, OPAQUE),
        (always, EVERYTHING),
        (never, NOTHING),
    ],
)
def test_bounds(rule: Rule, structure: MaskStructure) -> None:
    assert analyze_mask(region(rule)) == structure


def test_no_region_keeps_every_key() -> None:
    assert analyze_mask(Region([])) == EVERYTHING


def test_a_narrow_integer_may_wrap() -> None:
    """An i8 position is not the position."""

    def rule(b: Builder, m: Value, n: Value, _: Value) -> Value:
        small = b.create(arith.TruncIOp, [b.create(arith.IndexCastOp, [n], [i64]).out], [i8]).out
        return compare(b, "sle", small, 3)

    assert analyze_mask(region(rule)) == OPAQUE


def test_a_huge_constant_may_wrap() -> None:
    def rule(b: Builder, m: Value, n: Value, _: Value) -> Value:
        return compare(b, "sle", n, plus(b, m, 2**62))

    assert analyze_mask(region(rule)) == OPAQUE


S, T = Symbol("s"), Symbol("t")


@pytest.mark.parametrize(
    ("structure", "queries", "keys", "proved"),
    [
        (EVERYTHING, S, T, True),
        (EVERYTHING, None, None, True),
        (EVERYTHING, 4, 0, False),
        (EVERYTHING, 0, 0, True),
        (OPAQUE, S, S, False),
        (MaskStructure(upper=0), S, S, True),
        (MaskStructure(upper=0), S, T, True),
        (MaskStructure(upper=-1), S, S, False),
        (MaskStructure(upper=3), 5, 2, True),
        (MaskStructure(upper=0, lower=-127), S, S, True),
        (MaskStructure(upper=0, lower=-127), S, T, False),
        (MaskStructure(upper=0, lower=-127), None, None, False),
        (MaskStructure(upper=0, lower=-127), 500, 300, False),
        (MaskStructure(upper=0, lower=-127), 400, 300, True),
        (MaskStructure(upper=-1, lower=0), S, S, False),
        (MaskStructure(last=9), S, T, True),
        (MaskStructure(last=-1), S, T, False),
        (MaskStructure(first=4), S, 5, True),
        (MaskStructure(first=4), S, 4, False),
        (MaskStructure(first=4), S, T, False),
        (MaskStructure(last=9, lower=-5), 15, 30, True),
        (MaskStructure(last=9, lower=-5), 16, 30, False),
    ],
)
def test_every_row_has_a_key(structure: MaskStructure, queries: Dim, keys: Dim, proved: bool) -> None:
    assert structure.every_row_has_key(queries, keys) == proved
