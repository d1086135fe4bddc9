"""Spellings composed with each other: of the scale, the product, the mask, the softmax, the heads and the result.

Every composition must become one attention; raised, it must compute what it did, in float64. Some
of them, and all when slow tests run, are compiled with `strict=True` and run. The bound is that of
`test_user_functions`.
"""

# torch's own annotations are partial, and lambdas have none.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from capturing import captured
from models.test_user_functions import check, heads, repeated
from torch import Tensor
from torch.nn import functional

import attir
from attir.compiler.pipelines import RAISE
from attir.ir.interpreter import interpret
from attir.ir.printer import print_operation
from attir.passes.manager import PassContext

NEVER, LOWEST = float("-inf"), torch.finfo(torch.float32).min
M, N = 13, 17


def late(s: Tensor) -> Tensor:
    """Where a key comes after its query."""
    return torch.ones(s.shape[-2:]).triu(1).bool()


def number(value: float, like: Tensor) -> Tensor:
    return torch.full((), value, dtype=like.dtype)


Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SCALES: Mapping[str, Pair] = {
    "no scale": lambda q, k: (q, k),
    "on q": lambda q, k: (q * 0.25, k),
    "on k": lambda q, k: (q, k / 4.0),
    "on both": lambda q, k: (q * 0.5, k * 0.5),
    "in a tensor": lambda q, k: (q / torch.sqrt(number(q.shape[-1], q)), k),
    "to a power": lambda q, k: (q * k.shape[-1] ** -0.5, k),
}
PRODUCTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matmul": lambda q, k: torch.matmul(q, k.transpose(-1, -2)),
    "mT": lambda q, k: q @ k.mT,
    "columns": lambda q, k: q @ k.permute(0, 1, 3, 2).contiguous(),
    "turned": lambda q, k: (k @ q.mT).transpose(2, 3),
    "einsum": lambda q, k: torch.einsum("bhmd,bhnd->bhmn", q, k),
    "ellipsis": lambda q, k: torch.einsum("...id,...jd->...ij", q, k),
    "heads third": lambda q, k: torch.einsum("bmhd,bnhd->bhmn", q.transpose(1, 2), k.transpose(1, 2)),
    "bmm": lambda q, k: torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).view(2, 4, M, N),
    "baddbmm": lambda q, k: torch.baddbmm(
        torch.empty(8, M, N, dtype=q.dtype), q.flatten(0, 1), k.flatten(0, 1).mT, beta=0, alpha=0.7
    ).unflatten(0, (2, 4)),
    "two parts": lambda q, k: q[..., :10] @ k[..., :10].mT + q[..., 10:] @ k[..., 10:].mT,
}
MASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda s: s,
    "where": lambda s: torch.where(late(s), NEVER, s),
    "filled": lambda s: s.masked_fill(late(s), NEVER),
    "filled -1e9": lambda s: s.masked_fill(late(s), -1e9),
    "added": lambda s: s + torch.full((M, N), NEVER, dtype=s.dtype).triu(1),
    "added lowest": lambda s: s + torch.where(late(s), LOWEST, 0.0),
    "times -1e9": lambda s: s + (1.0 - torch.ones(M, N, dtype=s.dtype).tril()) * -1e9,
    "less 1e30": lambda s: s - 1e30 * late(s).to(s.dtype),
    "logarithm": lambda s: s + torch.log(torch.ones(M, N, dtype=s.dtype).tril()),
    "window": lambda s: s.masked_fill(late(s) | torch.ones(M, N).tril(-5).bool(), NEVER),
    "capped": lambda s: torch.tanh(s / 3.0).mul(3.0).masked_fill(late(s), NEVER),
    "two masks": lambda s: s + torch.where(late(s), LOWEST, 0.0) + torch.where(torch.arange(N) > 14, LOWEST, 0.0),
    "bias": lambda s: s + (torch.arange(N) - torch.arange(M)[:, None]).abs() * -0.125,
}


def by_maximum(s: Tensor) -> Tensor:
    e = torch.exp(s - s.max(dim=-1, keepdim=True).values)
    return e / e.sum(dim=-1, keepdim=True)


def by_amax_twice(s: Tensor) -> Tensor:
    m = s.amax(-1, keepdim=True)
    return (s - m).exp() / (s - m).exp().sum(-1).unsqueeze(-1)


