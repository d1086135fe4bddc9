"""Elementary functions as compiled code: errors against float64 as stated, special values, no calls."""

from __future__ import annotations

import ctypes
import importlib
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attir.codegen.mlir.elementary import ELEMENTARY, EXP2_SCALED_ERROR, MAXIMUM_ERROR, exp2_scaled, pow
from attir.codegen.mlir.exponentials import LOG2_E
from attir.codegen.mlir.trigonometry import FARTHEST
from attir.codegen.mlir.writer import POINTER, Ssa, Writer, vector

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

LANES = (16, 8, 0)
PIPELINE = "builtin.module(convert-vector-to-llvm,convert-scf-to-cf,convert-to-llvm,reconcile-unrealized-casts)"
INSTRUCTIONS = {"fma", "sqrt", "fabs", "floor", "copysign", "smin"}
"""What LLVM may be asked for: each is one machine instruction or two."""

TRUE: dict[str, Callable[[Doubles], Doubles]] = {
    "math.exp": np.exp,
    "math.exp2": np.exp2,
    "math.expm1": np.expm1,
    "math.log": np.log,
    "math.log2": np.log2,
    "math.log1p": np.log1p,
    "math.tanh": np.tanh,
    "math.erf": lambda x: np.array([math.erf(value) for value in x.tolist()]),
    "math.sin": lambda x: np.where(np.abs(x) <= FARTHEST, np.sin(x), np.nan),
    "math.cos": lambda x: np.where(np.abs(x) <= FARTHEST, np.cos(x), np.nan),
    "math.rsqrt": lambda x: 1 / np.sqrt(x),
}
FACTORS = {"one": 1.0, "natural": LOG2_E, "head_128": LOG2_E / math.sqrt(128), "steep": 100.3}
SCALED = [(name, degree) for name in FACTORS for degree in EXP2_SCALED_ERROR]
NANS = np.array([0x7FC00000, 0xFFC00000, 0x7FC00001, 0xFFFFFFFF, 0x7FFFFF00, 0xFF80FFFF], np.uint32).view(np.float32)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with np.errstate(all="ignore"):
        yield


# --- compiled kernels


def kernel(name: str, function: Callable[..., Ssa], lanes: int, operands: int = 1) -> str:
    """out[i] = function(a[i][, b[i]])"""
    w, type_ = Writer(), vector("f32", lanes)
    inputs, out = [Ssa(f"%{name}", POINTER) for name in "ab"[:operands]], Ssa("%out", POINTER)

    def body(position: Ssa, carried: list[Ssa]) -> list[Ssa]:
        values = [w.load(w.at(pointer, position, "f32"), type_) for pointer in inputs]
        w.store(function(w, *values), w.at(out, position, "f32"))
        return carried

    w.loop(w.index(0), Ssa("%size", "i64"), w.index(lanes or 1), [], body)
    heading = f"  func.func @{name}(%a: {POINTER}, %b: {POINTER}, %out: {POINTER}, %size: i64) {{"
    return "\n".join([heading, *w.head, *w.lines, "    return", "  }"])


def kernels() -> list[str]:
    texts = [kernel(f"{name}_{lanes}", f, lanes) for name, f in ELEMENTARY.items() for lanes in LANES]
    texts += [kernel(f"math.powf_{lanes}", pow, lanes, operands=2) for lanes in LANES]
    for factor, degree in SCALED:
        for saturate in (False, True):
            text = kernel(f"{factor}_{degree}_{saturate}", scaled(factor, degree, saturate), 16)
            texts.append(text)
    return texts


def scaled(factor: str, degree: int, saturate: bool) -> Callable[[Writer, Ssa], Ssa]:
    return lambda w, x: exp2_scaled(w, x, FACTORS[factor], degree=degree, saturate=saturate)


