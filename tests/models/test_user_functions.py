"""Attention as users write it, compiled with `strict=True`, against eager and float64.

Bound: our error is at most twice that of eager in the same dtype, plus one unit in the last place
of the largest result.
"""

# torch's own annotations are partial, and lambdas have none.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import flex_attention as flex

import attir

sdpa = functional.scaled_dot_product_attention
NEVER = float("-inf")
Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def heads(
    queries: int = 13, keys: int = 17, width: int = 16, *, key_heads: int = 4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """q (2, 4, M, D), k and v (2, K, N, D)."""
    q = drawn(2, 4, queries, width, dtype=dtype, seed=1)
    k, v = (drawn(2, key_heads, keys, width, dtype=dtype, seed=s) for s in (2, 3))
    return q, k, v


def wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def within_bound(ours: Tensor, eager: Tensor, precise: Tensor) -> bool:
    """Whether our error is in the bound; rows that eager makes nan for want of a key may be 0."""
    assert ours.shape == eager.shape and ours.dtype == eager.dtype
    usable = eager.isfinite() & precise.isfinite()
    assert ((ours == 0) | ours.isnan())[~eager.isfinite()].all() and ours[usable].isfinite().all()
    if not usable.any():
        return True
    error, eager_error = ((x.double() - precise)[usable].abs().max().item() for x in (ours, eager))
    unit = torch.finfo(ours.dtype).eps * max(precise[usable].abs().max().item(), 1e-3)
    return error <= 2 * eager_error + unit


def check(function: Function, inputs: Sequence[Any], sites: int = 1, **options: Any) -> attir.Report:
    """Compile, run and compare `function`; all its `sites` must be fused."""
    compiled = attir.compile(function, strict=True, **options)
    with torch.no_grad():
        ours, eager = compiled(*inputs), function(*inputs)
        precise = function(*map(wide, inputs))
    report = attir.explain(compiled)
    assert [s.status for s in report.sites] == ["fused"] * sites, str(report)
    assert within_bound(ours, eager, precise.double()), str(report)
    return report


def attend(scores: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(scores, -1) @ v


def einsum_grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("bkgmd,bknd->bkgmn", grouped, k) * 0.25
    return torch.einsum("bkgmn,bknd->bkgmd", scores.softmax(-1), v).flatten(1, 2)


def einsum_positions_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = torch.einsum("bmkgd,bnkd->bkgmn", q.unflatten(2, (k.shape[2], -1)), k)
    keep = torch.arange(q.shape[1])[:, None] >= torch.arange(k.shape[1])
    return torch.einsum("bkgmn,bnkd->bmkgd", scores.masked_fill(~keep, NEVER).softmax(-1), v).flatten(2, 3)


def einsum_one_key_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhmn,bne->bhme", torch.einsum("bhmd,bnd->bhmn", q, k[:, 0]).softmax(-1), v[:, 0])


def einsum_ellipsis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("...ij,...jd->...id", torch.einsum("...id,...jd->...ij", q, k).softmax(-1), v)


def einsum_implicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("ij,jd", torch.einsum("id,jd", q[0, 0], k[0, 0]).softmax(-1), v[0, 0])


def einsum_swapped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhne,bhmn->bmhe", v, torch.einsum("bhnd,bhmd->bhmn", k, q).softmax(-1))


def keys_times_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    late = torch.ones(q.shape[2], k.shape[2]).triu(1).bool()
    return attend(((k @ q.mT).mT * 0.25).masked_fill(late, NEVER), v)


def queries_of_lower_rank(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return sdpa(q, k[0], v[0]) + attend(q @ k[0].mT, v[0])


def bias_widens_batch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q[:1] @ k[:1].mT + (q[..., :1] + k[:, :, :1, 0, None]), v[:1])


def bias_widens_rank(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q[0] @ k[0].mT + q[..., :1], v[0])


def cubed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend((q @ k.mT) ** 3 * 0.01, v)


def odd_powers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend((q @ k.mT).abs() ** 0.5 + 1.5 ** (q @ k.mT * 0.1) + (q @ k.mT).abs() ** 0.7, v)


def one_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q[:, :, :1] @ k.mT, v)


def one_key(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q @ k[:, :, :1].mT, v[:, :, :1])


def strided(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q[:, :, ::2] @ k[:, :, 1::2].mT, v[:, :, 1::2])


def expanded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q @ k[:1].expand(2, -1, -1, -1).mT, v[:, :1].expand(-1, 4, -1, -1))


