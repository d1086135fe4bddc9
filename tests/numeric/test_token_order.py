"""Attention with its tokens in boxes of a grid: the same numbers as without, and as many tiles as the simulator says.

Programs are compared in float64, where another order of keys changes sums by roundings alone; kernels within
the bound of `closeness`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numeric.closeness import FLOATS, NATIVE, ROUNDOFF, assert_within
from numeric.test_lowering import Array, Case, Element, alibi
from numeric.test_masked_tiles import Documents, counted
from numeric.test_sinks_and_weights import Changed, dropped, of_row

from attir.compiler.attention_cases import Case as SiteCase
from attir.compiler.attention_cases import Shape
from attir.compiler.kernels import compile_site
from attir.compiler.mask_algebra import Mask
from attir.compiler.mask_grids import neighborhood
from attir.compiler.mask_region import restrict
from attir.compiler.options import Options
from attir.compiler.prepare_site import prepare
from attir.compiler.site_program import ProgramRunner, SiteProgram
from attir.cost_model.neighborhood import Axis, count_boxes
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import FloatType, f32, i32
from attir.ir.builder import Builder
from attir.ir.core import Operation, Region, Value
from attir.ir.dialects import arith
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.dialects.attn_tokens import TokenOrderOp
from attir.ir.dialects.tensor import ExtractOp
from attir.ir.interpreter import interpret
from attir.ir.interpreter.attn_tokens import TokenOrder
from attir.ir.verifier import verify
from attir.passes.count_tiles import count_tiles
from attir.passes.manager import PassContext
from attir.passes.permute_tokens import PermuteTokens, grids_of_mask, permute

EXACT = 1e-12


def bias(x: Element) -> Value:
    return x.binary(arith.AddFOp, x.raw, x.load(0, x.b, x.zero, x.m, x.n))


@dataclass(frozen=True)
class Rotated(Case):
    """Elements of q and k times numbers that are captured for their positions; of q, those of its neighbour too."""

    def module(self) -> Operation:
        module = super().module()
        attention = attention_of(module)
        for name, source in (("query", attention.q), ("key", attention.k)):
            block = region_block(name, attention.captures, source.type)
            _, _, position, element, rows, table = block.arguments
            builder = Builder(block)
            own = builder.create(ExtractOp, [rows, *block.arguments[:4]], [f32]).out
            first = builder.create(ExtractOp, [rows, *block.arguments[:3], builder.index(0)], [f32]).out
            factor = builder.create(ExtractOp, [table, position, element], [f32]).out
            turned = builder.binary(arith.MulFOp, builder.binary(arith.AddFOp, own, first), factor)
            builder.create(YieldOp, [turned])
            attention.set_region(name, Region([block]))
        return module


def attention_of(module: Operation) -> AttentionOp:
    return next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))


def restricted(case: Case, mask: Mask) -> Operation:
    """The program of a case under a mask, without a schedule."""
    module, _ = restrict(case.module(), mask)
    attention_of(module).schedule = None
    return module


def check_program(case: Case, mask: Mask, change: Callable[[Operation], None]) -> None:
    """A program gives the same before and after."""
    module, inputs = restricted(case, mask), case.inputs()
    before = interpret(module, "attention", *inputs, precise=True)
    change(module)
    verify(module)
    assert any(TokenOrderOp.match(op) for op in module.walk())
    for actual, expected in zip(interpret(module, "attention", *inputs, precise=True), before, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=EXACT)


def forced(module: Operation) -> None:
    PermuteTokens("avx512", force=True).run(module, PassContext())


NEIGHBORHOODS: dict[str, Mask] = {
    "dilated line": neighborhood(50, 5, dilation=3),
    "odd grid": neighborhood((7, 9), (3, 5)),
    "strided": neighborhood((8, 15), (4, 6), stride=(2, 3)),
    "dilated": neighborhood((9, 11), 3, dilation=2),
    "causal rows": neighborhood((9, 7), (4, 3), causal=(True, False)),
    "volume": neighborhood((3, 7, 5), (2, 3, 3)),
    "volume of everything": neighborhood((4, 7, 8), (2, 3, 2), (1, 2, 2), (1, 2, 3), (True, False, True)),
}


def tokens_of(mask: Mask) -> int:
    return mask.needs[0].size


@pytest.mark.parametrize("name", NEIGHBORHOODS)
def test_programs_agree(name: str) -> None:
    """Two query heads to a key head, with the log-sum-exp."""
    mask = NEIGHBORHOODS[name]
    check_program(Case(tokens_of(mask), tokens_of(mask), 4, group=2, key_heads=2, batch=2), mask, forced)


REGIONS: dict[str, Case] = {
    "bias": Case(63, 63, 4, score=bias, captures=(((1, 1, 63, 63), f32),)),
    "alibi": Case(63, 63, 4, score=alibi, captures=(((2,), f32),), key_heads=2),
    "weight and sink": Changed(63, 63, 4, weight=dropped, sink=of_row),
    "rows": Rotated(63, 63, 4, captures=(((63, 4), f32),)),
    "no lse": Case(63, 63, 4, lse=False),
}


@pytest.mark.parametrize("name", REGIONS)
def test_other_regions_follow_their_tokens(name: str) -> None:
    check_program(REGIONS[name], NEIGHBORHOODS["odd grid"], forced)


def test_a_mask_that_was_there_follows_too() -> None:
    """Documents and causality by position in the sequence, beside the grid."""

    def earlier(x: Element) -> Value:
        same = x.compare("eq", x.load(0, x.m), x.load(0, x.n))
        return x.binary(arith.AndIOp, same, x.compare("sle", x.n, x.m))

    case = Documents(63, 63, 4, mask=earlier, captures=(((63,), i32),))
    check_program(case, NEIGHBORHOODS["odd grid"], forced)


def by_hand(at: tuple[Any, Any, Any, Any]) -> Any:
    """Rows of 9, without a border: any number of tokens will do."""
    _, _, m, n = at
    return ((m // 9 - n // 9).abs() <= 2) & ((m % 9 - n % 9).abs() <= 1)


@pytest.mark.parametrize(("queries", "keys"), [(5, 63), (70, 41), (1, 100)])
def test_queries_and_keys_of_other_numbers(queries: int, keys: int) -> None:
    """Each has an order of its own, and the last row of the grid may be cut short."""
    check_program(Case(queries, keys, 4), Mask(by_hand, (), "rows of 9"), forced)


@NATIVE
def test_kernels_for_other_lengths_than_they_were_planned_for() -> None:
    """The first call brings many queries, later ones few."""
    mask, case = Mask(by_hand, (), "rows of 9"), SiteCase(f32, 16)
    step = PermuteTokens("avx512", force=True, queries=4096, keys=4096)
    program = prepare(case.module(), mask, [step]).program
    run = ProgramRunner(program, compile_site(program.kernel(), Options(backend="native"), 100).runner)
    for queries, keys in ((100, 100), (1, 100), (37, 64)):
        q, k, v, _ = case.tensors(Shape(1, 2, 2, queries, keys), seed=2)
        keep = mask.dense(queries, keys)
        exact = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=keep)
        assert (run(q, k, v, (), False)[0] - exact).abs().max() < 1e-5


@st.composite
def problems(draw: st.DrawFn) -> tuple[Mask, int, list[int], list[int]]:
    """A neighbourhood, a number for one of its grids, and boxes of it."""
    rank = draw(st.integers(1, 3))
    sizes = [draw(st.integers(2, (40, 9, 5)[rank - 1])) for _ in range(rank)]
    dilation = [draw(st.integers(1, min(3, size))) for size in sizes]
    window = [draw(st.integers(1, size // d)) for size, d in zip(sizes, dilation, strict=True)]
    stride = [draw(st.integers(1, w)) for w in window]
    mask = neighborhood(sizes, window, stride, dilation, [draw(st.booleans()) for _ in sizes])
    inner = st.lists(st.integers(1, 3), min_size=6, max_size=6)
    return mask, draw(st.integers(0, 5)), draw(inner), draw(inner)


def check_random(problem: tuple[Mask, int, list[int], list[int]]) -> None:
    mask, choice, times, inner = problem
    tokens = tokens_of(mask)
    case = Case(tokens, tokens, 2)
    grids = grids_of_mask(attention_of(restricted(case, mask)))
    if not grids:
        return

    def boxes(module: Operation) -> None:
        grid = grids[choice % len(grids)]
        axes = len(grid.dilation)
        tile = [i * t for i, t in zip(inner, times, strict=True)][:axes]
        permute(attention_of(module), grid, tile, inner[:axes], "")

    check_program(case, mask, boxes)


def test_random_neighborhoods_in_random_boxes() -> None:
    settings(max_examples=40, deadline=None)(given(problems())(check_random))()


@pytest.mark.slow
def test_hundreds_of_random_neighborhoods() -> None:
    settings(max_examples=400, deadline=None)(given(problems())(check_random))()


# --- kernels


def program_of(case: SiteCase, mask: Mask, tile: Sequence[int] = ()) -> SiteProgram:
    tokens = tokens_of(mask)
    step = PermuteTokens("avx512", force=True, tile=tuple(tile), queries=tokens, keys=tokens)
    return prepare(case.module(), mask, [step]).program


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask) -> tuple[torch.Tensor, torch.Tensor]:
    """Out and log-sum-exp as PyTorch computes them in the dtype of q."""
    group, tokens = q.shape[1] // k.shape[1], q.shape[2]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    scores = (q @ k.transpose(2, 3)) / q.shape[3] ** 0.5
    scores = scores.masked_fill(~mask.dense(tokens, tokens), float("-inf"))
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


@pytest.mark.parametrize("backend", ["interpret", pytest.param("native", marks=NATIVE)])
@pytest.mark.parametrize("name", ["dilated line", "odd grid", "dilated", "causal rows"])
def test_kernels_agree(backend: str, name: str) -> None:
    check_kernels(SiteCase(f32, 32, group=2), NEIGHBORHOODS[name], backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["interpret", pytest.param("native", marks=NATIVE)])
@pytest.mark.parametrize("name", ["strided", "volume", "volume of everything"])
def test_more_kernels_agree(backend: str, name: str) -> None:
    check_kernels(SiteCase(f32, 32, group=2), NEIGHBORHOODS[name], backend)


@NATIVE
@pytest.mark.parametrize("dtype", FLOATS[1:], ids=str)
def test_kernels_agree_in_half_precision(dtype: FloatType) -> None:
    check_kernels(SiteCase(dtype, 24), NEIGHBORHOODS["volume"], "native")


def check_kernels(case: SiteCase, mask: Mask, backend: str) -> None:
    tokens = tokens_of(mask)
    q, k, v, _ = case.tensors(Shape(2, 4, 4 // case.group, tokens, tokens), seed=1)
    program = program_of(case, mask)
    run = ProgramRunner(program, compile_site(program.kernel(), Options(backend=backend), tokens).runner)
    # Also with positions first in memory.
    for queries in (q, q.transpose(1, 2).contiguous().transpose(1, 2)):
        out, lse = run(queries, k, v, (), True)
        exact, exact_lse = attended(q.double(), k.double(), v.double(), mask)
        plain, plain_lse = attended(q, k, v, mask)
        bound = 2 * (plain.double() - exact).abs().max().item() + 2 * ROUNDOFF[case.dtype] * v.abs().max().item()
        assert_within(out, exact, bound)
        largest = 1 + exact_lse.abs().max().item()
        bound = 2 * (plain_lse.double() - exact_lse).abs().max().item() + 8 * ROUNDOFF[f32] * largest
        assert_within(lse, exact_lse, bound)


# --- tiles


@dataclass(frozen=True)
class Permuted(Case):
    """The kernel of a permuted program, on what the program gives it."""

    neighbors: Mask | None = None
    tile: tuple[int, ...] = ()

    def program(self) -> SiteProgram:
        assert self.neighbors is not None
        return program_of(SiteCase(f32, self.d, lse=False), self.neighbors, self.tile)

    def module(self) -> Operation:
        module = self.program().kernel()
        attention_of(module).schedule = (self.schedule or Schedule(self.block_m, self.block_n, 4, 2)).to_attr()
        module.regions[0].block.ops[0].properties["sym_name"] = super().module().regions[0].block.ops[0].properties[
            "sym_name"
        ]  # fmt: skip
        return module

    def inputs(self, seed: int = 0) -> list[Array]:
        """Tokens are random anyway; what is captured is taken from the order."""
        plain = Case(self.m, self.n, self.d).inputs(seed)
        program = self.program()
        orders = [TokenOrderOp(op) for op in program.module.walk() if TokenOrderOp.match(op)]
        known = {x: a for o in orders for x, a in zip(o.every, TokenOrder.of(o).arrays(self.m), strict=True)}
        return [*plain, *(known[c] for c in program.attention.captures)]


SIMULATED: dict[str, tuple[list[Axis], tuple[int, ...]]] = {
    "sliding": ([Axis(16, 6), Axis(16, 4)], (4, 4)),
    "strided": ([Axis(16, 8, 4), Axis(16, 8, 8)], (4, 4)),
    "causal": ([Axis(8, 4, causal=True), Axis(24, 8)], (2, 8)),
    "volume": ([Axis(8, 4), Axis(4, 2), Axis(8, 5)], (2, 2, 4)),
}


def mask_of(axes: Sequence[Axis]) -> Mask:
    numbers = [(a.length, a.window, a.stride, a.dilation, a.causal) for a in axes]
    return neighborhood(*(list(column) for column in zip(*numbers, strict=True)))  # type: ignore[arg-type]


@pytest.mark.parametrize("lists", [0, 1])
@pytest.mark.parametrize("name", ["sliding", "causal", "volume"])
def test_kernels_visit_the_tiles_that_the_simulator_counts(
    name: str, lists: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes, tile = SIMULATED[name]
    found = count_boxes(axes, tile, tile)
    tokens = prod(a.length for a in axes)
    schedule = replace(Schedule(16, 16, 4, 1), lists=lists)
    case = Permuted(tokens, tokens, 24, lse=False, schedule=schedule, neighbors=mask_of(axes), tile=tile)
    runs = counted(case, monkeypatch)
    assert 0 < found.live < found.total
    assert runs["tile.dot", (16, 16)] == found.live
    assert runs["arith.select", (16, 16)] == found.partial


@pytest.mark.parametrize("name", SIMULATED)
def test_tile_predicates_are_exact_for_boxes(name: str) -> None:
    axes, tile = SIMULATED[name]
    tokens = prod(a.length for a in axes)
    module = restricted(Case(tokens, tokens, 4), mask_of(axes))
    attention = attention_of(module)
    (grid,) = [g for g in grids_of_mask(attention) if len(g.dilation) == len(axes)]
    permute(attention, grid, tile, tile, "")
    arrays = TokenOrder(grid.inner, tile, tile, grid.dilation).arrays(tokens)
    inner = attention.mask.block.arguments[4:]
    orders = [TokenOrderOp(op) for op in module.walk() if TokenOrderOp.match(op)]
    known: dict[Value, Any] = {x: a for o in orders for x, a in zip(o.every, arrays, strict=True)}
    captures = {value: known[c] for value, c in zip(inner, attention.captures, strict=True)}
    volume = prod(tile)
    counted_tiles = count_tiles(attention.mask, tokens, tokens, volume, volume, captures)
    found = count_boxes(axes, tile, tile)
    assert (counted_tiles.live, counted_tiles.full, counted_tiles.total) == (found.live, found.full, found.total)