@cache
def compiled() -> tuple[Any, str]:
    """The machine code of all kernels of this file, and the LLVM dialect it came from."""
    mlir: Any = importlib.import_module("torch_mlir.ir")
    managers: Any = importlib.import_module("torch_mlir.passmanager")
    engines: Any = importlib.import_module("torch_mlir.execution_engine")
    with mlir.Context():
        module = mlir.Module.parse("\n".join(kernels()))
        managers.PassManager.parse(PIPELINE).run(module.operation)
        return engines.ExecutionEngine(module, opt_level=2), str(module)


def run(name: str, *inputs: Floats) -> Floats:
    """A kernel's results; inputs are filled up to whole vectors."""
    size = inputs[0].size
    full = [np.concatenate([x, np.ones(-size % 16, np.float32)]) for x in inputs]
    out = np.empty_like(full[0])
    addresses = [full[0].ctypes.data, full[-1].ctypes.data, out.ctypes.data, out.size]
    values = (ctypes.c_int64 * 4)(*addresses)
    packed = (ctypes.c_int64 * 4)(*(ctypes.addressof(values) + 8 * i for i in range(4)))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled()[0].raw_lookup(name))(ctypes.addressof(packed))
    return out[:size]


# --- what is expected


@cache
def everywhere() -> Floats:
    """f32s of every exponent, denormals, infinities and nans, and closely where functions bend."""
    patterns = np.arange(0, 2**32, 5_003, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 2.0**-126]
    lines = [np.linspace(-110, 110, 30_000), np.linspace(-1.5, 1.5, 30_000), np.linspace(0, 5, 30_000)]
    tail = np.array([-127.0, -126.0, 127.0, 128.0, 88.7228, 88.723, -87.4, -103.98, 1e5, -1e5, *special])
    return np.concatenate([patterns, NANS, *(x.astype(np.float32) for x in (*lines, tail))])


def last_places(found: Floats, true: Doubles) -> Doubles:
    """The distance in units of the last place; 0 where both are the same infinity or nan, inf where only one is."""
    nearest = true.astype(np.float32)
    distance = np.abs(found.astype(np.float64) - true) / np.spacing(np.abs(nearest)).astype(np.float64)
    both = (found == nearest) | (np.isnan(found) & np.isnan(true))
    return np.where(np.isfinite(distance), distance, np.where(both, 0.0, np.inf))


def assert_close(found: Floats, true: Doubles, bound: float, *inputs: Floats) -> None:
    error = last_places(found, true)
    worst = int(error.argmax())
    at = [float(x[worst]) for x in inputs]
    assert error[worst] <= bound, f"{error[worst]:.3f} ulp at {at}: {found[worst]}, not {true[worst]}"
    assert not ((np.signbit(found) != np.signbit(true)) & ~np.isnan(true)).any(), "a zero of the other sign"


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("name", ELEMENTARY)
def test_errors_stay_below_what_is_stated(name: str, lanes: int) -> None:
    x = everywhere()
    assert_close(run(f"{name}_{lanes}", x), TRUE[name](x.astype(np.float64)), MAXIMUM_ERROR[name], x)


@pytest.mark.parametrize("name", ["math.tanh", "math.erf", "math.sin", "math.cos"])
def test_functions_bounded_by_one_never_exceed_it(name: str) -> None:
    assert np.nanmax(np.abs(run(f"{name}_16", everywhere()))) == 1


@pytest.mark.parametrize("lanes", LANES)
def test_powers_are_as_exact_as_stated(lanes: int) -> None:
    random = np.random.default_rng(0)
    wide = np.exp2(random.uniform(-126, 127, 50_000))
    near = random.uniform(0.5, 2, 50_000)
    signed = random.uniform(-5, 5, 20_000)
    x = np.concatenate([wide, near, signed]).astype(np.float32)
    results = random.uniform(-152, 130, 100_000)
    y = np.concatenate([results / np.log2(x[:100_000]), random.integers(-60, 60, 20_000)]).astype(np.float32)
    true = np.power(x.astype(np.float64), y.astype(np.float64))
    assert_close(run(f"math.powf_{lanes}", x, y), true, MAXIMUM_ERROR["math.powf"], x, y)


