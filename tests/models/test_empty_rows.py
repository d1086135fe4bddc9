"""Rows without a key, by every way to mask: compiled and run against eager PyTorch in the same dtype.

-inf: PyTorch's softmax gives nan there and attention 0, as scaled_dot_product_attention does. A
finite number: the model averages the values that tie, and so does attention, whichever they are.
"""

# torch's own annotations are partial, and lambdas have none.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from models.test_user_functions import heads
from torch import Tensor
from torch.nn import functional

import attir

NEVER, LENGTH, PADDED = float("-inf"), 9, 4
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
UNIT = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


def padding(side: str) -> Tensor:
    """(batch, key): which tokens are there; the second sequence is padded, the third is empty."""
    keep = torch.ones(3, LENGTH, dtype=torch.bool)
    keep[1, :PADDED] = side == "right"
    keep[1, LENGTH - PADDED :] = side == "left"
    keep[2] = False
    return keep


def causal(s: Tensor) -> Tensor:
    return torch.ones(s.shape[-2:], dtype=torch.bool).tril()


def lowest(s: Tensor) -> float:
    return torch.finfo(s.dtype).min


FINITE: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "padding": lambda s, keep: s + torch.where(keep, 0.0, lowest(s)).to(s.dtype),
    "one mask": lambda s, keep: s + torch.where(keep & causal(s), 0.0, lowest(s)).to(s.dtype),
    "filled": lambda s, keep: s.masked_fill(~(keep & causal(s)), lowest(s)),
    "two masks": lambda s, keep: (
        s + torch.where(causal(s), 0.0, lowest(s)).to(s.dtype) + torch.where(keep, 0.0, lowest(s)).to(s.dtype)
    ),
    "causal -inf": lambda s, keep: (
        s.masked_fill(~causal(s), NEVER) + (1.0 - keep.to(s.dtype)) * lowest(s)
    ),
}  # fmt: skip
INFINITE: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "where": lambda s, keep: torch.where(keep & causal(s), s, NEVER),
    "filled": lambda s, keep: s.masked_fill(~keep, NEVER).masked_fill(~causal(s), NEVER),
    "added": lambda s, keep: s + torch.where(keep, 0.0, NEVER).to(s.dtype),
}


def drawn(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = heads(LENGTH, LENGTH, dtype=dtype)
    q, k, v = (torch.cat([x, x[:1] * 0.5]) for x in (q, k, v))
    return q * 0.5, k, v


def compiled(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, attir.Report]:
    model = attir.compile(function, strict=True)
    with torch.no_grad():
        out = model(*inputs)
    return out, attir.explain(model)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask", FINITE)
def test_a_finite_number_averages_as_the_model_does(mask: str, side: str, dtype: torch.dtype) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        scores = FINITE[mask](q @ k.mT, keep[:, None, None])
        return functional.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v

    inputs = (*drawn(dtype), padding(side))
    (out, _), eager = compiled(function, *inputs), function(*inputs)
    usable = eager.isfinite()
    assert (out[~usable] == 0).all() and (usable.all() or mask in ("two masks", "causal -inf"))
    torch.testing.assert_close(out[usable], eager[usable], rtol=0, atol=UNIT[dtype])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask", INFINITE)
def test_minus_infinity_gives_zero_and_says_so(mask: str, side: str) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        return INFINITE[mask](q @ k.mT, keep[:, None, None]).softmax(-1) @ v

    inputs = (*drawn(torch.float32), padding(side))
    (out, report), eager = compiled(function, *inputs), function(*inputs)
    empty = eager.isnan()
    assert empty[2].all() and (out[empty] == 0).all()
    torch.testing.assert_close(out[~empty], eager[~empty], rtol=0, atol=2e-6)
    assert "a row without a key gives 0 here, and nan in PyTorch's softmax" in str(report)


CLEANED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "nan_to_num": lambda s: torch.nan_to_num(s.softmax(-1)),
    "isnan": lambda s: (lambda p: torch.where(p.isnan(), 0.0, p))(s.softmax(-1)),
    "isnan filled": lambda s: (lambda p: p.masked_fill(torch.isnan(p), 0.0))(s.softmax(-1)),
}


@pytest.mark.parametrize("form", CLEANED)
def test_a_model_that_writes_zero_is_matched(form: str) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        return CLEANED[form](INFINITE["where"](q @ k.mT, keep[:, None, None])) @ v

    inputs = (*drawn(torch.float32), padding("left"))
    (out, report), eager = compiled(function, *inputs), function(*inputs)
    torch.testing.assert_close(out, eager, rtol=0, atol=2e-6)
    assert "nan in PyTorch" not in str(report)


def test_calls_of_sdpa_give_zero_without_a_remark() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None])

    inputs = (*drawn(torch.float32), padding("left"))
    (out, report), eager = compiled(function, *inputs), function(*inputs)
    torch.testing.assert_close(out, eager, rtol=0, atol=2e-6)
    assert "nan in PyTorch" not in str(report) and not out[2].any()
