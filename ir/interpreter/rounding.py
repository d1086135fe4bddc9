"""How data of each type is held in numpy, and how results are rounded to their type."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..attributes import (
    DialectType,
    FloatType,
    IndexType,
    IntegerType,
    NoneType,
    TensorType,
    Type,
    bf16,
    element_type,
    is_float8,
)
from ..diagnostics import error
from .call import Array

FLOATS: Mapping[str, str] = {"f16": "float16", "bf16": "float32", "f32": "float32", "f64": "float64"} | {
    "f8E4M3FN": "float32", "f8E5M2": "float32",
}  # fmt: skip
INTEGER_WIDTHS = (8, 16, 32, 64)
FLOATS_OF_8_BITS: Mapping[str, tuple[int, int, float, float]] = {
    "f8E4M3FN": (3, -6, 448.0, float("nan")),
    "f8E5M2": (2, -14, 57344.0, float("inf")),
}
"""Bits of the mantissa, the exponent of the least normal number, the largest number, and what lies beyond it."""

BF16_DROPPED_BITS = 16
TF32_DROPPED_BITS = 13


def numpy_dtype(type_: Type, precise: bool = False) -> np.dtype[np.generic]:
    """The numpy type that holds elements of `type_`. Fails on a type numpy cannot hold."""
    match element_type(type_):
        case IntegerType(1) | NoneType():
            return np.dtype(np.bool_)
        case IntegerType(width, signed) if width in INTEGER_WIDTHS:
            return np.dtype(f"{'int' if signed else 'uint'}{width}")
        case IndexType():
            return np.dtype(np.int64)
        case FloatType(name) if name in FLOATS:
            return np.dtype(np.float64 if precise else FLOATS[name])
        case DialectType("aten.complex64"):
            return np.dtype(np.complex128 if precise else np.complex64)
        case _:
            raise error(f"the interpreter has no numbers of type {element_type(type_)}")


def round_array(data: Array, type_: Type, precise: bool = False) -> Array:
    """`data` in the elements of `type_`, floats to the nearest (even) value; no copy if it fits."""
    with np.errstate(all="ignore"):
        given = np.asarray(data)
        if element_type(type_) == bf16 and not precise:
            return drop_mantissa(given, BF16_DROPPED_BITS)
        if is_float8(element_type(type_)) and not precise:
            return round_to_8_bits(given, element_type(type_))
        return given.astype(numpy_dtype(type_, precise), copy=False)


def round_to_8_bits(data: Array, type_: Type) -> Array:
    """float32 that an 8-bit float holds exactly, the nearest (even) ones."""
    assert isinstance(type_, FloatType)
    bits, least, largest, beyond = FLOATS_OF_8_BITS[type_.name]
    exact = np.asarray(data, np.float64)
    _, exponent = np.frexp(exact)
    step = np.exp2(np.maximum(exponent - 1, least) - bits)
    rounded = np.rint(exact / step) * step
    kept = np.where(np.abs(rounded) <= largest, rounded, np.copysign(beyond, exact))
    return np.where(np.isnan(exact), np.nan, kept).astype(np.float32)


def drop_mantissa(data: Array, bits: int) -> Array:
    """float32 rounded to nearest even with the low `bits` bits of the mantissa zero; nan stays."""
    raw = _bits_rounded_to_odd(data)
    half = np.uint32((1 << (bits - 1)) - 1)
    rounded = (raw + half + ((raw >> np.uint32(bits)) & np.uint32(1))) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
    return np.where(np.isnan(data), np.float32(np.nan), np.asarray(rounded).view(np.float32))


def _bits_rounded_to_odd(data: Array) -> NDArray[np.uint32]:
    """The f32 bits of `data`, inexact ones odd, so that rounding them again equals rounding once."""
    single = np.asarray(data.astype(np.float32, copy=False))
    bits = single.view(np.uint32)
    exact = (single == data) | ~np.isfinite(single)
    too_large = np.abs(single) > np.abs(data)
    return np.where(exact, bits, (bits - too_large.astype(np.uint32)) | np.uint32(1))


def wide(data: Array) -> Array:
    """`data` in the type that results are computed in before rounding: float64, complex128, int64 or bool."""
    if data.dtype.kind == "c":
        return data.astype(np.complex128, copy=False)
    if data.dtype.kind == "f":
        return data.astype(np.float64, copy=False)
    return data if data.dtype.kind == "b" else data.astype(np.int64, copy=False)


def fits(data: Array, type_: TensorType) -> bool:
    """Whether the shape of `data` is one that `type_` allows; symbols allow any size."""
    return data.ndim == type_.rank and all(
        size == actual for size, actual in zip(type_.shape, data.shape, strict=True) if isinstance(size, int)
    )
