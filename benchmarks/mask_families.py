"""Families of masks that are no pair of bounds, as region code and as tensor code, of any size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from attir.compiler.attention_cases import Captures, Case, Element, Form, Position, Rule, Shape
from attir.ir.attributes import Symbol, TensorType, i1, i32
from attir.ir.core import Value
from attir.ir.dialects import arith
from attir.ir.dialects.math import AbsIOp

ROWS_OF_IMAGE = 2
"""An image is so many times as wide as the unit of the families."""


@dataclass(frozen=True)
class MaskCase(Case):
    """An attention under one of `FAMILIES`, made of parts of about `unit` positions."""

    unit: int = 16
    families: Mapping[str, Form] = field(default_factory=dict[str, Form], compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", families(self.unit))

    @property
    def rule(self) -> Form:
        return self.families[self.form]


def families(unit: int) -> Mapping[str, Form]:
    """All families, whose windows, chunks, prefixes, ... hold about `unit` positions."""
    side = max(2, ROWS_OF_IMAGE * int(unit**0.5))
    return {
        "dilated": Form(_all(_causal, _near(unit), _apart(3)), keep=lambda m, n, _: _kept_dilated(m, n, unit)),
        "prefix": Form(
            _any(_causal, lambda e: e.compare("slt", e.n, unit)), keep=lambda m, n, _: (n <= m) | (n < unit)
        ),
        "chunked": Form(
            _all(_causal, _together(unit)), keep=lambda m, n, _: (n <= m) & (n // unit == m // unit)
        ),
        "sink and window": Form(
            _all(_causal, _any(_near(unit), lambda e: e.compare("slt", e.n, 4))),
            keep=lambda m, n, _: (n <= m) & ((m - n <= unit) | (n < 4)),
        ),
        "global and sliding": Form(
            _any(_around(unit // 2), lambda e: e.compare("slt", e.m, 3), lambda e: e.compare("slt", e.n, 3)),
            keep=lambda m, n, _: ((m - n).abs() <= unit // 2) | (m < 3) | (n < 3),
        ),
        "2-d neighbourhood": _neighbours((side,), side // 4),
        "3-d neighbourhood": _neighbours((side, side), max(1, side // 4)),
        "documents": _documents(unit, causal=False),
        "causal documents": _documents(unit, causal=True),
        "lengths": _lengths(),
        "left padding": _left_padding(),
        "block table": _block_table(unit),
    }  # fmt: skip


# --- rules


def _all(*rules: Rule) -> Rule:
    return lambda e: _folded(e, arith.AndIOp, [rule(e) for rule in rules])


def _any(*rules: Rule) -> Rule:
    return lambda e: _folded(e, arith.OrIOp, [rule(e) for rule in rules])


def _folded(e: Element, kind: type[arith.AndIOp | arith.OrIOp], values: list[Value]) -> Value:
    first, *rest = values
    for value in rest:
        first = e.binary(kind, first, value)
    return first


def _causal(e: Element) -> Value:
    return e.compare("sle", e.n, e.m)


def _distance(e: Element) -> Value:
    return e.binary(arith.SubIOp, e.m, e.n)


def _near(width: int) -> Rule:
    return lambda e: e.compare("sle", _distance(e), width)


def _around(width: int) -> Rule:
    return lambda e: e.compare("sle", e.builder.unary(AbsIOp, _distance(e)), width)


def _apart(step: int) -> Rule:
    return lambda e: e.compare("eq", e.binary(arith.RemSIOp, _distance(e), step), 0)


def _together(size: int) -> Rule:
    return lambda e: e.compare(
        "eq", e.binary(arith.FloorDivSIOp, e.m, size), e.binary(arith.FloorDivSIOp, e.n, size)
    )  # fmt: skip


def _kept_dilated(m: Position, n: Position, unit: int) -> torch.Tensor:
    return (n <= m) & (m - n <= unit) & ((m - n) % 3 == 0)


def _neighbours(sides: tuple[int, ...], radius: int) -> Form:
    """Positions in rows of `sides[-1]`, planes of as many rows, ...: those within a radius along each axis."""

    def along(e: Element, x: Value) -> list[Value]:
        found: list[Value] = []
        for side in sides:
            found.append(e.binary(arith.RemSIOp, x, side))
            x = e.binary(arith.FloorDivSIOp, x, side)
        return [*found, x]

    def mask(e: Element) -> Value:
        pairs = zip(along(e, e.m), along(e, e.n), strict=True)
        distances = [e.builder.unary(AbsIOp, e.binary(arith.SubIOp, x, y)) for x, y in pairs]
        return _folded(e, arith.AndIOp, [e.compare("sle", x, radius) for x in distances])

    def keep(m: Position, n: Position, _: Captures) -> torch.Tensor:
        kept = torch.ones(1, 1, dtype=torch.bool)
        for side in sides:
            kept = kept & ((m % side - n % side).abs() <= radius)
            m, n = m // side, n // side
        return kept & ((m - n).abs() <= radius)

    return Form(mask, keep=keep)


def _documents(unit: int, *, causal: bool) -> Form:
    """Documents of 1 to 2 `unit` positions, other ones in each batch."""
    same: Rule = lambda e: e.compare("eq", e.load(0, e.b, e.m), e.load(0, e.b, e.n))  # noqa: E731

    def keep(m: Position, n: Position, captures: Captures) -> torch.Tensor:
        ids = captures[0]
        kept = (ids[:, m[:, 0], None] == ids[:, None, n[0]])[:, None]
        return kept & (n <= m) if causal else kept

    def ids(shape: Shape, generator: torch.Generator) -> Captures:
        longest = max(shape.queries, shape.keys)
        starts = torch.rand(shape.batch, longest, generator=generator) < 1.0 / unit
        return (starts.cumsum(1).to(torch.int32),)

    type_ = TensorType((Symbol("c0_0"), Symbol("c0_1")), i32)
    return Form(_all(_causal, same) if causal else same, keep=keep, capture_types=(type_,), capture=ids)


def _lengths() -> Form:
    """n < lengths[b]"""

    def mask(e: Element) -> Value:
        narrow = e.builder.create(arith.IndexCastOp, [e.n], [i32]).out
        return e.compare("slt", narrow, e.load(0, e.b))

    def lengths(shape: Shape, generator: torch.Generator) -> Captures:
        return (torch.randint(1, shape.keys + 1, (shape.batch,), generator=generator, dtype=torch.int32),)

    def keep(m: Position, n: Position, captures: Captures) -> torch.Tensor:
        return (n < captures[0][:, None, None])[:, None]

    return Form(mask, keep=keep, capture_types=(TensorType((Symbol("c0_0"),), i32),), capture=lengths)


def _left_padding() -> Form:
    """kept[b, n] and n <= m: rows of the padding keep no key."""

    def kept(shape: Shape, generator: torch.Generator) -> Captures:
        first = torch.randint(0, max(1, shape.keys // 2), (shape.batch, 1), generator=generator)
        return (torch.arange(shape.keys)[None, :] >= first,)

    return Form(
        _all(_causal, lambda e: e.load(0, e.b, e.n)),
        keep=lambda m, n, c: c[0][:, None, None, :] & (n <= m),
        capture_types=(TensorType((Symbol("c0_0"), Symbol("c0_1")), i1),),
        capture=kept,
    )


def _block_table(unit: int) -> Form:
    """table[b, h, m / unit, n / unit], as FlexAttention's block masks have it."""

    def block(e: Element, x: Value) -> Value:
        return e.binary(arith.FloorDivSIOp, x, unit)

    def keep(m: Position, n: Position, captures: Captures) -> torch.Tensor:
        return captures[0][:, :, m // unit, n // unit]

    def table(shape: Shape, generator: torch.Generator) -> Captures:
        rows, columns = (-(-x // unit) for x in (shape.queries, shape.keys))
        return (torch.rand(shape.batch, shape.heads, rows, columns, generator=generator) < 0.3,)

    type_ = TensorType(tuple(Symbol(f"c0_{i}") for i in range(4)), i1)
    return Form(
        lambda e: e.load(0, e.b, e.h, block(e, e.m), block(e, e.n)),
        keep=keep,
        capture_types=(type_,),
        capture=table,
    )  # fmt: skip


FAMILIES = tuple(families(16))
"""Their names."""
