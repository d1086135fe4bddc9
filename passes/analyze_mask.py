"""Reads a mask region and proves, in closed form, which keys each query may see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from ..ir.attributes import IntegerAttr, i1
from ..ir.core import Operation, Region, Value
from ..ir.dialects.arith import AndIOp, CmpFOp, CmpIOp, ConstantOp, ExtUIOp, OrIOp, SelectOp, UIToFPOp, XOrIOp
from ..ir.dialects.attn import AttentionOp, YieldOp
from ..ir.dialects.math import AbsIOp
from .affine import Affine, affine_of
from .manager import Pass, PassContext
from .mask_structure import EVERYTHING, NOTHING, OPAQUE, MaskStructure

_INVERSE = {"eq": "ne", "ne": "eq", "slt": "sge", "sge": "slt", "sle": "sgt", "sgt": "sle",
            "ult": "uge", "uge": "ult", "ule": "ugt", "ugt": "ule"}  # fmt: skip
_SWAPPED = {"eq": "eq", "ne": "ne", "slt": "sgt", "sgt": "slt", "sle": "sge", "sge": "sle",
            "ult": "ugt", "ugt": "ult", "ule": "uge", "uge": "ule"}  # fmt: skip


_FLOAT_PREDICATES = {"oeq": "eq", "ueq": "eq", "one": "ne", "une": "ne", "olt": "slt", "ole": "sle", "ogt": "sgt",
                     "oge": "sge"}  # fmt: skip
"""Of numbers; `ult` to `uge` of floats read as the unsigned comparisons, which hold for fewer."""

Side: TypeAlias = Value | Affine
"""One side of a comparison."""


@dataclass(frozen=True)
class AnalyzeMask(Pass):
    """Write what is known of each attention's mask into its `structure` hint."""

    name: ClassVar[str] = "analyze-mask"

    def run(self, module: Operation, ctx: PassContext) -> None:
        for operation in module.walk():
            if (attention := AttentionOp.match(operation)) is not None:
                structure = analyze_mask(attention.mask)
                attention.structure = structure.to_attr()
                ctx.statistics["opaque masks" if structure.opaque else "closed-form masks"] += 1


def analyze_mask(region: Region) -> MaskStructure:
    """The bounds that a mask region of `attn.attention` sets; an empty region keeps everything.

    Conjunctions, disjunctions, negations and selections of affine comparisons of the positions are
    understood, and comparisons of numbers that such a condition selects. Anything else is opaque,
    but still under the bounds of the conjuncts beside it.
    """
    if region.empty:
        return EVERYTHING
    _, _, row, column, *_ = region.block.arguments
    facts = _Facts(row, column)
    found = facts.when(YieldOp(region.block.terminator).value, True)
    return NOTHING if found.keeps_none else found


