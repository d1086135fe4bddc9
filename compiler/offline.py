"""Compiles a generated kernel for a device that need not be there, and reports what the compiler made of it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..codegen.triton import Parameter, TritonKernel
from ..cost_model.devices import device_named
from ..ir.attributes import TensorType
from ..ir.diagnostics import CompileError, error
from .amdgcn import read_assembly
from .kernel_cache import load_module
from .sass import disassemble
from .triton_interpreter import language_lock

ASSEMBLIES = ("ttir", "ttgir", "llir", "ptx", "cubin", "amdgcn", "hsaco")


@dataclass(frozen=True)
class OfflineKernel:
    """A compiled kernel: `assembly` by stage (text, or bytes for cubin and hsaco), and what it needs.

    `registers` a thread, `shared` bytes a program, `stack` bytes a thread. `spills` counts loads and
    stores of spilled registers; `loops` is the length of each inner loop in instructions, and
    `loop_spills` the spills inside them (both for NVIDIA only). `matrix_instructions` counts
    tensor-core instructions by opcode.
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


def compile_offline(kernel: TritonKernel, target: str) -> OfflineKernel:
    """Compile for `target` ("sm_90", "gfx942") with the installed Triton; needs no GPU.

    Pointers are taken to be aligned to 16 bytes, rows to be
    contiguous, and other strides to be multiples of 16 where the row is. Raises CompileError for an
    unknown target, a compiler failure, or a kernel that needs more shared memory than the device has.
    """
    limit = device_named(target).shared_memory
    compiled = _compile(kernel, target)
    shared = int(compiled.metadata.shared)
    if shared > limit:
        raise error(f"kernel '{kernel.name}' needs {shared} B of shared memory, {target} has {limit}")
    assembly = {stage: compiled.asm[stage] for stage in ASSEMBLIES if stage in compiled.asm}
    if "cubin" in assembly:
        return _nvidia_report(target, assembly, shared)
    return _amd_report(target, assembly, shared)


def _compile(kernel: TritonKernel, target: str) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    triton: Any = importlib.import_module("triton")
    if triton.knobs.runtime.interpret:
        raise error("TRITON_INTERPRET is set, and Triton then compiles nothing; unset it")
    arguments = _arguments(kernel)
    options = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages, "enable_fp_fusion": True}
    with language_lock:
        function = getattr(load_module(kernel.source, kernel.name), kernel.name)
        source = ASTSource(function, *arguments)
        try:
            return triton.compile(source, target=GPUTarget(*_gpu(target)), options=options)
        except Exception as problem:  # whatever Triton, LLVM or ptxas raise
            raise _compiler_failure(kernel, target, problem) from problem


def _compiler_failure(kernel: TritonKernel, target: str, problem: Exception) -> CompileError:
    first = str(problem).strip().splitlines()
    reason = first[0] if first else type(problem).__name__
    return error(f"Triton could not compile kernel '{kernel.name}' for {target}: {reason}")


def _gpu(target: str) -> tuple[str, int | str, int]:
    """Backend, architecture and warp size as Triton names them."""
    if target.startswith("gfx"):
        return "hip", target, 64
    return "cuda", int(target.removeprefix("sm_")), 32


def _arguments(
    kernel: TritonKernel,
) -> tuple[dict[str, str], dict[tuple[int, ...], int], dict[tuple[int, ...], list[list[Any]]]]:
    """Signature, constants and alignment as `ASTSource` takes them."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], int] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, parameter in enumerate(kernel.parameters):
        if is_unit_stride(parameter, kernel.tensors):
            signature[parameter.name], constants[position,] = "constexpr", 1
            continue
        signature[parameter.name] = parameter.type
        if is_aligned(parameter, kernel.tensors):
            attributes[position,] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def is_unit_stride(parameter: Parameter, types: tuple[TensorType, ...]) -> bool:
    """Whether a parameter is the distance between neighbours in a contiguous row."""
    return parameter.kind == "stride" and parameter.axis == types[parameter.argument].rank - 1


def is_aligned(parameter: Parameter, types: tuple[TensorType, ...]) -> bool:
    """Whether a contiguous tensor gives a parameter that 16 divides."""
    last = types[parameter.argument].shape[-1:]
    row_is_aligned = not last or not isinstance(last[0], int) or last[0] % 16 == 0
    return parameter.kind == "pointer" or (parameter.kind == "stride" and row_is_aligned)


def _nvidia_report(target: str, assembly: Mapping[str, str | bytes], shared: int) -> OfflineKernel:
    cubin = assembly["cubin"]
    assert isinstance(cubin, bytes)
    report = disassemble(cubin)
    return OfflineKernel(
        target, assembly, report.registers, shared, report.stack, report.spills, report.matrix_instructions,
        tuple(len(loop) for loop in report.loops), report.loop_spills,
    )  # fmt: skip


def _amd_report(target: str, assembly: Mapping[str, str | bytes], shared: int) -> OfflineKernel:
    text = assembly["amdgcn"]
    assert isinstance(text, str)
    report = read_assembly(text)
    cores = {"v_mfma": report.matrix_instructions} if report.matrix_instructions else {}
    registers = report.vector_registers + report.accumulation_registers
    return OfflineKernel(target, assembly, registers, shared, report.scratch, report.spilled, cores)
