"""Attention problems for kernels: each as IR, as tensors, and as plain PyTorch to compare with.

Needs nothing but PyTorch and attir, so that it runs where there is only a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ..ir.attributes import (
    FloatAttr,
    FloatType,
    FunctionType,
    IntegerAttr,
    StringAttr,
    Symbol,
    TensorType,
    Type,
    bf16,
    f16,
    f32,
    i1,
    i32,
    is_float8,
)
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.define import Op
from ..ir.dialects import arith
from ..ir.dialects.attn import AttentionOp, YieldOp, region_block
from ..ir.dialects.builtin import ModuleOp
from ..ir.dialects.func import FuncOp, ReturnOp
from ..ir.dialects.math import TanhOp
from ..ir.dialects.tensor import ExtractOp
from ..ir.location import UNKNOWN, Location

DTYPES: Mapping[FloatType, torch.dtype] = {f16: torch.float16, bf16: torch.bfloat16, f32: torch.float32} | {
    FloatType("f8E4M3FN"): torch.float8_e4m3fn, FloatType("f8E5M2"): torch.float8_e5m2,
}  # fmt: skip
B, H, K, M, N = (Symbol(name) for name in "BHKMN")


@dataclass(frozen=True)
class Element:
    """The inside of a region: the score if there is one, the position, the captured tensors."""

    builder: Builder
    score: Value
    b: Value
    h: Value
    m: Value
    n: Value
    captures: tuple[Value, ...]

    def binary(self, kind: type[Op], x: Value, y: Value | float) -> Value:
        return self.builder.binary(kind, x, y if isinstance(y, Value) else self.builder.constant(y, x.type))

    def compare(self, predicate: str, x: Value, y: Value | int) -> Value:
        y = y if isinstance(y, Value) else self.builder.constant(y, x.type)
        properties = {"predicate": arith.CmpIOp.predicate_attr(predicate)}
        return self.builder.create(arith.CmpIOp, [x, y], [i1], properties).out

    def load(self, capture: int, *indices: Value) -> Value:
        source = self.captures[capture]
        assert isinstance(source.type, TensorType)
        return self.builder.create(ExtractOp, [source, *indices], [source.type.element]).out

    def as_float(self, position: Value) -> Value:
        narrow = self.builder.create(arith.IndexCastOp, [position], [i32]).out
        return self.builder.create(arith.SIToFPOp, [narrow], [f32]).out

    @property
    def zero(self) -> Value:
        return self.builder.index(0)


Rule = Callable[[Element], Value]
Position = torch.Tensor
Captures = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Form:
    """What is special about an attention, as region code and as tensor code.

    `keep(m, n, captures)` and `change(scores, m, n, captures)` work on whole tensors; `capture_types`
    are the types of captured tensors, and `capture(shape, generator)` makes them.
    """

    mask: Rule | None = None
    score: Rule | None = None
    keep: Callable[[Position, Position, Captures], torch.Tensor] | None = None
    change: Callable[[torch.Tensor, Position, Position, Captures], torch.Tensor] | None = None
    capture_types: tuple[TensorType, ...] = ()
    capture: Callable[[Shape, torch.Generator], Captures] = lambda shape, generator: ()


@dataclass(frozen=True)
class Shape:
    """Sizes of one call: batch, query heads, key heads, queries, keys."""

    batch: int = 1
    heads: int = 2
    key_heads: int = 2
    queries: int = 64
    keys: int = 64


def window(width: int) -> Form:
    """Each query sees itself and the `width - 1` keys before it."""

    def mask(e: Element) -> Value:
        first = e.binary(arith.SubIOp, e.m, width)
        return e.binary(arith.AndIOp, e.compare("sle", e.n, e.m), e.compare("sgt", e.n, first))

    return Form(mask, keep=lambda m, n, _: (n <= m) & (n > m - width))


def _causal() -> Form:
    return Form(lambda e: e.compare("sle", e.n, e.m), keep=lambda m, n, _: n <= m)


def _prefix(length: int) -> Form:
    """Each query sees the first `length` keys, itself and what is before it."""

    def mask(e: Element) -> Value:
        return e.binary(arith.OrIOp, e.compare("sle", e.n, e.m), e.compare("slt", e.n, length))

    return Form(mask, keep=lambda m, n, _: (n <= m) | (n < length))


def _sink_window(sinks: int, width: int) -> Form:
    """Each query sees a window and the first keys of all."""

    def mask(e: Element) -> Value:
        recent = e.compare("sgt", e.n, e.binary(arith.SubIOp, e.m, width))
        near = e.binary(arith.OrIOp, recent, e.compare("slt", e.n, sinks))
        return e.binary(arith.AndIOp, e.compare("sle", e.n, e.m), near)

    return Form(mask, keep=lambda m, n, _: (n <= m) & ((n > m - width) | (n < sinks)))


def _local(reach: int) -> Form:
    """Each query sees the keys up to `reach` before and after it."""

    def mask(e: Element) -> Value:
        distance = e.binary(arith.SubIOp, e.n, e.m)
        return e.binary(arith.AndIOp, e.compare("sle", distance, reach), e.compare("sge", distance, -reach))

    return Form(mask, keep=lambda m, n, _: (n - m).abs() <= reach)


def _lengths() -> Form:
    """Of each batch so many keys are there: half to all of them."""

    def lengths(shape: Shape, generator: torch.Generator) -> Captures:
        least = (shape.keys + 1) // 2
        return (torch.randint(least, shape.keys + 1, (shape.batch,), generator=generator, dtype=torch.int32),)

    def mask(e: Element) -> Value:
        narrow = e.builder.create(arith.IndexCastOp, [e.n], [i32]).out
        return e.compare("slt", narrow, e.load(0, e.b))

    return Form(
        mask,
        keep=lambda m, n, c: (n < c[0][:, None, None])[:, None],
        capture_types=(TensorType((Symbol("c0_0"),), i32),),
        capture=lengths,
    )


def _relu() -> Form:
    """max(s, 0)"""

    def score(e: Element) -> Value:
        return e.binary(arith.MaximumFOp, e.score, 0.0)

    return Form(score=score, change=lambda s, m, n, _: torch.relu(s))


def _tanh() -> Form:
    """tanh(s)"""
    return Form(score=lambda e: e.builder.unary(TanhOp, e.score), change=lambda s, m, n, _: torch.tanh(s))


def _alibi() -> Form:
    """s + slope[h] (n - m)"""

    def score(e: Element) -> Value:
        distance = e.as_float(e.binary(arith.SubIOp, e.n, e.m))
        return e.binary(arith.AddFOp, e.score, e.binary(arith.MulFOp, e.load(0, e.h), distance))

    def change(s: torch.Tensor, m: Position, n: Position, captures: Captures) -> torch.Tensor:
        return s + captures[0][:, None, None].to(s.dtype) * (n - m)

    def slopes(shape: Shape, _: torch.Generator) -> Captures:
        return (torch.tensor([2.0 ** (-8.0 * (h + 1) / shape.heads) for h in range(shape.heads)]),)

    return Form(score=score, change=change, capture_types=(TensorType((Symbol("c0_0"),), f32),), capture=slopes)


def _softcap(limit: float) -> Form:
    """limit tanh(s / limit)"""

    def score(e: Element) -> Value:
        inner = e.builder.unary(TanhOp, e.binary(arith.MulFOp, e.score, 1.0 / limit))
        return e.binary(arith.MulFOp, inner, limit)

    return Form(score=score, change=lambda s, m, n, _: limit * torch.tanh(s / limit))


def _bias() -> Form:
    """s + bias[0, h, m, n]"""

    def score(e: Element) -> Value:
        return e.binary(arith.AddFOp, e.score, e.load(0, e.zero, e.h, e.m, e.n))

    def bias(shape: Shape, generator: torch.Generator) -> Captures:
        values = torch.randn(1, shape.heads, shape.queries, shape.keys, generator=generator)
        return (values.masked_fill(values > 1.5, float("-inf")),)

    sizes = (1, *(Symbol(f"c0_{axis}") for axis in (1, 2, 3)))
    return Form(
        score=score,
        change=lambda s, m, n, c: s + c[0].to(s.dtype),
        capture_types=(TensorType(sizes, f32),),
        capture=bias,
    )


def _table() -> Form:
    """s + table[h, n - m + 512]: positions that vary along rows and columns."""

    def score(e: Element) -> Value:
        distance = e.binary(arith.AddIOp, e.binary(arith.SubIOp, e.n, e.m), 512)
        return e.binary(arith.AddFOp, e.score, e.load(0, e.h, distance))

    type_ = TensorType((Symbol("c0_0"), Symbol("c0_1")), f32)
    return Form(
        score=score,
        change=lambda s, m, n, c: s + c[0].to(s.dtype)[:, n - m + 512],
        capture_types=(type_,),
        capture=lambda shape, generator: (torch.randn(shape.heads, 1024, generator=generator),),
    )


def _documents() -> Form:
    """Queries see keys of their own document: a mask that is known only when it runs."""

    def mask(e: Element) -> Value:
        return e.compare("eq", e.load(0, e.b, e.m), e.load(0, e.b, e.n))

    def keep(m: Position, n: Position, captures: Captures) -> torch.Tensor:
        ids = captures[0]
        return (ids[:, m[:, 0], None] == ids[:, None, n[0]])[:, None]

    type_ = TensorType((Symbol("c0_0"), Symbol("c0_1")), i32)

    def ids(shape: Shape, generator: torch.Generator) -> Captures:
        longest = max(shape.queries, shape.keys)
        return (torch.randint(0, 4, (shape.batch, longest), generator=generator, dtype=torch.int32),)

    return Form(mask, keep=keep, capture_types=(type_,), capture=ids)


def _dropped() -> Form:
    """keep[b, 0, 0, n]: a mask in memory, false everywhere for the last batch."""

    def mask(e: Element) -> Value:
        return e.load(0, e.b, e.zero, e.zero, e.n)

    def kept(shape: Shape, generator: torch.Generator) -> Captures:
        values = torch.rand(shape.batch, 1, 1, shape.keys, generator=generator) > 0.3
        values[-1] = False
        return (values,)

    type_ = TensorType((Symbol("c0_0"), 1, 1, Symbol("c0_3")), i1)
    return Form(mask, keep=lambda m, n, c: c[0], capture_types=(type_,), capture=kept)


FORMS: Mapping[str, Form] = {
    "none": Form(),
    "causal": _causal(),
    "window": window(40),
    "alibi": _alibi(),
    "softcap": _softcap(20.0),
    "bias": _bias(),
    "table": _table(),
    "documents": _documents(),
    "dropped": _dropped(),
}
"""One of each kind; all kernels are tested on all of them."""

OTHER_FORMS: Mapping[str, Form] = {
    "window128": window(128),
    "window512": window(512),
    "window1024": window(1024),
    "prefix": _prefix(100),
    "sink window": _sink_window(4, 256),
    "local": _local(64),
    "lengths": _lengths(),
    "relu": _relu(),
    "tanh": _tanh(),
    "causal softcap": replace(_softcap(20.0), mask=_causal().mask, keep=_causal().keep),
    "causal alibi": replace(_alibi(), mask=_causal().mask, keep=_causal().keep),
}
"""More of what models have, to measure."""


@dataclass(frozen=True)
class Case:
    """One attention program: element type, head dimensions, heads a key head serves, form."""

    dtype: FloatType = f16
    width: int = 64
    value_width: int | None = None
    group: int = 1
    form: str = "none"
    lse: bool = True
    location: Location = UNKNOWN

    @property
    def scale(self) -> float:
        return 1.0 / math.sqrt(self.width)

    @property
    def rule(self) -> Form:
        """What is special about it."""
        return FORMS[self.form] if self.form in FORMS else OTHER_FORMS[self.form]

    def module(self, name: str = "attention") -> Operation:
        """The program as an outlined site: one function around one `attn.attention`."""
        form, value_width = self.rule, self.value_width or self.width
        keys = H if self.group == 1 else K
        sizes = ((B, H, M, self.width), (B, keys, N, self.width), (B, keys, N, value_width))
        types = [*(TensorType(s, self.dtype) for s in sizes), *form.capture_types]
        names = ["q", "k", "v", *(f"capture{i}" for i in range(len(form.capture_types)))]
        block = Block.with_arguments(types, names)
        regions = [_region("score", form.score, block.arguments[3:]), _region("mask", form.mask, block.arguments[3:])]
        out = f16 if is_float8(self.dtype) else self.dtype
        results = [TensorType((B, H, M, value_width), out), TensorType((B, H, M), f32)]
        properties = {"scale": FloatAttr(self.scale), "group": IntegerAttr(self.group)}
        op = AttentionOp.create(block.arguments, results, properties, regions, location=self.location)
        block.append(op.operation)
        return _module(name, block, [op.out, op.lse] if self.lse else [op.out])

    def tensors(
        self, shape: Shape, seed: int = 0, magnitude: float = 1.0, device: str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Captures]:
        """q, k, v and the captures, random but the same for the same seed; v of 8 bits lies by column."""
        generator = torch.Generator().manual_seed(seed)

        def random(heads: int, length: int, width: int) -> torch.Tensor:
            values = torch.randn(shape.batch, heads, length, width, generator=generator) * magnitude
            return values.to(DTYPES[self.dtype]).to(device)

        q = random(shape.heads, shape.queries, self.width)
        k = random(shape.key_heads, shape.keys, self.width)
        v = random(shape.key_heads, shape.keys, self.value_width or self.width)
        if is_float8(self.dtype):
            v = v.transpose(-2, -1).contiguous().transpose(-2, -1)
        captures = self.rule.capture(shape, generator)
        return q, k, v, tuple(c.to(device) for c in captures)

    def reference(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Captures
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """out and log-sum-exp, computed in the dtype of the arguments; rows without a key are 0 and -inf."""
        form, group = self.rule, self.group
        k, v = (x.repeat_interleave(group, dim=1) if group > 1 else x for x in (k, v))
        m = torch.arange(q.shape[2], device=q.device)[:, None]
        n = torch.arange(k.shape[2], device=q.device)[None, :]
        scores = (q @ k.transpose(-1, -2)) * self.scale
        if form.change is not None:
            scores = form.change(scores, m, n, captures)
        if form.keep is not None:
            scores = scores.masked_fill(~form.keep(m, n, captures), float("-inf"))
        lse = torch.logsumexp(scores, -1)
        weights = torch.softmax(scores, -1).masked_fill((scores == float("-inf")).all(-1, keepdim=True), 0.0)
        return weights.to(v.dtype) @ v, lse


def _region(name: str, rule: Rule | None, captures: list[Value]) -> Region:
    if rule is None:
        return Region()
    block = region_block(name, captures)
    arguments = block.arguments if name == "score" else [block.arguments[0], *block.arguments]
    builder = Builder(block)
    score, b, h, m, n, *captured = arguments
    element = Element(builder, score, b, h, m, n, tuple(captured))
    builder.create(YieldOp, [rule(element)])
    return Region([block])


def _module(name: str, block: Block, results: list[Value]) -> Operation:
    block.append(ReturnOp.create(results).operation)
    arguments: tuple[Type, ...] = tuple(a.type for a in block.arguments)
    function_type = FunctionType(arguments, tuple(r.type for r in results))
    properties = {"sym_name": StringAttr(name), "function_type": function_type}
    module = ModuleOp.create(regions=[Region([Block()])])
    module.body.block.append(FuncOp.create(properties=properties, regions=[Region([block])]).operation)
    return module.operation
