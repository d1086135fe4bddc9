"""Laws of canonicalize, cse and dce on random programs: values stay bit by bit, and once is enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from attir.ir.attributes import (
    FloatType,
    FunctionType,
    IndexType,
    IntegerAttr,
    IntegerType,
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
from attir.ir.define import Op
from attir.ir.diagnostics import CompileError
from attir.ir.dialects import arith
from attir.ir.interpreter import interpret
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation
from attir.ir.verifier import verify
from attir.passes.canonicalize import Canonicalize
from attir.passes.cse import CommonSubexpressionElimination
from attir.passes.dce import DeadCodeElimination
from attir.passes.manager import PassContext

INTEGERS: Sequence[Type] = (i1, i8, i32, i64, index)
FLOATS: Sequence[FloatType] = (f16, bf16, f32, f64)
SCALARS: Sequence[Type] = (*INTEGERS, *FLOATS)
SPECIAL_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.1, 3.5, -2.25, 1e-30, 6e4, math.inf, -math.inf, math.nan)
SPECIAL_INTEGERS = (0, 1, 2, 3, 7, -1, -2, 100, 127, -128)
INTEGER_OPS = (
    arith.AddIOp, arith.SubIOp, arith.MulIOp, arith.DivSIOp, arith.FloorDivSIOp, arith.RemSIOp,
    arith.MaxSIOp, arith.MinSIOp, arith.AndIOp, arith.OrIOp, arith.XOrIOp,
)  # fmt: skip
FLOAT_OPS = (
    arith.AddFOp, arith.SubFOp, arith.MulFOp, arith.DivFOp, arith.RemFOp, arith.MaximumFOp, arith.MinimumFOp,
)  # fmt: skip


def number(draw: st.DrawFn, type_: Type) -> float | int:
    """A number that `type_` can hold, often one that rewrites look for."""
    if isinstance(type_, FloatType):
        return draw(st.sampled_from(SPECIAL_FLOATS))
    return draw(st.sampled_from((0, 1) if type_ == i1 else SPECIAL_INTEGERS))


class Program:
    """Draws operations on what is there; every type always has a value to draw."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.block = Block.with_arguments(SCALARS)
        self.values = list(self.block.arguments)
        self.build = Builder(self.block)

    def value(self, type_: Type) -> Value:
        if self.draw(st.integers(0, 2)) == 0:
            return self.build.constant(number(self.draw, type_), type_)
        return self.draw(st.sampled_from([v for v in self.values if v.type == type_]))

    def step(self) -> None:
        kinds: list[Callable[[], Value]] = [
            self.integers,
            self.floats,
            self.negation,
            self.comparison,
            self.choice,
            self.cast,
        ]
        self.values.append(self.draw(st.sampled_from(kinds))())

    def integers(self) -> Value:
        type_ = self.draw(st.sampled_from(INTEGERS))
        return self.build.binary(self.draw(st.sampled_from(INTEGER_OPS)), self.value(type_), self.value(type_))

    def floats(self) -> Value:
        type_ = self.draw(st.sampled_from(FLOATS))
        return self.build.binary(self.draw(st.sampled_from(FLOAT_OPS)), self.value(type_), self.value(type_))

    def negation(self) -> Value:
        return self.build.unary(arith.NegFOp, self.value(self.draw(st.sampled_from(FLOATS))))

    def comparison(self) -> Value:
        type_ = self.draw(st.sampled_from(SCALARS))
        kind = arith.CmpFOp if isinstance(type_, FloatType) else arith.CmpIOp
        predicate = IntegerAttr(self.draw(st.integers(0, len(kind.predicates) - 1)))
        return self.build.create(kind, [self.value(type_), self.value(type_)], [i1], {"predicate": predicate}).out

    def choice(self) -> Value:
        type_ = self.draw(st.sampled_from(SCALARS))
        return self.build.create(arith.SelectOp, [self.value(i1), self.value(type_), self.value(type_)], [type_]).out

    def cast(self) -> Value:
        source, target, kind = self.draw(st.sampled_from(CASTS))
        return self.build.create(kind, [self.value(source)], [target]).operation.result


def casts(source: Type, target: Type) -> Sequence[type[Op]]:
    """The casts that go from `source` to `target`."""
    match source, target:
        case FloatType(), FloatType():
            wider, narrower = source.width < target.width, source.width > target.width
            return [arith.ExtFOp] if wider else [arith.TruncFOp] if narrower else []
        case IntegerType(), IntegerType():
            wider, narrower = source.width < target.width, source.width > target.width
            return [arith.ExtSIOp, arith.ExtUIOp] if wider else [arith.TruncIOp] if narrower else []
        case IntegerType(), FloatType():
            return [arith.SIToFPOp, arith.UIToFPOp]
        case (IndexType(), IntegerType()) | (IntegerType(), IndexType()):
            return [arith.IndexCastOp]
        case _:
            return []


CASTS = [(source, target, kind) for source in SCALARS for target in SCALARS for kind in casts(source, target)]


@st.composite
def programs(draw: st.DrawFn) -> str:
    """The text of a function of one argument of each type that returns the last few values it computes."""
    program = Program(draw)
    for _ in range(draw(st.integers(1, 12))):
        program.step()
    returned = program.values[-4:]
    program.block.append(Operation.create("func.return", returned))
    type_ = FunctionType(tuple(SCALARS), tuple(v.type for v in returned))
    properties = {"sym_name": StringAttr("main"), "function_type": type_}
    function = Operation.create("func.func", properties=properties, regions=[Region([program.block])])
    outer = Block()
    outer.append(function)
    return print_operation(Operation.create("builtin.module", regions=[Region([outer])]))


@st.composite
def arguments(draw: st.DrawFn) -> list[Any]:
    """One number for each type of `SCALARS`, as numpy holds it."""
    held = {"i1": np.bool_, "index": np.int64, "bf16": np.float32, "f16": np.float16, "f32": np.float32}
    names = {**held, "i8": np.int8, "i32": np.int32, "i64": np.int64, "f64": np.float64}
    return [np.asarray(number(draw, t)).astype(names[str(t)]) for t in SCALARS]


def results(module: Operation, given_: Sequence[Any]) -> list[Any]:
    with np.errstate(all="ignore"):
        return [np.asarray(r) for r in interpret(module, "main", *given_)]


def same_bits(x: Any, y: Any) -> bool:
    """Equal numbers with equal signs of zero; any nan is as good as another."""
    if x.dtype.kind != "f":
        return bool(np.array_equal(x, y))
    return bool(np.array_equal(x, y, equal_nan=True) and np.all((np.signbit(x) == np.signbit(y)) | np.isnan(x)))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), arguments())
def test_values_stay_and_once_is_enough(program: str, given_: list[Any]) -> None:
    module = parse_module(program)
    verify(module)
    try:
        before = results(module, given_)
    except CompileError:  # a division by zero
        assume(False)
        raise
    for step in (Canonicalize(), CommonSubexpressionElimination(), DeadCodeElimination()):
        step.run(module, PassContext())
        verify(module)
        after = results(module, given_)
        assert all(map(same_bits, before, after)), print_operation(module)
    Canonicalize().run(module, PassContext())
    text = print_operation(module)
    Canonicalize().run(module, PassContext())
    assert print_operation(module) == text
