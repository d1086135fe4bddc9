"""Tile IR to Gluon for sm_90: readable Python text, nothing imported from Triton."""

from .emit import CONSUMER_REGISTERS, PRODUCER_REGISTERS, GluonKernel, emit_gluon

__all__ = ["CONSUMER_REGISTERS", "PRODUCER_REGISTERS", "GluonKernel", "emit_gluon"]
