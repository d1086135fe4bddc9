"""What `arith`, `math`, `scf` and `tensor` mean in the interpreter, on scalars and small tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from unit.interpreter.programs import evaluate, function

from attir.ir.attributes import (
    ArrayAttr,
    FloatAttr,
    FloatType,
    IntegerAttr,
    IntegerType,
    SplatAttr,
    StringAttr,
    Symbol,
    TensorType,
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
from attir.ir.dialects.arith import AddFOp, AddIOp, CmpFOp, CmpIOp
from attir.ir.dialects.math import MATH
from attir.ir.dialects.scf import ForOp, IfOp, YieldOp
from attir.ir.interpreter import interpret
from attir.ir.interpreter.rounding import round_array

INF, NAN = math.inf, math.nan

INTEGERS = (
    ("addi", 100, 100, i8, -56),
    ("subi", -100, 100, i8, 56),
    ("muli", 1 << 20, 1 << 20, i32, 0),
    ("divsi", -7, 2, i64, -3),
    ("divsi", 7, -2, i64, -3),
    ("divsi", -128, -1, i8, -128),
    ("floordivsi", -7, 2, index, -4),
    ("remsi", -7, 2, index, -1),
    ("remsi", 7, -2, index, 1),
    ("maxsi", -7, 2, index, 2),
    ("minsi", -7, 2, index, -7),
    ("andi", 12, 10, i64, 8),
    ("ori", 12, 10, i64, 14),
    ("xori", 12, 10, i64, 6),
    ("addi", True, True, i1, False),
    ("subi", False, True, i1, True),
    ("muli", True, True, i1, True),
    ("maxsi", True, False, i1, False),
    ("xori", True, False, i1, True),
)

FLOATS = (
    ("addf", 0.1, 0.2, f64, 0.1 + 0.2),
    ("subf", 1.0, 0.5, f32, 0.5),
    ("mulf", 300.0, 300.0, f16, INF),
    ("divf", 1.0, 0.0, f32, INF),
    ("divf", 1.0, 3.0, f32, float(np.float32(1) / np.float32(3))),
    ("remf", -7.5, 2.0, f32, -1.5),
    ("maximumf", 1.0, NAN, f32, NAN),
    ("minimumf", NAN, 1.0, f32, NAN),
    ("maximumf", -INF, 1.0, f32, 1.0),
    ("minimumf", -1.0, 1.0, f32, -1.0),
)

CASTS = (
    ("extf", 1.5, f16, f32, 1.5),
    ("truncf", 1 + 2**-11 + 2**-20, f32, f16, 1 + 2**-10),
    ("truncf", 1 + 2**-11, f32, f16, 1.0),
    ("truncf", 1 + 2**-8, f32, bf16, 1.0),
    ("truncf", 1 + 3 * 2**-8, f32, bf16, 1 + 2**-6),
    ("truncf", 3.4e38, f32, bf16, INF),
    ("truncf", NAN, f32, bf16, NAN),
    ("truncf", -INF, f32, bf16, -INF),
    ("extsi", True, i1, i32, -1),
    ("extui", True, i1, i32, 1),
    ("extsi", -3, i8, i64, -3),
    ("extui", -3, i8, i64, 253),
    ("trunci", 258, i64, i8, 2),
    ("trunci", 2, i64, i1, False),
    ("trunci", 3, i64, i1, True),
    ("index_cast", -3, i32, index, -3),
    ("sitofp", -3, i64, f32, -3.0),
    ("sitofp", True, i1, f32, -1.0),
    ("uitofp", True, i1, f32, 1.0),
    ("uitofp", -1, i8, f32, 255.0),
    ("fptosi", -2.9, f32, i64, -2),
)


@pytest.mark.parametrize(("name", "x", "y", "type_", "expected"), INTEGERS)
def test_integers(name: str, x: int, y: int, type_: Type, expected: int) -> None:
    result = evaluate(f"arith.{name}", [(x, type_), (y, type_)], type_)
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(("name", "x", "y", "type_", "expected"), FLOATS)
def test_floats(name: str, x: float, y: float, type_: FloatType, expected: float) -> None:
    np.testing.assert_equal(evaluate(f"arith.{name}", [(x, type_), (y, type_)], type_), expected)


@pytest.mark.parametrize(("name", "x", "source", "target", "expected"), CASTS)
def test_casts(name: str, x: Any, source: Type, target: Type, expected: Any) -> None:
    np.testing.assert_equal(evaluate(f"arith.{name}", [(x, source)], target), expected)


# In precise mode nothing is rounded, not even by a cast to fewer bits.
def test_precise_casts_keep_float64() -> None:
    assert evaluate("arith.truncf", [(0.1, f32)], f16, precise=True) == 0.1
    assert evaluate("arith.truncf", [(0.1, f32)], f16) == np.float16(0.1)


# Arrays and constants agree on the nearest bf16, also where rounding by way of f32 would not.
def test_arrays_round_to_bf16_as_constants_do() -> None:
    random = np.random.default_rng(0)
    tie = 1 + 2.0**-8
    edges = (tie, tie + 1e-12, tie - 1e-12, -tie - 1e-12, 1e39, -1e39, 1e-46, 0.0, INF, -INF)
    data = np.array([*(random.standard_normal(500) * 10.0 ** random.integers(-42, 39, 500)), *edges])
    expected = [FloatAttr(float(x), bf16).value for x in data]
    np.testing.assert_array_equal(round_array(data, bf16), expected)


# Each sum of bf16 numbers is rounded to nearest even, on its own.
def test_bf16_is_rounded_at_every_op() -> None:
    def body(builder: Builder, arguments: list[Value]) -> list[Value]:
        once = builder.binary(AddFOp, arguments[0], arguments[1])
        return [builder.binary(AddFOp, once, arguments[1])]

    assert interpret(function([bf16, bf16], body), "main", 256.0, 1.0) == [256.0]


@pytest.mark.parametrize("name", ["divsi", "remsi", "floordivsi"])
def test_division_by_zero_is_an_error(name: str) -> None:
    pair = TensorType((2,), i64)
    with pytest.raises(CompileError, match=f"'arith.{name}' op divides by zero"):
        evaluate(f"arith.{name}", [(np.array([4, 4]), pair), (np.array([1, 0]), pair)], pair)


# predicate: which of (1, 2), (2, 2), (nan, 2) it holds for.
ORDERED = {
    "false": (0, 0, 0), "oeq": (0, 1, 0), "ogt": (0, 0, 0), "oge": (0, 1, 0), "olt": (1, 0, 0), "ole": (1, 1, 0),
    "one": (1, 0, 0), "ord": (1, 1, 0), "ueq": (0, 1, 1), "ugt": (0, 0, 1), "uge": (0, 1, 1), "ult": (1, 0, 1),
    "ule": (1, 1, 1), "une": (1, 0, 1), "uno": (0, 0, 1), "true": (1, 1, 1),
}  # fmt: skip
# predicate: which of (-1, 2), (2, 2), (2, -1) it holds for.
SIGNS = {
    "eq": (0, 1, 0), "ne": (1, 0, 1), "slt": (1, 0, 0), "sle": (1, 1, 0), "sgt": (0, 0, 1), "sge": (0, 1, 1),
    "ult": (0, 0, 1), "ule": (0, 1, 1), "ugt": (1, 0, 0), "uge": (1, 1, 0),
}  # fmt: skip


@pytest.mark.parametrize("predicate", CmpFOp.predicates)
def test_float_comparisons(predicate: str) -> None:
    x, y, type_ = np.array([1, 2, NAN]), np.array([2.0, 2, 2]), TensorType((3,), f32)
    properties = {"predicate": CmpFOp.predicate_attr(predicate)}
    result = evaluate("arith.cmpf", [(x, type_), (y, type_)], TensorType((3,), i1), properties)
    assert tuple(result) == ORDERED[predicate]


@pytest.mark.parametrize("predicate", CmpIOp.predicates)
def test_integer_comparisons(predicate: str) -> None:
    x, y, type_ = np.array([-1, 2, 2]), np.array([2, 2, -1]), TensorType((3,), i32)
    properties = {"predicate": CmpIOp.predicate_attr(predicate)}
    result = evaluate("arith.cmpi", [(x, type_), (y, type_)], TensorType((3,), i1), properties)
    assert tuple(result) == SIGNS[predicate]


def test_constants() -> None:
    tile = TensorType((2, 3), f16)
    splat = evaluate("arith.constant", [], tile, {"value": SplatAttr(FloatAttr(0.1, f16), tile)})
    assert splat.dtype == np.float16 and (splat == np.float16(0.1)).all() and splat.shape == (2, 3)
    assert evaluate("arith.constant", [], index, {"value": IntegerAttr(-5, index)}) == -5
    assert evaluate("arith.constant", [], f32, {"value": FloatAttr(-INF, f32)}) == -INF


def test_select_by_scalar_and_by_tensor() -> None:
    x, y, tile = np.array([1.0, 2.0]), np.array([3.0, 4.0]), TensorType((2,), f32)
    assert list(evaluate("arith.select", [(False, i1), (x, tile), (y, tile)], tile)) == [3.0, 4.0]
    mask = (np.array([True, False]), TensorType((2,), i1))
    assert list(evaluate("arith.select", [mask, (x, tile), (y, tile)], tile)) == [1.0, 4.0]


REFERENCES: dict[str, Callable[[float], float]] = {
    "exp": math.exp, "exp2": math.exp2, "expm1": math.expm1,
    "log": math.log, "log2": math.log2, "log1p": math.log1p, "tanh": math.tanh, "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x), "absf": abs, "sin": math.sin, "cos": math.cos, "erf": math.erf,
    "floor": math.floor, "ceil": math.ceil,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_functions_are_rounded_once(name: str) -> None:
    x = float(np.float32(0.7))
    wanted = REFERENCES[name](x)
    assert evaluate(f"math.{name}", [(x, f32)], f32) == np.float32(wanted)
    assert evaluate(f"math.{name}", [(x, f32)], f32, precise=True) == pytest.approx(wanted, rel=1e-15)


def test_every_function_is_tested() -> None:
    assert {op.op_name for op in MATH.ops} == {f"math.{n}" for n in (*REFERENCES, "powf", "absi")}
    assert evaluate("math.powf", [(2.0, f32), (0.5, f32)], f32) == np.float32(math.sqrt(2))
    assert evaluate("math.absi", [(-3, i32)], i32) == 3


def power_of_two(builder: Builder, arguments: list[Value]) -> list[Value]:
    """2 to the number of steps from arguments 0 to 1 by 2, and the sum of the positions."""
    one, zero = builder.constant(1.0, f32), builder.index(0)
    block = Block.with_arguments([index, f32, index])
    inner = Builder(block)
    doubled = inner.binary(AddFOp, block.arguments[1], block.arguments[1])
    summed = inner.binary(AddIOp, block.arguments[2], block.arguments[0])
    inner.create(YieldOp, [doubled, summed])
    step = arguments[2]
    return builder.create(ForOp, [*arguments[:2], step, one, zero], [f32, index], {}, [Region([block])]).results


@pytest.mark.parametrize(
    ("lower", "upper", "expected"), [(0, 5, [8.0, 6]), (3, 4, [2.0, 3]), (5, 5, [1.0, 0]), (5, 0, [1.0, 0])]
)
def test_loops_carry_values(lower: int, upper: int, expected: list[float]) -> None:
    assert interpret(function([index] * 3, power_of_two), "main", lower, upper, 2) == expected


@pytest.mark.parametrize("step", [0, -1])
def test_loops_step_forward(step: int) -> None:
    with pytest.raises(CompileError, match=f"'scf.for' op step must be positive, but is {step}"):
        interpret(function([index] * 3, power_of_two), "main", 0, 5, step)


@pytest.mark.parametrize(("condition", "expected"), [(True, 1.0), (False, 2.0)])
def test_branches(condition: bool, expected: float) -> None:
    def body(builder: Builder, arguments: list[Value]) -> list[Value]:
        regions: list[Region] = []
        for value in (1.0, 2.0):
            inner = Builder(Block())
            inner.create(YieldOp, [inner.constant(value, f32)])
            regions.append(Region([inner.block]))
        return builder.create(IfOp, arguments, [f32], {}, regions).results

    assert interpret(function([i1], body), "main", condition) == [expected]


def test_extract_and_dim() -> None:
    matrix, type_ = np.arange(6.0).reshape(2, 3), TensorType((None, 3), f32)
    assert evaluate("tensor.extract", [(matrix, type_), (1, index), (2, index)], f32) == 5.0
    assert evaluate("tensor.dim", [(matrix, type_), (0, index)], index) == 2


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [(2, 0, "index 2 of axis 0, which has size 2"), (0, -1, "index -1 of axis 1, which has size 3")],
)
def test_extract_stays_inside(row: int, column: int, message: str) -> None:
    matrix, type_ = np.zeros((2, 3)), TensorType((2, 3), f32)
    with pytest.raises(CompileError, match=f"'tensor.extract' op reads {message}"):
        evaluate("tensor.extract", [(matrix, type_), (row, index), (column, index)], f32)


def test_dim_of_a_missing_axis() -> None:
    with pytest.raises(CompileError, match=r"axis must lie below 1, but is 1"):
        evaluate("tensor.dim", [(np.zeros(3), TensorType((3,), f32)), (1, index)], index)


def identity(_builder: Builder, arguments: list[Value]) -> list[Value]:
    return arguments


# What a caller can do wrong, in words.
def test_arguments_are_checked() -> None:
    square = TensorType((Symbol("n"), Symbol("n")), f32)
    module = function([square], identity)
    with pytest.raises(CompileError, match=r"no function is named 'other' \(there is main\)"):
        interpret(module, "other")
    with pytest.raises(CompileError, match=r"takes 1 arguments, but 2 are given"):
        interpret(module, "main", 1, 2)
    with pytest.raises(CompileError, match=r"argument 0 must be .*, but has shape \(3,\)"):
        interpret(module, "main", np.zeros(3))
    with pytest.raises(CompileError, match=r"argument 0 has size 3 for 'n', which is 2 before"):
        interpret(module, "main", np.zeros((2, 3)))
    with pytest.raises(CompileError, match="no numbers of type i24"):
        interpret(function([IntegerType(24)], identity), "main", 1)


@pytest.mark.parametrize(("name", "dtype"), [("f8E4M3FN", torch.float8_e4m3fn), ("f8E5M2", torch.float8_e5m2)])
def test_8_bit_floats_are_rounded_as_pytorch_does(name: str, dtype: torch.dtype) -> None:
    """Every number of the type, those half way between two, and some around them."""
    bits = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    own = bits[bits.isfinite()].sort().values
    numbers = torch.cat([own, (own[1:] + own[:-1]) / 2, own * 1.01, own * 0.99, torch.randn(1000)])
    inside = numbers[numbers.abs() <= own.max()]
    type_ = TensorType((len(inside),), FloatType(name))
    (found,) = interpret(function([type_], identity), "main", inside.numpy())
    assert np.array_equal(found, inside.to(dtype).float().numpy())


def test_what_has_no_meaning_is_an_error() -> None:
    with pytest.raises(CompileError, match=r"'aten.unheard_of' op is not executable by the interpreter"):
        evaluate("aten.unheard_of", [(1.0, f32)], f32)


# A declared shape that the computation does not have shows a wrong type rule somewhere.
def test_results_have_their_declared_shape() -> None:
    with pytest.raises(CompileError, match=r"gives a tensor of shape \(2,\), but its result is tensor<3xf32>"):
        evaluate("arith.negf", [(np.zeros(2), TensorType((2,), f32))], TensorType((3,), f32))


def test_shapes_that_do_not_fit_are_located() -> None:
    x, y = (np.zeros(2), TensorType((2,), f32)), (np.zeros(3), TensorType((3,), f32))
    with pytest.raises(CompileError, match=r"'arith.addf' op cannot be executed on operands of shape \(2,\), \(3,\)"):
        evaluate("arith.addf", [x, y], TensorType((3,), f32))


# Symbolic sizes are ordinary Python numbers.
def test_symbolic_arithmetic() -> None:
    def body(builder: Builder, arguments: list[Value]) -> list[Value]:
        names = ArrayAttr((StringAttr("arg0"), StringAttr("arg1")))
        op = builder.insert(Operation.create("fx.floordiv", arguments, [index], {"args": names}))
        return op.results

    assert interpret(function([index, index], body), "main", 7, 2) == [3]
    with pytest.raises(CompileError, match=r"'fx.floordiv' op cannot be executed"):
        interpret(function([index, index], body), "main", 7, 0)
