"""Compiles a generated kernel with Triton for what is known of the tensors of its calls; starts nothing.

What a kernel may take for granted of a tensor is its form: which neighbours lie beside each other, and
what 16 divides. Sizes are never part of it, so that no length makes a kernel be compiled anew.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..codegen.triton import Parameter, TritonKernel
from ..ir.attributes import TensorType
from ..ir.diagnostics import error
from .kernel_cache import load_module
from .triton_interpreter import language_lock

if TYPE_CHECKING:
    from .layouts import Layout

DIVISOR = 16
"""Triton reads and writes 16 bytes at once where it knows that this divides addresses and strides."""

DIVISORS = (DIVISOR, 8, 1)
"""What may be known to divide strides; 8 elements of half precision are 16 bytes."""

LARGEST_32 = 2**31 - 1


@dataclass(frozen=True)
class TensorForm:
    """What a compiled kernel takes for granted of one tensor, and so what a caller must have checked.

    Neighbours along the axis `unit` lie beside each other; 16 divides the address in bytes
    (`aligned_address`), and `divisor` all other strides in elements: 16, 8 or 1. Where strides are
    `wide`, some are beyond 32 bits.
    """

    unit: int | None
    aligned_address: bool = True
    divisor: int = 16
    wide: bool = False

    @staticmethod
    def of(layout: Layout, *, aligned_address: bool) -> TensorForm:
        """The form of a tensor; its last axis is the unit where it can be."""
        axes = list(reversed(range(len(layout.sizes))))
        candidates = [a for a in axes if layout.strides[a] == 1 and (a == axes[0] or layout.sizes[a] > 1)]
        unit = candidates[0] if candidates else None
        others = [stride for axis, stride in enumerate(layout.strides) if axis != unit]
        divisor = next(d for d in DIVISORS if all(stride % d == 0 for stride in others))
        return TensorForm(unit, aligned_address, divisor, any(stride > LARGEST_32 for stride in others))

    @staticmethod
    def contiguous(type_: TensorType, *, any_length: bool = True, by_column: bool = False) -> TensorForm:
        """The form of a contiguous tensor of some type, with `by_column` of one whose last two axes are swapped.

        A last size that the type leaves open is taken for a multiple of 16, or with `any_length` for
        anything.
        """
        width = type_.shape[-1] if type_.shape else DIVISOR
        if not isinstance(width, int):
            width = 1 if any_length else DIVISOR
        divisor = next(d for d in DIVISORS if width % d == 0)
        return TensorForm(type_.rank - 1 - by_column if type_.rank else None, divisor=divisor)


class HasParameters(Protocol):
    """A kernel whose parameters are known, in their order."""

    @property
    def parameters(self) -> Sequence[Parameter]: ...


def compiler_arguments(
    kernel: HasParameters, forms: Sequence[TensorForm]
) -> tuple[dict[str, str], dict[tuple[int, ...], int], dict[tuple[int, ...], list[list[Any]]]]:
    """Signature, constants and attributes as `ASTSource` takes them, for tensors of these forms."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], int] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, parameter in enumerate(kernel.parameters):
        form, kind = forms[parameter.argument], parameter.kind
        if kind == "stride" and parameter.axis == form.unit:
            signature[parameter.name], constants[position,] = "constexpr", 1
            continue
        signature[parameter.name] = "i64" if kind == "stride" and form.wide else parameter.type
        divisor = form.divisor if kind == "stride" else DIVISOR if kind == "pointer" and form.aligned_address else 1
        if divisor > 1:
            attributes[position,] = [["tt.divisibility", divisor]]
    return signature, constants, attributes


def compile_kernel(kernel: TritonKernel, forms: Sequence[TensorForm], target: tuple[str, int | str, int]) -> Any:
    """Triton's `CompiledKernel` for tensors of these forms; `target` is its backend, architecture and warp size.

    Raises CompileError with Triton's own words where it fails.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    triton: Any = importlib.import_module("triton")
    if triton.knobs.runtime.interpret:
        raise error("TRITON_INTERPRET is set, and Triton then compiles nothing; unset it")
    options = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages, "enable_fp_fusion": True}
    with language_lock:
        function = getattr(load_module(kernel.source, kernel.name), kernel.name)
        source = ASTSource(function, *compiler_arguments(kernel, forms))
        try:
            compiled = triton.compile(source, target=GPUTarget(*target), options=options)
        except Exception as problem:  # whatever Triton, LLVM or ptxas raise
            raise error(
                f"Triton could not compile kernel '{kernel.name}' for {name_of(target)}: {said(problem)}"
            ) from problem
    _check_specialised(kernel, compiled, target)
    return compiled


def _check_specialised(kernel: TritonKernel, compiled: Any, target: tuple[str, int | str, int]) -> None:
    """Fail where Triton silently left out the warps that only load: the kernel's registers were planned for them."""
    regions = compiled.asm["ttgir"].count("ttg.warp_specialize(") if kernel.specialised else 1
    if regions != 1:
        raise error(
            f"kernel '{kernel.name}' for {name_of(target)} must have 1 region of specialised warps, but Triton made "
            f"{regions}"
        )


def said(problem: Exception) -> str:
    """The first line of what someone else's exception says."""
    lines = str(problem).strip().splitlines()
    return lines[0] if lines else type(problem).__name__


def triton_target(name: str) -> tuple[str, int | str, int]:
    """Backend, architecture and warp size of `sm_90` or `gfx942`, as Triton has them."""
    if name.startswith("gfx"):
        return "hip", name, 64
    return "cuda", int(name.removeprefix("sm_")), 32


def name_of(target: tuple[str, int | str, int]) -> str:
    backend, architecture, _ = target
    return f"sm_{architecture}" if backend == "cuda" else str(architecture)
