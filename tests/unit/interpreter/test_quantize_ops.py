"""Operations that quantise mean the same in the interpreter and with PyTorch, and what the definitions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from attir.compiler.host_ops import HOST_OPS
from attir.compiler.torch_types import type_of_value
from attir.ir.attributes import Attribute, FunctionType, IntegerAttr, StringAttr, TensorType, Type, UnitAttr, f16, f32
from attir.ir.core import Block, Operation, Region
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp, ReturnOp
from attir.ir.interpreter import interpret
from attir.ir.storage import Storage
from attir.ir.verifier import verify

EPSILON = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def both(
    name: str, operands: Sequence[torch.Tensor], results: Sequence[Type], properties: Mapping[str, Attribute]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What one operation gives with PyTorch, and in the interpreter."""
    types = [type_of_value(t) for t in operands]
    block = Block.with_arguments(types)
    op = block.append(Operation.create(name, block.arguments, results, properties))
    block.append(ReturnOp.create(op.results).operation)
    type_ = FunctionType(tuple(types), tuple(results))
    holder = FuncOp.create((), (), {"sym_name": StringAttr("main"), "function_type": type_}, [Region([block])])
    module = ModuleOp.create((), (), {}, [Region([Block()])])
    module.body.block.append(holder.operation)
    verify(module.operation)
    given = [t.float().numpy() if t.dtype.is_floating_point else t.numpy() for t in operands]
    wanted = [torch.tensor(np.asarray(x)) for x in interpret(module.operation, "main", *given)]
    return list(HOST_OPS[name](op, operands)), wanted


def random(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return (torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)) + 0.5).to(dtype)


def assert_equal(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> None:
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x.float(), y.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "storage",
    [
        Storage(tokens=5, width=20),
        Storage(bits=3, zero=True, tokens=5, channels=7, width=20),
        Storage(bits=6, signed=False, zero=True, axis="tokens", block=16, width=20),
        Storage("f8E4M3FN", tokens=0, width=20),
        Storage("f8E5M2", heads=False, width=20),
    ],
    ids=str,
)
def test_quantising(storage: Storage, dtype: torch.dtype) -> None:
    x = random(2, 3, 12, 20, dtype=dtype)
    heads = (2, 3) if storage.heads else (1, 1)
    codes = TensorType((2, 3, storage.stored_tokens(12), storage.stored_width), storage.element)
    scale = TensorType((*heads, *storage.scale_sizes(12)), f16)
    types = [codes, scale, *[scale] * storage.zero]
    found, wanted = both("attn.quantize", [x], types, {"storage": storage.to_attr()})
    assert_equal(found, wanted)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("zero", [False, True])
def test_what_is_not_finite_makes_its_group_nan(number: float, zero: bool) -> None:
    storage = Storage(bits=4, zero=zero, tokens=4, width=8)
    x = random(1, 1, 8, 8)
    x[0, 0, 1, 2] = number
    scale = TensorType((1, 1, 2, 1), f32)
    types = [TensorType((1, 1, 8, 4), storage.element), scale, *[scale] * zero]
    found, wanted = both("attn.quantize", [x], types, {"storage": storage.to_attr()})
    assert_equal(found, wanted)
    assert bool(torch.isfinite(found[1][0, 0, 1])) and not bool(torch.isfinite(found[1][0, 0, 0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 37])
def test_subtracting_the_mean(dtype: torch.dtype, tokens: int) -> None:
    x = random(2, 3, tokens, 8, dtype=dtype)
    types = [type_of_value(x), TensorType((2, 3, 1, 8), f32)]
    found, wanted = both("attn.subtract_mean", [x], types, {})
    assert found[0].dtype == dtype and found[1].dtype == torch.float32
    for out, expected in zip(found, wanted, strict=True):
        # Sums in another order; half numbers may round to a neighbour.
        torch.testing.assert_close(out.float(), expected.float(), rtol=2 * EPSILON[out.dtype], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_projecting(dtype: torch.dtype, heads: int, transposed: bool) -> None:
    x = random(2, 4, 9, 3 if transposed else 8, dtype=dtype)
    basis = random(1, heads, 8, 3, seed=1)
    out = TensorType((2, 4, 9, 8 if transposed else 3), type_of_value(x).element)  # type: ignore[attr-defined]
    properties: Mapping[str, Attribute] = {"group": IntegerAttr(2)} | ({"transposed": UnitAttr()} if transposed else {})
    (found,), (wanted,) = both("attn.project", [x, basis], [out], properties)
    torch.testing.assert_close(found.float(), wanted.float(), rtol=2 * EPSILON[dtype], atol=1e-5)
    matrix = basis.transpose(2, 3) if transposed else basis
    exact = x.double() @ matrix.double().repeat_interleave(4 // heads if heads > 1 else 1, 1)
    torch.testing.assert_close(found.double(), exact, rtol=2 * EPSILON[dtype], atol=1e-5)


def test_a_basis_of_other_heads_is_refused_in_words() -> None:
    x, basis = random(1, 4, 5, 8), random(1, 3, 8, 8)
    op = Operation.create("attn.project", Block.with_arguments([type_of_value(x), type_of_value(basis)]).arguments)
    with pytest.raises(Exception, match="matrices of 3 key heads do not fit 4 heads in groups of 1"):
        HOST_OPS["attn.project"](op, [x, basis])


def test_merging_parts_of_the_keys() -> None:
    """Attention over all keys is that over parts of them; a row without keys in one part, or in any."""
    scores, v = random(2, 3, 5, 12, dtype=torch.float32), random(2, 3, 12, 4, seed=1)
    scores[:, :, 1, :7] = -torch.inf
    scores[:, :, 2] = -torch.inf
    parts: list[torch.Tensor] = []
    for part in (slice(0, 3), slice(3, 7), slice(7, 12)):
        parts += [scores[..., part].softmax(-1).nan_to_num(0) @ v[:, :, part], scores[..., part].logsumexp(-1)]
    types = [type_of_value(t) for t in parts[:2]]
    found, wanted = both("attn.merge", parts, types, {})
    exact = [scores.softmax(-1).nan_to_num(0) @ v, scores.logsumexp(-1)]
    for x, y, z in zip(found, wanted, exact, strict=True):
        torch.testing.assert_close(x, y.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(x, z, rtol=1e-5, atol=1e-6)
