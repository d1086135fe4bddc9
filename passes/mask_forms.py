"""Reads a mask region of `attn.attention` as a condition over sums of positions and loads."""

from __future__ import annotations

import math as numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..ir.attributes import FloatAttr, FloatType, IndexType, IntegerAttr, IntegerType, Type, i1
from ..ir.core import Operation, Region, Value
from ..ir.dialects import arith, math
from ..ir.dialects.attn import YieldOp
from ..ir.dialects.tensor import ExtractOp
from .position_forms import LOAD_LIMIT, Condition, Forms, Known, Linear, Unknown

ANYTHING = frozenset(range(4))

_WHOLE_NUMBERS = {"f64": 2**53, "f32": 2**24, "f16": 2**11, "bf16": 2**8}
"""Up to which a type of floats holds every whole number."""

_INTEGER_RELATIONS = {"eq": "eq", "ne": "ne", "slt": "lt", "sle": "le", "sgt": "gt", "sge": "ge"}
_FLOAT_RELATIONS = {"oeq": "eq", "ueq": "eq", "one": "ne", "une": "ne", "olt": "lt", "ult": "lt", "ole": "le",
                    "ule": "le", "ogt": "gt", "ugt": "gt", "oge": "ge", "uge": "ge"}  # fmt: skip
_UNSIGNED = {"ult": ("lt", False), "ule": ("le", False), "uge": ("lt", True), "ugt": ("le", True)}
"""An unsigned relation as one of these, or as its negation."""


@dataclass(frozen=True)
class MaskForms:
    """What a mask region computes; `condition` is over the atoms of `forms`."""

    forms: Forms
    condition: Condition

    @staticmethod
    def of(region: Region) -> MaskForms:
        """An empty region keeps everything."""
        forms = Forms()
        if region.empty:
            return MaskForms(forms, Known(frozenset(), True))
        reader = _Reader(forms, {v: i for i, v in enumerate(region.block.arguments[:4])})
        return MaskForms(forms, reader.condition(YieldOp(region.block.terminator).value))


def number_reader(positions: Mapping[Value, int]) -> Callable[[Value], Linear]:
    """What reads integers and indices of a region as sums, given which of its arguments are which positions."""
    return _Reader(Forms(), positions).number


