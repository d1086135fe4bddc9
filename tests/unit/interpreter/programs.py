"""Builds small modules for the interpreter's tests: a function, a kernel, one op on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attir.ir.attributes import Attribute, FunctionType, StringAttr, Type
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp, ReturnOp
from attir.ir.dialects.tile import KernelOp
from attir.ir.dialects.tile import ReturnOp as KernelReturnOp
from attir.ir.dialects.tile import YieldOp as GridOp
from attir.ir.interpreter import interpret

Body = Callable[[Builder, list[Value]], Sequence[Value]]


def _module(operation: Operation) -> Operation:
    block = Block()
    block.append(operation)
    return ModuleOp.create((), (), {}, [Region([block])]).operation


def function(arguments: Sequence[Type], body: Body) -> Operation:
    """A module with `@main`, which returns what `body` gives."""
    block = Block.with_arguments(arguments)
    returned = body(Builder(block), block.arguments)
    block.append(ReturnOp.create(returned).operation)
    type_ = FunctionType(tuple(arguments), tuple(v.type for v in returned))
    return _module(
        FuncOp.create((), (), {"sym_name": StringAttr("main"), "function_type": type_}, [Region([block])]).operation
    )


def kernel(arguments: Sequence[Type], grid: Body, body: Body) -> Operation:
    """A module with the kernel `@main`: `grid` gives the number of programs, `body` is one of them."""
    counting, running = Block.with_arguments(arguments), Block.with_arguments(arguments)
    counting.append(GridOp.create(grid(Builder(counting), counting.arguments)).operation)
    body(Builder(running), running.arguments)
    running.append(KernelReturnOp.create().operation)
    properties = {"sym_name": StringAttr("main"), "function_type": FunctionType(tuple(arguments), ())}
    return _module(KernelOp.create((), (), properties, [Region([counting]), Region([running])]).operation)


def evaluate(
    name: str,
    operands: Sequence[tuple[Any, Type]],
    result: Type,
    properties: Mapping[str, Attribute] | None = None,
    *,
    precise: bool = False,
) -> Any:
    """The result of one op on the given data."""

    def body(builder: Builder, arguments: list[Value]) -> list[Value]:
        return builder.insert(Operation.create(name, arguments, [result], properties)).results

    module = function([type_ for _, type_ in operands], body)
    return interpret(module, "main", *(data for data, _ in operands), precise=precise)[0]
