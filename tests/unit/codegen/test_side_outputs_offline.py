"""The kernels of statistics compile for GPUs without one, spill nothing, and use tensor cores once a step."""

from __future__ import annotations

import pytest

from attir.compiler.attention_cases import Case
from attir.compiler.kernels import build_kernel
from attir.compiler.offline import compile_offline
from attir.ir.attributes import FloatType, bf16, f16
from attir.passes.manager import PassContext
from attir.passes.side_outputs import SIDE_OUTPUTS, SideOutput


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "sm_80"])
@pytest.mark.parametrize("of", SIDE_OUTPUTS)
@pytest.mark.parametrize(("dtype", "width", "form"), [(f16, 128, "causal"), (bf16, 64, "softcap")])
def test_nothing_spills(of: str, target: str, dtype: FloatType, width: int, form: str) -> None:
    module = Case(dtype, width, form=form, group=2).module()
    SideOutput(of).run(module, PassContext())
    kernel = build_kernel(module, target)
    for tile_kernel in kernel.modules:
        compiled = compile_offline(tile_kernel, target)
        assert compiled.spills == 0
        assert sum(compiled.matrix_instructions.values()) > 0
