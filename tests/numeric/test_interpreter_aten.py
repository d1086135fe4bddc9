"""Every ATen overload of the interpreter, against PyTorch in float64 on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from numeric.aten_cases import CASES, INF, MISTAKES, Case, Input
from numpy.typing import NDArray

from attir.ir.attributes import (
    DialectAttr,
    FunctionType,
    StringAttr,
    TensorType,
    Type,
    bf16,
    f16,
    f32,
    f64,
    i1,
    i32,
    i64,
    index,
)
from attir.ir.core import Block, Operation, Region
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.aten import aten_op
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp, ReturnOp
from attir.ir.interpreter import interpret
from attir.ir.interpreter.aten import ATEN

DTYPES: Mapping[Type, torch.dtype] = {
    f16: torch.float16,
    bf16: torch.bfloat16,
    f32: torch.float32,
    f64: torch.float64,
    i1: torch.bool,
    i32: torch.int32,
    i64: torch.int64,
}
TYPES: Mapping[torch.dtype, Type] = {dtype: type_ for type_, dtype in DTYPES.items()}
WITHOUT_VALUES = {"aten.empty.memory_format", "aten.new_empty", "aten.empty_like", "aten._assert_tensor_metadata"}


def overload(name: str) -> Callable[..., Any]:
    packet, _, suffix = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), suffix or "default")


def make_inputs(arguments: Mapping[str, Any], floats: torch.dtype) -> dict[str, Any]:
    """The same random numbers for every dtype, rounded to `floats`."""
    generator = torch.Generator().manual_seed(7)

    def make(value: Any) -> Any:
        if isinstance(value, list):
            return [make(item) for item in cast("list[Any]", value)]
        if not isinstance(value, Input):
            return value
        x = value.make(generator)
        return x.to(floats) if x.is_floating_point() else x

    return {name: make(value) for name, value in arguments.items()}


def call_torch(name: str, inputs: Mapping[str, Any], floats: torch.dtype | None = None) -> list[Any]:
    """The overload's results; with `floats`, every float input and every float `dtype` becomes that."""

    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return [convert(item) for item in cast("list[Any]", value)]
        if isinstance(value, DialectAttr):
            return torch.device(str(value.body))
        if isinstance(value, Type):
            dtype = DTYPES[value]
            return floats if floats is not None and dtype.is_floating_point else dtype
        if isinstance(value, torch.Tensor) and value.is_floating_point() and floats is not None:
            return value.to(floats)
        return value

    usual = torch.get_default_dtype()
    torch.set_default_dtype(floats or usual)
    try:
        out: Any = overload(name)(**{key: convert(value) for key, value in inputs.items()})
    finally:
        torch.set_default_dtype(usual)
    return [out] if isinstance(out, torch.Tensor | int) else list(out)


def type_of(value: Any) -> Type:
    return TensorType(tuple(value.shape), TYPES[value.dtype]) if isinstance(value, torch.Tensor) else index


def to_numpy(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def build(name: str, inputs: Mapping[str, Any], result_types: Sequence[Type]) -> tuple[Operation, list[Any]]:
    """A module whose `main` is one aten op on its arguments, and the tensors to pass."""
    block, tensors = Block(), list[Any]()

    def argument(value: Any) -> Any:
        if isinstance(value, list):
            return [argument(item) for item in cast("list[Any]", value)]
        if not isinstance(value, torch.Tensor):
            return value
        tensors.append(to_numpy(value))
        return block.add_argument(type_of(value))

    op = aten_op(name, {key: argument(value) for key, value in inputs.items()}, result_types)
    block.append(op)
    block.append(ReturnOp.create(op.results).operation)
    function_type = FunctionType(tuple(a.type for a in block.arguments), tuple(result_types))
    properties = {"sym_name": StringAttr("main"), "function_type": function_type}
    main = FuncOp.create((), (), properties, [Region([block])]).operation
    return ModuleOp.create((), (), {}, [Region([Block([], [main])])]).operation, tensors


def run(name: str, inputs: Mapping[str, Any], result_types: Sequence[Type], precise: bool = False) -> list[Any]:
    module, tensors = build(name, inputs, result_types)
    return interpret(module, "main", *tensors, precise=precise)


def ulp(value: NDArray[Any], dtype: torch.dtype) -> NDArray[Any]:
    """The distance between neighbouring numbers of `dtype` around each value."""
    info = torch.finfo(dtype)
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(np.maximum(np.abs(value), info.smallest_normal)))
    return info.eps * 2.0**exponent


def identifier(case: Case) -> str:
    return case[0]


# Every handler has a case here, or computes nothing that could be compared.
COMPLEX = {"aten.polar", "aten.view_as_complex", "aten.view_as_real"}
"""Operators on complex numbers, which rotary embeddings are made of: test_rows runs them together."""


def test_every_overload_has_a_case() -> None:
    assert set(ATEN) - {f"aten.{name}" for name, _ in CASES} == WITHOUT_VALUES | COMPLEX


