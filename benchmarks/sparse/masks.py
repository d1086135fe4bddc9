"""The masks whose structure is known: as region code, and as a function of positions that FlexAttention takes too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from attir.compiler.attention_cases import Captures, Case, Element, Form, Position, Shape, window
from attir.ir.attributes import Symbol, TensorType, i1, i32
from attir.ir.core import Value
from attir.ir.dialects import arith
from attir.ir.dialects.math import AbsIOp

GRID = "2-D"
"""How the names of masks begin that see the positions of a grid."""

PART = 16
"""One in so many keys is kept, or documents there are."""

BLOCK = 64
"""Queries and keys of a block of a table."""


@dataclass(frozen=True)
class SparseCase(Case):
    """An attention under a mask that is no entry of a table of forms."""

    mask: Form = field(default_factory=Form, compare=False)

    @property
    def rule(self) -> Form:
        return self.mask


def static_masks(length: int) -> Mapping[str, Form]:
    """Masks for so many positions, of which the neighbourhoods need a square number."""
    side = math.isqrt(length)
    return {
        "causal": Form(lambda e: e.compare("sle", e.n, e.m), keep=lambda m, n, _: n <= m),
        "window 1/16": window(length // PART),
        "16 documents": documents(even=True),
        "16 documents of any length": documents(even=False),
        "2-D neighbourhood 1/16": neighbourhood(side, side // 4 + 1),
        "2-D neighbourhood 1/16, stride 8": neighbourhood(side, side // 4, 8),
    }


def documents(*, even: bool) -> Form:
    """`PART` documents one after the other, of equal or of random lengths."""

    def ids(shape: Shape, generator: torch.Generator) -> Captures:
        cuts = torch.arange(1, PART) * shape.keys // PART
        if not even:
            cuts = torch.randperm(shape.keys - 1, generator=generator)[: PART - 1] + 1
        starts = torch.zeros(shape.keys, dtype=torch.int32)
        starts[cuts] = 1
        return (starts.cumsum(0).to(torch.int32),)

    return Form(
        lambda e: e.compare("eq", e.load(0, e.m), e.load(0, e.n)),
        keep=lambda m, n, c: c[0][m] == c[0][n],
        capture_types=(TensorType((Symbol("c0_0"),), i32),),
        capture=ids,
    )


def neighbourhood(side: int, width: int, stride: int = 1) -> Form:
    """Positions in rows of `side`: keys at most width // 2 from the query along both axes.

    With a stride, as generalised neighbourhood attention has it, queries of a square of `stride` share
    the neighbourhood of the one in the middle.
    """
    radius = width // 2

    def mask(e: Element) -> Value:
        kept: list[Value] = []
        for kind in (arith.FloorDivSIOp, arith.RemSIOp):
            x, y = e.binary(kind, e.m, side), e.binary(kind, e.n, side)
            if stride > 1:
                first = e.binary(arith.MulIOp, e.binary(arith.FloorDivSIOp, x, stride), stride)
                x = e.binary(arith.AddIOp, first, stride // 2)
            kept.append(e.compare("sle", e.builder.unary(AbsIOp, e.binary(arith.SubIOp, x, y)), radius))
        return e.binary(arith.AndIOp, *kept)

    def middle(x: Position) -> Position:
        return x if stride == 1 else x // stride * stride + stride // 2

    def keep(m: Position, n: Position, _: Captures) -> torch.Tensor:
        near = (middle(m // side) - n // side).abs() <= radius
        return near & ((middle(m % side) - n % side).abs() <= radius)

    return Form(mask, keep=keep)


def block_table(keep: float) -> Form:
    """table[b, h, m / BLOCK, n / BLOCK], in which each row of each head keeps the part `keep` of its blocks."""

    def block(e: Element, x: Value) -> Value:
        return e.binary(arith.FloorDivSIOp, x, BLOCK)

    def table(shape: Shape, generator: torch.Generator) -> Captures:
        rows, columns = (-(-x // BLOCK) for x in (shape.queries, shape.keys))
        chosen = torch.rand(shape.batch, shape.heads, rows, columns, generator=generator)
        places = chosen.topk(max(1, round(keep * columns)), -1).indices
        return (torch.zeros_like(chosen, dtype=torch.bool).scatter_(-1, places, True),)

    return Form(
        lambda e: e.load(0, e.b, e.h, block(e, e.m), block(e, e.n)),
        keep=lambda m, n, c: c[0][:, :, m // BLOCK, n // BLOCK],
        capture_types=(TensorType(tuple(Symbol(f"c0_{i}") for i in range(4)), i1),),
        capture=table,
    )


@dataclass(frozen=True)
class Fractions:
    """Of all pairs of a query and a key, those that are kept, and those in tiles with a kept one."""

    kept: float
    live: float

    @staticmethod
    def of(keep: Callable[[Position, Position], torch.Tensor], length: int, rows: int, keys: int) -> Fractions:
        """Count for as many queries as keys; tiles hold `rows` queries by `keys` keys."""
        columns = torch.arange(length)
        kept = live = 0
        for first in range(0, length, rows):
            part = keep(torch.arange(first, min(first + rows, length))[:, None], columns[None, :])
            seen = torch.nn.functional.pad(part.any(0), (0, -length % keys)).view(-1, keys).any(1)
            kept += int(part.sum())
            live += int(seen.sum()) * keys * len(part)
        return Fractions(kept / length**2, min(1.0, live / length**2))
