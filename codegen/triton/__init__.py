"""Tile IR to Triton: readable Python text, nothing imported from Triton."""

from .emit import EMITTERS, TritonKernel, emit_kernel, emit_triton
from .memory import OffsetBound
from .writer import Parameter

__all__ = ["EMITTERS", "OffsetBound", "Parameter", "TritonKernel", "emit_kernel", "emit_triton"]
