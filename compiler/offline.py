"""Compiles a generated kernel for a device that need not be there, and reports what the compiler made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..codegen.triton import TritonKernel
from ..cost_model.devices import device_named
from ..ir.diagnostics import error
from .amdgcn import read_assembly
from .sass import SassReport, disassemble
from .triton_compile import TensorForm, compile_kernel, triton_target

ASSEMBLIES = ("ttir", "ttgir", "llir", "ptx", "cubin", "amdgcn", "hsaco")


@dataclass(frozen=True)
class OfflineKernel:
    """A compiled kernel: `assembly` by stage (text, or bytes for cubin and hsaco), and what it needs.

    `registers` a thread, `shared` bytes a program, `stack` bytes a thread. `spills` counts loads and
    stores of spilled registers; `loops` is the length of each inner loop in instructions, and
    `loop_spills` the spills inside them (both for NVIDIA only). `matrix_instructions` counts
    tensor-core instructions by opcode. `sass` is what was read of a cubin.
    """

    target: str
    assembly: Mapping[str, str | bytes] = field(repr=False)
    registers: int
    shared: int
    stack: int
    spills: int
    matrix_instructions: Mapping[str, int]
    loops: tuple[int, ...] = ()
    loop_spills: int = 0
    sass: SassReport | None = field(default=None, repr=False)

    def emit(self, stage: str) -> str | bytes:
        """The assembly of one stage; CompileError where this target has none of that name."""
        if stage not in self.assembly:
            raise error(f"{self.target} has no stage '{stage}'; expected {', '.join(self.assembly)}")
        return self.assembly[stage]

    @property
    def summary(self) -> str:
        """One line for people."""
        cores = ", ".join(f"{count} {opcode}" for opcode, count in self.matrix_instructions.items()) or "none"
        spilled = f"{self.spills} spills ({self.loop_spills} in loops)" if self.spills else "no spills"
        loops = f", loops of {' and '.join(map(str, self.loops))} instructions" if self.loops else ""
        return (
            f"{self.target}: {self.registers} registers, {spilled}, {self.shared} bytes of shared memory, "
            f"tensor cores: {cores}{loops}"
        )


def compile_offline(kernel: TritonKernel, target: str, predicted: int | None = None) -> OfflineKernel:
    """Compile for `target` ("sm_90", "gfx942") with the installed Triton; needs no GPU.

    Pointers are taken to be aligned to 16 bytes, rows to be contiguous, and other strides to be
    multiples of 16 where the row is. `predicted` bytes of shared memory are named beside the actual
    ones. Raises CompileError for an unknown target, a compiler failure, or a kernel that needs more
    shared memory than the device has.
    """
    device_named(target)
    compiled = compile_kernel(
        kernel,
        [
            TensorForm.contiguous(type_, any_length=False, by_column=argument in kernel.by_column)
            for argument, type_ in enumerate(kernel.tensors)
        ],
        triton_target(target),
    )
    return report_of(compiled, kernel.name, target, predicted)


def report_of(compiled: Any, name: str, target: str, predicted: int | None = None) -> OfflineKernel:
    """What Triton made of the kernel `name`; CompileError where it needs more shared memory than `target` has."""
    shared, limit = int(compiled.metadata.shared), device_named(target).shared_memory
    if shared > limit:
        planned = "" if predicted is None else f" ({predicted} were predicted)"
        raise error(f"kernel '{name}' needs {shared} B of shared memory{planned}, {target} has {limit}")
    assembly = {stage: compiled.asm[stage] for stage in ASSEMBLIES if stage in compiled.asm}
    if "cubin" in assembly:
        return _nvidia_report(target, assembly, shared)
    return _amd_report(target, assembly, shared)


def _nvidia_report(target: str, assembly: Mapping[str, str | bytes], shared: int) -> OfflineKernel:
    cubin = assembly["cubin"]
    assert isinstance(cubin, bytes)
    report = disassemble(cubin)
    return OfflineKernel(
        target, assembly, report.registers, shared, report.stack, report.spills, report.matrix_instructions,
        tuple(len(loop) for loop in report.loops), report.loop_spills, report,
    )  # fmt: skip


def _amd_report(target: str, assembly: Mapping[str, str | bytes], shared: int) -> OfflineKernel:
    text = assembly["amdgcn"]
    assert isinstance(text, str)
    report = read_assembly(text)
    cores = {"v_mfma": report.matrix_instructions} if report.matrix_instructions else {}
    registers = report.vector_registers + report.accumulation_registers
    return OfflineKernel(target, assembly, registers, shared, report.scratch, report.spilled, cores)
