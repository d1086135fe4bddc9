"""Loops and branches as Python statements; what they carry becomes variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...ir.attributes import IntegerAttr, StringAttr, TensorType
from ...ir.core import Block, Operation, Value
from ...ir.dialects.scf import ForOp, IfOp, YieldOp
from .expression import Expression
from .writer import Emitter, KernelWriter

SPECIALISE = "warp_specialize=True"
"""What asks Triton for warps that only load."""


def for_loop(op: Operation, writer: KernelWriter) -> None:
    """`for i in range(lower, upper, step)`, assigning carried variables at the end of the body."""
    view = ForOp(op)
    block = view.body.block
    lower, upper, step = (writer.operand(v).text for v in (view.lower, view.upper, view.step))
    names = [
        carried_variable(op, initial, argument, writer)
        for initial, argument in zip(view.initial, block.arguments[1:], strict=True)
    ]
    entered = set(names) - writer.carried
    writer.carried |= entered
    bounds = f"{lower}, {upper}" if step == "1" else f"{lower}, {upper}, {step}"
    options = [SPECIALISE] if "specialised" in op.attributes else []
    if isinstance(stages := op.attributes.get("stages"), IntegerAttr):
        options.append(f"num_stages={stages.value}")
    counts = f"tl.range({', '.join([bounds, *options])})" if options else f"range({bounds})"
    with writer.scope():
        position = writer.fresh(block.arguments[0].name_hint, "i")
        writer.hold(position, block.arguments[0], ())
        if isinstance(about := op.attributes.get("about"), StringAttr):
            writer.line(f"# {about.value}")
        writer.line(f"for {position} in {counts}:")
        for variable, argument in zip(names, block.arguments[1:], strict=True):
            writer.hold(variable, argument, shape_of(argument))
        with writer.indented():
            write_body(block, names, writer)
    for variable, result in zip(names, view.results, strict=True):
        writer.hold(variable, result, shape_of(result))
    writer.carried -= entered


def write_body(block: Block, names: Sequence[str], writer: KernelWriter) -> None:
    """The operations of a loop, then what it carries on."""
    end = YieldOp(block.terminator)
    for variable, value in zip(names, end.values, strict=True):
        if len(value.uses) == 1 and not isinstance(value.owner, Block) and not value.owner.regions:
            writer.targets[value] = variable
    writer.body(block.ops[:-1])
    assign_together(names, [writer.full(v) for v in end.values], writer)


def carried_variable(op: Operation, initial: Value, argument: Value, writer: KernelWriter) -> str:
    """The variable a loop carries: that of the initial value where nothing else needs it."""
    held, text = writer.operand(initial), writer.full(initial)
    here = initial.owner if isinstance(initial.owner, Block) else initial.owner.parent
    if held == text and held.is_name and held.text not in writer.kept and here is op.parent and len(initial.uses) == 1:
        return held.text
    variable = writer.fresh(argument.name_hint, "carried")
    writer.line(f"{variable} = {text.text}", op)
    return variable


def assign_together(names: Sequence[str], values: Sequence[Expression], writer: KernelWriter) -> None:
    """Assign all at once: a value that reads a variable assigned before it is saved first."""
    pending = [(n, v) for n, v in zip(names, values, strict=True) if v.text != n]
    for position, (_, value) in enumerate(pending):
        if any(earlier in value.names for earlier, _ in pending[:position]):
            saved = writer.fresh(f"next_{pending[position][0]}")
            writer.line(f"{saved} = {value.text}")
            pending[position] = (pending[position][0], Expression(saved))
    for variable, value in pending:
        writer.line(f"{variable} = {value.text}")


def branch(op: Operation, writer: KernelWriter) -> None:
    """`if`, and `else` where there is one; results are variables assigned in both."""
    view = IfOp(op)
    names = [writer.fresh(r.name_hint, "chosen") for r in view.results]
    writer.line(f"if {writer.operand(view.condition).text}:", op)
    _branch_body(view.then.block, names, writer)
    if not view.otherwise.empty and (names or len(view.otherwise.block.ops) > 1):
        writer.line("else:")
        _branch_body(view.otherwise.block, names, writer)
    for variable, result in zip(names, view.results, strict=True):
        writer.hold(variable, result, shape_of(result))


def _branch_body(block: Block, names: Sequence[str], writer: KernelWriter) -> None:
    with writer.indented():
        before = len(writer.lines)
        writer.body(block.ops[:-1])
        assign_together(names, [writer.full(v) for v in YieldOp(block.terminator).values], writer)
        if len(writer.lines) == before:
            writer.line("pass")


def shape_of(value: Value) -> tuple[int, ...]:
    """The sizes of a tile; nothing for a scalar."""
    return tuple(d for d in value.type.shape if isinstance(d, int)) if isinstance(value.type, TensorType) else ()


EMITTERS: Mapping[str, Emitter] = {"scf.for": for_loop, "scf.if": branch}