def reciprocal(s: Tensor) -> Tensor:
    e = s.exp()
    return e * e.sum(-1, keepdim=True).reciprocal()


def renormalised(s: Tensor) -> Tensor:
    p = torch.softmax(s, -1) * (torch.arange(N) < 15)
    return p / p.sum(-1, keepdim=True)


def with_sink(s: Tensor) -> Tensor:
    sinks = (torch.arange(4).to(s.dtype) * 0.5 - 1.0).reshape(1, -1, 1, 1).expand(2, -1, M, -1)
    joined = torch.cat([s, sinks], dim=-1)
    return functional.softmax(joined - joined.max(dim=-1, keepdim=True).values, dim=-1)[..., :-1]


def sink_first(s: Tensor) -> Tensor:
    return functional.pad(s, (1, 0)).softmax(-1)[..., 1:]


def off_by_one(s: Tensor) -> Tensor:
    m = s.amax(-1, keepdim=True)
    e = torch.exp(s - m)
    return e / (torch.exp(-m) + e.sum(-1, keepdim=True))


SOFTMAXES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda s: torch.softmax(s, dim=-1),
    "dtype": lambda s: functional.softmax(s, dim=3, dtype=s.dtype),
    "log_softmax": lambda s: functional.log_softmax(s, -1).exp(),
    "softmin": lambda s: functional.softmin(-s, -1),
    "of log_softmax": lambda s: torch.softmax(torch.log_softmax(s, -1), -1),
    "less maximum": lambda s: (s - s.max(-1, keepdim=True)[0]).softmax(-1),
    "by maximum": by_maximum,
    "by amax twice": by_amax_twice,
    "by logsumexp": lambda s: torch.exp(s - s.logsumexp(-1, keepdim=True)),
    "reciprocal": reciprocal,
    "renormalised": renormalised,
    "over rows": lambda s: s.transpose(2, 3).softmax(-2).transpose(-1, -2),
    "keys first": lambda s: s.permute(3, 0, 1, 2).softmax(0).permute(1, 2, 3, 0),
    "heads last": lambda s: s.permute(0, 2, 3, 1).softmax(2).permute(0, 3, 1, 2),
    "numbers": lambda s: torch.nan_to_num(s.softmax(-1)),
    "dropout": lambda s: functional.dropout(s.softmax(-1), 0.1, training=False),
    "sink": with_sink,
    "sink first": sink_first,
    "off by one": off_by_one,
}
WEIGHTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda p: p,
    "of heads": lambda p: p * (torch.arange(4).to(p.dtype) * 0.25 + 0.5).view(-1, 1, 1),
    "dropped": lambda p: p.masked_fill(torch.ones(M, N).tril(-3).bool(), 0.0),
    "chosen": lambda p: torch.where(torch.arange(N) % 3 == 0, 0.0, p) * 1.25,
}
HEADS: Mapping[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "each": (4, lambda x: x),
    "expanded": (2, lambda x: repeated(x, 2)),
    "interleaved": (2, lambda x: x.repeat_interleave(2, dim=1)),
    "one": (1, lambda x: x.expand(-1, 4, -1, -1)),
}
RESULTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matmul": lambda p, v: p @ v,
    "einsum": lambda p, v: torch.einsum("bhmn,bhnd->bmhd", p, v).flatten(2),
    "swapped": lambda p, v: torch.einsum("bhne,bhmn->bhme", v, p),
    "turned": lambda p, v: (v.mT @ p.mT).mT,
    "bmm": lambda p, v: torch.bmm(p.reshape(8, M, N), v.reshape(8, N, -1)).view(2, 4, M, -1),
    "twice": lambda p, v: p @ v[..., :8] + torch.matmul(p, v[..., 8:]),
}
FORMS = (SCALES, PRODUCTS, MASKS, SOFTMAXES, WEIGHTS, HEADS, RESULTS)


