"""Prints an attention as one line of algebra, for reports.

softmax(0.125·q·kᵀ - slopes[h]·(m - n) where n <= m and m - n < 128)·v
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ..ir.attributes import FloatAttr, IntegerAttr, i1
from ..ir.core import Operation, Region, Value
from ..ir.dialects.arith import CmpFOp, CmpIOp
from ..ir.dialects.attn import AttentionOp

CHOICE, OR, AND, NOT, COMPARE, SUM, PRODUCT, ATOM = range(8)
"""How tightly an operator binds, loosest first."""


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
    product, explained = _product(op), ""
    scores, mask = product.text, ""
    if not op.score.empty:
        argument = op.score.block.arguments[0]
        repeated = len(argument.uses) > 1
        score = Term("s") if repeated else product
        scores = _yielded(op.score, [score, *map(Term, "bhmn"), *map(Term, captures)])
        explained = f", s = {product.text}" if repeated else ""
    if not op.mask.empty:
        mask = f" where {_yielded(op.mask, [*map(Term, 'bhmn'), *map(Term, captures)])}"
    group = f", {op.group.value} query heads for each key head" if op.group.value != 1 else ""
    return f"{op.normaliser.value}({scores}{mask})·v{explained}{group}"


def _product(op: AttentionOp) -> Term:
    scale = op.scale.value
    return Term("q·kᵀ" if scale == 1.0 else f"{scale:.6g}·q·kᵀ", PRODUCT)


def _yielded(region: Region, arguments: list[Term]) -> str:
    """The algebra of the value that `region` yields."""
    printer = _Printer(dict(zip(region.block.arguments, arguments, strict=True)))
    return printer.term(region.block.terminator.operands[0]).text


@dataclass
class _Printer:
    known: dict[Value, Term] = field(default_factory=dict[Value, Term])

    def term(self, value: Value) -> Term:
        if value not in self.known:
            op = value.defining_op
            assert op is not None, "block arguments are known"
            self.known[value] = _write(op, [self.term(v) for v in op.operands])
        return self.known[value]


def _write(op: Operation, terms: list[Term]) -> Term:
    if op.name == "arith.constant":
        return _constant(op)
    if op.name in _CASTS:
        return terms[0]
    if op.name in _INFIX:
        return _infix(op, *_INFIX[op.name], terms)
    if op.name in _SPECIAL:
        return _SPECIAL[op.name](op, terms)
    return Term(f"{op.name.partition('.')[2]}({', '.join(t.text for t in terms)})")


def _constant(op: Operation) -> Term:
    value = op.properties["value"]
    if isinstance(value, IntegerAttr):
        text = ("false", "true")[value.value] if value.type == i1 else str(value.value)
    elif isinstance(value, FloatAttr):
        text = f"{value.value:.6g}".replace("inf", "∞")
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
        return Term(f"not {terms[0].within(NOT)}", NOT)
    return Term(f"{terms[0].within(COMPARE + 1)} != {terms[1].within(COMPARE + 1)}", COMPARE)


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
    "arith.andi": (" and ", AND),
    "arith.ori": (" or ", OR),
    "math.powf": ("^", PRODUCT),
}
_COMPARISONS: Mapping[str, str] = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
_SPECIAL: Mapping[str, Writer] = {
    "arith.cmpi": _compare,
    "arith.cmpf": _compare,
    "arith.xori": _exclusive_or,
    "arith.select": _select,
    "arith.negf": _negate,
    "tensor.extract": _extract,
}
