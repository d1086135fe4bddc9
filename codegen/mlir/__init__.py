"""Tile IR to MLIR's builtin dialects, for CPUs: text, nothing imported from MLIR."""

from .emit import NativeKernel, NativeModule, emit_module

__all__ = ["NativeKernel", "NativeModule", "emit_module"]
