"""Dynamic selection: what it costs to choose blocks, what decoding gains by it, and how much weight the blocks hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.key_summaries import KeySummary
from attir.compiler.options import Options
from attir.compiler.select_blocks import estimator_of, select_blocks
from attir.compiler.selection import Selection, select
from attir.compiler.site_program import SiteProgram
from attir.ir.attributes import f32
from attir.ir.core import Operation
from attir.ir.dialects.attn import SelectOp
from attir.passes.manager import PassContext
from attir.passes.sparsify import Sparsify
from benchmarks.cpu.measuring import Call, interleaved
from benchmarks.structured_inputs import Recipe, recalls, structured

from .rows import Row, Settings, native_call, runner

KEEP, SEED = 0.1, 0
COST, DECODE, RECALL = 0.12, 4.0, 0.95
DECODE_BLOCK = 128
ESTIMATORS: Mapping[str, Mapping[str, Any]] = {
    "quest": {},
    "pooled": {},
    "low_rank": {},
    "int4": {},
    "sampled": {},
    "centroids": {},
    "centroids, two levels": {"clusters": 144, "levels": 2},
}
WITH_BARS = ("quest", "low_rank")


def selections() -> dict[str, Selection]:
    """Every estimator, keeping 10 % of blocks of 64 keys for 64 queries."""
    return {name: select(name.partition(",")[0], keep=KEEP, **own) for name, own in ESTIMATORS.items()}


def program(case: Case, selection: Selection) -> Operation:
    """A case that attends to the chosen blocks only, as a site program."""
    module = case.module()
    parameters = tuple(f"{name}={value}" for name, value in selection.numbers.items())
    passed = Sparsify(selection.estimator, rows=selection.rows, block=selection.block, parameters=parameters)
    passed.run(module, PassContext())
    return module


def select_of(module: Operation) -> SelectOp:
    return next(SelectOp(op) for op in module.walk() if SelectOp.match(op))


def cost(settings: Settings) -> Iterator[Row]:
    """Time to estimate and choose over the time of causal attention without a choice, one head."""
    for length in settings.chosen((8192,), (32768,)):
        for width in (64,) if settings.quick else (64, 128):
            case, shape = Case(f32, width, form="causal", lse=False), Shape(1, 1, 1, length, length)
            q, k, v, _ = case.tensors(shape, SEED)
            calls: dict[str, Call] = {"dense": native_call(runner(case), q, k, v, ())}
            for name, selection in selections().items():
                calls[name] = _choosing(select_of(program(case, selection)), q, k)
            times = interleaved(calls, 1, settings.seconds)
            for name in ESTIMATORS:
                share = times.median(name) / times.median("dense")
                yield Row(
                    f"estimate and choose, {name}, N = {length}, D = {width}",
                    {"ms": 1e3 * times.median(name), "dense ms": 1e3 * times.median("dense"), "of dense": share},
                    f"<= {COST:.0%} of dense", share <= COST, times.note,
                    {x: times.seconds[x] for x in ("dense", name)},
                )  # fmt: skip


def _choosing(op: SelectOp, q: torch.Tensor, k: torch.Tensor) -> Call:
    return lambda: select_blocks(op, q, k)


def decode(settings: Settings) -> Iterator[Row]:
    """One query: dense decoding over choosing pages of a kept summary and attending to these."""
    for length in settings.chosen((8192,), (32768,)):
        shape = Shape(1, 32, 8, 1, length)
        for width in (64, 128):
            yield _decode(Case(f32, width, group=shape.heads // shape.key_heads, lse=False), shape, settings)


def _decode(case: Case, shape: Shape, settings: Settings) -> Row:
    q, k, v, _ = case.tensors(shape, SEED)
    selection = select("quest", keep=KEEP, block=DECODE_BLOCK, local=2)
    module = program(case, selection)
    op = select_of(module)
    summary = KeySummary(estimator_of(selection.estimator, selection.numbers), selection.block)
    summary.append(k)
    run = compile_site(SiteProgram(module).kernel(), Options(backend="native")).runner
    dense = runner(case)

    def choose() -> torch.Tensor:
        return select_blocks(op, q, k, summary=summary.summary)

    calls: dict[str, Call] = {
        "dense": native_call(dense, q, k, v, ()), "choose": choose,
        "chosen": lambda: run(q, k, v, (choose(),), False)[0],
    }  # fmt: skip
    times = interleaved(calls, 1, settings.seconds)
    speedup = times.ratio("chosen", "dense")
    figures = {
        "kept": choose().float().mean().item(), "dense ms": 1e3 * times.median("dense"),
        "choose ms": 1e3 * times.median("choose"), "together ms": 1e3 * times.median("chosen"), "speed-up": speedup,
    }  # fmt: skip
    return Row(
        f"decode, Quest on pages of {selection.block}, {shape.heads} heads for {shape.key_heads}, KV = {shape.keys}, "
        f"D = {case.width}", figures, f">= {DECODE} x dense", speedup >= DECODE, times.note, times.seconds,
    )  # fmt: skip


def recall(settings: Settings) -> Iterator[Row]:
    """The weight of causal attention that the chosen blocks hold, on inputs with needles, sinks and local bands."""
    for length in settings.chosen((8192,), (32768,)):
        for recipe in (Recipe(length, 64, heads=1), Recipe(length, 128, heads=2, seed=1)):
            inputs = structured(recipe if not settings.quick else replace(recipe, needles=4))
            case = Case(f32, recipe.width, group=inputs.group, form="causal", lse=False)
            ops = {name: select_of(program(case, selection)) for name, selection in selections().items()}
            tables = {name: select_blocks(op, inputs.q, inputs.k) for name, op in ops.items()}
            found = recalls(inputs, tables, 64, 64)
            for name, table in tables.items():
                bar = f">= {RECALL} on needles" if name in WITH_BARS else ""
                live = torch.ones(table.shape[2:], dtype=torch.bool).tril().sum()
                kept = table.sum() / (live * table.shape[1])
                yield Row(
                    f"recall, {name}, N = {length}, D = {recipe.width}, {recipe.heads} heads for {recipe.key_heads}",
                    {"kept": float(kept), **found[name]}, bar,
                    found[name]["needles"] >= RECALL if bar else None,
                )  # fmt: skip
