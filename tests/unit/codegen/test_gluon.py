"""Gluon kernels: which programs have one, and what the real compiler makes of them for sm_90 without a GPU."""

from __future__ import annotations

import importlib.util
import re

import pytest

from attir.codegen.gluon import CONSUMER_REGISTERS, PRODUCER_REGISTERS, GluonKernel, emit_gluon
from attir.compiler.attention_cases import Case
from attir.compiler.gluon import (
    WISHES,
    compile_gluon_offline,
    gluon_kernel,
    overlapped_exponentials,
    tile_loops,
)
from attir.compiler.lowering import lower
from attir.ir.attributes import bf16, f16, f32
from attir.ir.diagnostics import CompileError

NO_GLUON = importlib.util.find_spec("triton.experimental.gluon") is None


def kernel_of(case: Case) -> GluonKernel | str:
    return gluon_kernel(lower(case.module(), "sm_90", wishes=WISHES))


@pytest.mark.skipif(NO_GLUON, reason="the installed Triton has no Gluon")
@pytest.mark.parametrize(
    ("case", "products", "longest"),
    [
        (Case(bf16, 64, form="causal"), 12, 495),
        (Case(f16, 128, lse=False), 16, 530),
        pytest.param(Case(f16, 64, group=4), 12, 495, marks=pytest.mark.slow),
        pytest.param(Case(bf16, 128, form="causal"), 16, 530, marks=pytest.mark.slow),
    ],
    ids=["causal-64", "none-128", "none-64-grouped", "causal-128"],
)
def test_loops_have_both_products_and_exponentials_beside_them(case: Case, products: int, longest: int) -> None:
    """Two groups of warps with a loop for whole and one for cut tiles each, without spills, and a warp that copies."""
    kernel = kernel_of(case)
    assert isinstance(kernel, GluonKernel), kernel
    compiled = compile_gluon_offline(kernel)
    assert compiled.sass is not None
    assert (compiled.registers, compiled.spills, compiled.stack) == (kernel.maxnreg, 0, 0)
    assert compiled.shared <= 227 * 1024 and compiled.sass.opcodes["UTMALDG"] > 0
    ptx = compiled.emit("ptx")
    assert isinstance(ptx, str) and re.search(r"\.reqntid 384", ptx)
    assert re.search(rf"setmaxnreg\.inc\S+\s+{CONSUMER_REGISTERS}", ptx)
    assert re.search(rf"setmaxnreg\.dec\S+\s+{PRODUCER_REGISTERS}", ptx)
    loops = tile_loops(compiled.sass)
    assert [loop.matrix_instructions for loop in loops] == [products] * 4
    assert min(map(overlapped_exponentials, loops)) >= 64
    assert max(sorted(map(len, loops))[:2]) <= longest


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case(f16, 64, form="window"), "it has 3 loops and branches, expected 2 loops"),
        (Case(f16, 64, form="alibi"), "it takes 6 tensors, expected q, k, v, out and perhaps lse"),
        (Case(f16, 64, form="softcap"), "it needs the function 'tanh_of_cap'"),
        (Case(f16, 64, form="documents"), "it takes 3 kernels (main, list, tables), and Gluon kernels stand alone"),
        (Case(f32, 64), "expected tensors of rank 4 of f16 or bf16"),
        (Case(f16, 128, 64), "its head dimensions are 128 and 64, expected 64 or 128"),
        (Case(f16, 32), "its head dimensions are 32, expected 64 or 128"),
    ],
    ids=lambda x: f"{x.form}-{x.dtype}-{x.width}" if isinstance(x, Case) else "",
)
def test_other_programs_are_refused_with_the_reason(case: Case, reason: str) -> None:
    wishes = WISHES if case.dtype != f32 else ()
    found = gluon_kernel(lower(case.module(), "sm_90", wishes=wishes))
    assert isinstance(found, str) and reason in found, found


def test_a_plan_for_other_tiles_is_refused() -> None:
    wishes = (("block_m", 64), ("block_n", 128), ("num_warps", 4), ("num_stages", 2))
    found = gluon_kernel(lower(Case(f16, 64).module(), "sm_90", wishes=wishes))
    assert isinstance(found, str) and "expected a load of (128, 64)" in found


def test_other_devices_are_refused() -> None:
    assert gluon_kernel(lower(Case(f16, 64).module(), "sm_80")) == "Gluon kernels are for sm_90, not for sm_80"


def test_only_kernels_can_be_written() -> None:
    module = Case(f16, 64).module()
    with pytest.raises(CompileError, match=r"is not a kernel: only 'tile\.kernel' can be written as Gluon"):
        emit_gluon(module)
