"""What the cost model says a call does, against counting while its kernels run in the reference interpreter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from attir.compiler.attention_cases import FORMS, Case, Shape
from attir.compiler.lowering import Lowered, lower
from attir.cost_model.counts import Counts, compulsory_bytes, counts_of, io_lower_bound
from attir.cost_model.problem import Problem, Sizes
from attir.cost_model.resources import AttentionShape
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import FloatType, bf16, f16, f32
from attir.ir.core import Operation
from attir.ir.dialects.attn import AttentionOp
from attir.ir.dialects.tile import KernelOp
from attir.ir.interpreter.counting import WorkCounter
from attir.ir.interpreter.machine import interpret
from attir.passes.problem import problem_of
from attir.passes.visited_rows import splits_of
from attir.passes.visits import MaskVisits, visits_of

Wishes = tuple[tuple[str, int | str], ...]

KINDS = {"part_out": "parts", "part_lse": "parts", "extremes": "tables", "spans": "lists", "tiles": "lists",
         "work": "lists", "order": "lists"}  # fmt: skip
"""What the cost model calls the arguments of kernels."""


def attention_in(module: Operation) -> AttentionOp:
    return next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))


class Call:
    """One call of the kernels of `lowered`, with an array for each name of an argument."""

    def __init__(self, case: Case, lowered: Lowered, sizes: Sizes, schedule: Schedule) -> None:
        shape = Shape(sizes.batch, sizes.heads, sizes.key_heads, sizes.queries, sizes.keys)
        *operands, captures = case.tensors(shape)
        named = dict(zip("qkv", operands, strict=True)) | {f"capture{i}": c for i, c in enumerate(captures)}
        self.arrays: dict[str, Any] = {name: as_array(tensor) for name, tensor in named.items()}
        self.captures = [self.arrays[f"capture{i}"] for i in range(len(captures))]
        self.lowered, self.sizes, self.schedule = lowered, sizes, schedule
        rows = sizes.batch, sizes.heads, sizes.queries
        parts = 2 if schedule.specialised else max(1, splits_of(schedule, sizes))
        out = np.zeros((*rows, case.value_width or case.width), self.arrays["q"].dtype)
        self.arrays |= {"out": out, "lse": np.zeros(rows, np.float32)}
        self.arrays["part_out"] = np.zeros((parts, *out.shape), np.float32)
        self.arrays["part_lse"] = np.full((parts, *rows), -np.inf, np.float32)
        call = sizes.batch, sizes.heads, sizes.queries, sizes.keys
        if lowered.tables is not None:
            self.arrays["extremes"] = np.zeros(lowered.tables.sizes(*call), np.int32)
        if lowered.lists is not None:
            for name in lowered.lists.written:
                self.arrays[name] = np.zeros(lowered.lists.own_sizes(name, *call), np.int32)

    def counted(self) -> WorkCounter:
        """Run all kernels in their order."""
        counter = WorkCounter()
        kernels = dict(zip(self.lowered.roles, self.lowered.kernels, strict=True))
        for role in ("tables", "list", "main", "rest", "merge"):
            if role == "merge" and self.alone:
                continue
            if role in kernels:
                self._run(KernelOp(kernels[role]), counter)
            if role == "list" and (lists := self.lowered.lists) is not None and lists.ordered:
                programs = lists.programs(self.sizes.batch, self.sizes.heads, self.sizes.queries)
                work = np.broadcast_to(self.arrays["work"], programs).reshape(-1)
                self.arrays["order"] = np.argsort(-work, kind="stable")
        return counter

    @property
    def alone(self) -> bool:
        """Whether the only part is the result, as native calls have it."""
        f32_alone = self.arrays["out"].dtype == np.float32 and self.schedule.lanes > 0
        return bool(self.schedule.split) and f32_alone and self.arrays["part_out"].shape[0] == 1

    def _run(self, kernel: KernelOp, counter: WorkCounter) -> None:
        names = [argument.name_hint or "" for argument in kernel.body.block.arguments]
        arguments = [self.arrays[name] for name in names]
        found = WorkCounter()
        interpret(module_around(kernel.operation), kernel.sym_name.value, *arguments, counter=found)
        counter.flops += found.flops
        counter.exponentials += found.exponentials
        counter.loaded.update(found.loaded)
        counter.stored.update(found.stored)


def module_around(kernel: Operation) -> Operation:
    assert kernel.parent is not None and kernel.parent.parent is not None
    module = kernel.parent.parent.parent
    assert module is not None
    return module


def as_array(tensor: torch.Tensor) -> Any:
    """bf16 as f32 of the same value."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def by_kind(found: Mapping[str, int], *, alone: bool) -> dict[str, int]:
    """Bytes by what the cost model calls the arguments."""
    kinds: Counter[str] = Counter()
    for name, bytes_ in found.items():
        kind = "captures" if name.startswith("capture") else KINDS.get(name, name)
        if alone and kind == "parts":
            kind = "out" if name == "part_out" else "lse"
        kinds[kind] += bytes_
    return {name: bytes_ for name, bytes_ in kinds.items() if bytes_}


