"""Writes the Python function that counts the programs of a kernel and starts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap

from ...ir.attributes import IntegerAttr
from ...ir.core import Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.arith import CMPI_PREDICATES, ConstantOp
from ...ir.dialects.tensor import DimOp
from ...ir.dialects.tile import YieldOp
from .expression import Expression, call, infix, literal, name
from .layout import filled
from .writer import KernelWriter, Parameter, size_parameter


def launcher_text(
    writer: KernelWriter, parameters: Sequence[Parameter], options: Mapping[str, int] | None = None
) -> str:
    """`def launch(tensors...)`: sizes, grid, then the call with strides and options, by default those of the kernel."""
    kernel, arguments = writer.kernel, writer.arguments
    sizes = {p.name: p for p in parameters if p.kind == "size"}
    passed = list(sizes)
    grid = _grid(writer, sizes)
    options = options or {"num_warps": kernel.num_warps.value, "num_stages": kernel.num_stages.value}
    defaults = [f"{option}={value}" for option, value in options.items()]
    lines = [f"def launch({', '.join([*arguments, *defaults])}):", *_summary(writer)]
    lines += [f"    {size.name} = {size.value}" for size in sizes.values()]
    lines += [f"    grid = {grid}", f"    {kernel.sym_name.value}[grid]("]
    for kind in ("pointer", "descriptor", "stride"):
        lines += filled([p.value for p in parameters if p.kind == kind])
    lines += filled(passed)
    lines += filled([*(f"{option}={option}" for option in options), "enable_fp_fusion=True"])
    return "\n".join([*lines, "    )", ""])


def _summary(writer: KernelWriter) -> list[str]:
    """The docstring: what shape each tensor has."""
    shapes = [
        f"{argument} ({', '.join('?' if d is None else str(d) for d in type_.shape)})"
        for argument, type_ in zip(writer.arguments, writer.tensor_types, strict=True)
    ]
    return ['    """Start the kernel.', "", *(f"    {line}" for line in wrap(", ".join(shapes), 92)), '    """']


def _grid(writer: KernelWriter, sizes: dict[str, Parameter]) -> str:
    """The grid region as Python; sizes it reads are added to `sizes`."""
    known: dict[Value, Expression] = {}
    block = writer.kernel.grid.block
    for op in block.ops[:-1]:
        known[op.result] = _host_expression(op, known, writer, sizes)
    values = [known[v].text for v in YieldOp(block.terminator).values]
    return f"({', '.join(values)}{',' if len(values) == 1 else ''})"


def _host_expression(
    op: Operation, known: Mapping[Value, Expression], writer: KernelWriter, sizes: dict[str, Parameter]
) -> Expression:
    if (constant := ConstantOp.match(op)) is not None:
        assert isinstance(constant.value, IntegerAttr)
        return literal(constant.value)
    if (dim := DimOp.match(op)) is not None:
        return _host_size(dim, known, writer, sizes)
    if op.name not in _HOST:
        op_error(op, "cannot be computed when a kernel is launched")
    return _HOST[op.name](op, [known[v] for v in op.operands])


def _host_size(
    dim: DimOp, known: Mapping[Value, Expression], writer: KernelWriter, sizes: dict[str, Parameter]
) -> Expression:
    argument, axis = writer.kernel.grid.block.arguments.index(dim.source), int(known[dim.axis].text)
    size = writer.tensor_types[argument].shape[axis]
    if isinstance(size, int):
        return literal(IntegerAttr(size))
    parameter = size_parameter(writer.arguments, writer.tensor_types, argument, axis)
    sizes.setdefault(parameter.name, parameter)
    return name(parameter.name)


def _host_infix(operator: str) -> Callable[[Operation, Sequence[Expression]], Expression]:
    return lambda op, operands: infix(operator, *operands)


def _host_call(function: str) -> Callable[[Operation, Sequence[Expression]], Expression]:
    return lambda op, operands: call(function, *operands)


def _host_compare(op: Operation, operands: Sequence[Expression]) -> Expression:
    predicate = op.properties["predicate"]
    assert isinstance(predicate, IntegerAttr)
    symbols = {"eq": "==", "ne": "!=", "slt": "<", "sle": "<=", "sgt": ">", "sge": ">="}
    return infix(symbols[CMPI_PREDICATES[predicate.value]], *operands)


def _host_select(op: Operation, operands: Sequence[Expression]) -> Expression:
    condition, x, y = (operand.text for operand in operands)
    return Expression(f"({x} if {condition} else {y})")


_HOST: Mapping[str, Callable[[Operation, Sequence[Expression]], Expression]] = {
    "arith.addi": _host_infix("+"),
    "arith.subi": _host_infix("-"),
    "arith.muli": _host_infix("*"),
    "arith.divsi": _host_infix("//"),
    "arith.floordivsi": _host_infix("//"),
    "arith.remsi": _host_infix("%"),
    "arith.maxsi": _host_call("max"),
    "arith.minsi": _host_call("min"),
    "arith.cmpi": _host_compare,
    "arith.select": _host_select,
}
"""Grid sizes are never negative, so that Python's rounding and the IR's agree."""
