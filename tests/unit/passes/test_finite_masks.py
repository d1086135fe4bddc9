"""What all keys of a row without any score in a model that masks with a finite number, as far as it can be told."""

from __future__ import annotations

import math

import pytest

from attir.ir.attributes import f32, i1
from attir.ir.builder import Builder
from attir.ir.core import Block, Value
from attir.ir.dialects import arith
from attir.ir.dialects.attn import region_block
from attir.passes.split_scores import score_where_masked

LOWEST = -3.4028234663852886e38


class Scores:
    """Scores under construction; `first` and `second` are conditions under which keys are kept."""

    def __init__(self) -> None:
        self.block: Block = region_block("score", [])
        self.builder = Builder(self.block)
        self.score, _, _, m, n = self.block.arguments
        self.first, self.second = (self.compare(name, m, n) for name in ("sge", "ne"))

    def compare(self, predicate: str, x: Value, y: Value) -> Value:
        return self.builder.create(
            arith.CmpIOp, [x, y], [i1], {"predicate": arith.CmpIOp.predicate_attr(predicate)}
        ).out  # fmt: skip

    def number(self, value: float) -> Value:
        return self.builder.constant(value, f32)

    def chosen(self, condition: Value, x: Value, number: float) -> Value:
        return self.builder.create(arith.SelectOp, [condition, x, self.number(number)], [f32]).out

    def added(self, x: Value, y: Value) -> Value:
        return self.builder.binary(arith.AddFOp, x, y)


def test_a_number_that_is_chosen_is_the_score() -> None:
    s = Scores()
    assert score_where_masked(s.chosen(s.first, s.score, -1e9)) == {-1e9}
    assert score_where_masked(s.chosen(s.first, s.chosen(s.second, s.score, -1e9), -1e9)) == {-1e9}
    assert score_where_masked(s.score) == set()


def test_different_numbers_are_different_scores() -> None:
    s = Scores()
    inner = s.chosen(s.second, s.score, -math.inf)
    assert score_where_masked(s.chosen(s.first, inner, -1e9)) == {-math.inf, -1e9}


@pytest.mark.parametrize(("number", "found"), [(LOWEST, LOWEST), (-1e30, -1e30), (-1e9, None), (-65504.0, None)])
def test_a_number_that_is_added_must_absorb_the_score(number: float, found: float | None) -> None:
    s = Scores()
    mask = s.chosen(s.first, s.number(0.0), number)
    (actual,) = score_where_masked(s.added(s.score, mask))
    assert actual is None if found is None else actual == pytest.approx(found, rel=1e-6)


def test_two_numbers_that_are_added_may_overflow() -> None:
    s = Scores()
    masks = [s.chosen(condition, s.number(0.0), LOWEST) for condition in (s.first, s.second)]
    assert score_where_masked(s.added(s.added(s.score, masks[0]), masks[1])) == {None}
    assert score_where_masked(s.added(s.score, s.added(*masks))) == {None}


def test_a_factor_changes_the_number() -> None:
    s = Scores()
    scaled = s.builder.binary(arith.MulFOp, s.chosen(s.first, s.score, LOWEST), s.number(2.0))
    assert score_where_masked(scaled) == {None}
