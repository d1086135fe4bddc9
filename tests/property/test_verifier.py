"""The verifier on random operations: it never crashes, and what it accepts MLIR accepts, and passes keep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle.real_parser import assert_accepted

from attir.ir.attributes import (
    ArrayAttr,
    Attribute,
    DenseArrayAttr,
    DialectType,
    DictAttr,
    FloatAttr,
    FunctionType,
    IntegerAttr,
    SplatAttr,
    StringAttr,
    Symbol,
    TensorType,
    Type,
    UnitAttr,
    bf16,
    f16,
    f32,
    f64,
    i1,
    i8,
    i32,
    i64,
    index,
    none,
    ui8,
)
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.define import Body, Field, Op, Operand, Prop, Result, Variadic, VariadicResult
from attir.ir.diagnostics import CompileError
from attir.ir.dialects import DIALECTS
from attir.ir.printer import print_operation
from attir.ir.verifier import verify
from attir.passes.canonicalize import Canonicalize
from attir.passes.cse import CommonSubexpressionElimination
from attir.passes.dce import DeadCodeElimination
from attir.passes.manager import PassContext

DECLARED = [op for dialect in DIALECTS.values() for op in dialect.ops]
scalars = st.sampled_from([i1, i8, i32, i64, ui8, f16, bf16, f32, f64, index])
sizes = st.sampled_from([1, 2, 4, None, Symbol("s")])
tensors = st.builds(
    TensorType, st.lists(sizes, max_size=4).map(tuple), st.sampled_from([i1, i32, f32, f16, index, ui8])
)
odd_types = st.sampled_from([none, DialectType("a.b"), FunctionType((f32,), ())])
types: st.SearchStrategy[Type] = scalars | tensors | odd_types
small = st.integers(-1, 9)
attributes: st.SearchStrategy[Attribute] = (
    st.builds(IntegerAttr, small, st.sampled_from([i64, i32, index]))
    | st.builds(FloatAttr, st.just(1.0), st.sampled_from([f32, f16]))
    | st.sampled_from(["max", "sum", "ieee", "softmax", "x"]).map(StringAttr)
    | st.builds(DenseArrayAttr, st.lists(small, max_size=3).map(tuple))
    | st.sampled_from([UnitAttr(), DictAttr(()), ArrayAttr(()), FunctionType((), ())])
    | st.just(SplatAttr(FloatAttr(1.0, f32), TensorType((4,), f32)))
    | types
)


def count(draw: st.DrawFn, kind: type[Op], fixed: type[Field], open_: type[Field] | None = None) -> int:
    """How many of something an op declares, mostly."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.integers(0, 3))
    more = open_ is not None and any(isinstance(f, open_) for f in kind.fields)
    return sum(isinstance(f, fixed) for f in kind.fields) + (draw(st.integers(0, 3)) if more else 0)


def operation(draw: st.DrawFn, known: list[Value], depth: int) -> Operation:
    """An operation roughly as declared, its parts chosen without care; half the time of one type."""
    kind = draw(st.sampled_from(DECLARED))
    one_type = draw(st.sampled_from(known)).type if draw(st.booleans()) else None
    pool = [v for v in known if one_type is None or v.type == one_type]
    operands = [draw(st.sampled_from(pool)) for _ in range(count(draw, kind, Operand, Variadic))]
    results = [one_type or draw(types) for _ in range(count(draw, kind, Result, VariadicResult))]
    properties = {f.name: draw(attributes) for f in properties_of(kind) if draw(st.integers(0, 9))}
    regions = [region(draw, known, operands, depth) for _ in range(count(draw, kind, Body))]
    return Operation.create(kind.op_name, operands, results, properties, regions)


def properties_of(kind: type[Op]) -> list[Prop[Any]]:
    return [cast("Prop[Any]", f) for f in kind.fields if isinstance(f, Prop)]


def region(draw: st.DrawFn, known: list[Value], operands: list[Value], depth: int) -> Region:
    blocks: list[Block] = []
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2]))):
        arguments = [v.type for v in operands] if draw(st.booleans()) else draw(st.lists(types, max_size=2))
        blocks.append(Block.with_arguments(arguments))
        if depth < 2:
            fill(draw, blocks[-1], [*known, *blocks[-1].arguments], depth + 1)
    return Region(blocks)


def fill(draw: st.DrawFn, block: Block, known: list[Value], depth: int) -> None:
    for _ in range(draw(st.integers(0, 2))):
        op = block.append(operation(draw, known, depth))
        known += op.results


class Program:
    """A module that hypothesis shows as text."""

    def __init__(self, module: Operation) -> None:
        self.module = module

    def __repr__(self) -> str:
        return print_operation(self.module)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A module of declared operations, most of them wrong."""
    block = Block()
    source = block.append(Operation.create("aten.source", (), draw(st.lists(types, min_size=3, max_size=6))))
    fill(draw, block, list(source.results), 0)
    return Program(Operation.create("builtin.module", regions=[Region([block])]))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(programs())
def test_verifier_never_crashes_and_accepts_only_what_mlir_does(program: Program) -> None:
    module = program.module
    try:
        verify(module)
    except CompileError as problem:
        assert all(d.message for d in problem.diagnostics)
        return
    assert_accepted(print_operation(module))
    for step in (Canonicalize(), CommonSubexpressionElimination(), DeadCodeElimination()):
        step.run(module, PassContext())
        verify(module)
        assert_accepted(print_operation(module))


ELEMENTWISE = [op for name in ("arith", "math") for op in DIALECTS[name].ops]
SHAPES = [
    *(i1, i8, i64, ui8, f16, bf16, f32, f64, index, none),
    *(TensorType((4,), e) for e in (i1, i8, ui8, f16, f32, index)),
    *(TensorType((), e) for e in (i1, f32)),
    *(TensorType((Symbol("s"), 2), e) for e in (i1, f32, index)),
]
PROPERTIES = {
    "predicate": [
        IntegerAttr(0),
        IntegerAttr(9),
        IntegerAttr(15),
        IntegerAttr(16),
        IntegerAttr(-1),
        IntegerAttr(0, i32),
    ],
    "value": [
        *(IntegerAttr(1, t) for t in (i1, i8, i64, ui8, index)),
        *(FloatAttr(1.0, t) for t in (f16, f32)),
        *(SplatAttr(FloatAttr(1.0, f32), TensorType(shape, f32)) for shape in ((), (4,))),
        *(StringAttr("x"), f32),
    ],
}


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda k: k.op_name)
def test_accepted_arithmetic_is_mlir(kind: type[Op]) -> None:
    count = sum(isinstance(f, Operand) for f in kind.fields)
    named = [f.name for f in properties_of(kind)]
    everything = Block()
    for first, other, result in product(SHAPES, SHAPES if count > 1 else SHAPES[:1], SHAPES):
        for values in product(*(PROPERTIES[name] for name in named)):
            source = Operation.create("aten.source", (), [first, *[other] * (count - 1)][:count])
            op = Operation.create(kind.op_name, source.results, [result], dict(zip(named, values, strict=True)))
            if accepted([source, op]):
                everything.append(source.detach())
                everything.append(op.detach())
    assert everything.ops, "nothing is accepted"
    assert_accepted(print_operation(Operation.create("builtin.module", regions=[Region([everything])])))


def accepted(operations: Sequence[Operation]) -> bool:
    block = Block()
    for op in operations:
        block.append(op)
    try:
        verify(Operation.create("builtin.module", regions=[Region([block])]))
    except CompileError:
        return False
    return True
