"""Prints an attention as one line of algebra, for reports.

softmax(softcap(50, q·k/√d) - slopes[h]·(m - n) | n ≤ m ∧ m - n < 128) v, heads 8/4, rope(half)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ..ir.attributes import FloatAttr, IntegerAttr, i1
from ..ir.core import Operation, Value
from ..ir.dialects.arith import CmpFOp, CmpIOp, ConstantOp, DivFOp, MulFOp
from ..ir.dialects.attn import REGIONS, AttentionOp
from ..ir.dialects.math import TanhOp
from .row_algebra import row_words

CHOICE, OR, AND, NOT, COMPARE, SUM, PRODUCT, ATOM = range(8)
"""How tightly an operator binds, loosest first."""
SAME = 1e-5
"""Scales that differ by less, relatively, are the same number rounded."""


@dataclass(frozen=True)
class Term:
    """A piece of algebra and how tightly its outermost operator binds."""

    text: str
    binding: int = ATOM

    def within(self, binding: int) -> str:
        """The text, in parentheses where the surroundings bind more tightly."""
        return self.text if self.binding >= binding else f"({self.text})"


Writer: TypeAlias = "Callable[[Operation, list[Term]], Term]"


def describe(op: AttentionOp, names: list[str] | None = None) -> str:
    """The algebra of `op`; `names` are what its captures are called, by default their hints."""
    captures = names or [c.name_hint or f"capture{i}" for i, c in enumerate(op.captures)]
    scores, explained = _scores(op, captures)
    kept = f" | {_region(op, 'mask', captures)}" if not op.mask.empty else ""
    sink = f"; sink {_region(op, 'sink', captures)}" if not op.sink.empty else ""
    weights = f"{op.normaliser.value}({scores}{kept}{sink})"
    if not op.weight.empty:
        weights = f"({_region(op, 'weight', captures, Term(weights))})"
    said = [f"{weights} v", *explained, *_heads(op), *_rows(op, captures)]
    return ", ".join(said)


def _scores(op: AttentionOp, captures: list[str]) -> tuple[str, list[str]]:
    """What enters the softmax, and what `s` stands for where the product is used more than once."""
    if op.score.empty:
        return _product(op, 1.0).text, []
    score = op.score.block.arguments[0]
    if len(score.uses) > 1:
        return _region(op, "score", captures, Term("s")), [f"s = {_product(op, 1.0).text}"]
    return _region(op, "score", captures, _product(op, 1.0)), []


def _product(op: AttentionOp, factor: float) -> Term:
    """The product of q and k under the op's scale and one more factor."""
    scale, width = op.scale.value * factor, op.shapes[0].shape[3]
    if isinstance(width, int) and width > 1:
        for divisor, text in ((math.sqrt(width), "√d"), (float(width), "d")):
            if abs(scale * divisor - 1) < SAME:
                return Term(f"q·k/{text}", PRODUCT)
    return Term("q·k" if abs(scale - 1) < SAME else f"{_number(scale)}·q·k", PRODUCT)


def _heads(op: AttentionOp) -> list[str]:
    """`heads 8/4`, query heads over key heads, where they differ."""
    if op.group.value == 1:
        return []
    query, key = (t.shape[1] for t in op.shapes[:2])
    return [f"heads {query}/{key}" if isinstance(query, int) else f"{op.group.value} query heads to a key head"]


def _rows(op: AttentionOp, captures: list[str]) -> list[str]:
    """What happens to the rows of q, k and v before the products, and to the result."""
    said, told = row_words(op)
    for name in ("query", "key", "value", "output"):
        if not op.region(name).empty and name not in told:
            form = REGIONS[name]
            said.append(f"{form.source or form.value} ↦ {_region(op, name, captures)}")
    return said


def _region(op: AttentionOp, name: str, captures: list[str], value: Term | None = None) -> str:
    """The algebra of what the region called `name` yields; `value` stands for the one it changes."""
    region, terms = op.region(name), [Term(n) for n in REGIONS[name].names]
    if value is not None:
        terms[0] = value
    printer = _Printer(op, dict(zip(region.block.arguments, [*terms, *map(Term, captures)], strict=True)))
    return printer.term(region.block.terminator.operands[0]).text


@dataclass
class _Printer:
    op: AttentionOp
    known: dict[Value, Term] = field(default_factory=dict[Value, Term])

    def term(self, value: Value) -> Term:
        if value not in self.known:
            op = value.defining_op
            assert op is not None, "block arguments are known"
            self.known[value] = self._softcap(value) or _write(op, [self.term(v) for v in op.operands])
        return self.known[value]

    def _softcap(self, value: Value) -> Term | None:
        """c·tanh(x/c)  →  softcap(c, x)

        Where x is the scores as they are, 1/c has become part of the attention's scale.
        """
        cap, bounded = _times_constant(value)
        tanh = TanhOp.producing(bounded)
        if cap is None or tanh is None:
            return None
        factor, inner = _times_constant(tanh.x)
        whole = cap * (1.0 if factor is None else factor)
        if not self.op.score.empty and inner is self.op.score.block.arguments[0] and len(inner.uses) == 1:
            return Term(f"softcap({_number(cap)}, {_product(self.op, whole).text})")
        if abs(whole - 1) > SAME:
            return None
        return Term(f"softcap({_number(cap)}, {self.term(inner).text})")


