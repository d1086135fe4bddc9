"""Orders of tokens: permutations whose boxes stand side by side, and ops that bring tokens there and back."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attir.compiler.host_ops import HOST_OPS
from attir.ir.attributes import DenseArrayAttr, FunctionType, StringAttr, Symbol, TensorType, f32, i32
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.attn_tokens import GatherTokensOp, ScatterTokensOp, TokenOrderOp
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp, ReturnOp
from attir.ir.interpreter import interpret
from attir.ir.interpreter.attn_tokens import TokenOrder
from attir.ir.verifier import verify


@st.composite
def orders(draw: st.DrawFn) -> tuple[TokenOrder, int]:
    rank = draw(st.integers(1, 3))
    sides = st.lists(st.integers(1, 4), min_size=rank, max_size=rank)
    grid = draw(st.lists(st.integers(1, 9), min_size=rank - 1, max_size=rank - 1))
    inner = draw(sides)
    tile = [i * t for i, t in zip(inner, draw(sides), strict=True)]
    dilation = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    return TokenOrder(tuple(grid), tuple(tile), tuple(inner), tuple(dilation)), draw(st.integers(1, 150))


@settings(max_examples=150, deadline=None)
@given(orders())
def test_every_token_is_there_with_its_coordinates(drawn: tuple[TokenOrder, int]) -> None:
    order, count = drawn
    places, *arrays = order.arrays(count)
    assert sorted(places) == list(range(count))
    axes = len(order.grid) + 1
    token = np.zeros(count, np.int64)
    for coordinate, size in zip(arrays[:axes], (0, *order.grid), strict=True):
        token = token * size + coordinate
    np.testing.assert_array_equal(token, places)
    rest = iter(arrays[axes:])
    for coordinate, d in zip(arrays, order.dilation, strict=False):
        if d > 1:
            np.testing.assert_array_equal(next(rest) * d + next(rest), coordinate)
    assert next(rest, None) is None


@settings(max_examples=60, deadline=None)
@given(orders(), st.lists(st.integers(1, 3), min_size=3, max_size=3))
def test_whole_boxes_stand_side_by_side(drawn: tuple[TokenOrder, int], boxes: list[int]) -> None:
    """On a grid of whole boxes every run of a box's tokens is a box, and so are those inside it."""
    order, _ = drawn
    sizes = [t * b for t, b in zip(order.tile, boxes, strict=False)]
    order = TokenOrder(tuple(sizes[1:]), order.tile, order.inner, (1,) * len(sizes))
    _, *coordinates = order.arrays(prod(sizes))
    for sides in (order.tile, order.inner):
        for axis, side in zip(coordinates, sides, strict=True):
            runs = axis.reshape(-1, prod(sides))
            assert (runs.max(1) - runs.min(1) == side - 1).all()


def test_slabs_that_are_left_over_come_last_and_stay_dense() -> None:
    """11 columns in boxes of 4 x 4: two boxes a row, and then three columns in boxes of 4 rows."""
    _, rows, columns = TokenOrder((11,), (4, 4), (4, 4), (1, 1)).arrays(8 * 11)
    assert columns[: 8 * 8].max() == 7
    assert columns[8 * 8 :].min() == 8
    first = slice(8 * 8, 8 * 8 + 12)
    assert (rows[first].min(), rows[first].max()) == (0, 3)


def program(count: int | Symbol, axes: int = 2) -> Operation:
    """@f(x) -> (gathered, scattered again, order, coordinates...)"""
    x = TensorType((2, 3, count, 4), f32)
    block = Block.with_arguments([x], ["x"])
    builder = Builder(block)
    array = TensorType((count,), i32)
    properties = {"grid": DenseArrayAttr((5,)), "tile": DenseArrayAttr((2, 2))}
    order = builder.create(TokenOrderOp, block.arguments, [array] * (1 + axes), properties)
    gathered = builder.create(GatherTokensOp, [block.arguments[0], order.order], [x]).out
    back = builder.create(ScatterTokensOp, [gathered, order.order], [x]).out
    builder.create(ReturnOp, [gathered, back, *order.every])
    types = FunctionType((x,), (x, x, *(r.type for r in order.every)))
    named = {"sym_name": StringAttr("f"), "function_type": types}
    function = FuncOp.create((), (), named, [Region([block])])
    module = ModuleOp.create(regions=[Region([Block()])])
    module.body.block.append(function.operation)
    return module.operation


@pytest.mark.parametrize("count", [20, 17])
def test_there_and_back(count: int) -> None:
    module = program(Symbol("N"))
    verify(module)
    x = np.random.default_rng(0).standard_normal((2, 3, count, 4)).astype(np.float32)
    gathered, back, order, *coordinates = interpret(module, "f", x)
    np.testing.assert_array_equal(gathered, x[:, :, order])
    np.testing.assert_array_equal(back, x)
    assert [c.tolist() for c in coordinates] == [(order // 5).tolist(), (order % 5).tolist()]


def test_results_that_are_not_as_many_as_axes() -> None:
    with pytest.raises(CompileError, match="must have 3 results, but has 2"):
        verify(program(20, axes=1))


LAYOUTS = {
    "heads first": lambda: torch.randn(2, 3, 17, 4),
    "positions first": lambda: torch.randn(2, 17, 3, 4).transpose(1, 2),
    "part of a fused projection": lambda: torch.randn(2, 17, 3, 12)[..., 4:8].transpose(1, 2),
    "every second token": lambda: torch.randn(2, 3, 34, 4)[:, :, ::2],
    "rows that lie at odd places": lambda: torch.randn(2, 3, 17, 7)[..., :4],
    "columns first": lambda: torch.randn(2, 3, 4, 17).transpose(2, 3),
    "one head for all": lambda: torch.randn(2, 1, 17, 4).expand(2, 3, 17, 4),
    "half": lambda: torch.randn(2, 3, 17, 4).half(),
    "log-sum-exp": lambda: torch.randn(2, 3, 17),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pytorch_moves_tokens_of_every_layout(layout: str) -> None:
    order, gather, back = (op for op in program(17).walk() if op.name.startswith("attn."))
    x = LAYOUTS[layout]().requires_grad_()
    (places, *_) = HOST_OPS[order.name](order, [x])
    (gathered,) = HOST_OPS[gather.name](gather, [x, places])
    assert torch.equal(gathered, x[:, :, places.long()])
    assert torch.equal(HOST_OPS[back.name](back, [gathered, places])[0], x)


def test_orders_are_made_once() -> None:
    (order, *_) = (op for op in program(17).walk() if op.name.startswith("attn."))
    first, second = (HOST_OPS[order.name](order, [torch.randn(1, 1, 17, 4)]) for _ in range(2))
    assert all(a is b for a, b in zip(first, second, strict=True))
