"""Every elementwise operation, as Triton text in its interpreter and as native code, against PyTorch in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from numeric.closeness import NATIVE
from unit.codegen.kernels import RUNS, Body, iota, numbers, row_kernel, run

from attir.ir.attributes import (
    Attribute,
    FloatType,
    IntegerType,
    TensorType,
    Type,
    bf16,
    f16,
    f32,
    i1,
    i8,
    i32,
    i64,
    index,
)
from attir.ir.builder import Builder
from attir.ir.core import Value
from attir.ir.define import Op
from attir.ir.dialects import arith
from attir.ir.dialects import math as math_dialect
from attir.ir.dialects.arith import with_element

TORCH: dict[Type, torch.dtype] = {
    f16: torch.float16, bf16: torch.bfloat16, f32: torch.float32, i1: torch.bool, i8: torch.int8,
    i32: torch.int32, i64: torch.int64,
}  # fmt: skip
SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0, -1.0, 1e-30, -1e-30]


class Machine:
    """Where kernels run in the present test."""

    backend = "interpret"


@pytest.fixture(autouse=True, params=["interpret", pytest.param("native", marks=NATIVE)])
def machine(request: pytest.FixtureRequest) -> None:
    Machine.backend = request.param


def floats(seed: int, magnitude: float = 4.0, low: float | None = None) -> torch.Tensor:
    """64 floats: special ones first, then random ones in (-magnitude, magnitude), or from `low` on."""
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(64, generator=generator) * 2 - 1) * magnitude
    values = values.abs() + low if low is not None else values
    values[: len(SPECIAL)] = torch.tensor(SPECIAL)
    return values[torch.randperm(64, generator=generator)]


def apply(kind: type[Op], result: Type | None = None, **properties: Attribute) -> Body:
    def body(builder: Builder, tiles: list[Value]) -> Value:
        type_ = with_element(tiles[0].type, result) if result is not None else tiles[0].type
        return builder.create(kind, tiles, [type_], properties).operation.result

    return body


def computed(body: Body, inputs: list[torch.Tensor], types: list[Type], result: Type) -> torch.Tensor:
    out = torch.zeros(64, dtype=TORCH[result])
    RUNS[Machine.backend](row_kernel("elementwise", types, result, body), *inputs, out)
    return out


def assert_equal(actual: torch.Tensor, expected: torch.Tensor, units: float = 0.0) -> None:
    """Equal, or within `units` in the last place of the actual dtype; nan and infinities where expected."""
    expected = expected.double()
    finite = expected.isfinite() & (expected.abs() <= torch.finfo(actual.dtype).max)
    assert torch.equal(actual.isnan(), expected.isnan())
    rounded = expected.to(actual.dtype)
    assert torch.equal(actual[~finite].nan_to_num(), rounded[~finite].nan_to_num())
    spacing = torch.finfo(actual.dtype).eps * rounded.abs().double().clamp(min=torch.finfo(actual.dtype).tiny)
    worst = ((actual.double() - expected).abs()[finite] / spacing[finite]).max().item()
    assert worst <= max(units, 0.5) + 1e-9, f"{worst:.2f} units in the last place"


UNARY: dict[str, tuple[type[Op], Callable[[torch.Tensor], torch.Tensor], float, float | None]] = {
    "exp": (math_dialect.ExpOp, torch.exp, 2, None),
    "exp2": (math_dialect.Exp2Op, torch.exp2, 2, None),
    "expm1": (math_dialect.ExpM1Op, torch.expm1, 4, None),
    "log": (math_dialect.LogOp, torch.log, 2, 0.01),
    "log2": (math_dialect.Log2Op, torch.log2, 2, 0.01),
    "log1p": (math_dialect.Log1POp, torch.log1p, 4, None),
    "tanh": (math_dialect.TanhOp, torch.tanh, 4, None),
    "sqrt": (math_dialect.SqrtOp, torch.sqrt, 1, 0.0),
    "rsqrt": (math_dialect.RsqrtOp, torch.rsqrt, 2, 0.01),
    "abs": (math_dialect.AbsFOp, torch.abs, 0, None),
    "sin": (math_dialect.SinOp, torch.sin, 2, None),
    "cos": (math_dialect.CosOp, torch.cos, 2, None),
    "erf": (math_dialect.ErfOp, torch.erf, 2, None),
    "floor": (math_dialect.FloorOp, torch.floor, 0, None),
    "ceil": (math_dialect.CeilOp, torch.ceil, 0, None),
    "negate": (arith.NegFOp, torch.neg, 0, None),
}


@pytest.mark.parametrize("magnitude", [4.0, 1e-3, 40.0])
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_float(name: str, magnitude: float) -> None:
    kind, exact, units, low = UNARY[name]
    x = floats(len(name), magnitude, low)
    assert_equal(computed(apply(kind), [x], [f32], f32), exact(x.double()), units)


BINARY: dict[str, tuple[type[Op], Callable[[torch.Tensor, torch.Tensor], torch.Tensor], float]] = {
    "add": (arith.AddFOp, torch.add, 1),
    "subtract": (arith.SubFOp, torch.sub, 1),
    "multiply": (arith.MulFOp, torch.mul, 1),
    "divide": (arith.DivFOp, torch.div, 1),
    "maximum": (arith.MaximumFOp, torch.maximum, 0),
    "minimum": (arith.MinimumFOp, torch.minimum, 0),
}


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_floats_round_once(name: str, dtype: FloatType) -> None:
    kind, exact, units = BINARY[name]
    x, y = (floats(seed).to(TORCH[dtype]) for seed in (1, 2))
    assert_equal(computed(apply(kind), [x, y], [dtype, dtype], dtype), exact(x.double(), y.double()), units)


def test_remainder_of_floats_has_the_sign_of_the_first() -> None:
    x, y = floats(3, 9.0), floats(4, 3.0)
    x, y = x.where(x.isfinite(), torch.ones(())), y.where(y.isfinite() & (y.abs() > 0.1), torch.ones(()))
    actual = computed(apply(arith.RemFOp), [x, y], [f32, f32], f32)
    assert (actual.double() - torch.fmod(x.double(), y.double())).abs().max() <= 4e-6


def test_powers() -> None:
    x = torch.tensor([2.0, 2.0, 0.0, -2.0, -2.0, -8.0, 1.0, 0.0, 5.0, 9.0] + [1.5] * 54)
    y = torch.tensor([10.0, -3.0, 0.0, 3.0, 2.0, 0.5, 77.0, 2.0, 0.0, 0.5] + [2.5] * 54)
    actual = computed(apply(math_dialect.PowFOp), [x, y], [f32, f32], f32)
    assert_equal(actual, torch.pow(x.double(), y.double()), 8)


CMPF_EXPECTED: dict[str, Callable[[float, float], bool]] = {
    "oeq": lambda x, y: x == y, "ogt": lambda x, y: x > y, "oge": lambda x, y: x >= y, "olt": lambda x, y: x < y,
    "ole": lambda x, y: x <= y, "one": lambda x, y: x < y or x > y,
    "ord": lambda x, y: not (math.isnan(x) or math.isnan(y)),
    "ueq": lambda x, y: not (x < y or x > y), "ugt": lambda x, y: not x <= y, "uge": lambda x, y: not x < y,
    "ult": lambda x, y: not x >= y, "ule": lambda x, y: not x > y, "une": lambda x, y: x != y,
    "uno": lambda x, y: math.isnan(x) or math.isnan(y),
}  # fmt: skip


@pytest.mark.parametrize("predicate", CMPF_EXPECTED)
def test_comparisons_of_floats_treat_nan_as_named(predicate: str) -> None:
    values = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan"), 2.0]
    x, y = torch.tensor([a for a in values for _ in values]), torch.tensor([b for _ in values for b in values])
    attr = arith.CmpFOp.predicate_attr(predicate)
    actual = computed(apply(arith.CmpFOp, i1, predicate=attr), [x, y], [f32, f32], i1)
    expected = [CMPF_EXPECTED[predicate](a, b) for a, b in zip(numbers(x), numbers(y), strict=True)]
    assert numbers(actual) == expected


@pytest.mark.parametrize("predicate", arith.CMPI_PREDICATES)
@pytest.mark.parametrize("dtype", [i32, i64], ids=str)
def test_comparisons_of_integers_signed_or_not(predicate: str, dtype: IntegerType) -> None:
    values = [0, 1, -1, 2**31 - 1, -(2**31), 7, -7, 5]
    x = torch.tensor([a for a in values for _ in values], dtype=TORCH[dtype])
    y = torch.tensor([b for _ in values for b in values], dtype=TORCH[dtype])
    attr = arith.CmpIOp.predicate_attr(predicate)
    actual = computed(apply(arith.CmpIOp, i1, predicate=attr), [x, y], [dtype, dtype], i1)
    operators: dict[str, Callable[[int, int], bool]] = {
        "eq": int.__eq__, "ne": int.__ne__, "lt": int.__lt__, "le": int.__le__, "gt": int.__gt__, "ge": int.__ge__,
    }  # fmt: skip
    wrap = 1 << dtype.width if predicate.startswith("u") else 0
    operator = operators[predicate.removeprefix("s").removeprefix("u")]
    pairs = zip(numbers(x), numbers(y), strict=True)
    assert numbers(actual) == [operator(a % wrap if wrap else a, b % wrap if wrap else b) for a, b in pairs]


INTEGER: dict[str, tuple[type[Op], Callable[[int, int], int]]] = {
    "add": (arith.AddIOp, lambda x, y: x + y),
    "subtract": (arith.SubIOp, lambda x, y: x - y),
    "multiply": (arith.MulIOp, lambda x, y: x * y),
    "divide towards zero": (arith.DivSIOp, lambda x, y: int(x / y)),
    "divide down": (arith.FloorDivSIOp, lambda x, y: x // y),
    "remainder": (arith.RemSIOp, lambda x, y: x - int(x / y) * y),
    "maximum": (arith.MaxSIOp, max),
    "minimum": (arith.MinSIOp, min),
    "and": (arith.AndIOp, lambda x, y: x & y),
    "or": (arith.OrIOp, lambda x, y: x | y),
    "exclusive or": (arith.XOrIOp, lambda x, y: x ^ y),
}


@pytest.mark.parametrize("dtype", [i32, i64], ids=str)
@pytest.mark.parametrize("name", INTEGER)
def test_functions_of_two_integers(name: str, dtype: IntegerType) -> None:
    kind, exact = INTEGER[name]
    x = [a for a in (0, 1, -1, 7, -7, 8, -8, 100) for _ in range(8)]
    y = [1, -1, 2, -2, 3, -3, 7, -100] * 8
    tensors = [torch.tensor(v, dtype=TORCH[dtype]) for v in (x, y)]
    actual = computed(apply(kind), tensors, [dtype, dtype], dtype)
    assert numbers(actual) == [exact(a, b) for a, b in zip(x, y, strict=True)]


def test_absolute_integers() -> None:
    x = torch.arange(-32, 32, dtype=torch.int32)
    assert torch.equal(computed(apply(math_dialect.AbsIOp), [x], [i32], i32), x.abs())


def test_negated_conditions() -> None:
    def body(builder: Builder, tiles: list[Value]) -> Value:
        return builder.binary(arith.XOrIOp, tiles[0], builder.constant(True, tiles[0].type))

    x = torch.arange(64) % 3 == 0
    assert torch.equal(computed(body, [x], [i1], i1), ~x)


CASTS: list[tuple[type[Op], Type, Type]] = [
    (arith.ExtFOp, f16, f32), (arith.ExtFOp, bf16, f32), (arith.TruncFOp, f32, f16), (arith.TruncFOp, f32, bf16),
    (arith.ExtSIOp, i32, i64), (arith.ExtSIOp, i8, i32), (arith.TruncIOp, i64, i32), (arith.TruncIOp, i32, i8),
    (arith.SIToFPOp, i32, f32), (arith.SIToFPOp, i64, f32), (arith.ExtUIOp, i1, i32), (arith.UIToFPOp, i1, f32),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "source", "target"), CASTS, ids=lambda x: getattr(x, "op_name", str(x)))
def test_casts(kind: type[Op], source: Type, target: Type) -> None:
    if source == i1:
        x = torch.arange(64) % 3 == 0
    elif isinstance(source, FloatType):
        x = floats(5, 2.0).to(TORCH[source])
    else:
        x = torch.arange(-32, 32).to(TORCH[source])
    actual = computed(apply(kind, target), [x], [source], target)
    assert torch.equal(actual.nan_to_num(), x.to(TORCH[target]).nan_to_num())


def test_casts_that_depend_on_signs() -> None:
    x = torch.arange(-32, 32, dtype=torch.int32)
    condition = x % 3 == 0
    assert torch.equal(computed(apply(arith.ExtSIOp, i32), [condition], [i1], i32), -condition.int())
    assert torch.equal(computed(apply(arith.TruncIOp, i1), [x], [i32], i1), (x & 1).bool())
    assert computed(apply(arith.UIToFPOp, f32), [x], [i32], f32)[0] == 2.0**32
    assert computed(apply(arith.ExtUIOp, i64), [x], [i32], i64)[31] == 2**32 - 1


def test_floats_become_integers_towards_zero() -> None:
    x = torch.linspace(-3.9, 3.9, 64)
    assert torch.equal(computed(apply(arith.FPToSIOp, i32), [x], [f32], i32), x.trunc().int())


def test_positions_become_floats() -> None:
    def body(builder: Builder, tiles: list[Value]) -> Value:
        narrow = builder.create(arith.IndexCastOp, [iota(builder)], [with_element(tiles[0].type, i32)]).out
        return builder.create(arith.SIToFPOp, [narrow], [tiles[0].type]).out

    assert torch.equal(computed(body, [torch.zeros(64)], [f32], f32), torch.arange(64.0))


def test_division_of_positions_uses_the_plain_operator() -> None:
    """No correction is written where both numbers are positions."""

    def body(builder: Builder, tiles: list[Value]) -> Value:
        type_ = TensorType((64,), index)
        quotient = builder.binary(arith.FloorDivSIOp, iota(builder), builder.constant(5, type_))
        return builder.create(arith.IndexCastOp, [quotient], [with_element(tiles[0].type, i32)]).out

    out = torch.zeros(64, dtype=torch.int32)
    source = run(row_kernel("divide", [i32], i32, body), torch.zeros(64, dtype=torch.int32), out)
    assert torch.equal(out, torch.arange(64, dtype=torch.int32) // 5)
    assert "floor_divide" not in source


@pytest.mark.parametrize(("x", "y"), [(1.0, 0.0), (float("-inf"), 2.5)])
def test_selection_between_numbers(x: float, y: float) -> None:
    def body(builder: Builder, tiles: list[Value]) -> Value:
        type_ = with_element(tiles[0].type, f32)
        operands = [tiles[0], builder.constant(x, type_), builder.constant(y, type_)]
        return builder.create(arith.SelectOp, operands, [type_]).out

    condition = torch.arange(64) % 2 == 0
    actual = computed(body, [condition], [i1], f32)
    assert torch.equal(actual, torch.where(condition, x, y))
