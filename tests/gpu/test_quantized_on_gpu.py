"""Attention in few bits on a real GPU, against what the stored operands mean in float64."""

from __future__ import annotations

import pytest
import torch

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.schemes import scheme
from attir.ir.attributes import FloatType, bf16, f16
from benchmarks.quantized.programs import Program, exact, relative

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
ROUNDOFF = {f16: 2.0**-11, bf16: 2.0**-8}
FLOAT8_WEIGHTS = 2.0**-4
"""Of weights that are 8-bit floats."""


@pytest.mark.parametrize("queries", [1, 300])
@pytest.mark.parametrize("form", ["none", "causal"])
@pytest.mark.parametrize("name", ["int8", "kv8", "kv4", "kv3", "kv2", "fp8", "kv_fp8"])
@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_numbers(dtype: FloatType, name: str, form: str, queries: int) -> None:
    if "fp8" in name and not HOPPER:
        pytest.skip("8-bit floats need a device of sm_90")
    case = Case(dtype, 128, group=4, form=form, lse=False)
    shape = Shape(batch=2, heads=8, key_heads=2, queries=queries, keys=777)
    inputs = case.tensors(shape, device="cuda")[:3]
    program = Program.of(case, scheme(name), "triton")
    meant = exact(case, program.meant(inputs))
    weights = FLOAT8_WEIGHTS if name == "fp8" else ROUNDOFF[dtype]
    assert relative(program.call(inputs)(), meant) <= 4 * max(weights, ROUNDOFF[dtype])