def check(case: Case, sizes: Sizes, target: str, rows: int = 0, wishes: Wishes = ()) -> Counts:
    module = case.module()
    lowered = lower(module, target, rows, wishes)
    attention = attention_in(module)
    schedule = Schedule(**lowered.plan)
    call = Call(case, lowered, sizes, schedule)
    problem = problem_of(attention, sizes, padded=not schedule.lanes, few_rows=schedule.few_rows)
    arguments = attention.mask.block.arguments if not attention.mask.empty else []
    inside = dict(zip(arguments[len(arguments) - len(call.captures) :], call.captures, strict=False))
    visits = visits_of(attention, schedule, sizes, inside)
    assert visits.exact
    model, counted = counts_of(problem, schedule, visits), call.counted()
    assert model.flops == counted.flops
    assert model.exponentials == counted.exponentials
    loaded = by_kind(counted.loaded, alone=call.alone)
    loaded.pop("tables", None)  # a few numbers for each tile that is looked at
    stored = by_kind(counted.stored, alone=call.alone)
    if call.alone and not case.lse:
        stored.pop("lse")  # written, and read by nobody
    assert {k: v for k, v in model.loaded.items() if v} == loaded
    assert {k: v for k, v in model.stored.items() if v} == stored
    return model


ODD = Sizes(2, 4, 4, 75, 133)
TARGETS = ("avx512", "avx2", "sm_80", "sm_90")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str, target: str) -> None:
    check(Case(f32, 16, form=form), ODD, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [f16, bf16])
