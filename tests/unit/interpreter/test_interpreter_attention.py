"""What `attn.attention` means in the interpreter, against PyTorch in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from unit.interpreter.programs import function

from attir.ir.attributes import (
    FloatAttr,
    FloatType,
    IntegerAttr,
    Symbol,
    TensorType,
    Type,
    bf16,
    f16,
    f32,
    f64,
    i1,
    i64,
)
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.arith import AddFOp, AndIOp, CmpIOp, DivFOp, IndexCastOp, MulFOp, SIToFPOp, SubIOp
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.dialects.math import TanhOp
from attir.ir.dialects.scf import IfOp
from attir.ir.dialects.scf import YieldOp as BranchYieldOp
from attir.ir.dialects.tensor import ExtractOp
from attir.ir.interpreter import attn, interpret

RegionBody = Callable[[Builder, Sequence[Value]], Value]
Reference = Callable[[torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]
INF = math.inf


def attention(
    element: FloatType,
    sizes: tuple[int, int],
    captures: Sequence[TensorType] = (),
    score: RegionBody | None = None,
    mask: RegionBody | None = None,
    scale: float = 0.5,
    group: int = 1,
) -> Operation:
    """`@main(q, k, v, captures...)`, which returns out and lse; head dimensions are `sizes`."""
    b, h, g, m, n = (Symbol(x) for x in "BHKMN")
    d, e = sizes
    q, k, v, out = (TensorType((b, *rest), element) for rest in ((h, m, d), (g, n, d), (g, n, e), (h, m, e)))

    def body(builder: Builder, arguments: list[Value]) -> Sequence[Value]:
        regions = [_region(name, given, arguments[3:]) for name, given in (("score", score), ("mask", mask))]
        properties = {"scale": FloatAttr(scale, f32), "group": IntegerAttr(group)}
        op = builder.create(AttentionOp, arguments, [out, TensorType((b, h, m), f32)], properties, regions)
        return op.operation.results

    return function([q, k, v, *captures], body)


def _region(name: str, body: RegionBody | None, captures: list[Value]) -> Region:
    if body is None:
        return Region()
    block = region_block(name, captures)
    builder = Builder(block)
    builder.create(YieldOp, [body(builder, block.arguments)])
    return Region([block])


def compare(builder: Builder, name: str, lhs: Value, rhs: Value) -> Value:
    return builder.create(CmpIOp, [lhs, rhs], [i1], {"predicate": CmpIOp.predicate_attr(name)}).out


def extract(builder: Builder, source: Value, *indices: Value) -> Value:
    assert isinstance(source.type, TensorType)
    return builder.create(ExtractOp, [source, *indices], [source.type.element]).out


def alibi(builder: Builder, arguments: Sequence[Value]) -> Value:
    """s + slopes[h] * (n - m)"""
    s, _, h, m, n, slopes = arguments
    distance = builder.create(SIToFPOp, [_as_integer(builder, builder.binary(SubIOp, n, m))], [f32]).out
    return builder.binary(AddFOp, s, builder.binary(MulFOp, extract(builder, slopes, h), distance))


def _as_integer(builder: Builder, value: Value) -> Value:
    return builder.create(IndexCastOp, [value], [i64]).out


def softcap(builder: Builder, arguments: Sequence[Value]) -> Value:
    """3 tanh(s / 3)"""
    cap = builder.constant(3.0, f32)
    return builder.binary(MulFOp, cap, builder.unary(TanhOp, builder.binary(DivFOp, arguments[0], cap)))


def bias(builder: Builder, arguments: Sequence[Value]) -> Value:
    """s + bias[b, 0, m, n]"""
    s, b, _, m, n, matrix = arguments
    return builder.binary(AddFOp, s, extract(builder, matrix, b, builder.index(0), m, n))


def causal(builder: Builder, arguments: Sequence[Value]) -> Value:
    _, _, m, n, *_ = arguments
    return compare(builder, "sle", n, m)


def later_than_two(builder: Builder, arguments: Sequence[Value]) -> Value:
    """Keys before the query, for queries from 2 on; the first rows have no key."""
    _, _, m, n, *_ = arguments
    return builder.binary(AndIOp, compare(builder, "slt", n, m), compare(builder, "sge", m, builder.index(2)))


def padding(builder: Builder, arguments: Sequence[Value]) -> Value:
    b, _, _, n, kept = arguments
    return extract(builder, kept, b, n)


def nothing(builder: Builder, _arguments: Sequence[Value]) -> Value:
    """No position is read: the result is one number for all of them."""
    return builder.constant(False, i1)


def positions(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(scores.shape[2])[:, None], torch.arange(scores.shape[3])[None]


def drop(keep: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Reference:
    """Scores with -inf where `keep(m, n)` is false."""
    return lambda s, _: s.masked_fill(~keep(*positions(s)), -INF)


@dataclass(frozen=True)
class Site:
    """A region pair, the captured tensors it reads, and what it does to a score matrix."""

    name: str
    score: RegionBody | None = None
    mask: RegionBody | None = None
    captures: Sequence[TensorType] = ()
    data: Callable[[], list[torch.Tensor]] = field(default=list)
    reference: Reference = field(default=lambda s, _: s)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


SITES = (
    Site("plain"),
    Site("causal", mask=causal, reference=drop(lambda m, n: n <= m)),
    Site("rows without keys", mask=later_than_two, reference=drop(lambda m, n: (n < m) & (m >= 2))),
    Site("no key at all", mask=nothing, reference=drop(lambda m, n: (n < m) & (n > m))),
    Site(
        "alibi", alibi, causal, [TensorType((4,), f32)], lambda: [torch.tensor([0.5, 0.25, 0.125, 0.0625])],
        lambda s, c: (s + c[0][:, None, None] * (positions(s)[1] - positions(s)[0])).masked_fill(
            ~(positions(s)[1] <= positions(s)[0]), -INF
        ),
    ),
    Site("softcap", softcap, reference=lambda s, _: 3 * torch.tanh(s / 3)),
    Site(
        "bias with -inf", bias, None, [TensorType((2, 1, Symbol("M"), Symbol("N")), f32)],
        lambda: [torch.randn(2, 1, 7, 9, generator=generator()).masked_fill(torch.ones(7, 9).triu(1).bool(), -INF)],
        lambda s, c: s + c[0],
    ),
    Site(
        "padding", None, padding, [TensorType((2, Symbol("N")), i1)],
        lambda: [torch.tensor([[True] * 4 + [False] * 5, [False] * 9])],
        lambda s, c: s.masked_fill(~c[0][:, None, None], -INF),
    ),
)  # fmt: skip


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """out and lse in float64; rows without any key give 0 and -inf."""
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    scores = change(q @ k.mT * 0.5)
    empty = (scores == -INF).all(-1, keepdim=True)
    weights = torch.softmax(scores, -1).masked_fill(empty, 0.0)
    return weights @ v, torch.logsumexp(scores, -1)


def inputs(element: torch.dtype, key_heads: int = 4, rows: int = 7, keys: int = 9) -> list[torch.Tensor]:
    shapes = (2, 4, rows, 5), (2, key_heads, keys, 5), (2, key_heads, keys, 3)
    random = generator()
    return [torch.randn(shape, dtype=torch.float64, generator=random).to(element) for shape in shapes]


def arrays(tensors: Sequence[torch.Tensor]) -> list[NDArray[Any]]:
    return [(x.float() if x.dtype == torch.bfloat16 else x).numpy() for x in tensors]


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("site", SITES, ids=lambda s: s.name)
def test_precise(site: Site, group: int) -> None:
    q, k, v = inputs(torch.float64, 4 // group)
    captured = site.data()
    module = attention(f32, (5, 3), site.captures, site.score, site.mask, group=group)
    out, lse = interpret(module, "main", *arrays([q, k, v, *captured]), precise=True)
    wanted = reference(q, k, v, group, lambda s: site.reference(s, captured))
    np.testing.assert_allclose(out, wanted[0].numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(lse, wanted[1].numpy(), rtol=1e-12, atol=1e-12)


# At most twice the error of PyTorch's own arithmetic on float32 scores, rounded to the type at the
# end, and one unit in the last place of a result around 1.
@pytest.mark.parametrize(
    ("type_", "dtype"), [(f32, torch.float32), (f16, torch.float16), (bf16, torch.bfloat16)], ids=str
)
@pytest.mark.parametrize("site", SITES, ids=lambda s: s.name)
def test_rounded(site: Site, type_: FloatType, dtype: torch.dtype) -> None:
    q, k, v = inputs(dtype)
    captured = site.data()
    module = attention(type_, (5, 3), site.captures, site.score, site.mask)
    out, lse = interpret(module, "main", *arrays([q, k, v, *captured]))
    exact = reference(q.double(), k.double(), v.double(), 1, lambda s: site.reference(s, captured))
    plain = reference(q.float(), k.float(), v.float(), 1, lambda s: site.reference(s, captured))
    largest_error = (plain[0].to(dtype).double() - exact[0]).abs().max().item()
    assert np.abs(out - exact[0].numpy()).max() <= 2 * largest_error + torch.finfo(dtype).eps
    np.testing.assert_allclose(lse, exact[1].numpy(), rtol=1e-6, atol=1e-6)


# One key takes all the weight: its value comes back, and its score is the lse.
def test_one_key() -> None:
    q, k, v = inputs(torch.float64, keys=1)
    out, lse = interpret(attention(f32, (5, 3)), "main", *arrays([q, k, v]), precise=True)
    np.testing.assert_allclose(out, np.broadcast_to(v.numpy(), out.shape), rtol=1e-15)
    np.testing.assert_allclose(lse, (q @ k.mT * 0.5).squeeze(-1).numpy(), rtol=1e-14)


@pytest.mark.parametrize(("rows", "keys"), [(7, 0), (0, 9), (0, 0)])
def test_empty_sizes(rows: int, keys: int) -> None:
    data = arrays(inputs(torch.float32, rows=rows, keys=keys))
    out, lse = interpret(attention(f32, (5, 3), score=softcap, mask=causal), "main", *data)
    assert out.shape == (2, 4, rows, 3) and lse.shape == (2, 4, rows)
    assert (out == 0).all() and (lse == -INF).all()


def test_empty_batch() -> None:
    q, k, v = (x[:0] for x in inputs(torch.float32))
    out, lse = interpret(attention(f32, (5, 3), mask=causal), "main", *arrays([q, k, v]))
    assert out.shape == (0, 4, 7, 3) and lse.shape == (0, 4, 7)


# nan and +inf scores make a row nan, as in PyTorch; a masked nan does not count.
def test_nan_and_infinite_scores() -> None:
    q, k, v = inputs(torch.float32)
    matrix = torch.zeros(2, 1, 7, 9)
    matrix[0, 0, 2, 1], matrix[0, 0, 3, 1], matrix[0, 0, 0, 5] = math.nan, INF, math.nan
    type_ = TensorType((2, 1, Symbol("M"), Symbol("N")), f32)
    out, lse = interpret(attention(f32, (5, 3), [type_], bias, causal), "main", *arrays([q, k, v, matrix]))
    wanted, _ = reference(q, k, v, 1, lambda s: drop(lambda m, n: n <= m)(s + matrix, []))
    np.testing.assert_array_equal(np.isnan(out), np.isnan(wanted.numpy()))
    assert np.isnan(out[0, :, 2:4]).all() and not np.isnan(out[0, :, :2]).any() and not np.isnan(out[1]).any()
    assert np.isnan(lse[0, :, 2]).all()


# Scores far beyond what exp can hold.
def test_large_logits() -> None:
    q, k, v = inputs(torch.float64)
    out, lse = interpret(attention(f32, (5, 3)), "main", *arrays([q * 1e3, k * 1e3, v]), precise=True)
    wanted = reference(q * 1e3, k * 1e3, v, 1, lambda s: s)
    np.testing.assert_allclose(out, wanted[0].numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(lse, wanted[1].numpy(), rtol=1e-12)


# The size of a chunk of rows is no part of the meaning; regions see the true row numbers.
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    site = next(s for s in SITES if s.name == "alibi")
    module = attention(f32, (5, 3), site.captures, site.score, site.mask)
    data = arrays([*inputs(torch.float64), *site.data()])
    whole = interpret(module, "main", *data, precise=True)
    monkeypatch.setattr(attn, "SCORES_AT_ONCE", 150)
    for chunked, expected in zip(interpret(module, "main", *data, precise=True), whole, strict=True):
        np.testing.assert_allclose(chunked, expected, rtol=1e-13, atol=1e-13)


# A captured tensor that is too small for the positions is a wrong program, not a wrapped index.
def test_captured_index_out_of_range() -> None:
    module = attention(f32, (5, 3), [TensorType((None,), f32)], alibi)
    data = arrays([*inputs(torch.float32), torch.zeros(3)])
    with pytest.raises(CompileError, match=r"'tensor.extract' op reads index 3 of axis 0, which has size 3"):
        interpret(module, "main", *data)


@pytest.mark.parametrize("change", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_sizes_that_do_not_fit(change: tuple[int, int]) -> None:
    position, axis = change
    data = inputs(torch.float32)
    data[position] = data[position].narrow(axis, 0, 3)
    types = [TensorType((None,) * 3 + (d,), f32) for d in (5, 5, 3, 3)]

    def body(builder: Builder, arguments: list[Value]) -> Sequence[Value]:
        results: list[Type] = [types[3], TensorType((None,) * 3, f32)]
        return builder.create(AttentionOp, arguments, results, {}, [Region(), Region()]).operation.results

    with pytest.raises(CompileError, match=r"'attn.attention' op sizes do not fit in groups of 1: q is \(2, 4, 7, 5\)"):
        interpret(function(types[:3], body), "main", *arrays(data))


# A branch whose condition is the same everywhere runs; one that varies must be a select.
def test_branches_in_a_region() -> None:
    def branching(condition: RegionBody) -> RegionBody:
        def body(builder: Builder, arguments: Sequence[Value]) -> Value:
            regions: list[Region] = []
            for value in (1.0, 2.0):
                inner = Builder(Block())
                inner.create(BranchYieldOp, [inner.constant(value, f32)])
                regions.append(Region([inner.block]))
            chosen = builder.create(IfOp, [condition(builder, arguments)], [f32], {}, regions).results[0]
            return builder.binary(AddFOp, arguments[0], chosen)

        return body

    data = arrays(inputs(torch.float64))
    fixed = attention(f64, (5, 3), score=branching(nothing))
    plain = attention(f64, (5, 3))
    shifted, unshifted = (interpret(module, "main", *data, precise=True)[1] for module in (fixed, plain))
    np.testing.assert_allclose(shifted - unshifted, 2.0, rtol=1e-12)
    varying = attention(f64, (5, 3), score=branching(lambda builder, a: compare(builder, "sle", a[3], a[4])))
    with pytest.raises(CompileError, match=r"'scf.if' op condition differs between positions"):
        interpret(varying, "main", *data)
