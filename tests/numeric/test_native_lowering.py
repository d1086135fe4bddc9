"""Kernels lowered for CPUs, run in the reference interpreter, against attention in float64: exact widths and
tiles of any size, short tiles where keys are cut, folded rows, split keys and their merge.

The bound is that of `test_lowering`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numeric.test_lowering import (
    MASKS,
    SCORES,
    SHAPES,
    Array,
    Case,
    alibi,
    bias,
    causal,
    check,
    found_before,
    lower,
    padding,
    prefix,
    softcap,
    suffix,
    window,
)

from attir.cost_model.schedule import Schedule
from attir.ir.attributes import FloatType, IntegerAttr, TensorType, bf16, f16, f32, i1
from attir.ir.core import Operation
from attir.ir.dialects.scf import ForOp
from attir.ir.dialects.tile import KernelOp, LoadOp
from attir.ir.interpreter import interpret
from attir.ir.verifier import verify

PREFILL = Schedule(12, 24, 1, 1, lanes=4, columns=4, edge_n=8, target="avx2")
"""Small tiles whose sizes are no powers of two, so that few rows and keys fill several."""


def folded(rows: int, *, block_n: int = 16, edge_n: int = 8) -> Schedule:
    return Schedule(rows, block_n, 1, 1, lanes=4, columns=4, edge_n=edge_n, folded=1)


def native(case: Case, schedule: Schedule = PREFILL) -> Case:
    return replace(case, schedule=schedule)


@pytest.mark.parametrize("name", [*MASKS, *SCORES, *SHAPES])
def test_kernel_agrees_with_attention(name: str) -> None:
    check(native({**MASKS, **SCORES, **SHAPES}[name]))


@pytest.mark.parametrize("dtype", [f16, bf16, f32], ids=str)
@pytest.mark.parametrize(("d", "e"), [(24, 24), (72, 80), (80, 40), (1, 33), (256, 3)])
def test_widths_are_exact(d: int, e: int, dtype: FloatType) -> None:
    check(native(Case(20, 37, d=d, e=e, dtype=dtype, mask=causal(17), scale=d**-0.5)))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("name", ["window", "causal, rows without keys", "alibi", "large logits", "padding"])
def test_low_precision(name: str, dtype: FloatType) -> None:
    check(native(replace({**MASKS, **SCORES, **SHAPES}[name], dtype=dtype)))


FOLDED: dict[str, Case] = {
    "plain": Case(1, 53, key_heads=2, group=4),
    "several queries": Case(5, 53, key_heads=2, group=3, batch=2),
    "causal from the end": Case(3, 53, key_heads=2, group=4, mask=causal(50)),
    "causal, rows without keys": Case(7, 20, group=3, mask=causal(-3)),
    "window": Case(40, 40, group=2, mask=window(7)),
    "prefix": Case(2, 40, group=4, mask=prefix(19)),
    "suffix": Case(2, 40, group=4, mask=suffix(19)),
    "padding": Case(2, 45, group=2, mask=padding, captures=(((2, 1, 1, 45), i1),), batch=2),
    "bias": Case(3, 37, score=bias, captures=(((1, 4, 3, 37), f32),), key_heads=2, group=2),
    "alibi": Case(3, 37, score=alibi, captures=(((6,), f32),), key_heads=2, group=3, mask=causal(34)),
    "softcap, one head a group": Case(2, 37, score=softcap),
    "no key": Case(2, 0, group=2),
    "half": Case(1, 53, group=4, dtype=f16, lse=False),
}


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("name", FOLDED)
def test_rows_of_a_group_share_a_tile(name: str, rows: int) -> None:
    check(native(FOLDED[name], folded(rows)))


def test_folded_rows_reach_strided_memory() -> None:
    """q and out as (B, M, H, D) in memory, as models hold them."""

    def turned(case: Case, module: Operation, inputs: list[Array]) -> list[Array]:
        outputs = case.outputs()
        inputs[0] = np.ascontiguousarray(inputs[0].swapaxes(1, 2)).swapaxes(1, 2)
        outputs[0] = np.ascontiguousarray(outputs[0].swapaxes(1, 2)).swapaxes(1, 2)
        lowered = lower(module)
        interpret(lowered, "attention", *inputs, *found_before(lowered, inputs), *outputs)
        return outputs

    check(native(Case(5, 21, key_heads=2, group=3), folded(4)), turned)


def split_into(splits: int) -> Callable[[Case, Operation, list[Array]], list[Array]]:
    """Run both kernels of a site."""

    def run(case: Case, module: Operation, inputs: list[Array]) -> list[Array]:
        outputs = case.outputs()
        shape = (splits, *outputs[0].shape)
        parts = [np.full(s, np.nan, np.float32) for s in (shape, shape[:-1])]
        lowered = lower(module)
        verify(lowered)
        interpret(lowered, "attention", *inputs, *found_before(lowered, inputs), *parts)
        interpret(lowered, "attention_merge", *parts, *outputs)
        return outputs

    return run


@pytest.mark.parametrize("splits", [1, 2, 5])
@pytest.mark.parametrize("name", FOLDED)
def test_split_keys_are_merged(name: str, splits: int) -> None:
    check(native(FOLDED[name], replace(folded(4), split=1)), split_into(splits))


@pytest.mark.parametrize("name", ["window", "causal", "padding", "suffix", "both sides", "prefix of nothing"])
def test_keys_of_whole_heads_are_split_too(name: str) -> None:
    check(native(MASKS[name], replace(PREFILL, split=1)), split_into(3))


def test_parts_without_a_key_are_empty() -> None:
    """Five parts of 20 keys, in tiles of 16: all but two parts are beyond the keys."""
    case = native(Case(1, 20, group=4), replace(folded(4), split=1))
    parts = [np.full((5, 1, 4, 1, 16), np.nan, np.float32), np.full((5, 1, 4, 1), np.nan, np.float32)]
    interpret(lower(case.module()), "attention", *case.inputs(), *parts)
    assert np.isfinite(parts[1][:2]).all()
    assert (parts[1][2:] == -np.inf).all()
    assert (parts[0][2:] == 0.0).all()


@pytest.mark.parametrize("part", [0, 1])
def test_nan_in_a_part_reaches_the_result(part: int) -> None:
    case = native(Case(1, 40, group=2), replace(folded(2), split=1))
    out, lse = np.ones((3, 1, 2, 1, 16), np.float32), np.zeros((3, 1, 2, 1), np.float32)
    (out if part == 0 else lse)[1, 0, 1, 0] = np.nan
    merged = case.outputs()
    interpret(lower(case.module()), "attention_merge", out, lse, *merged)
    assert np.isnan(merged[0][0, 1]).all()
    assert np.isnan(merged[1][0, 1, 0]) == (part == 1)
    assert np.isfinite(merged[0][0, 0]).all()


# --- what the kernels are made of


def kernels(case: Case) -> list[KernelOp]:
    return [k for op in lower(case.module()).walk() if (k := KernelOp.match(op))]


def loads(kernel: KernelOp) -> list[tuple[tuple[object, ...], bool]]:
    """For each load of keys in a loop, the shape of the tile and whether it may end beyond the keys."""
    inside = dict.fromkeys(op for loop in kernel.operation.walk() if ForOp.match(loop) for op in loop.walk())
    found: list[tuple[tuple[object, ...], bool]] = []
    for op in inside:
        load = LoadOp.match(op)
        if load is not None and load.source.name_hint == "k_head":
            assert isinstance(load.out.type, TensorType)
            found.append((load.out.type.shape, bool(load.boundary.values)))
    return found


WHOLE, CUT = ((24, 16), False), ((8, 16), True)


@pytest.mark.parametrize(
    ("name", "tiles"),
    [
        ("none", [WHOLE, CUT]),
        ("causal", [WHOLE, CUT]),
        ("window", [CUT, WHOLE, CUT]),
        ("padding", [WHOLE, CUT]),
        ("causal padding", [WHOLE, CUT]),
    ],
)
def test_cut_tiles_are_short(name: str, tiles: list[object]) -> None:
    kernel, *_ = kernels(native(MASKS[name]))
    assert loads(kernel) == tiles


def test_the_kernel_says_its_vectors() -> None:
    (kernel,) = kernels(native(MASKS["causal"]))
    assert (kernel.lanes, kernel.columns) == (IntegerAttr(4), IntegerAttr(4))
    (gpu,) = kernels(MASKS["causal"])
    assert gpu.lanes is gpu.columns is None


def test_half_types_are_widened_once() -> None:
    """Both factors of each dot are f32, and the scale has gone into q."""
    (kernel,) = kernels(native(Case(20, 37, dtype=f16)))
    dots = [op for op in kernel.operation.walk() if op.name == "tile.dot"]
    assert {str(v.type) for op in dots for v in op.operands[:2]} == {
        *(f"tensor<{shape}xf32>" for shape in ("12x16", "16x24", "16x8", "12x24", "24x16", "12x8", "8x16"))
    }
    assert dots[0].operands[0].name_hint == "q_scaled"


@pytest.mark.parametrize(("scale", "name"), [(2.0**-21, "q_tile"), (1.0, "q_tile"), (-3.0, "q_scaled")])
def test_scales_that_could_leave_the_floats_stay_on_the_scores(scale: float, name: str) -> None:
    (kernel,) = kernels(native(Case(20, 37, scale=scale)))
    dots = [op for op in kernel.operation.walk() if op.name == "tile.dot"]
    assert dots[0].operands[0].name_hint == name


def test_a_split_site_is_two_kernels() -> None:
    first, second = kernels(native(Case(1, 40, group=2, lse=False), replace(folded(2), split=1)))
    assert [k.sym_name.value for k in (first, second)] == ["attention", "attention_merge"]
    assert [a.name_hint for a in first.body.block.arguments][-2:] == ["part_out", "part_lse"]
    assert [a.name_hint for a in second.body.block.arguments] == ["part_out", "part_lse", "out"]
