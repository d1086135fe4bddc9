"""Attention in few bits: `attir.compile(model, quantize="int8")`, or a scheme of your own.

four_bits = attir.quantization.scheme("kv4", rotate="hadamard")
model = attir.compile(model, quantize=four_bits)

Lossy, so only on request. A scale is that of a group of numbers: a nan or an infinity among them makes all that is read
from the group nan.
"""

from __future__ import annotations

from attir.compiler.bases import channel_mask, key_basis, pair_scales, value_basis
from attir.compiler.schemes import SCHEMES, Scheme, scheme
from attir.compiler.storage_math import dequantize, pack, quantize, unpack
from attir.ir.storage import Storage

__all__ = [
    "SCHEMES",
    "Scheme",
    "Storage",
    "channel_mask",
    "dequantize",
    "key_basis",
    "pack",
    "pair_scales",
    "quantize",
    "scheme",
    "unpack",
    "value_basis",
]
