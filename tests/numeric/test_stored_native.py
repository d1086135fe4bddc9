"""Native kernels on operands in few bits: every width, decode and prefill, with and without VNNI, against float64."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from numeric.closeness import NATIVE
from numeric.stored_cases import StoredCase

from attir.compiler import native_kernels
from attir.compiler.host_cpu import host_target
from attir.compiler.native_kernels import NativeKernels
from attir.compiler.native_runtime import NativeRunner
from attir.ir.attributes import bf16, f16, f32
from attir.ir.storage import Storage

pytestmark = NATIVE

TARGETS = ("avx512", "avx2")
EXACT = 2e-6
"""Relative to the result's length: roundings of f32 in sums, where the reference of the same codes is float64."""


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    if request.param == "avx512" and host_target() != "avx512":
        pytest.skip("this CPU has no AVX-512")
    return str(request.param)


@pytest.fixture
def no_byte_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(target: str) -> bool:
        return not target

    monkeypatch.setattr(native_kernels, "host_has_byte_dots", none)


def run(case: StoredCase, target: str, tensors: list[torch.Tensor]) -> torch.Tensor:
    q, k, v, *scales = case.stored(tensors)
    out, _ = NativeRunner(NativeKernels(case.module(), target))(q, k, v, tuple(scales), False)
    return out


def difference(case: StoredCase, target: str, seed: int = 0) -> float:
    """The error against attention over the same codes, relative to the result."""
    tensors = case.tensors(seed)
    exact = case.exact(tensors)
    out = run(case, target, tensors)
    assert out.shape == exact.shape
    return relative(out, exact)


def relative(out: torch.Tensor, exact: torch.Tensor) -> float:
    far, length = (out.double() - exact).square().sum().item(), exact.square().sum().item()
    return (far / length) ** 0.5


def kivi(bits: int, width: int, **changes: object) -> dict[str, Storage]:
    """Keys with scales for each channel of 64 tokens, values with scales for 64 channels of each token."""
    base = Storage(bits=bits, signed=False, zero=True, width=width)
    key = replace(base, tokens=64, channels=1, **changes)  # pyright: ignore[reportArgumentType]
    value = replace(base, tokens=1, channels=min(64, width), **changes)  # pyright: ignore[reportArgumentType]
    return {"key": key, "value": value}


def by_token(bits: int, width: int, *, signed: bool = True, zero: bool = False) -> dict[str, Storage]:
    storage = Storage(bits=bits, signed=signed, zero=zero or bits == 1, width=width)
    return {"key": storage, "value": storage}


SHAPES = {
    "decode": StoredCase(m=1, n=70, d=64, group=4),
    "decode of several tiles": StoredCase(m=1, n=651, d=128, heads=1),
    "odd width": StoredCase(m=1, n=33, d=33, group=2, heads=1),
    "few rows": StoredCase(m=3, n=90, d=80, group=2, heads=1),
    "prefill": StoredCase(m=40, n=70, d=80, heads=1),
}


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_with_scales_of_channels(bits: int, target: str) -> None:
    """Scales go into q and weights where tiles lie in one group, and onto numbers in tiles at the end."""
    for name, case in SHAPES.items():
        if target == "avx512" or name not in ("few rows", "decode of several tiles"):
            assert difference(replace(case, storages=kivi(bits, case.d)), target) < EXACT, name


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_with_scales_of_tokens(bits: int, target: str) -> None:
    for name, (signed, zero) in itertools.product(("odd width", "prefill"), ((True, False), (False, True))):
        case = SHAPES[name]
        storages = by_token(bits, case.d, signed=signed, zero=zero)
        assert difference(replace(case, storages=storages), target) < EXACT, (case, signed)


@pytest.mark.parametrize("width", [1, 7, 24, 40, 192])
def test_widths_whose_parts_do_not_fill_vectors(width: int, target: str) -> None:
    """Vectors that take bytes from the end of a part and from its beginning, and parts shorter than a vector."""
    for bits, m in ((1, 1), (3, 20), (4, 20), (6, 1)):
        case = StoredCase(m=m, n=20, d=width, heads=1, storages=kivi(bits, width))
        assert difference(case, target) < EXACT, bits


@pytest.mark.parametrize("kind", ["f8E4M3FN", "f8E5M2"])
def test_floats_of_8_bits(kind: str, target: str) -> None:
    storage = Storage(kind=kind, width=40)
    for storages in ({"key": storage, "value": storage}, {"query": storage, "key": storage, "value": storage}):
        for case in (StoredCase(m=1, n=70, d=40, group=4), StoredCase(m=33, n=70, d=40)):
            assert difference(replace(case, storages=storages), target) < EXACT


@pytest.mark.parametrize("kind", ["f8E4M3FN", "f8E5M2"])
def test_every_float_of_8_bits_is_read_exactly(kind: str, target: str) -> None:
    """One key for each query, so that out is the value itself: nan, infinity and the smallest numbers too."""
    storage = Storage(kind=kind, width=16, tokens=0)
    dtype = {"f8E4M3FN": torch.float8_e4m3fn, "f8E5M2": torch.float8_e5m2}[kind]
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(16, 1, 1, 16)
    case = StoredCase(m=1, n=1, d=16, heads=1, batch=16, storages={"value": storage})
    run_native = NativeRunner(NativeKernels(case.module(), target))
    zero = torch.zeros(16, 1, 1, 16)
    out, _ = run_native(zero, zero, codes, (torch.ones(16, 1, 1, 1),), False)
    assert torch.equal(out.nan_to_num(7.5, 1e9, -1e9), codes.float().nan_to_num(7.5, 1e9, -1e9))