def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    joined = torch.cat((q, k[:, :, :13], v[:, :, :13]), -1).transpose(1, 2).contiguous()
    q, k, v = (x.transpose(1, 2) for x in joined.chunk(3, -1))
    return sdpa(q, k, v, is_causal=True)


FUNCTIONS: tuple[Function, ...] = (
    einsum_grouped, einsum_positions_first, einsum_one_key_head, einsum_ellipsis, einsum_implicit, einsum_swapped,
    keys_times_queries, queries_of_lower_rank, bias_widens_batch, bias_widens_rank, cubed, odd_powers,
    one_query, one_key, strided, expanded, packed,
)  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_function(function: Function) -> None:
    grouped = function in (einsum_grouped, einsum_positions_first)
    sites = {queries_of_lower_rank: 2}.get(function, 1)
    check(function, heads(key_heads=2 if grouped else 4), sites)


@dataclass(frozen=True)
class Call:
    """Arguments of scaled_dot_product_attention; `mask` is a shape."""

    name: str
    mask: tuple[int, ...] = ()
    kind: str = "bool"
    arguments: tuple[tuple[str, Any], ...] = ()
    key_heads: int = 4

    @property
    def attn_mask(self) -> Tensor | None:
        if not self.mask:
            return None
        kept = drawn(*self.mask) > -0.3
        kept[..., -1, :] &= self.kind != "float"
        additive = {"float": NEVER, "min": torch.finfo(torch.float32).min}
        return kept if self.kind == "bool" else torch.where(kept, drawn(*self.mask), additive[self.kind])


CALLS = (
    Call("plain"),
    Call("bool_mn", (13, 17)),
    Call("bool_11mn", (1, 1, 13, 17)),
    Call("bool_b11n", (2, 1, 1, 17)),
    Call("bool_bhmn", (2, 4, 13, 17)),
    Call("bool_hm1", (4, 13, 1)),
    Call("float_mn", (13, 17), "float"),
    Call("float_bhmn", (2, 4, 13, 17), "float"),
    Call("min_b1mn", (2, 1, 13, 17), "min"),
    Call("causal", arguments=(("is_causal", True),)),
    Call("scale_0", arguments=(("scale", 0.0),)),
    Call("scale_negative", arguments=(("scale", -0.7),)),
    Call("grouped", arguments=(("enable_gqa", True), ("is_causal", True)), key_heads=2),
    Call("one_key_head", arguments=(("enable_gqa", True), ("dropout_p", 0.0)), key_heads=1),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.name)
def test_arguments_of_sdpa(call: Call, dtype: torch.dtype) -> None:
    mask, arguments = call.attn_mask, dict(call.arguments)
    if mask is not None and mask.is_floating_point():
        mask = mask.to(dtype).clamp(min=torch.finfo(dtype).min if call.kind == "min" else NEVER)

    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return sdpa(q, k, v, attn_mask=mask, **arguments)

    check(function, (*heads(key_heads=call.key_heads, dtype=dtype), mask))


