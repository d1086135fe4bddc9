"""Lists of key tiles: what the small kernel writes against brute force, and kernels that go through lists.

The bound is that of `test_lowering`; that of kernels in Triton's interpreter is that of `closeness`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numeric.closeness import assert_agrees
from numeric.row_spellings import half_rope
from numeric.test_lowering import Array, Case, Element, alibi, check, found_before, lists_of, lower
from numeric.test_masked_tiles import Documents, RandomCase, documents
from numeric.test_sinks_and_weights import Changed, dropped, of_row
from property.mask_trees import CAPTURES, LENGTH, Captured, Tree, mask_of, region_of, trees

import attir
from attir.compiler.attention_cases import Case as SiteCase
from attir.compiler.attention_cases import Shape
from attir.compiler.kernels import build_kernel
from attir.compiler.layouts import Layout, heaviest_first
from attir.compiler.lowering import lower as lower_site
from attir.compiler.sites import Runner
from attir.compiler.triton_calls import Call, Steps
from attir.compiler.triton_runtime import Interpreted
from attir.cost_model.cpus import CPUS
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import FloatAttr, FloatType, bf16, f16, f32, i32
from attir.ir.core import Operation, Region, Value
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.attn import AttentionOp
from attir.ir.dialects.scf import IfOp
from attir.ir.interpreter import interpret
from attir.ir.verifier import verify
from attir.passes.count_tiles import CapturedMath
from attir.passes.mask_plan import MaskPlan
from attir.passes.position_forms import B, H, M, N
from attir.passes.tile_lists import CLASSES
from attir.passes.tile_predicates import TileEvaluator
from benchmarks.mask_families import MaskCase

LISTED = Schedule(16, 16, 4, 1, lists=1)
FOLDED = replace(LISTED, folded=1)
WISHES: tuple[dict[str, int | str], ...] = (
    {"descriptors": ""}, {"descriptors": "device"}, {"descriptors": "host", "folded": 1}, {"swap": 1, "persistent": 3},
)  # fmt: skip
SCHEDULES = {
    "square": LISTED,
    "wide": replace(LISTED, block_m=32),
    "long": replace(LISTED, block_n=32),
    "folded": FOLDED,
    "short tiles": Schedule(4, 16, 1, 1, lanes=4, columns=2, edge_n=8, lists=1),
}


# --- what is listed


@dataclass(frozen=True)
class Listed:
    """The numbers of the full and of the cut tiles of one tile of rows."""

    full: list[int]
    cut: list[int]

    @staticmethod
    def of(spans: Array, tiles: Array, row: tuple[int, int, int]) -> Listed:
        full_begin, full_end, cut_begin, cut_end = spans[row]
        return Listed(tiles[full_begin:full_end].tolist(), tiles[cut_begin:cut_end].tolist())


def check_lists(case: Case, masks: Callable[[int, int], Array]) -> None:
    """Every live tile is listed once, and full ones are; `masks` gives the mask of a batch and head."""
    module, inputs, schedule = case.module(), case.inputs(), case.schedule
    lists = lists_of(module)
    assert lists is not None and schedule is not None
    lowered = lower(module)
    verify(lowered)
    spans, tiles, *_ = found_before(lowered, inputs, lists)
    folded = case.group if schedule.folded else 1
    for b, h, row in np.ndindex(*spans.shape[:3]):
        listed = Listed.of(spans, tiles, (b, h, row))
        short = schedule.block_n // schedule.edge
        every = [*(short * tile + i for tile in listed.full for i in range(short)), *listed.cut]
        assert len(set(every)) == len(every)
        rows = range(row * schedule.block_m, min((row + 1) * schedule.block_m, case.m * folded))
        mask = np.stack([masks(b, h * folded + r % folded)[r // folded] for r in rows])
        for tile in range(-(-case.n // schedule.edge)):
            assert tile in every or not mask[:, tile * schedule.edge : (tile + 1) * schedule.edge].any()
        for tile in listed.full:
            part = mask[:, tile * schedule.block_n : (tile + 1) * schedule.block_n]
            assert part.all() and part.shape[1] == schedule.block_n
        assert all(0 <= tile < -(-case.n // schedule.edge) for tile in every)


@st.composite
def listable(draw: st.DrawFn) -> tuple[Tree, int, int, int, Schedule]:
    """A random mask of which tiles can be listed, sizes, and a schedule."""
    tree = draw(trees.filter(lambda tree: MaskPlan.of(region_of(tree)).kind in ("pieces", "tiles")))
    schedule = draw(st.sampled_from(list(SCHEDULES.values())))
    sizes = draw(st.tuples(st.integers(0, 99), st.integers(1, LENGTH), st.integers(1, LENGTH)))
    return (tree, *sizes, schedule)


def check_random(drawn: tuple[Tree, int, int, int, Schedule]) -> None:
    """The lists against brute force and against the tile predicate, then the whole kernel against attention."""
    tree, seed, queries, keys, schedule = drawn
    case = RandomCase(
        queries, keys, 4, group=2, batch=2, captures=(((1,), f32),) * len(CAPTURES), tree=tree, seed=seed,
        schedule=schedule,
    )  # fmt: skip
    arrays, region = Captured.drawn(seed).arrays, region_of(tree)
    check_lists(case, lambda b, h: mask_of(region, queries, keys, arrays, b, h))
    if not schedule.folded and not schedule.lanes:
        check_nothing_else_is_listed(case, region)
    check(case)


def check_nothing_else_is_listed(case: RandomCase, region: Region) -> None:
    """What is listed is what the predicate cannot call empty; full tiles are those that it calls so."""
    module, schedule, sizes, plan = case.module(), case.schedule, {M: case.m, N: case.n}, MaskPlan.of(region)
    lists = lists_of(module)
    assert lists is not None and schedule is not None
    spans, tiles, *_ = found_before(lower(module), case.inputs(), lists)
    first = {p: np.arange(0, sizes[p], b) for p, b in ((M, schedule.block_m), (N, schedule.block_n))}
    last = {p: np.minimum(first[p] + b, sizes[p]) - 1 for p, b in ((M, schedule.block_m), (N, schedule.block_n))}
    for b, h, row in np.ndindex(*spans.shape[:3]):
        math = CapturedMath(Captured.drawn(case.seed).of(region), {B: b, H: h}, sizes)
        rows = int(first[M][row]), int(last[M][row])
        places = {B: (b, b), H: (h, h), M: rows, N: (first[N], last[N])}
        found = TileEvaluator(math, places).truth(plan.forms.condition)
        may, must = (np.broadcast_to(x, first[N].shape) for x in (found.may, found.must))
        whole = first[N] + schedule.block_n <= case.n
        listed = Listed.of(spans, tiles, (b, h, row))
        if plan.kind == "tiles":
            assert set(listed.full) | set(listed.cut) <= set(np.nonzero(may)[0].tolist())
        assert set(listed.full) <= set(np.nonzero(must & whole)[0].tolist())


def test_random_masks() -> None:
    settings(max_examples=60, deadline=None)(given(listable())(check_random))()


@pytest.mark.slow
def test_hundreds_of_random_masks() -> None:
    settings(max_examples=600, deadline=None)(given(listable())(check_random))()


IDS = np.repeat(np.arange(5), [7, 40, 1, 20, 32]).astype(np.int32)
"""The documents of `Documents`."""


@pytest.mark.parametrize("block_n", [16, 32, 64])
def test_exactly_the_live_tiles_of_documents_are_listed(block_n: int) -> None:
    """In odd sizes; the last tile of keys is never full."""
    schedule = replace(LISTED, block_n=block_n)
    case = Documents(100, 100, 8, mask=documents, schedule=schedule)
    mask = IDS[:, None] == IDS[None, :]
    check_lists(case, lambda b, h: mask)
    module = case.module()
    lists, lowered = lists_of(module), lower(module)
    spans, tiles, *_ = found_before(lowered, case.inputs(), lists)
    assert spans.shape == (1, 1, 7, 4), "no head and no batch sees another mask"
    for row in range(7):
        listed = Listed.of(spans, tiles, (0, 0, row))
        parts = [mask[16 * row : 16 * (row + 1), n : n + block_n] for n in range(0, 100, block_n)]
        assert sorted([*listed.full, *listed.cut]) == [i for i, part in enumerate(parts) if part.any()]
        assert listed.full == [i for i, part in enumerate(parts) if part.all() and part.shape[1] == block_n]


@pytest.mark.parametrize(("queries", "keys"), [(100, 0), (0, 100), (1, 100), (100, 1), (100, 37)])
def test_few_rows_and_few_keys(queries: int, keys: int) -> None:
    check(Documents(queries, keys, 8, mask=documents, schedule=LISTED))


def test_lists_are_sized_by_shapes_alone_and_refused_where_positions_would_wrap() -> None:
    """The heads of a folded group share a list."""
    per_head = MaskCase(f32, 16, form="block table", group=2)
    lists = lower_site(per_head.module(), "interpret", wishes=(("lists", 1), ("folded", 1))).lists
    assert lists is not None
    assert lists.sizes(3, 4, 100, 130) == ((3, 2, 4, 4), (3 * 2 * 4 * 4,))
    lists = lower_site(per_head.module(), "interpret", wishes=(("lists", 1),)).lists
    assert lists is not None
    assert lists.sizes(3, 4, 100, 130) == ((3, 4, 2, 4), (3 * 4 * 2 * 4,))
    with pytest.raises(CompileError, match="lists hold fewer than 2147483648 tiles of keys, but 1000000 queries"):
        lists.sizes(16, 16, 10**6, 10**6)


# --- who may ask


@pytest.mark.parametrize("form", ["none", "causal", "window"])
def test_masks_without_tiles_to_tell_apart_are_refused(form: str) -> None:
    with pytest.raises(CompileError, match="schedule 'lists' needs a mask under which tiles of keys differ"):
        lower_site(SiteCase(f16, form=form).module(), "sm_90", wishes=(("lists", 1),))


def test_lists_are_planned_where_tiles_must_be_looked_at() -> None:
    for form, wanted in (("documents", 1), ("causal documents", 1), ("block table", 1), ("sink and window", 0)):
        for target in ("sm_90", "sm_80", "gfx942", "interpret"):
            lowered = lower_site(MaskCase(f16, form=form).module(), target)
            assert lowered.plan.get("lists", 0) == wanted
            assert lowered.structure["tiles"] == ("list" if wanted else "pieces")
            assert ("list" in lowered.roles) == bool(wanted)
        for target in CPUS:
            lowered = lower_site(MaskCase(f32, 64, form=form).module(), target)
            # A table's list costs a short call as much as it saves; for documents it is taken.
            listed = lowered.plan.get("lists", 0)
            assert listed == ("list" in lowered.roles) and (listed == wanted or form == "block table")
            assert "list" not in lower_site(MaskCase(f32, 64, form=form).module(), target, rows=4).roles


def test_the_main_kernel_has_no_branch() -> None:
    for form in ("documents", "chunked"):
        lowered = lower_site(MaskCase(f16, form=form).module(), "sm_90", wishes=(("lists", 1),))
        (main,) = [k for k, role in zip(lowered.kernels, lowered.roles, strict=True) if role == "main"]
        assert not any(IfOp.match(op) for op in main.walk())


# --- the order of programs


@pytest.mark.parametrize("schedule", [LISTED, SCHEDULES["short tiles"]], ids=["gpu", "cpu"])
def test_programs_with_most_keys_come_first(schedule: Schedule) -> None:
    """All heads and both batches go by the lists that they share, to within a sixteenth of all keys."""
    case = Documents(100, 100, 8, group=2, batch=2, mask=documents, schedule=schedule)
    lists = lists_of(case.module())
    assert lists is not None
    spans, _, order = found_before(lower(case.module()), case.inputs(), lists)
    programs = lists.programs(2, case.inputs()[0].shape[1], 100)
    assert sorted(order) == list(range(np.prod(programs)))
    keys = (spans[..., 1] - spans[..., 0]) * schedule.block_n + (spans[..., 3] - spans[..., 2]) * schedule.edge
    work = np.broadcast_to(keys * CLASSES // 100, programs).reshape(-1)[order]
    assert len(set(work.tolist())) > 2 and (np.diff(work) <= 0).all()


def test_any_order_of_programs_will_do() -> None:
    case = Documents(100, 90, 8, group=2, batch=2, mask=documents, schedule=LISTED)

    def backwards(case: Case, module: Operation, inputs: list[Array]) -> list[Array]:
        outputs, lists = case.outputs(), lists_of(module)
        lowered = lower(module)
        spans, tiles, order = found_before(lowered, inputs, lists)
        interpret(lowered, "attention", *inputs, spans, tiles, order[::-1].copy(), *outputs)
        return outputs

    check(case, backwards)


def test_work_is_sorted_for_all_that_share_it() -> None:
    """Batch 1 first, where all heads do the same; equals as they come."""
    work = torch.tensor([[[1, 0, 2]], [[3, 3, 0]]], dtype=torch.int32)
    expected = torch.tensor([6, 7, 9, 10, 2, 5, 0, 3, 1, 4, 8, 11])
    assert torch.equal(heaviest_first(work, (2, 2, 3)), expected)


# --- what kernels make of lists


def test_any_layout_of_the_lists_will_do() -> None:
    """Rows one after the other without gaps, tiles in any order."""
    case = Documents(100, 100, 8, mask=documents, schedule=LISTED)

    def run(case: Case, module: Operation, inputs: list[Array]) -> list[Array]:
        outputs, lists = case.outputs(), lists_of(module)
        lowered = lower(module)
        spans, tiles, order = found_before(lowered, inputs, lists)
        compact, packed = np.zeros_like(spans), list[int]()
        for row in reversed(range(spans.shape[2])):
            listed = Listed.of(spans, tiles, (0, 0, row))
            for i, part in enumerate((listed.full, listed.cut)):
                compact[0, 0, row, 2 * i : 2 * i + 2] = len(packed), len(packed) + len(part)
                packed += part[::-1]
        interpret(lowered, "attention", *inputs, compact, np.array(packed, np.int32), order, *outputs)
        return outputs

    check(case, run)


def ids_of_heads(x: Element) -> Value:
    """Documents that differ from head to head."""
    return x.compare("eq", x.load(0, x.h, x.m), x.load(0, x.h, x.n))


@dataclass(frozen=True)
class HeadDocuments(Case):
    """Documents of each head."""

    def inputs(self, seed: int = 0) -> list[Array]:
        *floats, ids = super().inputs(seed)
        return [*floats, np.stack([np.roll(IDS, 9 * h) for h in range(len(ids))])]


@pytest.mark.parametrize("schedule", [LISTED, FOLDED], ids=["heads", "folded"])
def test_masks_of_single_heads(schedule: Schedule) -> None:
    case = HeadDocuments(
        100, 90, 8, group=2, key_heads=2, mask=ids_of_heads, captures=(((4, 100), i32),), schedule=schedule
    )
    ids = case.inputs()[3]
    check_lists(case, lambda b, h: ids[h, :, None] == ids[h, None, :90])
    check(case)


def in_parts(splits: int) -> Callable[[Case, Operation, list[Array]], list[Array]]:
    """Run all kernels of a site that splits keys."""

    def run(case: Case, module: Operation, inputs: list[Array]) -> list[Array]:
        outputs, lists = case.outputs(), lists_of(module)
        shape = (splits, *outputs[0].shape)
        parts = [np.full(s, np.nan, np.float32) for s in (shape, shape[:-1])]
        lowered = lower(module)
        verify(lowered)
        interpret(lowered, "attention", *inputs, *found_before(lowered, inputs, lists), *parts)
        interpret(lowered, "attention_merge", *parts, *outputs)
        return outputs

    return run


@pytest.mark.parametrize("splits", [1, 2, 5])
@pytest.mark.parametrize("schedule", [LISTED, FOLDED], ids=["heads", "folded"])
def test_splits_share_the_lists_of_a_row(schedule: Schedule, splits: int) -> None:
    """Some parts are left without a tile."""
    case = Documents(50, 100, 8, group=2, mask=documents, schedule=replace(schedule, split=1))
    check(case, in_parts(splits))


@dataclass(frozen=True)
class ChangedDocuments(Changed):
    """Documents with a sink, and weights that change after the softmax."""

    def inputs(self, seed: int = 0) -> list[Array]:
        return [*super().inputs(seed)[:3], IDS]


@pytest.mark.parametrize("schedule", [LISTED, FOLDED], ids=["heads", "folded"])
def test_sinks_and_weights(schedule: Schedule) -> None:
    check(
        ChangedDocuments(
            70, 100, 8, group=2, mask=documents, captures=(((100,), i32),), schedule=schedule, sink=of_row,
            weight=dropped,
        )
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_scores_change_in_full_and_in_cut_tiles(dtype: FloatType) -> None:
    @dataclass(frozen=True)
    class Biased(Case):
        def inputs(self, seed: int = 0) -> list[Array]:
            *others, _ = super().inputs(seed)
            return [*others, IDS]

    def mask(x: Element) -> Value:
        return x.compare("eq", x.load(1, x.m), x.load(1, x.n))

    captures = (((2,), f32), ((100,), i32))
    check(Biased(100, 100, 72, group=2, mask=mask, score=alibi, captures=captures, dtype=dtype, schedule=LISTED))


@dataclass(frozen=True)
class Averaging(Documents):
    """Documents under a mask by a finite number."""

    def module(self) -> Operation:
        module = super().module()
        attention = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))
        attention.empty_score = FloatAttr(-1e9, f32)
        return module


def test_rows_without_a_key_average_all_values() -> None:
    """Queries of documents that no key belongs to."""
    case = Averaging(100, 45, 8, mask=documents, schedule=LISTED)
    check(case)
    check(replace(case, schedule=replace(LISTED, split=1)), in_parts(3))


# --- in Triton's interpreter


def runner(case: SiteCase, **wishes: int | str) -> Runner:
    """Kernels for the interpreter with what is wished for."""
    steps = Steps.of(build_kernel(case.module(), "interpret", wishes=tuple(wishes.items())))

    def run(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert want_lse
        tensors = (q, k, v, *captures)
        out, lse = Layout.contiguous((*q.shape[:3], v.shape[3])), Layout.contiguous(q.shape[:3])
        plan = Interpreted().plan(Call.of(steps, tensors, out, lse), tensors, [True] * len(tensors))
        return plan(q, k, v, captures)

    return run


@pytest.mark.parametrize("wishes", WISHES, ids=str)
@pytest.mark.parametrize("form", ["documents", "causal documents", "block table", "chunked"])
def test_kernels_with_and_without_lists(form: str, wishes: dict[str, int | str]) -> None:
    case = MaskCase(f32, 32, form=form, group=2)
    q, k, v, captures = case.tensors(Shape(2, 4, 2, 150, 141), seed=3)
    for lists in (0, 1):
        assert_agrees(case, runner(case, lists=lists, **wishes), q, k, v, captures)


def packed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, angles: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    same = ids[:, None, :, None] == ids[:, None, None, :]
    return torch.nn.functional.scaled_dot_product_attention(half_rope(q, angles), half_rope(k, angles), v, same)


def test_rows_of_keys_are_changed_in_listed_tiles() -> None:
    q, k, v, angles = (torch.randn(*sizes) for sizes in (*[(2, 2, 150, 16)] * 3, (150, 8)))
    ids = (torch.rand(2, 150) < 0.03).cumsum(1)
    compiled = attir.compile(packed, backend="interpret", strict=True, fuse_rows="always")
    with torch.no_grad():
        found = compiled(q, k, v, angles, ids)
        exact = packed(q.double(), k.double(), v.double(), angles.double(), ids)
    assert (found - exact).abs().max() < 1e-5
    (site,) = attir.explain(compiled).sites
    assert site.plan["lists"] == 1 and "list" in str(site)
