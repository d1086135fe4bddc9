"""attir compiles the attention inside PyTorch models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attir.compiler.version import VERSION

if TYPE_CHECKING:
    from attir import kv as kv
    from attir import masks as masks
    from attir import quantization as quantization
    from attir import sparsity as sparsity
    from attir.compiler.api import calibrate as calibrate
    from attir.compiler.api import compile as compile
    from attir.compiler.api import explain as explain
    from attir.ir.diagnostics import CompileError as CompileError

__all__ = ["CompileError", "__version__", "calibrate", "compile", "explain", "kv", "masks", "quantization", "sparsity"]
__version__ = VERSION

# Loaded on first use, so that `import attir` and the command line do not wait for PyTorch.
_HOMES = {
    "calibrate": ".compiler.api",
    "compile": ".compiler.api",
    "explain": ".compiler.api",
    "CompileError": ".ir.diagnostics",
}
_MODULES = ("kv", "masks", "quantization", "sparsity")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'attir' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name], __name__), name)
