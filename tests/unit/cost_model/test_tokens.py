"""Kernels as words: what they say, and that names say nothing."""

from __future__ import annotations

import random

import pytest

from attir.compiler.attention_cases import Case
from attir.compiler.lowering import lower
from attir.cost_model.tokens import CLOSE, MOST_WORDS, OPEN, words_of
from attir.ir.attributes import f16, f32
from attir.ir.core import Operation
from attir.ir.dialects.tile import KernelOp
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation


def kernel(target: str = "sm_90", form: str = "causal", **wishes: int) -> Operation:
    return lower(Case(f16, 64, form=form).module(), target, wishes=tuple(wishes.items())).kernels[0]


def renamed(op: Operation, seed: int) -> Operation:
    """A copy whose values have other names."""
    copy, draw = op.clone(), random.Random(seed)
    for inner in copy.walk():
        values = [*inner.results, *(v for region in inner.regions for block in region.blocks for v in block.arguments)]
        for value in values:
            value.name_hint = draw.choice([None, f"x{draw.randrange(10**6)}"])
    return copy


@pytest.mark.parametrize("target", ["sm_90", "avx512"])
def test_names_of_values_change_nothing(target: str) -> None:
    original = kernel(target)
    words = words_of(original)
    for seed in range(3):
        other = renamed(original, seed)
        assert print_operation(other) != print_operation(original)
        assert words_of(other) == words


def test_text_that_is_read_back_has_the_same_words() -> None:
    original = kernel()
    (read,) = [op for op in parse_module(print_operation(original)).walk() if KernelOp.match(op)]
    assert words_of(read) == words_of(original)


def test_a_word_tells_operation_sizes_and_elements() -> None:
    words = words_of(kernel(block_m=64, block_n=32, num_warps=4, num_stages=2))
    assert words[:2] == ("num_warps=4", "num_stages=2")
    assert "tile.dot.ieee:64x32xf32:64x64xf16" in words
    assert "tile.reduce.max:64xf32:64x32xf32" in words
    assert "tile.load.bulk:32x64xf16:?x64xf16" in words
    assert words.count(OPEN) == words.count(CLOSE) >= 4


def test_what_differs_in_speed_has_other_words() -> None:
    variants = [
        kernel(), kernel(block_m=128), kernel(form="none"), kernel(form="alibi"), kernel("avx512"),
        lower(Case(f32, 64, form="causal").module(), "sm_90").kernels[0],
    ]  # fmt: skip
    assert len({words_of(op) for op in variants}) == len(variants)


def test_long_kernels_are_cut() -> None:
    assert len(words_of(kernel())) < MOST_WORDS
