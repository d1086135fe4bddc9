"""Kernels in tile IR as words that a learned model reads: what each operation is, and on which tiles.

A word stands for one operation: its name, what of its properties matters, its result and the first of its operands,
such as `tile.dot.ieee:64x128xf32:64x64xf16`. Braces say what is nested. Names of values are no part of it, so that
renaming them changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.attributes import IntegerAttr, StringAttr, TensorType, Type
from ..ir.core import Operation

TOLD = ("kind", "precision", "bulk", "predicate", "stages")
"""Properties and attributes whose values are told; of the others operations differ little in speed."""

OF_KERNEL = ("num_warps", "num_stages", "columns", "descriptors", "persistent", "specialised")
"""What a kernel says of itself as `name=value` words, ahead of all others."""

OPEN, CLOSE = "{", "}"

MOST_WORDS = 1024
"""Words that are told of one kernel: more are regions so long that their end says nothing new."""


def words_of(kernel: Operation) -> tuple[str, ...]:
    """The words of one kernel in tile IR, from its outermost operation inwards."""
    found = [f"{name}={value}" for name in OF_KERNEL if (value := _told(kernel, name))]
    found.extend(_nested(kernel))
    return tuple(found[:MOST_WORDS])


def _nested(op: Operation) -> Iterator[str]:
    for region in op.regions:
        yield OPEN
        for block in region.blocks:
            for inner in block.ops:
                yield word_of(inner)
                yield from _nested(inner)
        yield CLOSE


def word_of(op: Operation) -> str:
    """`name:result:first operand`; what has no such value ends earlier."""
    told = [value for name in TOLD if (value := _told(op, name))]
    types = [op.results[0].type] if op.results else []
    types += [op.operands[0].type] if op.operands else []
    return ":".join((".".join((op.name, *told)), *map(_type, types)))


def _told(op: Operation, name: str) -> str:
    """The value of a property or attribute without blanks, its name if it only is there; empty where it is not."""
    value = op.properties.get(name, op.attributes.get(name))
    if isinstance(value, IntegerAttr | StringAttr):
        return str(value.value).replace(" ", "_")
    return "" if value is None else name


def _type(type_: Type) -> str:
    """`64x128xf32`; sizes that only a call tells are `?`."""
    if isinstance(type_, TensorType):
        return "x".join((*(str(n) if isinstance(n, int) else "?" for n in type_.shape), str(type_.element)))
    return str(type_)
