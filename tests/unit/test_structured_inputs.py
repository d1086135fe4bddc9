"""The synthetic inputs have the structure they claim, and the benchmark's rows of choices run."""

from __future__ import annotations

import math

import torch

from attir.compiler.attention_cases import Case
from attir.compiler.select_blocks import select_blocks
from attir.compiler.selection import select
from attir.ir.attributes import f32
from benchmarks.sparse.rows import Settings
from benchmarks.sparse.select_rows import decode, program, recall, select_of
from benchmarks.structured_inputs import Recipe, outlier_channels, recalls, structured

LENGTH = 4096
RECIPE = Recipe(length=LENGTH, width=64, heads=2, key_heads=1, needles=3, seed=2)


def test_equal_recipes_give_equal_inputs() -> None:
    first, second = structured(RECIPE), structured(RECIPE)
    assert torch.equal(first.q, second.q) and torch.equal(first.k, second.k) and first.needles == second.needles
    assert first.q.shape == (1, 2, LENGTH, 64) and first.k.shape == first.v.shape == (1, 1, LENGTH, 64)


def test_needles_weigh_most_for_the_queries_that_look_for_them() -> None:
    inputs = structured(RECIPE)
    for needle in inputs.needles[0]:
        q = inputs.q[0, :, needle.start : needle.stop]
        rows = torch.arange(needle.start, needle.stop)[:, None]
        scores = (q @ inputs.k[0, 0].T * inputs.scale).masked_fill(torch.arange(LENGTH) > rows, -torch.inf)
        assert needle.key < needle.start
        assert float(scores.softmax(dim=-1)[..., needle.key].mean()) > 0.8


def test_all_blocks_hold_all_weight_and_no_blocks_none() -> None:
    inputs = structured(RECIPE)
    everything = torch.ones(1, 1, LENGTH // 64, LENGTH // 64, dtype=torch.bool)
    found = recalls(inputs, {"all": everything, "none": ~everything}, 64, 64)
    assert all(math.isclose(x, 1.0, abs_tol=1e-5) for x in found["all"].values())
    assert all(x == 0 for x in found["none"].values())


def test_estimates_of_single_keys_find_needles() -> None:
    inputs = structured(RECIPE)
    case, tables = Case(f32, 64, group=2, form="causal"), dict[str, torch.Tensor]()
    for name in ("quest", "low_rank", "int4", "centroids"):
        op = select_of(program(case, select(name, keep=0.3)))
        tables[name] = select_blocks(op, inputs.q, inputs.k)
    found = recalls(inputs, tables, 64, 64)
    assert min(found[name]["needles"] for name in tables) >= 0.95


def test_keys_are_large_in_the_same_channels() -> None:
    q, k, v = outlier_channels(length=300, width=64, heads=4, key_heads=2, channels=3)
    assert q.shape == (1, 4, 300, 64) and k.shape == v.shape == (1, 2, 300, 64)
    means = k.mean(dim=2).abs()
    assert bool((means[..., [0, 16, 32]] > 6).all()) and bool((k.std(dim=2)[..., [0, 16, 32]] < 3).all())
    means[..., [0, 16, 32]] = 0
    assert float(means.max()) < 4


def test_rows_of_the_benchmark_run() -> None:
    rows = [*recall(Settings(True, 0.01, (512,))), *decode(Settings(True, 0.01, (512,)))]
    assert all("kept" in row.figures for row in rows) and len(rows) == 16