def _times_constant(value: Value) -> tuple[float | None, Value]:
    """`c * x` or `x / c` as the factor and x."""
    for kind in (MulFOp, DivFOp):
        if (found := kind.producing(value)) is None:
            continue
        for constant, other in ((found.rhs, found.lhs), (found.lhs, found.rhs)):
            number = ConstantOp.producing(constant)
            if number is not None and isinstance(number.value, FloatAttr) and number.value.value:
                if isinstance(found, MulFOp):
                    return number.value.value, other
                return (1 / number.value.value, other) if constant is found.rhs else (None, value)
    return None, value


def _number(value: float) -> str:
    return f"{value:.6g}".replace("inf", "∞")


def _write(op: Operation, terms: list[Term]) -> Term:
    if op.name == "arith.constant":
        return _constant(op)
    if op.name in _CASTS:
        return terms[0]
    if op.name in _INFIX:
        return _infix(op, *_INFIX[op.name], terms)
    if op.name in _SPECIAL:
        return _SPECIAL[op.name](op, terms)
    name = op.name.partition(".")[2]
    return Term(f"{_CALLS.get(name, name)}({', '.join(t.text for t in terms)})")


def _constant(op: Operation) -> Term:
    value = op.properties["value"]
    if isinstance(value, IntegerAttr):
        text = ("false", "true")[value.value] if value.type == i1 else str(value.value)
    elif isinstance(value, FloatAttr):
        text = _number(value.value)
    else:
        text = str(value)
    return Term(text, SUM if text.startswith("-") else ATOM)


def _infix(op: Operation, symbol: str, binding: int, terms: list[Term]) -> Term:
    left, right = terms
    # - and / do not associate to the right.
    tight = binding + 1 if symbol.strip() in ("-", "/", "//", "%", "^") else binding
    return Term(f"{left.within(binding)}{symbol}{right.within(tight)}", binding)


def _compare(op: Operation, terms: list[Term]) -> Term:
    view = CmpIOp(op) if op.name == "arith.cmpi" else CmpFOp(op)
    symbol = _COMPARISONS.get(view.predicate_name[-2:], view.predicate_name)
    return Term(f"{terms[0].within(SUM)} {symbol} {terms[1].within(SUM)}", COMPARE)


def _exclusive_or(op: Operation, terms: list[Term]) -> Term:
    if terms[1].text == "true":
        return Term(f"¬{terms[0].within(ATOM)}", NOT)
    return Term(f"{terms[0].within(COMPARE + 1)} ≠ {terms[1].within(COMPARE + 1)}", COMPARE)


def _select(op: Operation, terms: list[Term]) -> Term:
    condition, yes, no = terms
    return Term(f"{yes.within(OR)} if {condition.within(OR)} else {no.within(CHOICE)}", CHOICE)


def _extract(op: Operation, terms: list[Term]) -> Term:
    indices = ", ".join(t.text for t in terms[1:])
    return Term(f"{terms[0].within(ATOM)}[{indices}]" if indices else terms[0].within(ATOM))


def _negate(op: Operation, terms: list[Term]) -> Term:
    return Term(f"-{terms[0].within(PRODUCT)}", SUM)


_CASTS = frozenset(
    f"arith.{name}"
    for name in ("extf", "truncf", "extsi", "extui", "trunci", "index_cast", "sitofp", "uitofp", "fptosi")
)
_INFIX: Mapping[str, tuple[str, int]] = {
    "arith.addf": (" + ", SUM),
    "arith.addi": (" + ", SUM),
    "arith.subf": (" - ", SUM),
    "arith.subi": (" - ", SUM),
    "arith.mulf": ("·", PRODUCT),
    "arith.muli": ("·", PRODUCT),
    "arith.divf": ("/", PRODUCT),
    "arith.divsi": ("/", PRODUCT),
    "arith.floordivsi": (" // ", PRODUCT),
    "arith.remsi": (" % ", PRODUCT),
    "arith.andi": (" ∧ ", AND),
    "arith.ori": (" ∨ ", OR),
    "math.powf": ("^", PRODUCT),
}
_CALLS: Mapping[str, str] = {
    "minsi": "min", "maxsi": "max", "minimumf": "min", "maximumf": "max", "absi": "abs", "absf": "abs",
}  # fmt: skip
_COMPARISONS: Mapping[str, str] = {
    "eq": "=", "ne": "≠", "lt": "<", "le": "≤", "gt": ">", "ge": "≥",
}  # fmt: skip
_SPECIAL: Mapping[str, Writer] = {
    "arith.cmpi": _compare,
    "arith.cmpf": _compare,
    "arith.xori": _exclusive_or,
    "arith.select": _select,
    "arith.negf": _negate,
    "tensor.extract": _extract,
}
