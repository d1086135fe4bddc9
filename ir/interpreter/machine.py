"""Runs regions, functions and kernels op by op; the meaning of each op stands in the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..attributes import StringAttr, TensorType, Type
from ..core import Operation, Region, Value
from ..diagnostics import error, op_error
from ..dialects import op_class
from ..dialects.func import FuncOp
from ..dialects.tile import AtomicAddOp, GroupRowsOp, KernelOp, SliceOp, StoreOp
from .arith import ARITH
from .aten import ATEN
from .attn import ATTN
from .call import Array, Call, Handler
from .counting import WorkCounter
from .flex import flex_attention, get_attr
from .fx import FX
from .math import MATH
from .rounding import fits, round_array
from .scf import SCF
from .tensor import TENSOR
from .tile import TILE

FLEX: Mapping[str, Handler] = {"aten.flex_attention": flex_attention, "fx.get_attr": get_attr}
HANDLERS: Mapping[str, Handler] = {**ARITH, **MATH, **SCF, **TENSOR, **ATEN, **FX, **FLEX, **ATTN, **TILE}
ALIASES = frozenset({SliceOp.op_name, GroupRowsOp.op_name})
"""Ops whose result is the memory of their operand, so that stores reach it."""


def interpret(
    module: Operation, function: str, *arguments: Any, precise: bool = False, counter: WorkCounter | None = None
) -> list[Any]:
    """What `function` (a `func.func`, or a `tile.kernel`) of `module` returns for numpy arguments.

    Tensors come back as arrays, other values as Python numbers. A kernel returns nothing: its
    stores change the arrays passed for it. bf16 tensors are float32 arrays, in and out. A `counter` counts on.
    Fails with a located error on an op without a meaning here, on sizes that do not fit, and on
    any access outside of a tensor.
    """
    op = _find(module, function)
    kernel = KernelOp.match(op)
    block = (kernel.body if kernel else FuncOp(op).body).block
    data = _bind(op, [a.type for a in block.arguments], arguments, precise)
    machine = Interpreter(precise, counter=counter)
    if kernel is None:
        returned = machine.run_region(op.regions[0], data)
        types = [v.type for v in block.terminator.operands]
        return [x if isinstance(t, TensorType) else x.item() for x, t in zip(returned, types, strict=True)]
    machine.run_kernel(kernel, data)
    for position in _written(kernel):
        if data[position] is not arguments[position]:
            np.copyto(arguments[position], data[position], casting="unsafe")
    return []


@dataclass
class Interpreter:
    """Executes regions; holds the data of every value met so far.

    `program` is the position in the grid of the kernel program that is running. A `counter` is told of every op.
    """

    precise: bool = False
    program: tuple[int, ...] = ()
    values: dict[Value, Array] = field(default_factory=dict[Value, Array])
    counter: WorkCounter | None = None

    def run_region(self, region: Region, arguments: Sequence[Array]) -> list[Array]:
        """Bind the block's arguments, execute its ops, and give what its terminator reads."""
        block = region.block
        self.values.update(zip(block.arguments, arguments, strict=True))
        with np.errstate(all="ignore"):
            for op in block.ops[:-1]:
                self.run_operation(op)
        end = op_class(block.terminator)
        if end is None or not end.terminator:
            op_error(block.terminator, "must be followed by a terminator")
        return [self.values[v] for v in block.terminator.operands]

    def run_operation(self, op: Operation) -> None:
        """Execute one op and keep its results, rounded to their types."""
        handler = HANDLERS.get(op.name)
        if handler is None:
            op_error(op, "is not executable by the interpreter")
        results = self._results(op, handler)
        if len(results) != len(op.results):
            op_error(op, f"gives {len(results)} results, but {len(op.results)} are declared")
        for value, data in zip(op.results, results, strict=True):
            kept = data if op.name in ALIASES else round_array(data, value.type, self.precise)
            if isinstance(value.type, TensorType) and not fits(kept, value.type):
                op_error(op, f"gives a tensor of shape {kept.shape}, but its result is {value.type}")
            self.values[value] = kept

    def _results(self, op: Operation, handler: Handler) -> Sequence[Array]:
        operands = [self.values[v] for v in op.operands]
        try:
            results = handler(Call(op, operands, self.precise, self.program, self.run_region))
            if self.counter is not None:
                self.counter.note(op, operands, results)
            return results
        except (ValueError, IndexError, ArithmeticError) as problem:
            shapes = ", ".join(str(x.shape) for x in operands)
            op_error(op, f"cannot be executed on operands of shape {shapes}: {problem}")

    def run_kernel(self, kernel: KernelOp, arguments: Sequence[Array]) -> None:
        """Count the programs with the grid region and run the body for each, axis 0 fastest."""
        counts = [int(n) for n in self.run_region(kernel.grid, arguments)]
        for position in np.ndindex(*reversed(counts)):
            self.program = tuple(reversed(position))
            self.run_region(kernel.body, arguments)
        self.program = ()


def _find(module: Operation, function: str) -> Operation:
    named = {
        name.value: op
        for op in module.walk()
        if op.name in (FuncOp.op_name, KernelOp.op_name)
        and isinstance(name := op.properties.get("sym_name"), StringAttr)
    }
    if function not in named:
        raise error(f"no function is named '{function}' (there is {', '.join(named) or 'none'})", module.location)
    return named[function]


def _bind(op: Operation, types: Sequence[Type], arguments: Sequence[Any], precise: bool) -> list[Array]:
    """The arguments as data of their declared types; equal symbols must be equal sizes."""
    if len(arguments) != len(types):
        op_error(op, f"takes {len(types)} arguments, but {len(arguments)} are given")
    sizes: dict[str, int] = {}
    bound: list[Array] = []
    for position, (type_, given) in enumerate(zip(types, arguments, strict=True)):
        data = round_array(np.asarray(given), type_, precise)
        if not (fits(data, type_) if isinstance(type_, TensorType) else data.ndim == 0):
            op_error(op, f"argument {position} must be {type_}, but has shape {data.shape}")
        for symbol, size in _symbols(type_, data):
            if sizes.setdefault(symbol, size) != size:
                op_error(op, f"argument {position} has size {size} for '{symbol}', which is {sizes[symbol]} before")
        bound.append(data)
    return bound


def _symbols(type_: Type, data: Array) -> Iterator[tuple[str, int]]:
    shape = type_.shape if isinstance(type_, TensorType) else ()
    for dim, size in zip(shape, data.shape, strict=True):
        if dim is not None and not isinstance(dim, int):
            yield str(dim), size


def _written(kernel: KernelOp) -> set[int]:
    """The positions of the kernel's arguments that some store changes."""
    targets = [
        store.target
        for op in kernel.body.block.ops
        for inner in op.walk()
        if (store := StoreOp.match(inner) or AtomicAddOp.match(inner)) is not None
    ]
    return {_memory(target).index for target in targets}


def _memory(value: Value) -> Value:
    while (part := SliceOp.producing(value) or GroupRowsOp.producing(value)) is not None:
        value = part.source
    return value
