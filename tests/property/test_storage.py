"""Laws of numbers in few bits: packing loses nothing, PyTorch and numpy agree, errors and bytes are as defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attir.compiler.storage_math import KINDS, dequantize, largest_code, pack, quantize, spread, unpack
from attir.compiler.torch_types import type_of_dtype
from attir.ir.interpreter.quantize import pack as packed_by_numpy
from attir.ir.interpreter.quantize import quantized
from attir.ir.interpreter.storage import unpack as unpacked_by_numpy
from attir.ir.storage import Storage

WIDTHS = st.sampled_from([1, 2, 3, 7, 8, 16, 20, 33])
TOKENS = st.integers(0, 40)
SCALES = (torch.float32, torch.float16, torch.bfloat16)


@st.composite
def integers(draw: st.DrawFn) -> Storage:
    """Integers of any width, in groups that need not divide."""
    bits, zero = draw(st.integers(1, 8)), draw(st.booleans())
    return Storage(
        bits=bits,
        signed=draw(st.booleans()),
        zero=zero or bits == 1,
        tokens=draw(st.sampled_from([0, 1, 5, 64])),
        channels=draw(st.sampled_from([0, 1, 3, 16])),
        heads=draw(st.booleans()),
        axis=draw(st.sampled_from(["channels", "tokens"])),
        block=draw(st.sampled_from([8, 16, 64])),
        width=draw(WIDTHS),
    )


@st.composite
def floats(draw: st.DrawFn) -> Storage:
    kind = draw(st.sampled_from(["f8E4M3FN", "f8E5M2", "f16", "bf16", "f32"]))
    bits = torch.finfo(KINDS[kind]).bits
    tokens, channels = draw(st.sampled_from([0, 1, 5])), draw(st.sampled_from([0, 1, 3]))
    return Storage(kind, bits, tokens=tokens, channels=channels, heads=draw(st.booleans()), width=draw(WIDTHS))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Storage, torch.Tensor]:
    """A storage and numbers for it: of one sign or both, with groups of one number, with large channels."""
    storage = draw(st.one_of(integers(), floats()))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    x = torch.randn(2, 2, draw(TOKENS), storage.width, generator=generator)
    x = x * draw(st.sampled_from([1e-30, 1e-3, 1.0, 300.0])) + draw(st.sampled_from([0.0, 5.0, -5.0]))
    if draw(st.booleans()):
        x[..., 0] = draw(st.sampled_from([0.0, 7.0, -1000.0]))
    if draw(st.booleans()) and x.numel():
        x[0, 0, 0, 0] = draw(st.sampled_from([float("nan"), float("inf"), float("-inf")]))
    return storage, x


def codes_of(storage: Storage, tokens: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = (2, 1, tokens, storage.width)
    return torch.randint(storage.least, storage.greatest + 1, sizes, generator=generator, dtype=torch.int16)


@settings(max_examples=300)
@given(integers(), TOKENS, st.integers(0, 99))
def test_packing_loses_nothing(storage: Storage, tokens: int, seed: int) -> None:
    codes = codes_of(storage, tokens, seed)
    stored = pack(codes, storage)
    assert stored.dtype == torch.int8
    assert stored.shape == (2, 1, storage.stored_tokens(tokens), storage.stored_width)
    assert torch.equal(unpack(stored, storage, tokens), codes)


@settings(max_examples=200)
@given(integers(), TOKENS, st.integers(0, 99))
def test_bytes_are_where_the_reference_has_them(storage: Storage, tokens: int, seed: int) -> None:
    codes = codes_of(storage, tokens, seed)
    stored = pack(codes, storage).numpy()
    np.testing.assert_array_equal(packed_by_numpy(codes.numpy(), storage), stored)
    np.testing.assert_array_equal(unpacked_by_numpy(stored, storage, tokens), codes.numpy())


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("axis", ["channels", "tokens"])
def test_every_code_of_every_width_survives(bits: int, axis: str) -> None:
    for signed in (True, False):
        storage = Storage(bits=bits, signed=signed, zero=True, axis=axis, width=256, block=256)
        codes = torch.arange(256, dtype=torch.int16) % (1 << bits) + storage.least
        for x in (codes.expand(1, 1, 3, 256), codes[:, None].expand(1, 1, 256, 256)):
            assert torch.equal(unpack(pack(x, storage), storage, x.shape[2]), x)


@settings(max_examples=300)
@given(problems(), st.sampled_from(SCALES))
def test_pytorch_and_the_reference_agree_to_the_bit(problem: tuple[Storage, torch.Tensor], dtype: torch.dtype) -> None:
    storage, x = problem
    stored, *scales = quantize(x, storage, dtype)
    with np.errstate(all="ignore"):
        codes, *wanted = quantized(x.numpy(), storage, type_of_dtype(dtype))
    for scale, expected in zip(scales, wanted, strict=True):
        assert scale.dtype == dtype
        np.testing.assert_array_equal(scale.float().numpy(), expected)
    if storage.kind == "int":
        np.testing.assert_array_equal(stored.numpy(), packed_by_numpy(codes, storage))
    else:
        np.testing.assert_array_equal(stored.float().numpy(), codes)


@settings(max_examples=300)
@given(problems(), st.sampled_from(SCALES))
def test_errors_are_within_half_a_scale(problem: tuple[Storage, torch.Tensor], dtype: torch.dtype) -> None:
    storage, x = problem
    stored, *scales = quantize(x, storage, dtype)
    found = dequantize(stored, storage, *scales, tokens=x.shape[2])
    step, *zeros = (spread(t.float(), storage, x.shape[2]).expand_as(x) for t in scales)
    zero = zeros[0] if zeros else torch.zeros_like(x)
    assert bool(found[~step.isfinite()].isnan().all())
    defined = step.isfinite() & zero.isfinite()
    size, narrow = largest_code(storage), torch.finfo(dtype)
    least = storage.least if storage.kind == "int" else -size
    reachable = torch.minimum(torch.maximum(x, least * step + zero), size * step + zero)
    rounding = torch.finfo(torch.float32).eps * (x.abs() + zero.abs())
    assert bool(((found - reachable).abs() <= half_a_step(storage, step, x) + rounding)[defined].all())
    # What is out of reach is so by the rounding of scale and zero; codes without a sign have no negative numbers.
    if storage.kind == "int" and not storage.signed and not zeros:
        x = torch.where(x < 0, 0, x)
    tiny = narrow.smallest_normal * narrow.eps
    lost = (size - least) * (narrow.eps * step + tiny) + narrow.eps * zero.abs() + tiny
    assert bool(((reachable - x).abs() <= lost + rounding)[defined].all())


def half_a_step(storage: Storage, step: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """By how much the nearest number that a code stands for may be off."""
    if storage.kind == "int":
        return step / 2
    kind = torch.finfo(KINDS[storage.kind])
    return (x.abs() + step * kind.smallest_normal) * kind.eps / 2


@settings(max_examples=200)
@given(problems(), st.sampled_from(SCALES))
def test_bytes_are_those_of_the_formula(problem: tuple[Storage, torch.Tensor], dtype: torch.dtype) -> None:
    storage, x = problem
    made = quantize(x, storage, dtype)
    heads = x.shape[0] * x.shape[1]
    assert sum(t.numel() * t.element_size() for t in made) == storage.bytes(x.shape[2], heads, dtype.itemsize)