class _Reader:
    def __init__(self, forms: Forms, positions: Mapping[Value, int]) -> None:
        self.forms = forms
        self.numbers: dict[Value, Linear | None] = {v: forms.position(i) for v, i in positions.items()}
        self.conditions: dict[Value, Condition] = {}

    def condition(self, value: Value) -> Condition:
        """An i1 as a condition."""
        if value not in self.conditions:
            op = value.defining_op
            self.conditions[value] = self._condition(op) if op is not None else Unknown(ANYTHING)
        return self.conditions[value]

    def _condition(self, op: Operation) -> Condition:
        forms = self.forms
        match op.name:
            case "arith.constant" if isinstance(attr := arith.ConstantOp(op).value, IntegerAttr):
                return Known(frozenset(), bool(attr.value))
            case "arith.andi":
                return forms.both(*map(self.condition, op.operands))
            case "arith.ori":
                return forms.either(*map(self.condition, op.operands))
            case "arith.xori":
                return self._exclusive_or(*op.operands)
            case "arith.select":
                return forms.choice(*map(self.condition, op.operands))
            case "arith.cmpi":
                return self._compare_integers(arith.CmpIOp(op))
            case "arith.cmpf":
                return self._compare_floats(arith.CmpFOp(op))
            case "tensor.extract":
                atom = self._load(op).atom
                return Unknown(atom.positions if atom else ANYTHING, atom)
            case _:
                return Unknown(ANYTHING)

    def _exclusive_or(self, lhs: Value, rhs: Value) -> Condition:
        x, y = self.condition(lhs), self.condition(rhs)
        return self.forms.choice(x, self.forms.negation(y), y)

    def _compare_integers(self, op: arith.CmpIOp) -> Condition:
        forms, predicate = self.forms, op.predicate_name
        if op.lhs.type == i1:
            if predicate not in ("eq", "ne"):
                return Unknown(ANYTHING)
            differ = self._exclusive_or(op.lhs, op.rhs)
            return differ if predicate == "ne" else forms.negation(differ)
        x, y = self.number(op.lhs), self.number(op.rhs)
        if predicate in _UNSIGNED:
            relation, negated = _UNSIGNED[predicate]
            found = self._compare_unsigned(relation, x, y)
            return forms.negation(found) if negated else found
        return forms.compare(_INTEGER_RELATIONS[predicate], x, y)

    def _compare_unsigned(self, relation: str, x: Linear, y: Linear) -> Condition:
        """Of numbers, the right one not negative: a negative left one is larger than it."""
        if not y.nonnegative:
            return Unknown(x.positions | y.positions)
        held = self.forms.compare(relation, x, y)
        return held if x.nonnegative else self.forms.both(self.forms.compare("le", Linear(), x), held)

    def _compare_floats(self, op: arith.CmpFOp) -> Condition:
        relation = _FLOAT_RELATIONS.get(op.predicate_name)
        if relation is None:
            return Unknown(ANYTHING)
        swapped = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
        for x, name, y in ((op.lhs, relation, op.rhs), (op.rhs, swapped.get(relation, relation), op.lhs)):
            constant = arith.ConstantOp.producing(y)
            if constant is not None and isinstance(constant.value, FloatAttr):
                return self._compare_with_float(x, name, constant.value.value)
        x, y = self._float(op.lhs), self._float(op.rhs)
        return Unknown(ANYTHING) if x is None or y is None else self.forms.compare(relation, x, y)

    def _compare_with_float(self, x: Value, relation: str, bound: float) -> Condition:
        """Against a small constant, a number cast to float needs no casting: rounding keeps their order."""
        cast = arith.SIToFPOp.producing(x)
        direct = cast is not None and cast.x.type != i1 and abs(bound) < _WHOLE_NUMBERS.get(str(x.type), 0)
        number = self.number(cast.x) if cast is not None and direct else self._float(x)
        if number is None or not numbers.isfinite(bound):
            return Unknown(ANYTHING)
        if bound != int(bound):
            if relation in ("eq", "ne"):
                return Known(frozenset(), relation == "ne")
            below = relation in ("lt", "le")
            relation, bound = ("le", numbers.floor(bound)) if below else ("ge", numbers.ceil(bound))
        return self.forms.compare(relation, number, Linear(constant=int(bound)))

    def number(self, value: Value) -> Linear:
        """An integer or an index as a sum."""
        if value not in self.numbers:
            op = value.defining_op
            found = self._integer(op) if op is not None else None
            self.numbers[value] = self._held(found, value.type) if found is not None else None
        found = self.numbers[value]
        return self.forms.unknown(value) if found is None else found

    def _held(self, x: Linear, type_: Type) -> Linear | None:
        """x where `type_` holds it: 32 bits hold every sum there is."""
        if isinstance(type_, IntegerType) and type_.width < 32:
            return self.forms.fits(x, 2 ** (type_.width - 1) - 1)
        return x if isinstance(type_, IntegerType | IndexType) else None

    def _integer(self, op: Operation) -> Linear | None:
        match op.name:
            case "arith.constant":
                attr = arith.ConstantOp(op).value
                return Linear(constant=attr.value) if isinstance(attr, IntegerAttr) else None
            case "arith.select":
                condition, x, y = op.operands
                return self.forms.select(self.condition(condition), self.number(x), self.number(y))
            case "arith.index_cast" | "arith.extsi" | "arith.extui" | "arith.trunci":
                return self._cast_integer(op)
            case "arith.fptosi":
                return self._float(op.operands[0])
            case "tensor.extract":
                return self._load(op)
            case _ if (build := _INTEGERS.get(op.name)) is not None:
                return build(self.forms, *map(self.number, op.operands))
            case _:
                return None

    def _cast_integer(self, op: Operation) -> Linear | None:
        (x,) = op.operands
        if x.type == i1:
            sign = {"arith.extui": 1, "arith.extsi": -1}.get(op.name)
            return self.forms.boolean(self.condition(x)).times(sign) if sign is not None else None
        inner = self.number(x)
        return inner if op.name != "arith.extui" or inner.nonnegative else None

    def _load(self, op: Operation) -> Linear:
        extract = ExtractOp(op)
        indices = tuple(map(self.number, extract.indices))
        element = op.result.type
        if isinstance(element, IntegerType) and not element.signed:
            return self.forms.unknown(op.result)
        width = element.width if isinstance(element, IntegerType) else 64
        return self.forms.load(
            extract, extract.source, indices, min(LOAD_LIMIT, 2**width if width < 32 else LOAD_LIMIT)
        )

    def _float(self, value: Value) -> Linear | None:
        """A float that is a whole number and small enough to be exact; else None."""
        if value not in self.numbers:
            found = self._whole_float(value.defining_op) if value.defining_op is not None else None
            limit = _WHOLE_NUMBERS.get(str(value.type), 0)
            self.numbers[value] = self.forms.fits(found, limit) if found is not None and limit else None
        return self.numbers[value]

    def _whole_float(self, op: Operation) -> Linear | None:
        match op.name:
            case "arith.constant":
                attr = arith.ConstantOp(op).value
                whole = isinstance(attr, FloatAttr) and numbers.isfinite(attr.value) and attr.value == int(attr.value)
                return Linear(constant=int(attr.value)) if isinstance(attr, FloatAttr) and whole else None
            case "arith.sitofp" | "arith.uitofp":
                return self._from_integer(op)
            case "arith.select":
                x, y = map(self._float, op.operands[1:])
                return None if x is None or y is None else self.forms.select(self.condition(op.operands[0]), x, y)
            case "math.floor" | "math.ceil" | "arith.extf" | "arith.truncf":
                (x,) = op.operands
                return self._floor_of_quotient(x) if op.name == "math.floor" and _quotient(x) else self._float(x)
            case _ if (build := _FLOATS.get(op.name)) is not None:
                operands = [x for x in map(self._float, op.operands) if x is not None]
                return build(self.forms, *operands) if len(operands) == len(op.operands) else None
            case _:
                return None

    def _from_integer(self, op: Operation) -> Linear | None:
        (x,) = op.operands
        if x.type == i1:
            return self.forms.boolean(self.condition(x)).times(1 if op.name == "arith.uitofp" else -1)
        inner = self.number(x)
        return inner if op.name == "arith.sitofp" or inner.nonnegative else None

    def _floor_of_quotient(self, value: Value) -> Linear | None:
        """floor(x / c): rounding x / c never reaches the next whole number while both are small."""
        op = _quotient(value)
        if op is None or not isinstance(value.type, FloatType):
            return None
        limit = _WHOLE_NUMBERS.get(str(value.type), 0) // 4
        x, divisor = self._float(op.lhs), self._float(op.rhs)
        if x is None or divisor is None or not divisor.is_constant or not 0 < divisor.constant < limit:
            return None
        return self.forms.floor_divide(self.forms.fits(x, limit), divisor)


