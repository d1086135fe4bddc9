"""Kernels with regions for rows compile for a GPU, and use its tensor cores, without one."""

from __future__ import annotations

import pytest
import torch
from capturing import captured
from numeric.row_spellings import SPELLINGS

from attir.compiler.kernels import build_kernel
from attir.compiler.offline import compile_offline
from attir.compiler.pipelines import raising
from attir.compiler.sites import outline
from attir.passes.manager import PassContext


@pytest.mark.parametrize(("fuse", "regions"), [("auto", {"query", "output"}), ("always", {"query", "key", "output"})])
def test_rope_norms_and_gates_for_sm_90(fuse: str, regions: set[str]) -> None:
    (spelling,) = [s for s in SPELLINGS if s.function.__name__ == "everything"]
    call = captured(spelling.function, *spelling.inputs(1024, 64, torch.bfloat16))
    for step in raising(fuse, "sm_90", "eager"):
        step.run(call.module, PassContext())
    (site,) = [op for op in call.module.walk() if op.name == "attn.attention"]
    assert all(f"{region} absorbed" in str(site.attributes["rows"]) for region in regions)
    compiled = compile_offline(build_kernel(outline(site, "everything"), "sm_90").triton, "sm_90")
    assert compiled.matrix_instructions["HGMMA"] > 0
    # Keys computed in the loop take registers that the planner does not count; "auto" leaves them outside here.
    assert compiled.loop_spills == 0 or fuse == "always"