def test_half_precision(dtype: FloatType, target: str) -> None:
    check(Case(dtype, 24, 40, form="causal", lse=False), Sizes(1, 2, 2, 97, 201), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_decoding_splits_the_keys(form: str, target: str) -> None:
    keys = 503 if form == "table" else 1203  # the table holds distances up to 512
    check(Case(f32, 16, group=4, form=form), Sizes(2, 8, 2, 3, keys), target, rows=12)


@pytest.mark.parametrize("target", TARGETS)
def test_few_rows_of_one_part(target: str) -> None:
    check(Case(f16, 32, group=2, form="causal"), Sizes(1, 4, 2, 1, 100), target, rows=2, wishes=(("split", 0),))


@pytest.mark.parametrize("form", ["causal", "window", "documents"])
@pytest.mark.parametrize("target", TARGETS)
def test_groups_of_heads(form: str, target: str) -> None:
    check(Case(bf16, 16, group=3, form=form), Sizes(2, 6, 2, 81, 161), target)


SCHEDULES: tuple[tuple[str, str, Wishes], ...] = (
    ("avx512", "documents", (("lists", 0), ("block_m", 32), ("block_n", 64))),
    ("avx512", "dropped", (("block_m", 48), ("block_n", 48), ("lists", 0))),
    ("avx2", "causal", (("block_m", 16), ("block_n", 32), ("edge_n", 8))),
    ("avx2", "window", (("block_m", 32), ("block_n", 64))),
    ("sm_80", "documents", (("lists", 0), ("block_m", 32), ("block_n", 32))),
    ("sm_80", "documents", (("lists", 1), ("block_m", 64), ("block_n", 16))),
    ("sm_80", "window", (("block_m", 64), ("block_n", 32))),
    ("sm_80", "causal", (("persistent", 5),)),
    ("sm_90", "causal", (("descriptors", ""),)),
    ("sm_90", "none", (("swap", 1), ("block_m", 16))),
    ("sm_90", "bias", (("block_m", 16), ("block_n", 64))),
    ("sm_100", "causal", (("block_m", 32),)),
    ("gfx942", "dropped", (("lists", 0),)),
)


@pytest.mark.parametrize(("target", "form", "wishes"), SCHEDULES)
def test_other_schedules(target: str, form: str, wishes: Wishes) -> None:
    check(Case(f16, 32, form=form), Sizes(1, 2, 2, 131, 219), target, wishes=wishes)


@pytest.mark.parametrize("form", ["none", "causal", "window"])
def test_specialised_warps_visit_whole_tiles_alone(form: str) -> None:
    check(Case(f16, 64, form=form), Sizes(1, 2, 2, 300, 300), "sm_90", wishes=(("specialised", 1),))


@pytest.mark.parametrize("target", ["avx512", "sm_80"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 17), (64, 64), (130, 1), (16, 128)])
def test_edges_of_sizes(queries: int, keys: int, target: str) -> None:
    check(Case(f32, 16, form="causal"), Sizes(1, 1, 1, queries, keys), target)


def test_some_rows_stand_for_all_where_there_are_many() -> None:
    """Tried rows are spread evenly, so that a band is met by all of them alike."""
    attention = attention_in(Case(f16, 64, form="documents").module())
    sizes, schedule = Sizes(1, 1, 1, 4096, 4096), Schedule(64, 64, 4, 2)
    ids = np.repeat(np.arange(16, dtype=np.int32), 256)[None]
    captures = {attention.mask.block.arguments[-1]: ids}
    every = visits_of(attention, schedule, sizes, captures)
    some = MaskVisits(attention, sizes, captures, at_once=1 << 11).at(schedule)
    assert every.exact and not some.exact
    assert some.full == pytest.approx(every.full, rel=0.01) and every.full == 64 * 4
    assert some.looked == every.looked == 64 * 64


def problem(queries: int, keys: int, width: int) -> Problem:
    return Problem(Sizes(1, 1, 1, queries, keys), AttentionShape(width, width, 4), widths=(width, width))


def test_the_lower_bound_has_two_regimes() -> None:
    """By hand: N = 4096, d = 64 and M = 16384 >= d^2 numbers give N^2 d^2 / M; M = 1024 < d^2 give N^2 d / sqrt(M)."""
    large, small = (io_lower_bound(problem(4096, 4096, 64), 4 * numbers) for numbers in (16384, 1024))
    assert large == 4 * 4096**2 * 64**2 / 16384
    assert small == 4 * 4096**2 * 64 / 32
    assert io_lower_bound(problem(4096, 4096, 64), 4 * 64**2) == 4 * 4096**2  # where both agree
    assert io_lower_bound(problem(16, 16, 64), 1e9) == compulsory_bytes(problem(16, 16, 64)) == 4 * 16 * 64 * 4


@pytest.mark.parametrize("block_m", [64, 128])
def test_loops_stay_above_the_lower_bound(block_m: int) -> None:
    """Bytes that programs load, with a fast memory no larger than their tiles."""
    attention = attention_in(Case(f16, 64).module())
    sizes, schedule = Sizes(1, 2, 2, 4096, 4096), Schedule(block_m, 64, 4, 2, target="sm_80")
    problem = problem_of(attention, sizes, padded=True)
    counts = counts_of(problem, schedule, visits_of(attention, schedule, sizes))
    tiles = 2 * 64 * (block_m + 2 * 64)
    assert counts.bytes >= io_lower_bound(problem, tiles) / 4  # the constant of the bound is not known
