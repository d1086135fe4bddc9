"""Every way to schedule a kernel, on a real GPU, against attention in float64; the bound is that of `closeness`."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from numeric.closeness import ROUNDOFF, assert_agrees, assert_within

from attir.compiler import verified
from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.compiler.sites import Runner
from attir.ir.attributes import FloatType, bf16, f16

CAPABILITY = cast(Any, torch).cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
HOPPER = pytest.mark.skipif(CAPABILITY < (9, 0), reason="needs a device that copies tiles: sm_90 or later")
SPECIALISES = pytest.mark.skipif(CAPABILITY != (9, 0), reason="warps are specialised on sm_90 alone")

KINDS: dict[str, dict[str, Any]] = {
    "pointers": {"descriptors": ""},
    "host": {"descriptors": "host"},
    "device": {"descriptors": "device"},
    "persistent": {"persistent": True},
    "64 rows": {"block_m": 64, "block_n": 64, "num_warps": 4, "num_stages": 3},
    "128 rows": {"block_m": 128, "block_n": 128, "num_warps": 8, "num_stages": 2},
}
FORMS = ("none", "causal", "window", "alibi", "softcap", "bias", "documents", "table")


def runner(case: Case, options: dict[str, Any]) -> Runner:
    return compile_site(case.module(), Options(backend="triton", backend_options=options)).runner


def agrees(case: Case, options: dict[str, Any], shape: Shape, seed: int = 0) -> None:
    assert_agrees(case, runner(case, options), *case.tensors(shape, seed=seed, device="cuda"))


@HOPPER
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule_of_every_form(kind: str, form: str) -> None:
    if form in ("bias", "table") and kind == "128 rows":
        pytest.skip("what these forms load for each score takes registers of smaller tiles")
    agrees(Case(bf16, 128, form=form), KINDS[kind], Shape(2, 4, 4, 333, 700))


@HOPPER
@pytest.mark.parametrize("width", [64, 72, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("kind", ["pointers", "host", "device"])
def test_head_dimensions(kind: str, width: int) -> None:
    agrees(Case(f16, width, form="causal"), KINDS[kind], Shape(1, 4, 4, 700, 700))


@pytest.mark.parametrize("queries", [1, 2, 7, 16, 33, 128])
@pytest.mark.parametrize(("group", "width"), [(1, 128), (4, 64), (8, 128), (8, 80)])
def test_few_queries_over_many_keys(queries: int, group: int, width: int) -> None:
    for options in ({}, {"swap": True}) if queries * group <= 32 and CAPABILITY >= (9, 0) else ({},):
        agrees(Case(bf16, width, group=group), options, Shape(2, 8, 8 // group, queries, 3001))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (17, 64), (1000, 17), (129, 1000)])
@pytest.mark.parametrize("form", ["none", "causal", "window"])
def test_odd_lengths_and_rows_without_keys(form: str, queries: int, keys: int) -> None:
    agrees(Case(f16, 64, form=form), {}, Shape(1, 3, 3, queries, keys))


@SPECIALISES
def test_specialised_warps_pass_their_check() -> None:
    verdict = verified.check("triton")
    print(verdict)
    assert verdict.passed, verdict.reason


@SPECIALISES
@pytest.mark.parametrize("form", ["none", "causal", "window", "softcap"])
@pytest.mark.parametrize("width", [64, 128])
def test_specialised_warps(width: int, form: str) -> None:
    if not verified.check("triton").passed:
        pytest.skip("the check of specialised warps fails on this device, which its own test reports")
    agrees(Case(bf16, width, form=form), {"specialised": True}, Shape(2, 4, 4, 1000, 1111))


@HOPPER
@pytest.mark.parametrize("name", ["f8E4M3FN", "f8E5M2"])
@pytest.mark.parametrize("width", [64, 128])
def test_8_bit_floats(width: int, name: str) -> None:
    case = Case(FloatType(name), width, form="causal")
    q, k, v, captures = case.tensors(Shape(1, 4, 4, 500, 500), device="cuda")
    out, _ = runner(case, {})(q, k, v, captures, True)
    exact, _ = case.reference(q.double(), k.double(), v.double(), captures)
    half_a_unit = 2.0**-4 if name == "f8E4M3FN" else 2.0**-3
    # The tensor cores of Hopper sum 8-bit products with fewer bits than f32 has: 2^-13 of the largest term each.
    assert_within(out, exact, (half_a_unit + 2.0 * ROUNDOFF[f16] + 2.0**-10) * v.double().abs().max().item())
