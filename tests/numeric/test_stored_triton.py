"""Attention over operands in few bits, as Triton kernels in Triton's interpreter, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from numeric.stored_cases import StoredCase
from numeric.test_stored_lowering import STORAGES

from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.ir.attributes import FloatType, bf16, f16, f32
from attir.ir.storage import Storage

TOLERANCE = {f16: 2.0**-10, bf16: 2.0**-7, f32: 2.0**-20}
"""Of the norm: two roundings to f16 or bf16 (of weights and of the result), a few to f32."""
FLOAT8_WEIGHTS = 2.0**-5
"""Of the norm where weights are rounded to 8-bit floats, which have 4 significant bits: at most 2^-4 each."""


def run(case: StoredCase) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel's result and the exact one, over the same codes."""
    tensors = case.tensors()
    q, k, v, *captures = case.stored(tensors)
    site = compile_site(case.module(), Options(backend="interpret"), case.m)
    out, _ = site.runner(q, k, v, captures, False)
    return out.double(), case.exact(tensors)


def check(case: StoredCase, tolerance: float | None = None) -> None:
    found, wanted = run(case)
    error = float(((found - wanted).square().sum() / wanted.square().sum()).sqrt())
    assert error <= (TOLERANCE[case.dtype] if tolerance is None else tolerance), error


def kivi(bits: int, width: int) -> dict[str, Storage]:
    """Keys with a scale and a zero for 32 tokens of a channel, values for 32 channels of a token."""
    common = Storage(bits=bits, signed=False, zero=True, width=width)
    return {"key": replace(common, tokens=32, channels=1), "value": replace(common, tokens=1, channels=32)}


@pytest.mark.parametrize("bits", range(1, 9))
def test_caches_of_every_width(bits: int) -> None:
    """Asymmetric codes, an odd number of keys, few queries of a group of heads."""
    check(StoredCase(m=1, n=70, d=64, group=4, dtype=f16, storages=kivi(bits, 64)))


@pytest.mark.parametrize("bits", range(2, 9))
def test_signed_codes_with_a_scale_for_each_token(bits: int) -> None:
    storage = Storage(bits=bits, width=64)
    check(StoredCase(m=33, n=70, d=64, causal=True, dtype=bf16, storages={"key": storage, "value": storage}))


@pytest.mark.parametrize("dtype", [f16, bf16, f32])
@pytest.mark.parametrize(("width", "bits"), [(80, 4), (80, 3), (128, 2), (128, 5), (33, 4)])
def test_head_dimensions_and_elements(width: int, bits: int, dtype: FloatType) -> None:
    check(StoredCase(m=5, n=45, d=width, dtype=dtype, scale=width**-0.5, storages=kivi(bits, width)))


@pytest.mark.parametrize("dtype", [f16, bf16, f32])
@pytest.mark.parametrize("queries", [1, 70])
def test_products_of_bytes(dtype: FloatType, queries: int) -> None:
    """Scales for blocks of 64 tokens of q and k, values as they are."""
    storage = Storage(tokens=64, width=64)
    case = StoredCase(m=queries, n=70, d=64, group=2, dtype=dtype, causal=queries > 1, batch=2)
    check(replace(case, storages={"query": storage, "key": storage}))


def test_products_of_bytes_of_a_width_that_is_no_power_of_two() -> None:
    storage = Storage(tokens=64, width=80)
    check(StoredCase(m=20, n=70, d=80, dtype=f16, storages={"query": storage, "key": storage}))


@pytest.mark.parametrize("kind", ["f8E4M3FN", "f8E5M2"])
@pytest.mark.parametrize("dtype", [f16, bf16, f32])
def test_caches_of_8_bit_floats(kind: str, dtype: FloatType) -> None:
    storage = Storage(kind=kind, width=64)
    check(StoredCase(m=3, n=70, d=64, group=2, dtype=dtype, storages={"key": storage, "value": storage}))


@pytest.mark.parametrize("queries", [1, 70])
def test_products_of_8_bit_floats(queries: int) -> None:
    """Values with one scale for all tokens enter the second product as they are, beside weights of 8 bits."""
    rows = Storage(kind="f8E4M3FN", tokens=64, width=64)
    storages = {"query": rows, "key": rows, "value": replace(rows, tokens=0)}
    check(StoredCase(m=queries, n=70, d=64, dtype=f16, storages=storages), FLOAT8_WEIGHTS)


@pytest.mark.parametrize("storages", STORAGES.values(), ids=STORAGES)
def test_every_way_to_store_operands(storages: dict[str, Storage]) -> None:
    check(StoredCase(m=9, n=70, heads=2, group=2, storages=storages))


def test_one_scale_for_all_heads_and_tokens() -> None:
    storage = Storage(bits=4, tokens=0, heads=False, width=64)
    check(StoredCase(m=9, n=70, d=64, dtype=f16, batch=2, storages={"key": storage, "value": storage}))


def test_keys_alone_and_values_alone() -> None:
    for name in ("key", "value", "query"):
        check(StoredCase(m=9, n=70, d=64, dtype=f16, storages={name: Storage(bits=6, width=64)}))
