"""Brings q, k and v into attention's layout (batch, head, position, dimension), and the result back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..ir.attributes import Dim, bf16, f16, f32
from ..ir.builder import Builder
from ..ir.core import Value
from .contraction import Operand, Rows, trace, without_upcast
from .index_function import tensor_type
from .views import Views

FLOATS = (f16, bf16, f32)


@dataclass
class Parts:
    """What attention takes: 4-D views, the constant factors found, and the head grouping."""

    q: Value
    k: Value
    v: Value
    scale: float
    group: int
    lead: tuple[Dim, ...]


def operands_of(rows: Sequence[Rows], lead: tuple[Dim, ...], builder: Builder) -> Parts | str:
    """Views of q, k and v rows over the leading sizes `lead`; a sentence where that fails.

    v's constant factor cannot move into the scale, so v is traced only through views.
    """
    q, k, v = trace(rows[0], heads=False), trace(rows[1], heads=True), trace(rows[2], heads=True)
    if v.factor != 1.0:
        v = Operand(rows[2])
    if (narrow := without_upcast([q, k])) is not None and narrow[0].rows.shape.element == v.rows.shape.element:
        q, k = narrow
    if len(lead) != 2 or k.group != v.group:
        k, v = (o if o.group == 1 else Operand(r) for o, r in zip((k, v), rows[1:], strict=True))
    elements = [o.rows.shape.element for o in (q, k, v)]
    if any(e not in FLOATS for e in elements) or len(set(map(str, elements))) > 1:
        found = ", ".join(f"{n} {e}" for n, e in zip("qkv", elements, strict=True))
        return f"q, k and v must all be f16, bf16 or f32, but are {found}"
    return _assemble(q, k, v, lead, Views(builder))


def _assemble(q: Operand, k: Operand, v: Operand, lead: tuple[Dim, ...], views: Views) -> Parts | str:
    first = to_layout(q.rows, lead, views, keep_heads=False)
    if first is None:
        return f"q {q.rows.shape} cannot be viewed over the leading sizes of the scores"
    batch, heads = tensor_type(first).shape[:2]
    others: list[Value] = []
    for name, operand in (("k", k), ("v", v)):
        value = to_layout(operand.rows, lead, views, keep_heads=True)
        if value is None:
            return f"{name} {operand.rows.shape} cannot be viewed over the leading sizes of the scores"
        shape = tensor_type(value).shape
        others.append(views.expand(value, (batch, *shape[1:]), first) if shape[0] == 1 != batch else value)
    key_heads = [tensor_type(x).shape[1] for x in others]
    if key_heads[0] != key_heads[1]:
        others = [views.expand(x, (batch, heads, *tensor_type(x).shape[2:]), first) for x in others]
        key_heads = [heads, heads]
    group = _group(heads, key_heads[0])
    if group is None:
        return f"{heads} query heads are not a multiple of {key_heads[0]} key heads"
    return Parts(first, others[0], others[1], q.factor * k.factor, group, lead)


def _group(heads: Dim, key_heads: Dim) -> int | None:
    if heads == key_heads:
        return 1
    if not isinstance(heads, int) or not isinstance(key_heads, int) or not key_heads or heads % key_heads:
        return None
    return heads // key_heads


def to_layout(rows: Rows, lead: tuple[Dim, ...], views: Views, *, keep_heads: bool) -> Value | None:
    """Rows as (batch, head, position, dimension); heads may stay fewer than `lead` says for k and v."""
    value = views.arrange(rows.value, rows.order)
    own = tensor_type(value).shape[:-2]
    if len(own) == 1 and _is_merged(own[0], lead):
        split = views.unflatten(value, 0, lead)
        if split is None:
            return None
        value = split
    while tensor_type(value).rank < len(lead) + 2:
        value = views.unsqueeze(value, 0)
    if (extra := tensor_type(value).rank - len(lead) - 2) > 0:
        if len(lead) != 1:
            return None
        value = views.flatten(value, 0, extra, lead[0])
    return _merge_lead(value, lead, views, keep_heads)


def _is_merged(size: Dim, lead: tuple[Dim, ...]) -> bool:
    """Whether one leading size holds all of `lead`, rather than being broadcast along all but the last."""
    if len(lead) < 2 or (size in (1, lead[-1]) and size is not None):
        return False
    return merged_size(lead) == size or not isinstance(size, int)


def _merge_lead(value: Value, lead: tuple[Dim, ...], views: Views, keep_heads: bool) -> Value | None:
    """The leading axes as (batch, head), of q repeated to `lead`, of k and v where they must be merged."""
    if not lead:
        return views.unsqueeze(views.unsqueeze(value, 0), 0)
    own = tensor_type(value).shape[: len(lead)]
    wanted = own if keep_heads and len(lead) <= 2 else (*lead[:-1], own[-1] if keep_heads else lead[-1])
    if any(old != new and (old != 1 or not isinstance(new, int)) for old, new in zip(own, wanted, strict=True)):
        return None
    value = views.expand(value, (*wanted, *tensor_type(value).shape[len(lead) :]), value)
    if len(lead) == 1:
        return views.unsqueeze(value, 1)
    return value if len(lead) == 2 else views.flatten(value, 0, len(lead) - 2, merged_size(lead[:-1]))


def merged_size(sizes: Sequence[Dim]) -> Dim:
    """The product of sizes; unknown unless all are constants."""
    total = 1
    for size in sizes:
        if not isinstance(size, int):
            return None
        total *= size
    return total


Finished: TypeAlias = Callable[[Value, Views], Value | None]
"""Turns attention's 4-D result into the value the model had."""


def result_like(lead: tuple[Dim, ...], own: tuple[Dim, ...], order: Sequence[int] | None = None) -> Finished:
    """How to view attention's result with axes that are `order` of (own..., m, e).

    `own` are the leading sizes that the model has, which are `lead` or all of `lead` in one.
    """

    def finish(out: Value, views: Views) -> Value | None:
        value: Value | None = out
        if len(lead) < 2:
            for _ in range(2 - len(lead)):
                value = views.squeeze(value, 1 if len(lead) == 1 else 0) if value is not None else None
        elif len(lead) > 2:
            value = views.unflatten(out, 0, lead[:-1])
        if value is not None and len(own) < len(lead):
            value = views.flatten(value, 0, len(lead) - 1, own[0])
        return value if value is None or order is None else views.permute(value, order)

    return finish
