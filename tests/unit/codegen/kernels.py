"""Small tile kernels for tests: one that maps an elementwise op over a row, run through Triton's interpreter."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from attir.codegen.mlir import emit_module
from attir.codegen.triton import emit_kernel
from attir.compiler.triton_runtime import load_interpreted
from attir.cost_model.cpus import CPUS
from attir.ir.attributes import (
    DenseArrayAttr,
    FunctionType,
    IntegerAttr,
    StringAttr,
    TensorType,
    Type,
    element_type,
    index,
)
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.dialects import tile

LENGTH = 64
Body = Callable[[Builder, list[Value]], Value]


def kernel_of(name: str, types: Sequence[TensorType], body: Callable[[Builder, list[Value]], None]) -> Operation:
    """A kernel of one program on tensors of `types`."""
    names = [f"x{i}" for i in range(len(types))]
    grid, block = (Block.with_arguments(types, names) for _ in range(2))
    grid_builder = Builder(grid)
    grid_builder.create(tile.YieldOp, [grid_builder.index(1)])
    builder = Builder(block)
    body(builder, block.arguments)
    builder.create(tile.ReturnOp)
    properties = {"sym_name": StringAttr(name), "function_type": FunctionType(tuple(types), ())}
    return tile.KernelOp.create([], [], properties, [Region([grid]), Region([block])]).operation


def row_kernel(name: str, inputs: Sequence[Type], result: Type, body: Body, length: int = LENGTH) -> Operation:
    """out[i] = body(in0[i], in1[i], ...) on rows of `length` elements."""
    types = [TensorType((length,), t) for t in (*inputs, result)]

    def whole(builder: Builder, arguments: list[Value]) -> None:
        start = builder.index(0)
        tiles = [load(builder, source, [start], (length,)) for source in arguments[:-1]]
        builder.create(tile.StoreOp, [body(builder, tiles), arguments[-1], start])

    return kernel_of(name, types, whole)


def load(builder: Builder, source: Value, starts: Sequence[Value], shape: tuple[int, ...]) -> Value:
    type_ = TensorType(shape, element_type(source.type))
    properties = {"boundary": DenseArrayAttr(())}
    return builder.create(tile.LoadOp, [source, *starts], [type_], properties).out


def broadcast(builder: Builder, x: Value, shape: tuple[int, ...], axes: tuple[int, ...]) -> Value:
    type_ = TensorType(shape, element_type(x.type))
    return builder.create(tile.BroadcastOp, [x], [type_], {"axes": DenseArrayAttr(axes)}).out


def iota(builder: Builder, length: int = LENGTH) -> Value:
    return builder.create(tile.IotaOp, [], [TensorType((length,), index)]).out


def program_id(builder: Builder, axis: int = 0) -> Value:
    return builder.create(tile.ProgramIdOp, [], [index], {"axis": IntegerAttr(axis)}, name="pid").out


def numbers(tensor: torch.Tensor) -> list[Any]:
    """The elements of a tensor as Python numbers."""
    return cast(Any, tensor).tolist()


def run_native(kernel: Operation, *tensors: torch.Tensor) -> str:
    """Compile a kernel for this CPU and run it; return its text."""
    from attir.compiler.host_cpu import host_target
    from attir.compiler.native_cache import load_kernels

    lanes = CPUS[host_target()].lanes
    for name, value in (("lanes", lanes), ("columns", 4)):
        kernel.properties[name] = IntegerAttr(value)
    module = emit_module([kernel], unit_strides=False)
    arguments = [0]
    for x in tensors:
        arguments += [x.data_ptr(), *x.shape, *x.stride()]
    block = (ctypes.c_int64 * len(arguments))(*arguments)
    load_kernels(module.text).functions[module.kernels[0].name].run(ctypes.addressof(block), 1)
    return module.text


def run(kernel: Operation, *tensors: torch.Tensor) -> str:
    """Run a kernel in Triton's interpreter; return its text."""
    emitted = emit_kernel(kernel)
    load_interpreted(emitted)(*tensors)
    return emitted.source


RUNS: dict[str, Callable[..., str]] = {"interpret": run, "native": run_native}
