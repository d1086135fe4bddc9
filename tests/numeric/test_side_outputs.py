"""Statistics of attention in float64: mass of keys, entropy of rows, maxima of blocks, on every backend and in the IR.

Bound: twice the error of the same statistic computed plainly in float32 from the same inputs, plus what is stated in
`ALLOWED`, relative to one more than the largest log-sum-exp (scores are rounded to float32).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numeric.closeness import NATIVE, error

from attir.compiler.attention_cases import FORMS, Captures, Case, Shape
from attir.compiler.side_outputs import SideOutputs, Statistics, Wanted
from attir.ir.attributes import FloatType, bf16, f16, f32
from attir.ir.builder import Builder
from attir.ir.core import Operation, Region
from attir.ir.dialects import arith
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.interpreter import interpret
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation
from attir.ir.verifier import verify
from attir.passes.manager import PassContext
from attir.passes.side_outputs import COLUMN, ENTROPY, LARGEST, LSE, SIDE_OUTPUTS, SideOutput

ALLOWED = {f32: 16 * 2.0**-24, f16: 1e-5, bf16: 1e-5}
"""Native kernels of halves take a polynomial for 2^x of a relative error of 2.8e-6, once for the lse and once more."""

EVERYTHING = Wanted(column_mass=True, column_square=True, entropy=True, block_max=(16, 24))


@dataclass(frozen=True)
class Known:
    """Statistics as they are defined, from all scores and weights."""

    scores: torch.Tensor
    weights: torch.Tensor
    group: int

    @staticmethod
    def of(case: Case, q: torch.Tensor, k: torch.Tensor, captures: Captures, last: int | None) -> Known:
        form, m, n = case.rule, torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None]
        scores = (q @ k.repeat_interleave(case.group, 1).transpose(-1, -2)) * case.scale
        if form.change is not None:
            scores = form.change(scores, m, n, captures)
        if form.keep is not None:
            scores = scores.masked_fill(~form.keep(m, n, captures), -torch.inf)
        scores = scores if last is None else scores[:, :, -last:]
        weights = torch.softmax(scores, -1).masked_fill(torch.isneginf(scores), 0.0)
        return Known(scores, weights, case.group)

    @property
    def lse(self) -> torch.Tensor:
        return torch.logsumexp(self.scores, -1)

    def column(self, power: int) -> torch.Tensor:
        batch, heads, rows, keys = self.weights.shape
        return self.weights.pow(power).reshape(batch, heads // self.group, self.group * rows, keys).sum(2)

    @property
    def entropy(self) -> torch.Tensor:
        return -torch.xlogy(self.weights, self.weights).sum(-1)

    def block_max(self, rows: int, keys: int, *, scores: bool = False) -> torch.Tensor:
        x = self.scores if scores else self.weights
        lowest = -torch.inf if scores else 0.0
        x = torch.nn.functional.pad(x, (0, -x.shape[3] % keys, 0, -x.shape[2] % rows), value=lowest)
        batch, heads, m, n = x.shape
        return x.reshape(batch, heads, m // rows, rows, n // keys, keys).amax((3, 5))


def check(case: Case, shape: Shape, backend: str, last: int | None = None) -> Statistics:
    q, k, _, captures = case.tensors(shape)
    outputs = SideOutputs(case.module(), backend)
    found = outputs(q, k, captures, replace(EVERYTHING, last=last))
    largest = outputs(q, k, captures, Wanted(column_mass=False, block_max=(32, 16), block_scores=True, last=last))
    exact = Known.of(case, q.double(), k.double(), captures, last)
    plain = Known.of(case, q.float(), k.float(), captures, last)
    size = 1.0 + exact.lse[exact.lse.isfinite()].abs().amax().item()

    def within(name: str, actual: torch.Tensor | None, exactly: torch.Tensor, plainly: torch.Tensor) -> None:
        assert actual is not None and actual.dtype == torch.float32 and actual.shape == exactly.shape, name
        assert torch.equal(actual.isneginf(), exactly.isneginf()) and not actual.isnan().any(), name
        finite = exactly[exactly.isfinite()]
        scale = 1.0 + (finite.abs().amax().item() if finite.numel() else 0.0)
        bound = 2.0 * error(plainly, exactly) + ALLOWED[case.dtype] * size * scale
        assert error(actual, exactly) <= bound, f"{name}: error {error(actual, exactly):.2e}, bound {bound:.2e}"

    within("lse", found.lse, exact.lse, plain.lse)
    within("column mass", found.column_mass, exact.column(1), plain.column(1))
    within("column square", found.column_square, exact.column(2), plain.column(2))
    within("entropy", found.entropy, exact.entropy, plain.entropy)
    within("block max", found.block_max, exact.block_max(16, 24), plain.block_max(16, 24))
    wanted = (x.block_max(32, 16, scores=True) for x in (exact, plain))
    within("largest scores", largest.block_max, *wanted)
    return found


SHAPE = Shape(2, 4, 2, 67, 93)


@NATIVE
@pytest.mark.parametrize("form", FORMS)
def test_native(form: str) -> None:
    check(Case(f32, 32, form=form, group=2), SHAPE, "native")


@NATIVE
@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("form", ["causal", "softcap", "dropped"])
def test_native_of_halves_and_last_rows(form: str, dtype: FloatType) -> None:
    check(Case(dtype, 40, form=form, group=2), SHAPE, "native", last=7)


@NATIVE
@pytest.mark.parametrize("last", [None, 1, 500])
@pytest.mark.parametrize("shape", [Shape(1, 4, 4, 1, 93), Shape(3, 2, 2, 130, 5), Shape(1, 1, 1, 16, 1)], ids=str)
def test_native_sizes(shape: Shape, last: int | None) -> None:
    check(Case(f32, 16, form="bias"), shape, "native", last)


@NATIVE
def test_window_and_alibi_of_last_rows_are_at_their_positions() -> None:
    for form in ("window", "alibi", "table", "documents"):
        check(Case(f32, 16, form=form, group=2), SHAPE, "native", last=9)


@pytest.mark.parametrize("form", ["causal", "softcap", "dropped"])
def test_triton_in_the_interpreter(form: str) -> None:
    check(Case(f32, 16, form=form, group=2), Shape(2, 2, 1, 37, 70), "interpret")


def test_triton_of_halves_and_last_rows() -> None:
    check(Case(bf16, 32, form="causal", group=2), Shape(1, 2, 1, 70, 85), "interpret", last=7)


@NATIVE
def test_many_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attir.compiler.side_outputs.AT_ONCE", 1)
    check(Case(f32, 16, form="causal"), Shape(2, 2, 2, 67, 93), "native")


@NATIVE
def test_rows_without_a_key_count_for_nothing() -> None:
    """The mask of the last batch keeps nothing."""
    found = check(Case(f32, 16, form="dropped"), Shape(2, 2, 2, 20, 30), "native")
    for statistic in (found.column_mass, found.entropy, found.block_max):
        assert statistic is not None and statistic[-1].eq(0.0).all() and statistic[0].gt(0.0).any()


@NATIVE
def test_a_row_of_one_key_has_no_entropy() -> None:
    q, k, _, captures = Case(f32, 16, form="causal").tensors(Shape(1, 2, 2, 4, 9))
    found = SideOutputs(Case(f32, 16, form="causal").module(), "native")(q, k, captures, Wanted(entropy=True))
    assert found.entropy is not None and found.entropy[:, :, 0].eq(0.0).all()


@NATIVE
def test_no_rows_and_no_keys() -> None:
    for queries, keys in ((0, 5), (5, 0)):
        q, k, _, captures = Case(f32, 16).tensors(Shape(1, 2, 2, queries, keys))
        found = SideOutputs(Case(f32, 16).module(), "native")(q, k, captures, EVERYTHING)
        assert found.lse.shape == (1, 2, queries) and found.column_mass is not None
        assert found.column_mass.shape == (1, 2, keys) and found.column_mass.eq(0.0).all()
        assert found.block_max is not None and found.block_max.numel() == 0


@NATIVE
def test_a_sink_takes_its_part_of_the_weight() -> None:
    case = Case(f32, 16, form="causal")
    module = case.module()
    (attention,) = [AttentionOp(op) for op in module.walk() if AttentionOp.match(op)]
    block = region_block("sink", attention.captures)
    builder = Builder(block)
    builder.create(YieldOp, [builder.constant(0.5, f32)])
    attention.set_region("sink", Region([block]))
    q, k, _, captures = case.tensors(Shape(1, 2, 2, 20, 30))
    found = SideOutputs(module, "native")(q, k, captures, Wanted(entropy=True))
    scores = Known.of(case, q.double(), k.double(), captures, None).scores
    weights = torch.softmax(torch.cat([scores, torch.full_like(scores[..., :1], 0.5)], -1), -1)[..., :-1]
    assert found.column_mass is not None and found.entropy is not None
    assert error(found.column_mass, weights.sum(2)) < 1e-5
    assert error(found.entropy, -torch.xlogy(weights, weights).sum(-1)) < 1e-5


@NATIVE
def test_regions_of_rows_are_read_where_the_rows_are() -> None:
    """q times a factor of its position and head, k plus its neighbour in the row: of last rows and blocks too."""
    case = Case(f32, 16, group=2)
    module = case.module()
    (attention,) = [AttentionOp(op) for op in module.walk() if AttentionOp.match(op)]
    _change_rows(attention)
    q, k, _, _ = case.tensors(SHAPE)
    m = torch.arange(q.shape[2], dtype=torch.float64)[:, None] / 64 + torch.arange(4).view(-1, 1, 1)
    q_changed, k_changed = q.double() * m, k.double() + k.double().roll(-1, 3)
    for last in (None, 7):
        found = SideOutputs(module, "native")(q, k, (), replace(EVERYTHING, last=last))
        exact = Known.of(case, q_changed, k_changed, (), last)
        assert found.column_mass is not None and found.entropy is not None and found.block_max is not None
        assert error(found.column_mass, exact.column(1)) < 1e-4
        assert error(found.entropy, exact.entropy) < 1e-4
        assert error(found.block_max, exact.block_max(16, 24)) < 1e-4


def _change_rows(attention: AttentionOp) -> None:
    from attir.ir.attributes import i32
    from attir.ir.dialects.tensor import ExtractOp

    block = region_block("query", attention.captures, attention.q.type)
    _, h, m, d, q = block.arguments
    builder = Builder(block)

    def as_float(position: Any) -> Any:
        narrow = builder.create(arith.IndexCastOp, [position], [i32]).out
        return builder.create(arith.SIToFPOp, [narrow], [f32]).out

    element = builder.create(ExtractOp, [q, block.arguments[0], h, m, d], [f32]).out
    part = builder.binary(arith.MulFOp, as_float(m), builder.constant(1 / 64, f32))
    factor = builder.binary(arith.AddFOp, part, as_float(h))
    builder.create(YieldOp, [builder.binary(arith.MulFOp, element, factor)])
    attention.set_region("query", Region([block]))
    block = region_block("key", attention.captures, attention.k.type)
    b, h, n, d, k = block.arguments
    builder = Builder(block)
    next_ = builder.binary(arith.AddIOp, d, builder.index(1))
    next_ = builder.binary(arith.RemSIOp, next_, builder.index(16))
    own, other = (builder.create(ExtractOp, [k, b, h, n, x], [f32]).out for x in (d, next_))
    builder.create(YieldOp, [builder.binary(arith.AddFOp, own, other)])
    attention.set_region("key", Region([block]))


# --- the pass by itself: what it makes of a program, in the reference interpreter


def derived(case: Case, wanted: SideOutput) -> Operation:
    """What the pass makes of a program: legal, and the same after its text is read again."""
    module = case.module()
    wanted.run(module, PassContext())
    verify(module)
    text = print_operation(module)
    again = parse_module(text)
    assert print_operation(again) == text
    return again


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of", SIDE_OUTPUTS)
def test_the_derived_attention_in_float64(of: str, form: str) -> None:
    case = Case(f32, 16, form=form)  # a scale that f32 holds exactly
    q, k, _, captures = case.tensors(Shape(2, 3, 3, 11, 13))
    exact = Known.of(case, q.double(), k.double(), captures, None)
    lse = exact.lse.masked_fill(exact.lse.isneginf(), torch.inf)
    place = np.zeros(4, np.int64)
    read = [c.numpy() for c in captures]
    if of == LARGEST:
        blocks = [(b, n) for b in range(2) for n in (0, 5, 10)]
        module = derived(case, SideOutput(of, block=5))
        for b, n in blocks:
            keys = k[b : b + 1, :, n : n + 5].numpy()
            here = np.array([b, 0, 0, n // 5])
            rows = [q[b : b + 1].numpy(), keys, keys[..., :0], *read, here, lse[b : b + 1].numpy()]
            (_, found) = interpret(module, "attention", *rows, precise=True)
            np.testing.assert_allclose(np.exp(found), exact.weights[b : b + 1, :, :, n : n + 5].amax(-1), atol=1e-12)
        return
    first, second = (k, q) if of == COLUMN else (q, k)
    more = [] if of == LSE else [lse.numpy()]
    arrays = [first.numpy(), second.numpy(), second[..., :0].numpy(), *read, place, *more]
    (_, found) = interpret(derived(case, SideOutput(of)), "attention", *arrays, precise=True)
    wanted = {LSE: exact.lse, ENTROPY: exact.entropy, COLUMN: exact.column(1)}[of]
    np.testing.assert_allclose(found if of == LSE else np.exp(found), wanted, atol=1e-12)


def test_causal_keeps_its_bounds_where_keys_take_the_place_of_queries() -> None:
    from attir.passes.analyze_mask import analyze_mask

    module = derived(Case(f32, 16, form="causal"), SideOutput(COLUMN))
    (attention,) = [AttentionOp(op) for op in module.walk() if AttentionOp.match(op)]
    structure = analyze_mask(attention.mask)
    assert (structure.lower, structure.upper, structure.opaque) == (0, None, False)


def test_nothing_of_values_is_left_in_a_kernel() -> None:
    """Neither a load of them nor an accumulator: one dot a step."""
    from attir.compiler.kernels import build_kernel

    for of in SIDE_OUTPUTS:
        module = Case(f16, 64, form="causal").module()
        SideOutput(of).run(module, PassContext())
        source = build_kernel(module, "sm_90").triton.source
        assert "v_tile" not in source and "acc" not in source, of
        assert source.count("tl.exp2") == (0 if of == LARGEST else source.count("raw_max = ") * 2), of
