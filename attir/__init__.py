"""attir compiles the attention inside PyTorch models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attir.compiler.version import VERSION

if TYPE_CHECKING:
    from attir.compiler.api import compile as compile
    from attir.compiler.api import explain as explain
    from attir.ir.diagnostics import CompileError as CompileError

__all__ = ["CompileError", "__version__", "compile", "explain"]
__version__ = VERSION

# Loaded on first use, so that `import attir` and the command line do not wait for PyTorch.
_HOMES = {"compile": ".compiler.api", "explain": ".compiler.api", "CompileError": ".ir.diagnostics"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attir' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
