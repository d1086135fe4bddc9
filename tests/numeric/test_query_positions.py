"""`attn.query_positions`: PyTorch beside the interpreter, and beside what masks say by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attir.compiler.host_ops import HOST_OPS
from attir.ir.attributes import Symbol, TensorType, f32, i1, i64
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.dialects.arith import AndIOp, CmpIOp
from attir.ir.dialects.attn import QueryPositionsOp, YieldOp, region_block
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp, ReturnOp
from attir.ir.dialects.tensor import ExtractOp
from attir.ir.interpreter import interpret
from attir.ir.verifier import verify
from attir.passes.query_positions import last_key

B, H, K, M, N = (Symbol(name) for name in "BHKMN")


def program(*, masked: bool) -> Operation:
    """@f(q, k, kept) -> positions, under the mask kept[b, 0, m, n] or under none."""
    types = [TensorType((B, H, M, 4), f32), TensorType((B, K, N, 4), f32), TensorType((B, 1, M, N), i1)]
    block = Block.with_arguments(types, ["q", "k", "kept"])
    region = Region()
    if masked:
        inside = region_block("mask", block.arguments[2:])
        builder, (b, _, m, n, kept) = Builder(inside), inside.arguments
        element = builder.create(ExtractOp, [kept, b, builder.index(0), m, n], [i1])
        builder.create(YieldOp, [element.operation.result])
        region = Region([inside])
    builder, result = Builder(block), TensorType((B, M), i64)
    positions = builder.create(QueryPositionsOp, block.arguments, [result], {}, [region]).positions
    builder.create(ReturnOp, [positions])
    module = ModuleOp.create((), (), {}, [Region([Block()])]).operation
    from attir.ir.attributes import FunctionType, StringAttr

    properties = {"sym_name": StringAttr("f"), "function_type": FunctionType(tuple(types), (result,))}
    module.regions[0].block.append(FuncOp.create((), (), properties, [Region([block])]).operation)
    verify(module)
    return module


def run(module: Operation, *tensors: torch.Tensor) -> torch.Tensor:
    op = next(op for op in module.walk() if QueryPositionsOp.match(op))
    (found,) = HOST_OPS[op.name](op, tensors)
    return found


@pytest.mark.parametrize(("queries", "keys"), [(1, 7), (5, 9), (9, 5), (4, 4), (3, 0), (0, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_both_agree(masked: bool, queries: int, keys: int) -> None:
    draw = torch.Generator().manual_seed(queries + 10 * keys)
    kept = torch.rand((2, 1, queries, keys), generator=draw) < 0.3
    q, k = torch.zeros(2, 4, queries, 4), torch.zeros(2, 2, keys, 4)
    module = program(masked=masked)
    (wanted,) = interpret(module, "f", q.numpy(), k.numpy(), kept.numpy())
    found = run(module, q, k, kept)
    assert found.dtype == torch.int64 and found.shape == (2, queries)
    assert np.array_equal(found.numpy(), wanted)
    for b in range(2):
        for m in range(queries):
            seen = [n for n in range(keys) if masked and kept[b, 0, m, n]]
            assert found[b, m] == (seen[-1] if seen else m + max(0, keys - queries))


def mask_block() -> tuple[Block, Builder, Value, Value]:
    block = region_block("mask", [])
    return block, Builder(block), block.arguments[2], block.arguments[3]


def compared(builder: Builder, predicate: str, lhs: Value, rhs: Value) -> Value:
    return builder.create(CmpIOp, [lhs, rhs], [i1], {"predicate": CmpIOp.predicate_attr(predicate)}).out


@pytest.mark.parametrize(
    ("predicate", "turned", "moved"),
    [("sle", False, 0), ("slt", False, -1), ("sge", True, 0), ("sgt", True, -1)],
)
def test_a_causal_mask_tells_the_last_key(predicate: str, turned: bool, moved: int) -> None:
    block, builder, m, n = mask_block()
    pair = (m, n) if turned else (n, m)
    causal = compared(builder, predicate, *pair)
    other = compared(builder, "sge", n, builder.index(3))
    kept = builder.binary(AndIOp, other, causal)
    found = last_key(block, kept, m, n)
    assert found is not None
    builder.create(YieldOp, [compared(builder, "eq", n, found)])
    if not moved:
        assert found is m
    else:
        assert found.defining_op is not None and found.defining_op.operands[0] is m


def test_what_is_no_bound_by_the_query_tells_nothing() -> None:
    block, builder, m, n = mask_block()
    for kept in (
        compared(builder, "sle", n, builder.index(8)),
        compared(builder, "sge", n, m),
        compared(builder, "ne", n, m),
    ):
        assert last_key(block, kept, m, n) is None
