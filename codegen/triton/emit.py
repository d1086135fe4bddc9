"""Writes a scheduled kernel (`tile.kernel`) as a Python module for Triton."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.attributes import TensorType
from ...ir.core import Operation
from ...ir.diagnostics import op_error
from ...ir.dialects.tile import KernelOp, LoadOp
from . import arithmetic, codes, control, memory, tiles
from .control import SPECIALISE
from .descriptors import only_host_descriptors
from .expression import name
from .launcher import launcher_text
from .layout import filled
from .library import library_text
from .memory import OffsetBound, offset_bounds
from .places import argument_of
from .writer import Emitter, KernelWriter, Parameter, argument_names, pointer_type


@dataclass(frozen=True)
class TritonKernel:
    """The text of a module, and what is needed to compile it without running it.

    `tensors` are what `launch` takes, results last. `parameters` are the kernel's, in order:
    pointers, then descriptors, strides and sizes. `bounds` is what a
    caller must check of strides before a launch. Arguments `by_column` must have neighbours along
    the axis before the last beside each other in memory.
    """

    name: str
    source: str
    tensors: tuple[TensorType, ...]
    parameters: tuple[Parameter, ...]
    num_warps: int
    num_stages: int
    bounds: tuple[OffsetBound, ...]
    by_column: frozenset[int] = frozenset()

    @property
    def specialised(self) -> bool:
        """Whether Triton is asked for warps that only load."""
        return SPECIALISE in self.source


def _return(op: Operation, writer: KernelWriter) -> None:
    """A kernel ends where its text ends."""


EMITTERS: Mapping[str, Emitter] = {
    **arithmetic.EMITTERS,
    **tiles.EMITTERS,
    **memory.EMITTERS,
    **codes.EMITTERS,
    **control.EMITTERS,
    "tile.return": _return,
}


def emit_triton(kernel: Operation) -> str:
    """The Python text of a module with the kernel and a function `launch(tensors...)` that starts it."""
    return emit_kernel(kernel).source


def emit_kernel(kernel: Operation) -> TritonKernel:
    """As `emit_triton`, with the kernel's signature. Raises CompileError for ops Triton has no form for."""
    view = KernelOp.match(kernel)
    if view is None:
        op_error(kernel, "is not a kernel: only 'tile.kernel' can be written as Triton")
    block = view.body.block
    writer = KernelWriter(view, EMITTERS, argument_names(block))
    writer.taken.add(view.sym_name.value)
    for value, argument in zip(block.arguments, writer.arguments, strict=True):
        writer.alias(value, name(f"{argument}_ptr"))
    writer.body(block.ops)
    parameters = _parameters(writer)
    source = "".join(
        [
            _header(view),
            "import triton\nimport triton.language as tl\n",
            f"{DESCRIPTOR_IMPORT}\n\n" if any(p.kind == "descriptor" for p in parameters) else "\n\n",
            library_text(writer.library),
            _kernel_text(writer, parameters),
            "\n\n",
            launcher_text(writer, parameters),
        ]
    )
    warps, stages = view.num_warps.value, view.num_stages.value
    return TritonKernel(
        view.sym_name.value,
        source,
        tuple(writer.tensor_types),
        parameters,
        warps,
        stages,
        offset_bounds(writer),
        _by_column(writer),
    )


def _header(kernel: KernelOp) -> str:
    origin = f", from {kernel.source.value}" if kernel.source is not None else ""
    return f'"""Fused attention kernel `{kernel.sym_name.value}`{origin}. Written by attir."""\n\n'


def _by_column(writer: KernelWriter) -> frozenset[int]:
    loads = (LoadOp.match(op) for op in writer.kernel.operation.walk())
    return frozenset(
        argument_of(load.source, writer).argument for load in loads if load is not None and load.by_column is not None
    )


def _parameters(writer: KernelWriter) -> tuple[Parameter, ...]:
    """Pointers to all that is not read through descriptors alone, descriptors, strides, sizes."""
    arguments = zip(writer.kernel.body.block.arguments, writer.arguments, writer.tensor_types, strict=True)
    pointers = [
        Parameter(f"{argument}_ptr", pointer_type(type_), argument, position)
        for position, (value, argument, type_) in enumerate(arguments)
        if not only_host_descriptors(value, writer)
    ]
    others = sorted(writer.parameters.values(), key=lambda p: (KINDS.index(p.kind), p.argument, p.axis or 0))
    return (*pointers, *others)


DESCRIPTOR_IMPORT = "from triton.tools.tensor_descriptor import TensorDescriptor\n"

KINDS = ("pointer", "descriptor", "stride", "size")


def _kernel_text(writer: KernelWriter, parameters: tuple[Parameter, ...]) -> str:
    groups: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for parameter in parameters:
        groups[parameter.kind].append(parameter.name)
    heading = ["@triton.jit", f"def {writer.kernel.sym_name.value}("]
    names = [line for members in groups.values() for line in filled(members, indent=4)]
    return "\n".join([*heading, *names, "):", *writer.prologue, *writer.lines, ""])