def _quotient(value: Value) -> arith.DivFOp | None:
    return arith.DivFOp.producing(value)


def _difference(forms: Forms, x: Linear, y: Linear) -> Linear:
    return forms.sum(x, y, -1)


def _minimum(forms: Forms, x: Linear, y: Linear) -> Linear:
    return forms.extreme("minimum", x, y)


def _maximum(forms: Forms, x: Linear, y: Linear) -> Linear:
    return forms.extreme("maximum", x, y)


def _negative(forms: Forms, x: Linear) -> Linear:
    return x.times(-1)


_INTEGERS: Mapping[str, Callable[..., Linear]] = {
    "arith.addi": Forms.sum,
    "arith.subi": _difference,
    "arith.muli": Forms.product,
    "arith.divsi": Forms.truncate_divide,
    "arith.floordivsi": Forms.floor_divide,
    "arith.remsi": Forms.remainder,
    "arith.minsi": _minimum,
    "arith.maxsi": _maximum,
    "arith.andi": Forms.bit_and,
    math.AbsIOp.op_name: Forms.absolute,
}
_FLOATS: Mapping[str, Callable[..., Linear]] = {
    "arith.addf": Forms.sum,
    "arith.subf": _difference,
    "arith.mulf": Forms.product,
    "arith.minimumf": _minimum,
    "arith.maximumf": _maximum,
    "arith.negf": _negative,
    math.AbsFOp.op_name: Forms.absolute,
}