@dataclass(frozen=True)
class Spelling:
    """One form of each part, by name."""

    scale: str
    product: str
    mask: str
    softmax: str
    weight: str
    heads: str
    result: str

    def __str__(self) -> str:
        return ", ".join((self.scale, self.product, self.mask, self.softmax, self.weight, self.heads, self.result))

    @property
    def sites(self) -> int:
        return 2 if self.result == "twice" else 1

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return heads(key_heads=HEADS[self.heads][0])

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        widen = HEADS[self.heads][1]
        q, k = SCALES[self.scale](q, widen(k))
        scores = MASKS[self.mask](PRODUCTS[self.product](q, k))
        return RESULTS[self.result](WEIGHTS[self.weight](SOFTMAXES[self.softmax](scores)), widen(v))


def compositions(count: int, seed: int) -> list[Spelling]:
    """So many compositions drawn at random, in which the forms of each part occur equally often."""
    columns = [(list(forms) * count)[:count] for forms in FORMS]
    for place, column in enumerate(columns):
        random.Random(seed + place).shuffle(column)
    return [Spelling(*forms) for forms in zip(*columns, strict=True)]


SAMPLE, MANY = compositions(80, seed=0), compositions(400, seed=100)


def test_the_sample_holds_every_form() -> None:
    for place, forms in enumerate(FORMS):
        used = [list(vars(s).values())[place] for s in SAMPLE]
        assert {*used} == {*forms} and min(map(used.count, forms)) >= 3


def raises(spelling: Spelling) -> None:
    """The composition becomes attention and nothing else, which computes in float64 what it did."""
    inputs = spelling.inputs()
    call = captured(lambda *args: spelling(*args), *inputs)
    module, arrays = call.module, [x.double().numpy() if x.is_floating_point() else x.numpy() for x in call.arguments]
    for step in RAISE:
        step.run(module, PassContext())
    text = print_operation(module)
    assert [op.name for op in module.walk()].count("attn.attention") == spelling.sites, text
    assert not any("softmax" in op.name or "matmul" in op.name for op in module.walk()), text
    found = interpret(module, "main", *arrays, precise=True)[0]
    # The scale is held in f32, so float64 results differ by its rounding times the logits.
    np.testing.assert_allclose(found, spelling(*(x.double() for x in inputs)).numpy(), rtol=0, atol=4e-6)


@pytest.mark.parametrize("spelling", SAMPLE, ids=str)
def test_a_composition_is_raised(spelling: Spelling) -> None:
    raises(spelling)


@pytest.mark.slow
@pytest.mark.parametrize("spelling", MANY, ids=str)
def test_many_compositions_are_raised(spelling: Spelling) -> None:
    raises(spelling)


@pytest.mark.parametrize("spelling", SAMPLE[::7], ids=str)
def test_a_composition_is_compiled(spelling: Spelling) -> None:
    check(lambda q, k, v: spelling(q, k, v), spelling.inputs(), spelling.sites)


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SAMPLE, ids=str)
def test_every_composition_is_compiled(spelling: Spelling) -> None:
    check(lambda q, k, v: spelling(q, k, v), spelling.inputs(), spelling.sites)