BYTES = {
    "rows across lanes": StoredCase(m=40, n=129, d=128, heads=1),
    "a last word of one byte": StoredCase(m=33, n=70, d=33, heads=1, batch=2),
    "less than a word": StoredCase(m=20, n=19, d=3, heads=1),
    "grouped": StoredCase(m=17, n=150, d=80, heads=1, group=2),
    "one row": StoredCase(m=1, n=131, d=33, heads=1),
    "few rows": StoredCase(m=3, n=300, d=72, heads=1, group=2),
}


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("tokens", [1, 64])
def test_products_of_bytes(name: str, tokens: int, target: str) -> None:
    case = BYTES[name]
    storage = Storage(width=case.d, tokens=tokens)
    case = replace(case, storages={"query": storage, "key": storage})
    assert difference(case, target) < EXACT


@pytest.mark.usefixtures("no_byte_dots")
@pytest.mark.parametrize("name", BYTES)
def test_products_of_bytes_without_their_instruction(name: str, target: str) -> None:
    case = BYTES[name]
    storage = Storage(width=case.d, tokens=64)
    assert difference(replace(case, storages={"query": storage, "key": storage}), target) < EXACT


def test_products_of_the_largest_bytes_are_exact(target: str) -> None:
    """Sums of -128 * -128 and 127 * -128, which 16 bits or a saturating sum would lose: scores decide by one unit."""
    width = 128
    storage = Storage(width=width, tokens=0)
    case = StoredCase(m=20, n=16, d=width, heads=1, scale=1.0, storages={"query": storage, "key": storage})
    q = torch.full((1, 1, 20, width), -128, dtype=torch.int8)
    k = torch.full((1, 1, 16, width), 127, dtype=torch.int8)
    k[0, 0, 5], k[0, 0, 5, 0] = -128, -127
    k[0, 0, 9] = -128
    v = torch.arange(16.0).reshape(1, 1, 16, 1).expand(1, 1, 16, width).contiguous()
    scales = torch.full((1, 1, 1, 1), 0.125), torch.full((1, 1, 1, 1), 0.0625)
    out, _ = NativeRunner(NativeKernels(case.module(), target))(q, k, v, scales, False)
    # Keys 9 and 5 differ by 128 units of 1/128, so their weights are those of scores 1 apart.
    weight = torch.sigmoid(torch.tensor(1.0, dtype=torch.float64))
    assert torch.allclose(out.double(), 9 * weight + 5 * (1 - weight) + torch.zeros_like(out, dtype=torch.float64))


@pytest.mark.parametrize("name", ["decode", "prefill"])
def test_bytes_that_lie_apart_along_the_head_dimension(name: str, target: str) -> None:
    """Views of every other byte: no vector may be read from them at once."""
    base = SHAPES[name]
    for storages in (kivi(4, base.d), {"query": Storage(width=base.d), "key": Storage(width=base.d)}):
        case = replace(base, storages=storages)
        tensors = case.tensors()
        q, k, v, *scales = case.stored(tensors)
        apart = [torch.repeat_interleave(x, 2, dim=3)[..., ::2] for x in (q, k, v)]
        runner = NativeRunner(NativeKernels(case.module(), target))
        out, _ = runner(apart[0], apart[1], apart[2], tuple(scales), False)
        exact = case.exact(tensors)
        assert relative(out, exact) < EXACT


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [f16, bf16, f32], ids=str)
def test_dtypes_of_queries_and_results(dtype: object, causal: bool, target: str) -> None:
    roundoff = {f16: 2.0**-11, bf16: 2.0**-8, f32: 2.0**-21}[dtype]  # pyright: ignore[reportArgumentType]
    for case in (SHAPES["decode"], SHAPES["prefill"]):
        for storages in (kivi(4, case.d), by_token(8, case.d)):
            changed = replace(case, storages=storages, causal=causal, dtype=dtype)  # pyright: ignore[reportArgumentType]
            assert difference(changed, target) < roundoff


def test_scales_that_lie_apart(target: str) -> None:
    """Scales are gathered one by one where their strides are unusual, with the same result."""
    case = replace(SHAPES["decode of several tiles"], storages=kivi(4, 128))
    tensors = case.tensors()
    q, k, v, *scales = case.stored(tensors)
    runner = NativeRunner(NativeKernels(case.module(), target))
    near, _ = runner(q, k, v, tuple(scales), False)
    apart, _ = runner(q, k, v, tuple(torch.repeat_interleave(s, 3, dim=2)[:, :, ::3] for s in scales), False)
    assert torch.equal(near, apart)


def test_zeros_far_from_zero_cost_no_digits(target: str) -> None:
    """Codes count from the middle, so that the sums of codes and of zeros do not cancel each other."""
    case = StoredCase(m=1, n=2048, d=64, heads=1, storages=kivi(4, 64))
    assert difference(case, target) < EXACT


def test_nothing_behind_the_scales_is_read(target: str) -> None:
    """Rows of 33 channels end inside a vector, and what lies behind the last scale is no number."""
    case = StoredCase(m=1, n=71, d=33, heads=1, group=2, storages=kivi(4, 33))
    q, k, v, *scales = case.stored(case.tensors())
    behind = [torch.cat([x.flatten(), x.new_full((64,), float("nan"))])[: x.numel()].view(x.shape) for x in scales]
    out, _ = NativeRunner(NativeKernels(case.module(), target))(q, k, v, tuple(behind), False)
    assert out.isfinite().all()
