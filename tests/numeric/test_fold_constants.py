"""Every fold against the interpreter: arithmetic to the last bit, functions to one unit in the last place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest

from attir.ir.attributes import (
    FloatType,
    FunctionType,
    IntegerAttr,
    StringAttr,
    Type,
    bf16,
    f16,
    f32,
    f64,
    i1,
    i8,
    i32,
    i64,
    index,
)
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.arith import CMPF_PREDICATES, CMPI_PREDICATES, ConstantOp
from attir.ir.interpreter import interpret
from attir.passes.fold_constants import FOLD_CONSTANTS, FOLDS
from attir.passes.manager import PassContext
from attir.passes.pattern import apply_greedily

SPECIAL: Sequence[float] = (0.0, -0.0, 1.0, -1.5, 0.1, 2.75, -3e4, 1e-7, math.inf, -math.inf, math.nan)
WHOLE: Sequence[int] = (0, 1, 2, 3, -1, -7, 127, -128)
FLOAT_BINARY = ("addf", "subf", "mulf", "divf", "remf", "maximumf", "minimumf")
INTEGER_BINARY = ("addi", "subi", "muli", "divsi", "floordivsi", "remsi", "maxsi", "minsi", "andi", "ori", "xori")
CASTS: Mapping[str, Sequence[tuple[Type, Type]]] = {
    "extf": [(f16, f32), (bf16, f32), (f32, f64)],
    "truncf": [(f64, f32), (f64, bf16), (f32, f16), (f32, bf16)],
    "extsi": [(i1, i32), (i8, i64)],
    "extui": [(i1, i32), (i8, i64)],
    "trunci": [(i64, i8), (i32, i1)],
    "index_cast": [(index, i8), (index, i1), (i1, index), (i32, index)],
    "sitofp": [(i1, f32), (i64, f32), (i32, f16)],
    "uitofp": [(i1, f32), (i64, f32), (i8, f16)],
    "fptosi": [(f32, i8), (f64, i64)],
}
FUNCTIONS = (
    "exp", "exp2", "expm1", "log", "log2", "log1p", "tanh", "sqrt", "rsqrt", "absf", "sin", "cos", "erf", "floor",
    "ceil",
)  # fmt: skip
EXACT_FUNCTIONS = ("sqrt", "absf", "absi", "floor", "ceil")


@dataclass(frozen=True)
class Case:
    """An op with the types of its operands and of its result."""

    name: str
    operands: tuple[Type, ...]
    result: Type
    predicate: int | None = None

    def __str__(self) -> str:
        kind = "" if self.predicate is None else f"-{self.predicate}"
        return f"{self.name}{kind}-{'-'.join(map(str, self.operands))}-{self.result}"


def cases() -> Iterator[Case]:
    for type_ in (f16, bf16, f32, f64):
        yield from (Case(f"arith.{name}", (type_, type_), type_) for name in FLOAT_BINARY)
        yield from (Case(f"math.{name}", (type_,), type_) for name in FUNCTIONS)
        yield Case("arith.negf", (type_,), type_)
        yield Case("math.powf", (type_, type_), type_)
        yield from (Case("arith.cmpf", (type_, type_), i1, p) for p in range(len(CMPF_PREDICATES)))
    for type_ in (i1, i8, i32, index):
        yield from (Case(f"arith.{name}", (type_, type_), type_) for name in INTEGER_BINARY)
        yield from (Case("arith.cmpi", (type_, type_), i1, p) for p in range(len(CMPI_PREDICATES)))
    yield from (Case(f"arith.{name}", (s,), t) for name, pairs in CASTS.items() for s, t in pairs)
    yield from (Case("math.absi", (t,), t) for t in (i8, i64))
    yield from (Case("arith.select", (i1, t, t), t) for t in (i1, i32, f32))


def numbers(type_: Type) -> Sequence[float]:
    if isinstance(type_, FloatType):
        return SPECIAL
    return (0, 1) if type_ == i1 else WHOLE


def program(case: Case, operands: Sequence[float]) -> Operation:
    """`@main` that returns the op on constants."""
    block = Block()
    build = Builder(block)
    values: list[Value] = [build.constant(x, t) for x, t in zip(operands, case.operands, strict=True)]
    predicate = {} if case.predicate is None else {"predicate": IntegerAttr(case.predicate)}
    build.insert(Operation.create(case.name, values, [case.result], predicate))
    block.append(Operation.create("func.return", block.ops[-1].results))
    properties = {"sym_name": StringAttr("main"), "function_type": FunctionType((), (case.result,))}
    outer = Block()
    outer.append(Operation.create("func.func", properties=properties, regions=[Region([block])]))
    return Operation.create("builtin.module", regions=[Region([outer])])


def computed(module: Operation) -> Any | None:
    """What the interpreter gives; None where the operation has no value."""
    try:
        with np.errstate(all="ignore"):
            return np.asarray(interpret(module, "main")[0])
    except CompileError:
        return None


def fits(case: Case, operands: Sequence[float]) -> bool:
    """Whether the value is defined: a float that becomes an integer must fit it."""
    if case.name != "arith.fptosi":
        return True
    limit = 128 if case.result == i8 else 2.0**63
    return -limit <= operands[0] < limit


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_folded_as_computed(case: Case) -> None:
    exact = case.name.startswith("arith.") or case.name.removeprefix("math.") in EXACT_FUNCTIONS
    folded = 0
    for operands in product(*map(numbers, case.operands)):
        module = program(case, operands)
        wanted = computed(module)
        apply_greedily(module, [FOLD_CONSTANTS], PassContext())
        returned = next(op for op in module.walk() if op.name == "func.return").operands[0]
        if ConstantOp.producing(returned) is None:
            continue
        folded += 1
        assert wanted is not None, f"{case} of {operands} is folded, but has no value"
        assert fits(case, operands), f"{case} of {operands} is folded, but does not fit"
        assert_same(computed(module), wanted, 0 if exact else units(case.result), f"{case} of {operands}")
    assert folded, f"{case} is never folded"


def units(type_: Type) -> float:
    """One unit in the last place, relative; libm and numpy may differ by as much."""
    mantissa = {"f16": 10, "bf16": 7, "f32": 23, "f64": 52}[str(type_)]
    return 2.0**-mantissa


def assert_same(actual: Any, wanted: Any, relative: float, what: str) -> None:
    if wanted.dtype.kind == "f" and np.isfinite(wanted):
        assert np.signbit(actual) == np.signbit(wanted), f"{what}: {actual} instead of {wanted}"
        assert abs(actual - wanted) <= relative * abs(wanted), f"{what}: {actual} instead of {wanted}"
    else:
        assert np.array_equal(actual, wanted, equal_nan=wanted.dtype.kind == "f"), f"{what}: {actual}, not {wanted}"


def test_every_fold_has_a_case() -> None:
    assert {case.name for case in cases()} == set(FOLDS)