@dataclass
class _Facts:
    """What follows, for the positions `row` and `column`, from a condition being true or false."""

    row: Value
    column: Value
    known: dict[tuple[Value, bool], MaskStructure] = field(default_factory=dict[tuple[Value, bool], MaskStructure])

    def when(self, condition: Value, truth: bool) -> MaskStructure:
        if (condition, truth) not in self.known:
            self.known[condition, truth] = self._derive(condition, truth)
        return self.known[condition, truth]

    def _derive(self, condition: Value, truth: bool) -> MaskStructure:
        if constant := _boolean(condition):
            return EVERYTHING if bool(constant.value) == truth else NOTHING
        if both := AndIOp.producing(condition) or OrIOp.producing(condition):
            lhs, rhs = self.when(both.lhs, truth), self.when(both.rhs, truth)
            return lhs.meet(rhs) if isinstance(both, AndIOp) == truth else lhs.hull(rhs)
        if flip := XOrIOp.producing(condition):
            return self._exclusive_or(flip, truth)
        if choice := SelectOp.producing(condition):
            chosen = self.when(choice.condition, True).meet(self.when(choice.x, truth))
            return chosen.hull(self.when(choice.condition, False).meet(self.when(choice.y, truth)))
        if comparison := CmpIOp.producing(condition) or CmpFOp.producing(condition):
            name = _FLOAT_PREDICATES.get(comparison.predicate_name, comparison.predicate_name)
            return self._compare(comparison.lhs, name if truth else _INVERSE.get(name, name), comparison.rhs)
        return OPAQUE

    def _exclusive_or(self, op: XOrIOp, truth: bool) -> MaskStructure:
        for constant, other in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
            if known := _boolean(constant):
                return self.when(other, truth != bool(known.value))
        return OPAQUE

    def _compare(self, lhs: Side, predicate: str, rhs: Side) -> MaskStructure:
        if predicate not in _INVERSE:
            return OPAQUE
        for side, turned, other in ((lhs, predicate, rhs), (rhs, _SWAPPED[predicate], lhs)):
            if (cases := _cases(side)) is not None:
                condition, x, y = cases
                chosen = self.when(condition, True).meet(self._compare(x, turned, other))
                return chosen.hull(self.when(condition, False).meet(self._compare(y, turned, other)))
            if isinstance(side, Value) and (distance := AbsIOp.producing(side)) is not None:
                return _compare_distance(self._affine(distance.x), turned, self._affine(other))
        return _compare(self._affine(lhs), predicate, self._affine(rhs))

    def _affine(self, side: Side) -> Affine | None:
        return affine_of(side, self.row, self.column) if isinstance(side, Value) else side


def _cases(side: Side) -> tuple[Value, Side, Side] | None:
    """A condition and what `side` is where it holds and where it does not."""
    if not isinstance(side, Value):
        return None
    if choice := SelectOp.producing(side):
        return choice.condition, choice.x, choice.y
    cast = ExtUIOp.producing(side) or UIToFPOp.producing(side)
    return (cast.x, Affine(constant=1), Affine()) if cast is not None and cast.x.type == i1 else None


def _boolean(value: Value) -> IntegerAttr | None:
    constant = ConstantOp.producing(value)
    found = constant.value if constant is not None else None
    return found if isinstance(found, IntegerAttr) and found.type == i1 else None


def _compare_distance(inside: Affine | None, predicate: str, right: Affine | None) -> MaskStructure:
    """|inside| compared with `right`: |x| < c is x < c and -x < c, |x| > c is x > c or -x > c."""
    if inside is None or predicate not in ("slt", "sle", "sgt", "sge"):
        return OPAQUE
    plus, minus = _compare(inside, predicate, right), _compare(inside.times(-1), predicate, right)
    return plus.meet(minus) if predicate in ("slt", "sle") else plus.hull(minus)


def _compare(left: Affine | None, predicate: str, right: Affine | None) -> MaskStructure:
    if left is None or right is None:
        return OPAQUE
    if predicate.startswith("u"):
        if not (left.never_negative and right.never_negative):
            return OPAQUE
        predicate = predicate.replace("u", "s", 1)
    difference = left.plus(right, -1)
    below, above = difference, difference.times(-1)
    match predicate:
        case "sle":
            return _at_most_zero(below)
        case "slt":
            return _at_most_zero(below.plus(Affine(constant=1)))
        case "sge":
            return _at_most_zero(above)
        case "sgt":
            return _at_most_zero(above.plus(Affine(constant=1)))
        case "eq":
            return _at_most_zero(below).meet(_at_most_zero(above))
        case _:
            return _compare(left, "slt", right).hull(_compare(left, "sgt", right))


def _at_most_zero(x: Affine) -> MaskStructure:
    """The keys for which x <= 0. A condition on the query alone bounds no key, so it is opaque."""
    if x.is_constant:
        return EVERYTHING if x.constant <= 0 else NOTHING
    if x.column == 0 or x.row not in (0, -x.column):
        return OPAQUE
    if x.column > 0:
        bound = -x.constant // x.column
        return MaskStructure(upper=bound) if x.row else MaskStructure(last=bound)
    bound = -(-x.constant // -x.column)
    return MaskStructure(lower=bound) if x.row else MaskStructure(first=bound)
