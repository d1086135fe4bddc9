"""Writes a forward pass (`tile.kernel`) as a Python module for Gluon, warp-specialised for sm_90.

What a program computes comes from its tile operations; how warps share it out is `frame`. Gluon is
experimental in Triton and has no interpreter, so these kernels are only for those who ask for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.attributes import TensorType, element_type
from ...ir.core import Operation
from ...ir.diagnostics import op_error
from ...ir.dialects.tile import IotaOp, KernelOp, SliceOp
from ..triton.control import shape_of
from ..triton.expression import ATOM, name, signature_type, triton_type
from ..triton.launcher import launcher_text
from ..triton.layout import filled
from ..triton.writer import Parameter, argument_names, pointer_type
from . import frame
from .program import KEYS, ROWS, Forward, Step, recognise
from .writer import EMITTERS, GluonWriter, assigned_names, free_names

HALF = ROWS // 2
STAGES = {64: 3, 128: 2}
"""Slots of the rings by head dimension: what fits the shared memory of an SM beside queries and output."""

NUM_WARPS, MOST_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS = 4, 168, 240, 24
"""Warps of a group; registers a thread at the start (3 groups fill an SM), and after they were shared out anew."""

VECTOR, THREADS, ELEMENT_BYTES = 8, 32, 2
"""Elements that a thread stores at once, threads of a warp, bytes of an element."""


@dataclass(frozen=True)
class GluonKernel:
    """The text of a module, and what is needed to compile it without running it.

    `tensors` are what `launch` takes, results last. `parameters` are the kernel's, in order: pointers to
    results, descriptors of q, k and v, strides and sizes. Each program computes 128 rows, with two
    groups of `num_warps` warps that compute and one warp that copies.
    """

    name: str
    source: str
    tensors: tuple[TensorType, ...]
    parameters: tuple[Parameter, ...]
    num_warps: int = NUM_WARPS
    maxnreg: int = MOST_REGISTERS


@dataclass(frozen=True)
class _Part:
    """Lines of a function, and what they read of the functions around it."""

    lines: list[str]
    reads: list[str]


def emit_gluon(kernel: Operation) -> GluonKernel:
    """The module for a forward pass of bounds alone; CompileError with the reason for any other kernel."""
    view = KernelOp.match(kernel)
    if view is None:
        op_error(kernel, "is not a kernel: only 'tile.kernel' can be written as Gluon")
    program = recognise(view)
    writer = _writer(view)
    source = _source(program, writer)
    return GluonKernel(view.sym_name.value, source, tuple(writer.tensor_types), _parameters(program, writer))


def _writer(kernel: KernelOp) -> GluonWriter:
    arguments = argument_names(kernel.body.block)
    writer = GluonWriter(kernel, EMITTERS, arguments)
    writer.taken |= {*frame.NAMES, kernel.sym_name.value}
    for value, argument in zip(kernel.body.block.arguments, arguments, strict=True):
        writer.alias(value, name(f"{argument}_ptr"))
    return writer


def _source(program: Forward, writer: GluonWriter) -> str:
    scalars = writer.section(program.scalars)
    _count(writer, "rows", ROWS)
    vectors = writer.section(program.vectors)
    inside = ["start_n", "rows", *assigned_names(vectors)]
    bodies = [_softmax(step, writer) for step in (program.whole, program.cut)]
    epilogue = _epilogue(program, writer)
    copied = _copies(program, writer)
    outside = _outside(program, writer, scalars)
    whole, cut = (_Part(lines, free_names(lines, [*inside, *outside])) for lines in bodies)
    step_reads = [variable for variable in (*inside[1:], *outside) if variable in {*whole.reads, *cut.reads}]
    consume_reads = free_names([*vectors, *epilogue, f"    [{', '.join(step_reads)}]"], outside)
    produce_reads = free_names([f"    [{', '.join(copied.values())}]"], outside)
    blanks = {
        **_constants(program, writer),
        **copied,
        **_listed("step", step_reads),
        **_listed("consume", consume_reads),
        **_listed("produce", produce_reads),
        "cut_arguments": "".join(f", {variable}" for variable in cut.reads),
        "whole_arguments": "".join(f", {variable}" for variable in whole.reads),
        "vectors": _text(vectors),
        "epilogue": _text(epilogue),
        "scalars": _text(scalars),
        "end": writer.operand(program.end).within(ATOM),
        "full_end": writer.operand(program.full_end).within(ATOM),
        **_signature(_parameters(program, writer)),
    }
    functions = [_function("softmax_of_whole", whole), _function("softmax_of_cut", cut)]
    fixed = [part.format(**blanks) for part in (frame.STEP, frame.CONSUME, frame.PRODUCE, frame.KERNEL)]
    options = {"num_warps": NUM_WARPS, "maxnreg": MOST_REGISTERS}
    launcher = launcher_text(writer, _parameters(program, writer), options)
    return "".join([frame.HEADER.format(**blanks), *functions, *fixed, launcher])


def _count(writer: GluonWriter, variable: str, extent: int) -> None:
    """Let positions inside a tile stand for a variable of the function that is written next."""
    for op in writer.kernel.operation.walk():
        if IotaOp.match(op) is not None:
            writer.hold(variable, op.result, (extent,))


def _softmax(step: Step, writer: GluonWriter) -> list[str]:
    """The body of a function that takes scores to weights, to what the output is scaled by, and to what is kept."""
    with writer.scope():
        writer.taken -= frame.NAMES  # of other functions
        _count(writer, "columns", KEYS)
        values = {"start_n": step.start, "scores": step.scores}
        values |= {"row_max": step.carried[0], "row_sum": step.carried[1]}
        for variable, value in values.items():
            writer.hold(variable, value, shape_of(value))
        writer.taken |= {"columns", *values}
        lines = writer.section(step.softmax)
        results = [writer.full(v).text for v in (step.weights, step.alpha, step.row_max, step.row_sum)]
    if "columns" in free_names(lines, ["columns"]):
        lines = ["    columns = tl.arange(0, KEYS, COLUMNS)", *lines]
    return [*lines, f"    return {', '.join(results)}"]


def _epilogue(program: Forward, writer: GluonWriter) -> list[str]:
    for variable, value in zip(("acc", "row_max", "row_sum"), program.results, strict=True):
        writer.hold(variable, value, shape_of(value))
    writer.epilogue = True
    return writer.section(program.epilogue)


def _copies(program: Forward, writer: GluonWriter) -> dict[str, str]:
    """Which heads are copied, and from which row on."""

    def head(view: SliceOp) -> str:
        return ", ".join(writer.operand(index).text for index in view.indices)

    return {
        "q_head": head(program.queries),
        "k_head": head(program.whole.keys),
        "v_head": head(program.whole.values),
        "start": writer.operand(program.start).text,
    }


def _outside(program: Forward, writer: GluonWriter, scalars: Sequence[str]) -> list[str]:
    """The names of the kernel function that others may read."""
    return [*(p.name for p in _parameters(program, writer) if p.kind != "descriptor"), *assigned_names(scalars)]


def _parameters(program: Forward, writer: GluonWriter) -> tuple[Parameter, ...]:
    """Pointers to results, descriptors, strides, sizes."""
    types, arguments = writer.tensor_types, writer.arguments
    pointers = [Parameter(f"{arguments[i]}_ptr", pointer_type(types[i]), arguments[i], i) for i in range(3, len(types))]
    descriptors: list[Parameter] = []
    for i, (variable, rows) in enumerate((("q_desc", HALF), ("k_desc", KEYS), ("v_desc", KEYS))):
        block = (1, 1, rows, program.width)
        sizes = f"[{', '.join(map(str, block))}]"
        text = f"tensordesc<{signature_type(types[i].element)}{sizes}>"
        value = f"TensorDescriptor.from_tensor({arguments[i]}, {sizes}, COPIED)"
        descriptors.append(Parameter(variable, text, value, i, block=block))
    strides = [p for p in writer.parameters.values() if p.kind == "stride"]
    sizes = [p for p in writer.parameters.values() if p.kind == "size"]
    return (*pointers, *descriptors, *strides, *sizes)


def _constants(program: Forward, writer: GluonWriter) -> dict[str, str]:
    kernel, width = writer.kernel, program.width
    numbers = {
        "half": HALF, "keys": KEYS, "width": width, "stages": STAGES[width],
        "query_bytes": HALF * width * ELEMENT_BYTES, "key_bytes": KEYS * width * ELEMENT_BYTES,
        "store_rows": THREADS * VECTOR // width, "store_columns": width // VECTOR,
        "consumer_registers": CONSUMER_REGISTERS, "producer_registers": PRODUCER_REGISTERS,
    }  # fmt: skip
    return {
        **{blank: str(number) for blank, number in numbers.items()},
        "name": kernel.sym_name.value,
        "origin": f", from {kernel.source.value}" if kernel.source is not None else "",
        "element": triton_type(element_type(writer.tensor_types[0])),
    }


def _signature(parameters: Sequence[Parameter]) -> dict[str, str]:
    kinds = ("pointer", "descriptor", "stride", "size")
    lines = [line for kind in kinds for line in filled([p.name for p in parameters if p.kind == kind], indent=4)]
    sizes = ", ".join(f'"{p.name}"' for p in parameters if p.kind == "size")
    return {"parameters": "\n".join(lines), "sizes": sizes}


def _listed(function: str, variables: Sequence[str]) -> dict[str, str]:
    """What a function takes beside what the frame gives it: as parameters, and as arguments."""
    return {
        f"{function}_parameters": _text(filled(variables, indent=4)),
        f"{function}_arguments": _text(filled(variables, indent=16)),
    }


def _function(title: str, part: _Part) -> str:
    parameters = ", ".join(["scores", "row_max", "row_sum", *part.reads])
    return _text(["@gluon.jit", f"def {title}({parameters}):", *part.lines, "", ""])


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