@pytest.mark.parametrize("width", [1, 3, 40, 72, 80, 96, 192, 256])
def test_head_dimensions(width: int) -> None:
    q, k, v = heads(7, 9, width, dtype=torch.bfloat16)
    check(lambda q, k, v: sdpa(q, k, v, is_causal=True), (q, k, v[..., : width // 2 + 1]))


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None]


VISIBLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "m >= n": lambda m, n: m >= n,
    "not n > m": lambda m, n: ~(n > m),
    "n - m < 1": lambda m, n: (n - m) < 1,
    "m + 4 >= n": lambda m, n: m + 4 >= n,
    "m > n": lambda m, n: m > n,
    "n >= m": lambda m, n: n >= m,
    "window": lambda m, n: (n <= m) & (n > m - 5),
    "window by distance": lambda m, n: (m - n).abs() <= 3,
    "outside": lambda m, n: (m - n).abs() > 3,
    "prefix": lambda m, n: (n <= m) | (n < 5),
    "chunks": lambda m, n: (m // 4 == n // 4) & (n <= m),
    "dilated": lambda m, n: ((m - n) % 3 == 0) & (n <= m),
    "sink and window": lambda m, n: ((n < 2) | (m - n < 5)) & (n <= m),
    "none": lambda _, n: n < 0,
}
MASKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "where": lambda s, keep: torch.where(keep, s, NEVER),
    "masked_fill -1e9": lambda s, keep: s.masked_fill(keep == 0, -1e9),
    "added finfo.min": lambda s, keep: s + torch.where(keep, 0.0, torch.finfo(torch.float32).min),
    "added -1e4": lambda s, keep: s + (1.0 - keep.to(s.dtype)) * -10000.0,
}


PAIRS = [
    *((visible, masked) for visible in VISIBLE for masked in ("where", "added finfo.min")),
    *((visible, masked) for visible in ("m >= n", "m > n") for masked in ("masked_fill -1e9", "added -1e4")),
]


@pytest.mark.parametrize("visible, masked", PAIRS)
def test_masks_from_positions(visible: str, masked: str) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(MASKED[masked](q @ k.mT * 0.25, VISIBLE[visible](*positions(q, k))), v)

    check(function, heads())


@pytest.mark.parametrize("visible", ["m >= n", "window", "chunks"])
def test_a_finite_mask_of_equal_lengths_skips_keys(visible: str) -> None:
    """Where every query sees itself no row is empty, so that a finite number means -inf."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(MASKED["added finfo.min"](q @ k.mT, VISIBLE[visible](*positions(q, k))), v)

    report = check(function, heads(17, 17))
    assert " | " in report.sites[0].form


def repeated(x: Tensor, count: int) -> Tensor:
    batch, groups, length, width = x.shape
    return x[:, :, None, :, :].expand(batch, groups, count, length, width).reshape(batch, -1, length, width)


def causal_by_length(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Grouped heads, the last query beside the last key."""
    k, v = (repeated(x, q.shape[1] // x.shape[1]) for x in (k, v))
    m, n = positions(q, k)
    late = n > m + (k.shape[2] - q.shape[2])
    return attend((q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(late, NEVER), v)


@pytest.mark.parametrize("dynamic", [True, None])
def test_one_kernel_serves_all_lengths(dynamic: bool | None) -> None:
    compiled = attir.compile(causal_by_length, strict=True, dynamic=dynamic)
    sources: set[str] = set()
    for queries, keys in ((5, 7), (6, 9), (11, 12), (40, 44)):
        inputs = heads(queries, keys, key_heads=2)
        with torch.no_grad():
            ours, eager = compiled(*inputs), causal_by_length(*inputs)
        assert within_bound(ours, eager, causal_by_length(*map(wide, inputs)))
        sources = {s.kernel_source for s in attir.explain(compiled).sites}
    report = attir.explain(compiled)
    assert all("heads 4/2" in s.form for s in report.sites), str(report)
    assert len(report.graphs) <= 3 and len(sources) <= (1 if dynamic else 2), str(report)


@pytest.mark.parametrize("queries, keys", [(0, 5), (5, 0)])
def test_empty_lengths_and_batches(queries: int, keys: int) -> None:
    q, k, v = heads(queries, keys)
    check(lambda q, k, v: sdpa(q, k, v) + 1.0, (q, k, v))
    check(lambda q, k, v: attend(q @ k.mT, v), (q[:0], k[:0], v[:0]))


@pytest.mark.parametrize("where", ["q", "v", "bias"])
def test_nan_reaches_what_it_touches(where: str) -> None:
    q, k, v = heads()
    bias = torch.zeros(13, 17)
    {"q": q[0, 1], "v": v[0, 1], "bias": bias}[where][3] = float("nan")

    def function(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return attend(q @ k.mT + bias, v)

    with torch.no_grad():
        ours, eager = attir.compile(function, strict=True)(q, k, v, bias), function(q, k, v, bias)
    assert torch.equal(ours.isnan(), eager.isnan()) and eager.isnan().any() and not eager.isnan().all()


Refused = tuple[Function, str]
REFUSED: dict[str, Refused] = {
    "dropout": (lambda q, k, v: sdpa(q, k, v, dropout_p=0.3), "dropout of 0.3"),
    "dropout by hand": (
        lambda q, k, v: functional.dropout(torch.softmax(q @ k.mT, -1), 0.3, training=True) @ v,
        "dropout of 0.3 on the attention weights",
    ),
    "double": (lambda q, k, v: sdpa(q.double(), k.double(), v.double()), "must all be f16, bf16 or f32"),
    "weights returned": (
        lambda q, k, v: (lambda w: (w @ v, w))(torch.softmax(q @ k.mT, -1)),
        "so they must exist as a tensor",
    ),
    "gelu": (lambda q, k, v: attend(functional.gelu(q @ k.mT), v), "through 'aten.gelu'"),
    "assignment": (
        lambda q, k, v: attend(torch.slice_scatter(q @ k.mT, torch.full((2, 4, 13, 2), NEVER), 3, 15), v),
        "through 'aten.slice_scatter'",
    ),
    "talking heads": (
        lambda q, k, v: attend(torch.einsum("bhmn,hg->bgmn", q @ k.mT, q[0, :, :4, 0]), v),
        "'aten.einsum'",
    ),
    "joined scores": (
        lambda q, k, v: attend(torch.cat((q @ k[:, :, :9].mT, q @ k[:, :, 9:].mT), -1), v),
        "through 'aten.cat'",
    ),
    "queries without an axis": (
        lambda q, k, v: torch.einsum("bhn,bhne->bhe", torch.softmax((q[:, :, :1] * k).sum(-1), -1), v),
        "is no product of two matrices",
    ),
    "multiplied and summed": (
        lambda q, k, v: attend((q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1), v),
        "no matrix product was found",
    ),
    "flex_attention": (
        lambda q, k, v: flex.flex_attention(q, k, v, lambda s, b, h, m, n: torch.special.i0(s)),
        "score_mod uses 'aten.special_i0'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_operator_line_and_reason(name: str) -> None:
    function, reason = REFUSED[name]
    inputs = heads()
    with torch.no_grad():
        with pytest.raises(attir.CompileError) as caught:
            attir.compile(function, strict=True)(*inputs)
        assert reason in str(caught.value) and "test_user_functions.py:" in str(caught.value)
        torch.manual_seed(0)
        relaxed = attir.compile(function)
        relaxed(*inputs)
    (site,) = attir.explain(relaxed).sites
    assert site.status == "refused" and reason in site.reason and "test_user_functions.py:" in site.location


NOT_ATTENTION: dict[str, Function] = {
    "router": lambda x, w, e: torch.topk(torch.softmax(x @ w, -1), 2)[0] @ e[:2, 0],
    "router by einsum": lambda x, w, e: torch.einsum("te,edf,td->tf", torch.softmax(x @ w, -1), e, x),
    "router of results": lambda x, w, e: torch.einsum(
        "te,tef->tf", torch.softmax(x @ w, -1), torch.einsum("td,edf->tef", x, e)
    ),
    "router by bmm": lambda x, w, e: torch.softmax(x @ w, -1).unsqueeze(1) @ torch.einsum("td,edf->tef", x, e),
    "classifier": lambda x, w, e: torch.softmax(x, -1) @ w,
    "over queries": lambda x, w, e: torch.softmax(x @ w, 0) @ e[:, 0],
}


@pytest.mark.parametrize("name", NOT_ATTENTION)
def test_what_is_no_attention_is_left_alone(name: str) -> None:
    function = NOT_ATTENTION[name]
    inputs = drawn(5, 16), drawn(16, 8), drawn(8, 16, 4)
    compiled = attir.compile(function, strict=True)
    with torch.no_grad():
        assert torch.equal(compiled(*inputs), function(*inputs))
    assert not attir.explain(compiled).sites


class Block(nn.Module):
    """Self-attention with its causal mask in a buffer, as GPT-2 had it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.inner, self.outer = nn.Linear(64, 192), nn.Linear(64, 64)
        self.register_buffer("keep", torch.ones(64, 64, dtype=torch.bool).tril()[None, None])
        self.register_buffer("late", torch.full((64, 64), NEVER).triu(1))
        self.keep: Tensor
        self.late: Tensor

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        q, k, v = (y.unflatten(2, (4, 16)).transpose(1, 2) for y in self.inner(x).split(64, 2))
        scores = q @ k.transpose(-1, -2) / v.shape[-1] ** 0.5
        keep = self.keep[:, :, :length, :length]
        if self.form == "where":
            scores = torch.where(keep, scores, torch.full([], torch.finfo(scores.dtype).min, dtype=scores.dtype))
        else:
            scores = scores + self.late[:length, :length] if self.form == "added" else scores.masked_fill(~keep, NEVER)
        return self.outer(attend(scores, v).transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("form", ["where", "added", "filled"])
def test_a_causal_mask_in_a_buffer(form: str) -> None:
    module = Block(form).requires_grad_(False)
    compiled = attir.compile(module, strict=True)
    for length in (21, 33, 9, 1):
        x = drawn(2, length, 64)
        ours, eager = compiled(x), module(x)
        module.double()
        precise = module(x.double())
        module.float()
        assert within_bound(ours, eager, precise)


def test_exported_inductor_and_by_name() -> None:
    module, x = Block("filled").requires_grad_(False), drawn(2, 9, 64)
    torch_compile: Any = torch.compile
    variants = (
        attir.compile(torch.export.export(module, (x,)), strict=True),
        attir.compile(module, strict=True, rest="inductor"),
        torch_compile(module, backend="attir", options={"strict": True}),
    )
    expected = module(x)
    with torch.inference_mode():
        for compiled in variants:
            torch.testing.assert_close(compiled(x), expected, rtol=0, atol=5e-7)
            assert attir.explain(compiled).sites[-1].status == "fused"


def test_gradients_and_autocast_run_the_original() -> None:
    q, k, v = heads()
    compiled = attir.compile(causal_by_length)
    leaf = q.clone().requires_grad_()
    compiled(leaf, k, v).sum().backward()
    ours, leaf.grad = leaf.grad, None
    causal_by_length(leaf, k, v).sum().backward()
    assert ours is not None and leaf.grad is not None and torch.equal(ours, leaf.grad)
    with torch.no_grad():
        compiled(q, k, v)
    assert [s.status for s in attir.explain(compiled).sites] == ["refused", "fused"]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        relaxed = attir.compile(lambda q, k, v: attend(q @ k.mT, v))
        relaxed(q, k, v)
    assert "autocast" in attir.explain(relaxed).sites[0].reason


def test_layers_of_pytorch() -> None:
    """The modules' own attention is fused; a layer that runs as one operator is refused in words."""
    layer = nn.TransformerDecoderLayer(64, 4, 64, batch_first=True).eval().requires_grad_(False)
    precise = copy.deepcopy(layer).double()
    check(lambda x, y: (layer if x.dtype == torch.float32 else precise)(x, y), (drawn(2, 9, 64), drawn(2, 7, 64)), 2)
    encoder = nn.TransformerEncoderLayer(64, 4, 64, batch_first=True).eval().requires_grad_(False)
    with torch.no_grad(), pytest.raises(attir.CompileError, match="set_fastpath_enabled"):
        attir.compile(encoder, strict=True)(drawn(2, 9, 64))


def test_self_and_cross_attention_in_one_function() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return attend(sdpa(x, x, x, is_causal=True) @ y.mT * 0.25, y)

    q, k, _ = heads()
    check(function, (q, k), 2)