# In float64 the interpreter and PyTorch differ by rounding alone.
@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_precise(case: Case) -> None:
    name, arguments = case
    inputs = make_inputs(arguments, torch.float64)
    expected = call_torch(name, inputs, torch.float64)
    declared = [type_of(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x) for x in expected]
    results = run(name, inputs, declared, precise=True)
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, to_numpy(value), rtol=1e-12, atol=1e-12, equal_nan=True)


# A result is the float64 result rounded to its type: half a unit in the last place, and 1% of one
# for the noise of float64 itself.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_rounded_once(case: Case, dtype: torch.dtype) -> None:
    name, arguments = case
    inputs = make_inputs(arguments, dtype)
    reference = call_torch(name, inputs, torch.float64)
    declared = [type_of(x) for x in call_torch(name, inputs)]
    for result, value, type_ in zip(run(name, inputs, declared), reference, declared, strict=True):
        wanted = to_numpy(value)
        if not (isinstance(type_, TensorType) and wanted.dtype.kind == "f"):
            np.testing.assert_array_equal(result, wanted)
            continue
        finite = np.isfinite(wanted)
        np.testing.assert_array_equal(np.where(finite, 0, result), np.where(finite, 0, wanted))
        error = np.abs(np.where(finite, result, 0) - np.where(finite, wanted, 0))
        assert np.all(error <= 0.51 * ulp(np.where(finite, wanted, 0), DTYPES[type_.element]))


# A constant is compared in the tensor's type, as PyTorch does.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["eq.Scalar", "lt.Scalar", "le.Scalar", "gt.Scalar"])
def test_constants_are_compared_in_the_type_of_the_tensor(name: str, dtype: torch.dtype) -> None:
    inputs = {"self": torch.tensor([0.1, 0.2], dtype=dtype), "other": 0.1}
    (expected,) = call_torch(name, inputs)
    np.testing.assert_array_equal(run(name, inputs, [type_of(expected)])[0], expected.numpy())


# Without eps, rms_norm takes the spacing of the type that PyTorch computes in; tiny inputs make it visible.
# PyTorch adds the 16 squares in an order that depends on the CPU: each order is off by at most 16 roundings.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_default_eps_of_rms_norm(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 16, dtype=torch.float64) * 2e-4).to(dtype)
    inputs = {"input": x, "normalized_shape": [16]}
    (expected,) = call_torch("rms_norm", inputs)
    (result,) = run("rms_norm", inputs, [type_of(expected)])
    wanted = to_numpy(expected.double())
    computed_in = torch.float64 if dtype == torch.float64 else torch.float32
    roundings = 2 * 16 * torch.finfo(computed_in).eps * np.abs(wanted)
    assert np.all(np.abs(result - wanted) <= ulp(wanted, dtype) + roundings)


# What softmax gives for rows of -inf, inf and nan.
@pytest.mark.parametrize("name", ["softmax.int", "_safe_softmax", "log_softmax.int"])
def test_softmax_of_extremes(name: str) -> None:
    x = torch.tensor([[-INF, -INF], [INF, 0.0], [float("nan"), 0.0], [-INF, 3.0], [1e30, -1e30]])
    inputs = {"self": x, "dim": -1}
    (expected,) = call_torch(name, inputs)
    np.testing.assert_allclose(run(name, inputs, [type_of(expected)])[0], expected.numpy(), rtol=1e-6)


# A row whose every key is masked gives 0, as does a query without any key at all.
@pytest.mark.parametrize("keys", [0, 1, 5])
def test_sdpa_of_fully_masked_rows(keys: int) -> None:
    q, k, v = (torch.randn(1, 2, n, 4, dtype=torch.float64) for n in (3, keys, keys))
    mask = torch.ones(3, keys, dtype=torch.bool)
    mask[1] = False
    inputs = {"query": q, "key": k, "value": v, "attn_mask": mask}
    (result,) = run("scaled_dot_product_attention", inputs, [type_of(q)])
    assert np.all(result[:, :, 1] == 0)
    if keys:
        (expected,) = call_torch("scaled_dot_product_attention", inputs)
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-12, atol=1e-12)


# Contents are unspecified, the shape is not.
@pytest.mark.parametrize("name", ["empty.memory_format", "new_empty", "empty_like"])
def test_empty(name: str) -> None:
    inputs: dict[str, Any] = {} if name.startswith("empty.") else {"self": torch.ones(3, 5)}
    inputs |= {} if name == "empty_like" else {"size": [3, 5]}
    assert run(name, inputs, [TensorType((3, 5), f32)])[0].shape == (3, 5)


# What PyTorch would refuse, or only do with a random state, is refused by name and in words.
@pytest.mark.parametrize(
    ("name", "arguments", "message"), MISTAKES, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(MISTAKES)]
)
def test_mistakes(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CompileError, match=f"'aten.{name}' op {message}"):
        run(name, make_inputs(arguments, torch.float32), [TensorType((None,), f32)])
