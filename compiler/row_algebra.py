"""Says in a word what happens to the rows of q and k: `rope(half)`, `rms norm`.

A row region is recognised by what it reads, not by how it is written: for each element of the
head dimension, which elements of the row its value depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..ir.attributes import IntegerAttr
from ..ir.core import Region, Value
from ..ir.dialects.arith import CmpIOp, ConstantOp, SelectOp
from ..ir.dialects.attn import AttentionOp, RowSumOp, YieldOp
from ..ir.dialects.tensor import ExtractOp
from ..passes.affine import HOLDS

SOURCES: Mapping[str, str] = {"query": "q", "key": "k", "value": "v"}
_INTEGERS: Mapping[str, Callable[[int, int], int]] = {
    "arith.addi": lambda x, y: x + y,
    "arith.subi": lambda x, y: x - y,
    "arith.muli": lambda x, y: x * y,
    "arith.floordivsi": lambda x, y: x // y if y else 0,
    "arith.minsi": min,
    "arith.maxsi": max,
    "arith.xori": lambda x, y: x ^ y,
    "arith.andi": lambda x, y: x & y,
    "arith.ori": lambda x, y: x | y,
}


def row_words(op: AttentionOp) -> tuple[list[str], set[str]]:
    """What is done to rows in words, and the regions that they describe completely enough."""
    found: dict[str, list[str]] = {}
    for name, source in SOURCES.items():
        region = op.region(name)
        if not region.empty:
            for word in _words(region):
                found.setdefault(word, []).append(source)
    told = {name for name in SOURCES if any(SOURCES[name] in sources for sources in found.values())}
    words = [word if sources == ["q", "k"] else f"{word} of {', '.join(sources)}" for word, sources in found.items()]
    return words, told


def _words(region: Region) -> list[str]:
    """`rms norm`, `layer norm` and the kind of rotation, as far as each is found."""
    sums = [RowSumOp(op) for op in region.block.ops if RowSumOp.match(op)]
    words: list[str] = []
    if sums:
        words.append("rms norm" if len({_signature(s.body) for s in sums}) == 1 else "layer norm")
    if rotation := _rotation(region):
        words.append(rotation)
    return words


def _signature(body: Region) -> str:
    """The shape of a sum's terms: sums over equal terms count once."""
    return " ".join(op.name for op in body.block.ops)


def _rotation(region: Region) -> str:
    """Which element each element of a row is mixed with; empty where that is no known rotation."""
    reads = _Reads(region)
    width = reads.width
    if not width:
        return ""
    partners = [reads.at(d) - {d} for d in range(width)]
    rotated = [d for d, others in enumerate(partners) if others]
    if not rotated or any(len(others) > 1 for others in partners):
        return ""
    offsets = [next(iter(partners[d])) - d for d in rotated]
    part = "" if len(rotated) == width else f", {len(rotated)} of {width}"
    if all(offset == (1 if d % 2 == 0 else -1) for d, offset in zip(rotated, offsets, strict=True)):
        return f"rope(interleaved{part})"
    half = abs(offsets[0])
    if any(abs(offset) != half for offset in offsets):
        return ""
    axes = len(rotated) // (2 * half)
    return f"rope(half{f', {axes}-D' if axes > 1 else ''}{part})"


@dataclass
class _Reads:
    """The elements of the row that a region reads, for one element of its result at a time."""

    region: Region
    numbers: dict[Value, int | None] = field(default_factory=dict[Value, int | None])

    @property
    def source(self) -> Value:
        return self.region.block.arguments[4]

    @property
    def width(self) -> int:
        size = getattr(self.source.type, "shape", (None,))[-1]
        return size if isinstance(size, int) else 0

    def at(self, d: int) -> set[int]:
        self.numbers = {self.region.block.arguments[3]: d}
        found: set[int] = set()
        seen: set[Value] = set()
        work = [YieldOp(self.region.block.terminator).value]
        while work:
            value = work.pop()
            op = value.defining_op
            if value in seen or op is None or RowSumOp.match(op):
                continue
            seen.add(value)
            if (extract := ExtractOp.match(op)) is not None:
                index = self._number(extract.indices[-1]) if extract.source is self.source else None
                if index is not None:
                    found.add(index)
            elif (choice := SelectOp.match(op)) is not None and (truth := self._number(choice.condition)) is not None:
                work.append(choice.x if truth else choice.y)
            else:
                work += op.operands
        return found

    def _number(self, value: Value) -> int | None:
        if value not in self.numbers:
            self.numbers[value] = self._computed(value)
        return self.numbers[value]

    def _computed(self, value: Value) -> int | None:
        op = value.defining_op
        if op is None:
            return None
        if (constant := ConstantOp.match(op)) is not None:
            return constant.value.value if isinstance(constant.value, IntegerAttr) else None
        if (choice := SelectOp.match(op)) is not None:
            truth = self._number(choice.condition)
            return None if truth is None else self._number(choice.x if truth else choice.y)
        operands = [self._number(v) for v in op.operands]
        known = [x for x in operands if x is not None]
        if len(known) < len(operands):
            return None
        if (compare := CmpIOp.match(op)) is not None:
            holds = HOLDS.get(compare.predicate_name)
            return None if holds is None else int(holds(known[0] - known[1]))
        if op.name in ("arith.remsi", "arith.divsi"):
            quotient = abs(known[0]) // abs(known[1]) * (1 if known[0] * known[1] >= 0 else -1) if known[1] else None
            if quotient is None:
                return None
            return quotient if op.name == "arith.divsi" else known[0] - quotient * known[1]
        if op.name in ("arith.index_cast", "arith.extsi", "arith.trunci", "arith.extui"):
            return known[0]
        return _INTEGERS[op.name](*known) if op.name in _INTEGERS else None
