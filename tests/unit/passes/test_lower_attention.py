"""What `lower-attention` refuses, and what it leaves alone."""

from __future__ import annotations

import pytest

from attir.cost_model.schedule import Schedule
from attir.ir.attributes import FloatType, FunctionType, StringAttr, Symbol, TensorType, f16, f32, f64
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.arith import NegFOp
from attir.ir.dialects.attn import AttentionOp
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp, ReturnOp
from attir.ir.dialects.tile import KernelOp
from attir.passes.lower_attention import LowerAttention
from attir.passes.manager import PassContext

SCHEDULE = Schedule(32, 32, 4, 2)


def module(dtype: FloatType = f16, schedule: Schedule | None = SCHEDULE, *, negated: bool = False) -> Operation:
    """A function around one attention, which may negate the queries first."""
    type_ = TensorType((Symbol("B"), 2, Symbol("M"), 64), dtype)
    block = Block.with_arguments([type_] * 3, ["q", "k", "v"])
    builder, (q, k, v) = Builder(block), block.arguments
    if negated:
        q = builder.unary(NegFOp, q)
    results = [type_, TensorType(type_.shape[:3], f32)]
    attention = builder.create(AttentionOp, [q, k, v], results, regions=[Region([]), Region([])])
    attention.schedule = schedule.to_attr() if schedule is not None else None
    return function(block, [attention.out])


def function(block: Block, returned: list[Value]) -> Operation:
    Builder(block).create(ReturnOp, returned)
    type_ = FunctionType(tuple(a.type for a in block.arguments), tuple(v.type for v in returned))
    properties = {"sym_name": StringAttr("site"), "function_type": type_}
    outer = Block()
    outer.append(FuncOp.create([], [], properties, [Region([block])]).operation)
    return ModuleOp.create(regions=[Region([outer])]).operation


def lower(root: Operation) -> Operation:
    LowerAttention().run(root, PassContext())
    return root


def test_the_function_becomes_a_kernel_of_its_name() -> None:
    root = lower(module())
    (kernel,) = (KernelOp(op) for op in root.regions[0].block.ops)
    assert kernel.sym_name == StringAttr("site")
    assert (kernel.num_warps.value, kernel.num_stages.value) == (4, 2)
    assert [a.name_hint for a in kernel.body.block.arguments] == ["q", "k", "v", "out"]


def test_static_sizes_become_constants() -> None:
    kernel = KernelOp(lower(module()).regions[0].block.ops[0])
    heads = [op for op in kernel.operation.walk() if any(r.name_hint == "H" for r in op.results)]
    assert {op.name for op in heads} == {"arith.constant"}


def test_functions_without_attention_stay() -> None:
    block = Block.with_arguments([TensorType((4,), f32)], ["x"])
    root = lower(function(block, list(block.arguments)))
    assert [op.name for op in root.regions[0].block.ops] == ["func.func"]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (module(schedule=None), "'attn.attention' op has no schedule; the pass 'plan' writes one"),
        (module(f64), "kernels take f16, bf16, f32 or 8-bit floats, but q is tensor<"),
        (module(negated=True), "must hold one 'attn.attention' and nothing else .* but has arith.negf, attn.attention"),
    ],
)
def test_refusals(root: Operation, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        lower(root)


def test_returning_an_argument_is_refused() -> None:
    root = module()
    block = FuncOp(root.regions[0].block.ops[0]).body.block
    block.ops[-1].set_operands([block.arguments[0]])
    with pytest.raises(CompileError, match="must return results of the attention, each at most once"):
        lower(root)
