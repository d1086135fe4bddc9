"""Masks that are no pair of bounds: kernels that skip empty tiles and read no mask in full ones are right all the same.

The bounds are those of `closeness` and of `test_lowering`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numeric.closeness import FLOATS, NATIVE, assert_close, runner_for
from numeric.test_lowering import Array, Case, causal, check, found_before, lists_of, lower
from numeric.test_native_lowering import PREFILL, folded
from property.mask_trees import CAPTURES, LENGTH, Captured, Tree, region_of, trees

from attir.compiler.attention_cases import Shape
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import FloatAttr, FloatType, Symbol, TensorType, Type, f32, i32
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.dialects import arith
from attir.ir.dialects.attn import AttentionOp
from attir.ir.interpreter import interpret, machine
from attir.ir.verifier import verify
from benchmarks.mask_families import FAMILIES, MaskCase

BACKENDS = pytest.mark.parametrize("backend", ["interpret", pytest.param("native", marks=NATIVE)])


# --- families on tensors


@BACKENDS
@pytest.mark.parametrize("form", FAMILIES)
def test_families_agree_with_attention(backend: str, form: str) -> None:
    """Odd sizes, two batches, two query heads to a key head; by tiles of rows and as decoding does it."""
    case = MaskCase(f32, 32, form=form, group=2)
    for queries, keys in ((150, 151), (3, 140)):
        assert_close(case, backend, *case.tensors(Shape(2, 4, 2, queries, keys), seed=3))


@NATIVE
@pytest.mark.parametrize("dtype", FLOATS[1:], ids=str)
@pytest.mark.parametrize("form", ["sink and window", "causal documents", "left padding", "block table"])
def test_families_in_half_precision(form: str, dtype: FloatType) -> None:
    case = MaskCase(dtype, 24, form=form)
    assert_close(case, "native", *case.tensors(Shape(2, 2, 2, 170, 170), seed=1))


@NATIVE
@pytest.mark.parametrize("form", FAMILIES)
def test_split_keys_meet_the_pieces(form: str) -> None:
    """One query over so many keys that several programs share them."""
    case = MaskCase(f32, 16, form=form, group=2, unit=300)
    assert_close(case, "native", *case.tensors(Shape(1, 2, 1, 1, 2100), seed=2))


@BACKENDS
def test_tables_are_made_anew_for_each_call(backend: str) -> None:
    case = MaskCase(f32, 16, form="documents")
    run = runner_for(case, backend)
    for seed, length in ((1, 100), (2, 100), (3, 70)):
        q, k, v, captures = case.tensors(Shape(1, 2, 2, length, length), seed=seed)
        out, _ = run(q, k, v, captures, True)
        exact, _ = case.reference(q.double(), k.double(), v.double(), captures)
        assert (out - exact).abs().max() < 1e-5


# --- random masks


@dataclass(frozen=True)
class RandomCase(Case):
    """Attention under a random mask over the captures of `mask_trees`."""

    tree: Tree = ()
    seed: int = 0

    def capture_types(self) -> list[TensorType]:
        """With symbols of their own."""
        types: list[TensorType] = []
        for i, argument in enumerate(region_of(self.tree).block.arguments[4:]):
            assert isinstance(argument.type, TensorType)
            types.append(argument.type.with_shape(*(Symbol(f"c{i}_{axis}") for axis in range(argument.type.rank))))
        return types

    def region(self, name: str, rule: object, outer: Block) -> Region:
        region = region_of(self.tree) if name == "mask" else Region([])
        if not region.empty:
            for argument, type_ in zip(region.block.arguments[4:], self.capture_types(), strict=True):
                argument.type = type_
        return region

    def inputs(self, seed: int = 0) -> list[Array]:
        plain = Case(self.m, self.n, self.d, group=self.group, key_heads=self.key_heads, batch=self.batch)
        return [*plain.inputs(self.seed), *Captured.drawn(self.seed).arrays]


GPU = Schedule(16, 16, 4, 1)
SCHEDULES: Mapping[str, Schedule] = {
    "gpu": GPU,
    "native": PREFILL,
    "folded": folded(4),
    "short tiles": replace(PREFILL, block_m=4, block_n=8, edge_n=4),
}
random_cases = given(
    trees, st.integers(0, 99), st.integers(1, LENGTH), st.integers(1, LENGTH), st.sampled_from(list(SCHEDULES))
)  # fmt: skip


def check_random(tree: Tree, seed: int, queries: int, keys: int, schedule: str) -> None:
    unused = (((1,), f32),) * len(CAPTURES)
    case = RandomCase(
        queries, keys, 4, group=2, batch=2, captures=unused, tree=tree, seed=seed, schedule=SCHEDULES[schedule]
    )  # fmt: skip
    check(case)


def test_random_masks() -> None:
    settings(max_examples=60, deadline=None)(random_cases(check_random))()


@pytest.mark.slow
def test_hundreds_of_random_masks() -> None:
    settings(max_examples=600, deadline=None)(random_cases(check_random))()


# --- what is run


def documents(x: Any) -> Value:
    return x.compare("eq", x.load(0, x.m), x.load(0, x.n))


def chunked(x: Any) -> Value:
    quotients = [x.binary(arith.FloorDivSIOp, p, 20) for p in (x.m, x.n)]
    return x.binary(arith.AndIOp, causal()(x), x.compare("eq", *quotients))


@dataclass(frozen=True)
class Documents(Case):
    """Documents whose lengths are not those of tiles."""

    captures: tuple[tuple[tuple[int, ...], Type], ...] = (((100,), i32),)

    def inputs(self, seed: int = 0) -> list[Array]:
        *floats, ids = super().inputs(seed)
        return [*floats, np.repeat(np.arange(5), [7, 40, 1, 20, 32]).astype(np.int32)[: ids.size]]


def counted(case: Case, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, Any]]:
    """How often the main kernel runs each op, by name and shape."""
    module, inputs = case.module(), case.inputs()
    lists, lowered = lists_of(module), lower(module)
    verify(lowered)
    found = found_before(lowered, inputs, lists)
    runs: Counter[tuple[str, Any]] = Counter()

    def watch(name: str, handler: Any) -> Any:
        def run(call: Any) -> Any:
            type_ = call.op.result.type
            runs[name, type_.shape if isinstance(type_, TensorType) else ()] += 1
            return handler(call)

        return run

    for name in ("tile.dot", "tile.gather", "arith.select"):
        monkeypatch.setitem(machine.HANDLERS, name, watch(name, machine.HANDLERS[name]))  # type: ignore[arg-type]
    interpret(lowered, "attention", *inputs, *found, *case.outputs())
    return runs


def tiles_of(mask: Array, block_m: int, block_n: int) -> tuple[int, int]:
    """How many tiles keep a key, and how many of those, whole ones, keep all; padded rows count for nothing."""
    live = full = 0
    for m in range(0, mask.shape[0], block_m):
        for n in range(0, mask.shape[1], block_n):
            tile = mask[m : m + block_m, n : n + block_n]
            live += bool(tile.any())
            full += bool(tile.all()) and tile.shape[1] == block_n
    return live, full


@pytest.mark.parametrize("name", ["documents", "chunked"])
@pytest.mark.parametrize("lists", [0, 1])
def test_empty_tiles_are_not_computed_and_full_ones_read_no_mask(
    name: str, lists: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, schedule = Documents if name == "documents" else Case, replace(GPU, lists=lists)
    case = kind(100, 100, 24, mask=documents if name == "documents" else chunked, schedule=schedule)
    positions = np.arange(100)
    if name == "documents":
        ids = case.inputs()[3]
        mask = ids[:, None] == ids[None, :]
    else:
        mask = (positions[:, None] >= positions) & (positions[:, None] // 20 == positions // 20)
    live, full = tiles_of(mask, 16, 16)
    runs = counted(case, monkeypatch)
    assert 0 < full < live < 49
    assert runs["tile.dot", (16, 16)] == live
    assert runs["arith.select", (16, 16)] == live - full
    if name == "documents":
        assert runs["tile.gather", (16,)] == 7 + live - full
    if lists:
        # For each tile of rows its number, the ends of two ranges and the first of each; then one for each tile.
        assert runs["tile.gather", ()] == 7 * 7 + live


def test_native_kernels_compute_whole_tiles_without_mask_and_short_ones_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Documents(100, 100, 12, mask=documents, schedule=replace(PREFILL, block_m=4, block_n=16, edge_n=8))
    ids = case.inputs()[3]
    mask = ids[:, None] == ids[None, :]
    runs = counted(case, monkeypatch)
    _, full = tiles_of(mask, 4, 16)
    assert runs["tile.dot", (4, 16)] == full > 0
    live_short, _ = tiles_of(mask, 4, 8)
    assert runs["tile.dot", (4, 8)] == live_short - 2 * full


# --- rows without a key under a finite number


def test_empty_score_must_be_finite() -> None:
    from attir.ir.diagnostics import CompileError

    module = Case(4, 4).module()
    attention = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))
    attention.empty_score = FloatAttr(float("-inf"), f32)
    with pytest.raises(CompileError, match="empty_score must be a finite f32"):
        verify(module)


@pytest.mark.parametrize("schedule", [GPU, PREFILL, folded(4)], ids=["gpu", "native", "folded"])
@pytest.mark.parametrize("offset", [0, -3, -100])
def test_rows_without_a_key_average_all_values(offset: int, schedule: Schedule) -> None:
    @dataclass(frozen=True)
    class Averaging(Case):
        def module(self) -> Operation:
            module = super().module()
            attention = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))
            attention.empty_score = FloatAttr(-1e9, f32)
            return module

    check(Averaging(21, 37, 8, group=2, mask=causal(offset), schedule=schedule))


def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """As transformers' eager models do it: finfo.min is added to what is padded or lies ahead."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    rows, columns = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]
    ahead = columns > rows + (k.shape[2] - q.shape[2])
    seen = keep[:, None, None, :] & ~ahead
    bias = torch.zeros((), dtype=q.dtype).masked_fill(~seen, torch.finfo(q.dtype).min)
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.softmax(q @ k.mT * 0.25 + bias, -1, dtype=wide).to(q.dtype) @ v


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("queries", "keys"), [(75, 75), (2, 75), (1, 1400)])
def test_padded_models_average_where_they_keep_nothing(
    backend: str, dtype: torch.dtype, queries: int, keys: int
) -> None:
    """Left padding, right padding, and a batch of nothing but padding; decoding splits 1400 keys."""
    import attir

    compiled = attir.compile(padded, backend=backend, strict=True)
    q, k, v = (torch.randn(3, heads, n, 16).to(dtype) for heads, n in ((4, queries), (2, keys), (2, keys)))
    keep = torch.ones(3, keys, dtype=torch.bool)
    keep[0, : keys // 3], keep[1, keys // 2 :], keep[2] = False, False, False
    with torch.no_grad():
        found, plain = compiled(q, k, v, keep), padded(q, k, v, keep)
        exact = padded(q.double(), k.double(), v.double(), keep)
    bound = 2 * (plain - exact).abs().max() + {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}[dtype] * v.abs().max()
    assert (found - exact).abs().max() <= bound
    (site,) = attir.explain(compiled).sites
    assert " | " in site.form, "the padding is a mask"
