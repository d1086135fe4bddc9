"""Persistent kernels do every tile exactly once, in as many programs as were asked for or as there are tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from unit.codegen.kernels import program_id, run

from attir.ir.attributes import FunctionType, IntegerAttr, StringAttr, Symbol, TensorType, f32
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region
from attir.ir.dialects import arith, tile
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.tensor import DimOp
from attir.ir.interpreter import interpret
from attir.ir.verifier import verify
from attir.passes.make_persistent import MakePersistent
from attir.passes.manager import PassContext

SIZE = 4


def counting(programs: int) -> Operation:
    """A kernel that adds 1 to each element of x, a tile of `SIZE` in each program, asked to be persistent."""
    type_ = TensorType((Symbol("N"),), f32)
    grid, body = (Block.with_arguments([type_], ["x"]) for _ in range(2))
    builder = Builder(grid)
    length = builder.create(DimOp, [grid.arguments[0], builder.index(0)], [builder.index(0).type]).out
    builder.create(tile.YieldOp, [builder.binary(arith.DivSIOp, length, builder.index(SIZE))])
    builder = Builder(body)
    start = builder.binary(arith.MulIOp, program_id(builder), builder.index(SIZE))
    ones = builder.constant(1.0, TensorType((SIZE,), f32))
    builder.create(tile.AtomicAddOp, [ones, body.arguments[0], start])
    builder.create(tile.ReturnOp)
    properties = {
        "sym_name": StringAttr("counting"),
        "function_type": FunctionType((type_,), ()),
        "persistent": IntegerAttr(programs),
    }
    kernel = tile.KernelOp.create([], [], properties, [Region([grid]), Region([body])])
    module = ModuleOp.create(regions=[Region([Block()])])
    module.body.block.append(kernel.operation)
    MakePersistent().run(module.operation, PassContext())
    verify(module.operation)
    return module.operation


@pytest.mark.parametrize("programs", [1, 3, 6, 100])
@pytest.mark.parametrize("tiles", [0, 1, 5, 6, 7, 13])
def test_every_tile_is_done_once(tiles: int, programs: int) -> None:
    module, x = counting(programs), np.zeros(tiles * SIZE, np.float32)
    interpret(module, "counting", x)
    assert (x == 1.0).all()


@pytest.mark.parametrize("tiles", [2, 7])
def test_every_tile_is_done_once_in_triton(tiles: int) -> None:
    module, x = counting(3), torch.zeros(tiles * SIZE)
    source = run(module.regions[0].block.ops[0], x)
    assert (x == 1.0).all()
    assert "grid = (min(N // 4, 3),)" in source and "for pid in range(program, N // 4, 3):" in source
