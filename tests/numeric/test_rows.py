"""What surrounds an attention, absorbed into its regions: in the interpreter, and in kernels against float64.

The bound for kernels: twice the error of PyTorch in the same dtype, and one rounding of the weights
and of the result, at most the unit roundoff times the largest |v|.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import captured
from numeric.closeness import NATIVE
from numeric.row_spellings import ROWS, SPELLINGS, RowSpelling, attend, half_rope, heads
from torch import Tensor

import attir
from attir.compiler.pipelines import raising
from attir.ir.core import Operation
from attir.ir.dialects.attn import REGIONS, AttentionOp
from attir.ir.interpreter import interpret
from attir.ir.printer import print_operation
from attir.ir.verifier import verify
from attir.passes.manager import PassContext
from attir.passes.row_cost import row_cost

BY_NAME = {spelling.function.__name__: spelling for spelling in SPELLINGS}
OF_ROWS = frozenset(name for name, form in REGIONS.items() if form.source or name == "output")
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def as_numpy(tensor: Tensor) -> Any:
    return tensor.numpy() if tensor.dtype in (torch.bool, torch.int64) else tensor.double().numpy()


def raised(module: Operation, fuse: str, target: str = "sm_90") -> PassContext:
    ctx = PassContext()
    for step in raising(fuse, target, "eager"):
        step.run(module, ctx)
    verify(module)
    return ctx


def site_of(module: Operation) -> AttentionOp:
    (site,) = [AttentionOp(op) for op in module.walk() if op.name == "attn.attention"]
    return site


@pytest.mark.parametrize("name", BY_NAME)
def test_absorbing_keeps_the_result(name: str) -> None:
    spelling = BY_NAME[name]
    inputs = spelling.inputs(11, 24)
    call = captured(spelling.function, *inputs)
    arrays = [as_numpy(x) for x in call.arguments]
    before = interpret(call.module, "main", *arrays, precise=True)[0]
    raised(call.module, "always")
    found = {region for region, _ in site_of(call.module).present} & OF_ROWS
    assert found == spelling.regions, print_operation(call.module)
    after = interpret(call.module, "main", *arrays, precise=True)[0]
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)


def assert_close(
    function: Callable[..., Tensor], inputs: list[Tensor], backend: str, *, cache: bool = True
) -> attir.Report:
    torch._dynamo.reset()  # pyright: ignore[reportPrivateUsage]
    compiled = attir.compile(function, backend=backend, fuse_rows="always", strict=True, cache=cache)
    with torch.no_grad():
        exact = function(*(x.double() for x in inputs))
        plain, actual = function(*inputs), compiled(*inputs)
    bound = 2.0 * _largest(plain.double() - exact) + 2.0 * ROUNDOFF[actual.dtype] * max(map(_largest, inputs[:3]))
    assert actual.dtype == plain.dtype and actual.shape == plain.shape
    error = _largest(actual.double() - exact)
    assert error <= bound, f"error {error:.2e}, bound {bound:.2e}"
    return attir.explain(compiled)


def _largest(x: Tensor) -> float:
    return x.double().abs().max().item()


BACKENDS = ["interpret", pytest.param("native", marks=NATIVE)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BY_NAME)
def test_every_spelling_in_a_kernel(name: str, backend: str) -> None:
    report = assert_close(BY_NAME[name].function, BY_NAME[name].inputs(37, 24, seed=1), backend)
    for region in BY_NAME[name].regions:
        assert f"{region} absorbed, as asked" in str(report)


SHAPES = [(1, 32, torch.float32), (3, 20, torch.float16), (70, 80, torch.bfloat16), (9, 4, torch.bfloat16)]


@pytest.mark.parametrize(("length", "width", "dtype"), SHAPES)
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("everything", "interpret"),
        *(
            pytest.param(name, "native", marks=NATIVE)
            for name in ("everything", "rms_norm_then_rope", "gates_of_heads")
        ),
    ],
)
def test_sizes_and_dtypes(name: str, backend: str, length: int, width: int, dtype: torch.dtype) -> None:
    """One row, few rows of shared keys, ragged tiles; widths that no vector and no power of two divides."""
    assert_close(BY_NAME[name].function, BY_NAME[name].inputs(length, width, dtype, seed=2), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("queries", [1, 2])
def test_split_keys_and_folded_heads(queries: int, backend: str) -> None:
    """Decoding: keys are split over programs, whose merged rows are what a gate changes."""

    def decode(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, angles: Tensor, late: Tensor) -> Tensor:
        q, k = half_rope(heads(q, 4), late), half_rope(heads(k, 2), angles)
        out = F.scaled_dot_product_attention(q, k, heads(v, 2), enable_gqa=True)
        return out.transpose(1, 2).flatten(2) * torch.sigmoid(gate)

    generator = torch.Generator().manual_seed(3)
    shapes = [(2, queries, 96), (2, 1200, 48), (2, 1200, 48), (2, queries, 96), (1200, 12), (queries, 12)]
    report = assert_close(decode, [torch.randn(s, generator=generator) for s in shapes], backend)
    assert all(f"{region} absorbed" in str(report) for region in ("query", "key", "output"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_keys_at_all(backend: str) -> None:
    """The output region still changes the zeros."""

    def shifted(q: Tensor, k: Tensor, v: Tensor, shift: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v) + shift

    q, k, shift = torch.randn(1, 2, 3, 16), torch.randn(1, 2, 0, 16), torch.randn(16)
    torch._dynamo.reset()  # pyright: ignore[reportPrivateUsage]
    compiled = attir.compile(shifted, backend=backend, fuse_rows="always", strict=True)
    with torch.no_grad():
        assert torch.equal(compiled(q, k, k, shift), shift.expand(1, 2, 3, 16))


# --- what must stay outside


def decisions(function: Callable[..., Any], *inputs: Tensor) -> str:
    call = captured(function, *inputs)
    raised(call.module, "always")
    rows = site_of(call.module).rows
    return "" if rows is None else rows.value


def test_what_is_needed_elsewhere_stays() -> None:
    """A roped key that goes into a cache exists anyway; one that is cached as it came may be roped inside."""
    spelling = RowSpelling(half_rope, [ROWS, ROWS, ROWS, ("L", "D/2")])
    inputs = spelling.inputs(7, 8)

    def cached(q: Tensor, k: Tensor, v: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        k = half_rope(heads(k, 4), angles)
        return attend(heads(q, 4), k, heads(v, 4)), k

    def cached_before(q: Tensor, k: Tensor, v: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        k = heads(k, 4)
        return attend(heads(q, 4), half_rope(k, angles), heads(v, 4)), k

    assert decisions(cached, *inputs) == "key stays outside: what it is computed to is needed elsewhere too"
    assert decisions(cached_before, *inputs) == "key absorbed, as asked"


def test_sums_of_two_tensors_of_rows_stay() -> None:
    def two(q: Tensor, k: Tensor, v: Tensor, more: Tensor) -> Tensor:
        return attend(heads(q, 4) + heads(more, 4), heads(k, 4), heads(v, 4))

    inputs = [torch.randn(2, 5, 32) for _ in range(4)]
    assert decisions(two, *inputs).startswith("query stays outside: it is computed from more than one tensor of rows")


def test_an_output_used_twice_or_mixed_stays() -> None:
    def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = attend(q, k, v)
        return out * out.mean(-1, keepdim=True)

    def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v).softmax(-1)

    inputs = [torch.randn(2, 4, 5, 8) for _ in range(3)]
    assert decisions(twice, *inputs) == decisions(mixed, *inputs) == ""


# --- whether it pays


@pytest.mark.parametrize(
    ("target", "length", "told"),
    [
        ("sm_90", 1024, ["query absorbed", "key stays outside"]),
        ("sm_90", 1, ["query absorbed", "key absorbed"]),
        ("avx512", 1, ["query absorbed", "key absorbed"]),
        ("avx512", 1024, ["query absorbed", "key stays outside"]),
    ],
)
def test_the_estimate(target: str, length: int, told: list[str]) -> None:
    spelling = BY_NAME["rope_half"]
    call = captured(spelling.function, *spelling.inputs(length, 64))
    raised(call.module, "auto", target)
    rows = site_of(call.module).rows
    assert rows is not None and all(text in rows.value for text in told), rows


def test_an_interpreter_gains_nothing() -> None:
    spelling = BY_NAME["rope_half"]
    call = captured(spelling.function, *spelling.inputs(5, 8))
    raised(call.module, "auto", "interpret")
    attention = site_of(call.module)
    assert attention.query.empty and attention.rows is None
    assert row_cost(attention, "query", attention.shapes[0], [], attention.mask.block, "interpret", "eager") is None