def latent(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A rotary part that all heads share, in a product of its own, with a bias between."""
    own = q[..., :10] @ k[..., :10].mT * 0.25
    shared = q[..., 10:] @ k[:, :1, :, 10:].mT * 0.5
    return (own + MASKS["bias"](torch.zeros(M, N, dtype=q.dtype)) + shared).softmax(-1) @ v[..., :5]


def absorbed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys and values are the same few latent columns of all heads."""
    latents = v[:, 0, :, :8]
    into = torch.einsum("bhmd,hdc->bhmc", q, k[0, :, :16, :8])
    scores = torch.einsum("bhmc,bnc->bhmn", into, latents) + torch.einsum("bhmd,bnd->bhmn", q, k[:, 1])
    return torch.einsum("bhmn,bnc->bhmc", (scores * 0.05).softmax(-1), latents)


def differential(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two softmaxes of one product over twice the heads, of which one is subtracted."""
    p = (q @ k.mT * 0.25).softmax(-1).view(2, 2, 2, M, N)
    return (p[:, :, 0] - 0.3 * p[:, :, 1]) @ v[:, :2]


def differential_of_two(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    first, second = ((x @ k.mT).softmax(-1) for x in (q, q * 0.3))
    return torch.matmul((first - v[0, 0, 0, 0] * second) * 0.8, v)


def gathered_terms(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Disentangled attention: a product of q with positions, gathered at distances."""
    distance = (torch.arange(M)[:, None] - torch.arange(N)).clamp(-4, 4) + 4
    own = torch.gather(q @ k[:, :, :9].mT, -1, distance.expand(2, 4, M, N))
    return ((q @ k.mT + own) * 0.15).softmax(-1) @ v


def shifted_terms(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The relative shift of Transformer-XL."""
    far = q @ torch.cat([k, k[:, :, : M - 1]], 2).mT
    moved = functional.pad(far, (1, 0)).view(2, 4, -1, M)[:, :, 1:].reshape(2, 4, M, -1)[..., :N]
    return ((q @ k.mT + moved) * 0.15).softmax(-1) @ v


def divided_late(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The sum of the row divides the product."""
    s = q @ k.mT * 0.25
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return (e @ v) / e.sum(-1, keepdim=True)


def masked_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    e = torch.exp(q @ k.mT * 0.25) * torch.ones(M, N, dtype=q.dtype).tril()
    e = e.masked_fill(torch.arange(N) == 3, 0.0)
    e = torch.where(torch.arange(N) < 16, e, 0.0)
    return (e / e.sum(-1, keepdim=True)) @ v


def one_key_head_of_positions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = torch.einsum("bmhd,bnd->bmhn", q.transpose(1, 2), k[:, 0]) * 0.25
    s = s.masked_fill(torch.ones(M, N).triu(1).bool()[:, None], NEVER)
    return torch.einsum("bmhn,bne->bmhe", s.softmax(-1), v[:, 0])


def empty_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Rows without a key are set to 0 by a condition of their own."""
    keep = torch.arange(N) <= torch.arange(M)[:, None] - 3
    p = (q @ k.mT).masked_fill(~keep, NEVER).softmax(-1)
    return p.masked_fill(~keep.any(-1, keepdim=True), 0.0) @ v


FUNCTIONS: Mapping[Callable[..., Tensor], int] = {
    latent: 1, absorbed: 1, differential: 2, differential_of_two: 2, gathered_terms: 1, shifted_terms: 1,
    divided_late: 1, masked_by_hand: 1, one_key_head_of_positions: 1, empty_rows: 1,
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_function(function: Callable[..., Tensor]) -> None:
    check(function, heads(), FUNCTIONS[function])


REFUSED: Mapping[str, tuple[Callable[..., object], str]] = {
    "returned": (
        lambda q, k, v: (lambda p: (p @ v, p))((q @ k.mT).softmax(-1)),
        "the attention weights are returned and used by 'aten.matmul', so they must exist as a tensor",
    ),
    "averaged": (
        lambda q, k, v: (lambda p: (p @ v, p.mean(1)))((q @ k.mT).softmax(-1)),
        "the attention weights are used by 'aten.matmul' and 'aten.mean.dim', so they must exist as a tensor",
    ),
    "mixed weights": (
        lambda q, k, v: torch.einsum("bhmn,hg->bgmn", (q @ k.mT).softmax(-1), q[0, :, :4, 0]) @ v,
        "the attention weights are mixed over heads by 'aten.einsum'",
    ),
    "mixed scores": (
        lambda q, k, v: functional.linear((q @ k.mT).permute(0, 2, 3, 1), q[0, :, :4, 0]).permute(0, 3, 1, 2)
        .softmax(-1) @ v,
        "the scores are mixed over heads by 'aten.linear'",
    ),
    "squared": (
        lambda q, k, v: (lambda p: (p * p) @ v)((q @ k.mT).softmax(-1)),
        "the attention weights meet the values as more than a multiple of themselves",
    ),
    "limited sum": (
        lambda q, k, v: (lambda e: e / e.sum(-1, keepdim=True).clamp(min=1e-6))((q @ k.mT).exp()) @ v,
        "the sum of the exponentials is kept from falling below a number",
    ),
    "small number in the sum": (
        lambda q, k, v: (lambda e: e / (e.sum(-1, keepdim=True) + 1e-6))(
            (lambda s: (s - s.amax(-1, keepdim=True)).exp())(q @ k.mT)
        ) @ v,
        "a number is added to the sum of exponentials",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why(name: str) -> None:
    function, reason = REFUSED[name]
    with torch.no_grad(), pytest.raises(attir.CompileError) as caught:
        attir.compile(function, strict=True)(*heads())
    assert reason in str(caught.value) and "test_spellings.py:" in str(caught.value)
