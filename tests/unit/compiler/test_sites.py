"""Outlining makes one attention a program of its own that is general in its sizes."""

from __future__ import annotations

import pytest
from unit.compiler.attention_ops import BATCH, arguments, attention, module_ops

from attir.compiler.sites import canonical_text, outline
from attir.ir.attributes import Symbol, TensorType, f16, f32
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.attn import AttentionOp
from attir.ir.dialects.func import FuncOp
from attir.ir.printer import print_operation

Q = TensorType((BATCH, 8, 128, 64), f16)
K = TensorType((BATCH, 2, 256, 64), f16)
V = TensorType((BATCH, 2, 256, 32), f16)
SLOPES = TensorType((8,), f32)
PADDING = TensorType((BATCH, 1, 1, 256), f32)


def outlined(*captures: TensorType, score: bool = False, mask: bool = True) -> FuncOp:
    operands = arguments(Q, K, V, *captures)
    module = outline(attention(operands, score, mask, group=4).operation, "site")
    (function,) = module_ops(module, "func.func")
    FuncOp(function).verify()
    (inner,) = module_ops(module, "attn.attention")
    AttentionOp(inner).verify()
    return FuncOp(function)


def test_sizes_become_symbols_and_head_dimensions_stay() -> None:
    inputs = list(map(str, outlined().function_type.inputs))
    assert inputs == [
        "tensor<?x?x?x64xf16, #attir.sym<B, H, M>>",
        "tensor<?x?x?x64xf16, #attir.sym<B, K, N>>",
        "tensor<?x?x?x32xf16, #attir.sym<B, K, N>>",
    ]
    assert list(map(str, outlined().function_type.results)) == ["tensor<?x?x?x32xf16, #attir.sym<B, H, M>>"]


def test_captures_get_symbols_of_their_own_but_broadcast_axes_stay_one() -> None:
    inputs = outlined(PADDING).function_type.inputs
    assert str(inputs[3]) == "tensor<?x1x1x?xf32, #attir.sym<c0_0, c0_3>>"


def test_regions_read_the_retyped_captures() -> None:
    function = outlined(SLOPES, score=True)
    (attention_op,) = module_ops(function.operation, "attn.attention")
    assert AttentionOp(attention_op).score.block.arguments[-1].type == TensorType((Symbol("c0_0"),), f32)


def test_lse_is_returned_only_where_it_is_used() -> None:
    operands = arguments(Q, K, V)
    op = attention(operands)
    attention_user = op.operation.clone()
    attention_user.set_operands([*operands, op.lse])
    (function,) = module_ops(outline(op.operation, "site"), "func.func")
    assert len(FuncOp(function).function_type.results) == 2


def test_the_original_is_left_as_it_is() -> None:
    op = attention(arguments(Q, K, V, SLOPES), score=True, mask=True, group=4)
    before = print_operation(op.operation)
    outline(op.operation, "site")
    assert print_operation(op.operation) == before


def test_equal_programs_have_equal_canonical_text_whatever_their_names() -> None:
    one = attention(arguments(Q, K, V, SLOPES), score=True)
    other_names = arguments(Q.with_shape(1, 4, 7, 64), K, V, SLOPES, names=("a", "b", "c", "d"))
    two = attention(other_names, score=True)
    texts = {canonical_text(outline(op.operation, name)) for op, name in ((one, "x"), (two, "y"))}
    assert len(texts) == 1
    assert canonical_text(outline(attention(arguments(Q, K, V)).operation, "x")) not in texts


def test_a_symbolic_head_dimension_is_refused() -> None:
    unknown = Q.with_shape(BATCH, 8, 128, Symbol("d"))
    with pytest.raises(CompileError, match="needs a constant head dimension, but that of k is d"):
        outline(attention(arguments(unknown, K, V)).operation, "site")