@pytest.mark.parametrize("lanes", LANES)
def test_powers_of_special_values_are_those_of_ieee(lanes: int) -> None:
    sizes = [0.0, 1.0, 2.0, 3.0, 0.25, 0.5, 1.5, 1e-40, 3.4e38, 1e30, 2.0**24 - 1, 2.0**24, math.inf]
    values = np.array([*sizes, *(-x for x in sizes), math.nan, 1 - 2.0**-24, 1 + 2.0**-23], np.float32)
    x, y = (part.ravel().copy() for part in np.meshgrid(values, values))
    true = np.power(x.astype(np.float64), y.astype(np.float64))
    assert_close(run(f"math.powf_{lanes}", x, y), true, MAXIMUM_ERROR["math.powf"], x, y)


# --- the exponential of softmax


@pytest.mark.parametrize(("factor", "degree"), SCALED)
def test_the_scaled_exponential_is_as_exact_as_stated(factor: str, degree: int) -> None:
    """And costs, of the factor's rounding, no more than the product's would."""
    steps = np.concatenate([-np.linspace(0, 126, 50_000), -np.geomspace(1e-30, 1, 5_000)])
    x = (steps / FACTORS[factor]).astype(np.float32)
    power = x.astype(np.float64) * FACTORS[factor]
    x, power = x[power >= -126], power[power >= -126]
    error = np.abs(run(f"{factor}_{degree}_False", x) / np.exp2(power) - 1)
    assert np.all(error <= EXP2_SCALED_ERROR[degree] + np.abs(power) / 2**24)


@pytest.mark.parametrize(("factor", "degree"), SCALED)
def test_the_scaled_exponential_keeps_nan_one_and_nothing(factor: str, degree: int) -> None:
    name = f"{factor}_{degree}_False"
    low = np.array([-127, -128, -129, -255, -382, -1e4, -1e9, -1e30], np.float32) / np.float32(FACTORS[factor])
    nothing = np.concatenate([low, np.array([-math.inf, -3.4e38], np.float32)])
    assert np.isnan(run(name, NANS)).all()
    assert (run(name, nothing) == 0).all() and not np.signbit(run(name, nothing)).any()
    assert (run(name, np.array([0.0, -0.0], np.float32)) == 1).all()


@pytest.mark.parametrize(("factor", "degree"), SCALED)
def test_the_saturating_exponential_is_right_everywhere(factor: str, degree: int) -> None:
    x = (np.linspace(-160, 140, 50_000) / FACTORS[factor]).astype(np.float32)
    x = np.concatenate([x, np.array([math.inf, -math.inf, 3.4e38, -3.4e38, 0.0], np.float32), NANS])
    true = np.exp2(x.astype(np.float64) * FACTORS[factor])
    # A relative error of 2^-24 is one unit of the last place at most, of numbers that are not denormal.
    assert_close(run(f"{factor}_{degree}_True", x), true, EXP2_SCALED_ERROR[degree] * 2**24, x)


def test_the_scaled_exponential_takes_eleven_instructions() -> None:
    w = Writer()
    exp2_scaled(w, Ssa("%x", "vector<16xf32>"), LOG2_E)
    ops = [line.split()[2] for line in w.lines]
    assert ops.count("math.fma") == 7 and ops.count("arith.bitcast") == 2
    # Casts are nothing, and a comparison and its select are one `max`.
    assert len(ops) - ops.count("arith.bitcast") - ops.count("arith.cmpf") == 11


# --- the text


def test_no_function_of_a_library_is_called() -> None:
    text = compiled()[1]
    assert "llvm.call" not in text and "fastmath" not in text
    assert set(re.findall(r"llvm\.intr\.(\w+)", text)) <= INSTRUCTIONS
    assert set(MAXIMUM_ERROR) == {*ELEMENTARY, "math.powf"} == {*TRUE, "math.powf"}
