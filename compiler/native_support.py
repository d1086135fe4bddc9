"""Whether native kernels can be compiled and run on this machine; imports nothing heavy."""

from __future__ import annotations

import importlib.util

from ..ir.diagnostics import CompileError
from .host_cpu import host_target


def native_problem() -> str:
    """Why there is no native code on this machine, and what would help; empty where there is."""
    if importlib.util.find_spec("torch_mlir") is None:
        return "the native backend needs torch-mlir, which is not installed; pip install torch-mlir"
    try:
        host_target()
    except CompileError as problem:
        return problem.diagnostics[0].message
    return ""
