"""Makes one product of a sum of products: q kᵀ + p rᵀ = [q p] [k r]ᵀ, as models with a rotary part write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..ir.attributes import Dim
from ..ir.core import Value
from ..ir.dialects import arith
from .attention_parts import Parts
from .index_function import tensor_type
from .region_math import RegionMath, Scalar, literal_of
from .score_regions import slice_of, values_behind
from .views import Views


@dataclass
class Sum:
    """Σ factor * product + Σ factor * other."""

    products: dict[Value, float] = field(default_factory=dict[Value, float])
    others: list[tuple[Value, float]] = field(default_factory=list[tuple[Value, float]])

    def times(self, factor: float) -> Sum:
        return Sum({v: f * factor for v, f in self.products.items()}, [(v, f * factor) for v, f in self.others])

    def plus(self, other: Sum) -> Sum:
        return Sum({**self.products, **other.products}, [*self.others, *other.others])


def summed(value: Value, products: Sequence[Value]) -> Sum | None:
    """`value` as a sum in which each of `products` occurs once, or not at all."""
    if value in products:
        return Sum({value: 1.0})
    if not values_behind(value).intersection(products):
        return Sum(others=[(value, 1.0)])
    op = value.defining_op
    inner = [summed(v, products) for v in op.operands] if op is not None else []
    match op.name if op is not None else "", inner:
        case arith.AddFOp.op_name | arith.SubFOp.op_name as name, [Sum() as x, Sum() as y]:
            if x.products.keys() & y.products.keys():
                return None
            return x.plus(y if name == arith.AddFOp.op_name else y.times(-1.0))
        case arith.NegFOp.op_name, [Sum() as x]:
            return x.times(-1.0)
        case arith.MulFOp.op_name, [Sum() as x, Sum() as y]:
            return _scaled(x, y) or _scaled(y, x)
        case arith.DivFOp.op_name, [Sum() as x, Sum() as y]:
            return _scaled(x, y, inverse=True)
        case _:
            return None


def _scaled(x: Sum, by: Sum, *, inverse: bool = False) -> Sum | None:
    number = literal_of(by.others[0][0]) if len(by.others) == 1 and not by.products else None
    if number is None or not by.others[0][1] * number:
        return None
    factor = by.others[0][1] * number
    return x.times(1.0 / factor if inverse else factor)


def merge_products(build: RegionMath, score: Scalar, products: Sequence[Value]) -> tuple[Value, list[float]] | None:
    """The score with one product, the first, in place of the sum of all, and the factor of each in that sum.

    Exact only in real arithmetic: the model rounds each product.
    """
    value = build.as_float(score)
    for op in [value.defining_op, *reversed(build.builder.block.ops)]:
        if op is None or op not in slice_of([value]) or len(op.results) != 1:
            continue
        found = summed(op.result, products)
        if found is None or len(found.products) < len(products):
            continue
        # What is built now comes behind what uses it, so the uses are moved behind it, too.
        total: Scalar = products[0]
        for other, factor in found.others:
            total = build.add(total, build.mul(other, factor) if factor != 1.0 else other)
        merged = _rebuilt(build, value, op.result, build.as_float(total))
        behind = values_behind(merged)
        return None if behind.intersection(products[1:]) else (merged, [found.products[p] for p in products])
    return None


def _rebuilt(build: RegionMath, value: Value, old: Value, new: Value) -> Value:
    """`value` computed again, with `new` in place of `old`."""
    mapping, needed = {old: new}, slice_of([value])
    for op in list(build.builder.block.ops):
        if op in needed and op.result is not old and any(v in mapping for v in op.operands):
            build.builder.insert(op.clone(mapping))
    return mapping.get(value, value)


def concatenated(parts: Sequence[Parts], factors: Sequence[float], views: Views) -> Parts | str:
    """One attention's operands whose product is Σ factor * scale * product of `parts`; v is that of the first."""
    scales = [f * p.scale for p, f in zip(parts, factors, strict=True)]
    heads = max((tensor_type(p.k).shape[1] for p in parts), key=lambda d: d if isinstance(d, int) else 0)
    queries = [views.scaled(p.q, scale / scales[0]) for p, scale in zip(parts, scales, strict=True)]
    keys = [views.expand(p.k, (*_lead(parts[0].k), heads, *tensor_type(p.k).shape[2:]), parts[0].k) for p in parts]
    for tensors, like in ((queries, parts[0].q), (keys, keys[0])):
        if any(tensor_type(t).shape[:3] != tensor_type(like).shape[:3] for t in tensors):
            return "the products that are added differ in their sizes"
        if any(tensor_type(t).element != tensor_type(like).element for t in tensors):
            return "the products that are added differ in their types"
    if heads != tensor_type(parts[0].k).shape[1] or len({p.group for p in parts}) > 1:
        return "the products that are added group their heads in different ways"
    width = _total([tensor_type(q).shape[3] for q in queries])
    q, k = views.concatenate(queries, 3, width), views.concatenate(keys, 3, width)
    return Parts(q, k, parts[0].v, scales[0], parts[0].group, parts[0].lead)


def _lead(value: Value) -> tuple[Dim, ...]:
    return tensor_type(value).shape[:1]


def _total(sizes: Sequence[Dim]) -> Dim:
    known = [d for d in sizes if isinstance(d, int)]
    return sum(known) if len(known) == len(sizes) else None
