"""Warp-specialised kernels in Gluon: which attention has one, and what the compiler makes of it without a GPU.

They come from the same tile program as the Triton kernel, and start through Triton's own launcher. Gluon
has no interpreter; nothing chooses such a kernel by itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ..codegen.gluon import GluonKernel, emit_gluon
from ..ir.diagnostics import CompileError, error
from .kernel_cache import load_module
from .lowering import Lowered
from .offline import OfflineKernel, report_of
from .sass import Loop, SassReport
from .triton_compile import TensorForm, compiler_arguments, name_of, said, triton_target
from .triton_interpreter import language_lock

TARGET = "sm_90"
WISHES: tuple[tuple[str, int | str], ...] = (
    ("block_m", 128), ("block_n", 128), ("num_warps", 8), ("num_stages", 2),
)  # fmt: skip
"""What must be asked of the planner, so that the tile program is one that can be shared out to two groups of warps."""


def gluon_kernel(lowered: Lowered) -> GluonKernel | str:
    """The Gluon kernel for an attention lowered for sm_90 with `WISHES`, or in words why there is none."""
    if lowered.target != TARGET:
        return f"Gluon kernels are for {TARGET}, not for {lowered.target}"
    if lowered.roles != ("main",):
        return f"it takes {len(lowered.kernels)} kernels ({', '.join(lowered.roles)}), and Gluon kernels stand alone"
    try:
        return emit_gluon(lowered.kernels[0])
    except CompileError as problem:
        return str(problem.diagnostics[0].message)


def load_gluon(kernel: GluonKernel) -> Callable[..., None]:
    """The function `launch(q, k, v, out, lse)` of the module, for tensors on a GPU of sm_90.

    q, k and v must be such that tensor descriptors can stand for them (see `triton_kernels.is_regular`),
    and hold at least one key.
    """
    return load_module(kernel.source, kernel.name).launch


def compile_gluon_offline(kernel: GluonKernel) -> OfflineKernel:
    """Compile for sm_90 with the installed Triton; needs no GPU.

    Results are taken to be contiguous. Raises CompileError with Triton's own words where it fails.
    """
    triton: Any = importlib.import_module("triton")
    compiler: Any = importlib.import_module("triton.backends.compiler")
    runtime = _gluon_runtime()
    target = triton_target(TARGET)
    options = {"num_warps": kernel.num_warps, "maxnreg": kernel.maxnreg, "enable_fp_fusion": True}
    with language_lock:
        module = load_module(kernel.source, kernel.name)
        source = runtime.GluonASTSource(getattr(module, kernel.name), *_arguments(kernel, module.COPIED))
        try:
            compiled = triton.compile(source, target=compiler.GPUTarget(*target), options=options)
        except Exception as problem:  # whatever Triton, LLVM or ptxas raise
            raise error(
                f"Triton could not compile kernel '{kernel.name}' for {name_of(target)}: {said(problem)}"
            ) from problem
    return report_of(compiled, kernel.name, TARGET)


def tile_loops(sass: SassReport) -> tuple[Loop, ...]:
    """The loops over key tiles, two for each group of warps: those that wait for both products of a tile."""
    return tuple(loop for loop in sass.loops if len(_waits(loop)) == 2)


def overlapped_exponentials(loop: Loop) -> int:
    """How many exponentials of a loop over key tiles come while its product with values may still be under way."""
    first, second = _waits(loop)
    return sum(i.full_opcode.startswith("MUFU.EX2") for i in loop.instructions[first:second])


def _waits(loop: Loop) -> list[int]:
    return [at for at, i in enumerate(loop.instructions) if i.full_opcode.startswith("WARPGROUP.DEPBAR")]


def _gluon_runtime() -> Any:
    """Triton's module with Gluon's kind of source, which 3.6 does not export."""
    try:
        return importlib.import_module("triton.experimental.gluon._runtime")
    except ImportError as problem:
        raise error(f"the installed Triton has no Gluon: {problem}") from problem


def _arguments(kernel: GluonKernel, copied: object) -> tuple[dict[str, str], dict[Any, Any], dict[Any, Any]]:
    """Signature, constants and attributes; descriptors also say how tiles lie in shared memory."""
    forms = [TensorForm.contiguous(type_, any_length=False) for type_ in kernel.tensors]
    signature, constants, attributes = compiler_arguments(kernel, forms)
    for parameter in kernel.parameters:
        if parameter.kind == "descriptor":
            signature[parameter.name] = f"{parameter.type.removesuffix('>')},{copied!r}>"
    return signature, constants, attributes
