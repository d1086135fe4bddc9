"""Warps that only load, as Triton makes them for sm_90 without a GPU; and where it silently makes none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attir.codegen.triton import emit_kernel
from attir.compiler.attention_cases import Case
from attir.compiler.lowering import lower
from attir.compiler.offline import compile_offline
from attir.ir.attributes import f16
from attir.ir.diagnostics import CompileError

SPECIALISED = (("specialised", 1),)


def test_the_loop_over_whole_tiles_has_warps_that_only_load() -> None:
    lowered = lower(Case(f16, 64, form="causal", lse=False).module(), "sm_90", wishes=SPECIALISED)
    assert lowered.roles == ("main", "rest", "merge")
    compiled = compile_offline(emit_kernel(lowered.kernels[0]), "sm_90")
    assert (compiled.registers, compiled.spills) == (168, 0)
    assert "USETMAXREG" in compiled.sass.opcodes if compiled.sass is not None else False


def test_a_kernel_that_was_not_specialised_is_refused() -> None:
    """Triton does nothing, and says nothing, where a kernel has 8 warps."""
    lowered = lower(Case(f16, 64, lse=False).module(), "sm_90", wishes=SPECIALISED)
    kernel = replace(emit_kernel(lowered.kernels[0]), num_warps=8)
    with pytest.raises(CompileError, match="must have 1 region of specialised warps, but Triton made 0"):
        compile_offline(kernel, "sm_90")


@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx942"])
def test_other_devices_have_none(target: str) -> None:
    with pytest.raises(CompileError, match=f"Triton makes none for {target}"):
        lower(Case(f16, 64).module(), target, wishes=SPECIALISED)
