"""How PyTorch's dtypes, tensors and symbolic sizes are written as types of the IR, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch

from ..ir.attributes import (
    DialectType,
    Dim,
    FloatType,
    IntegerType,
    NoneType,
    Symbol,
    TensorType,
    Type,
    bf16,
    f16,
    f32,
    f64,
    i1,
    i8,
    i16,
    i32,
    i64,
    index,
    ui8,
)

DTYPES: Mapping[torch.dtype, Type] = {
    torch.float16: f16,
    torch.bfloat16: bf16,
    torch.float32: f32,
    torch.float64: f64,
    torch.float8_e4m3fn: FloatType("f8E4M3FN"),
    torch.float8_e5m2: FloatType("f8E5M2"),
    torch.bool: i1,
    torch.int8: i8,
    torch.int16: i16,
    torch.int32: i32,
    torch.int64: i64,
    torch.uint8: ui8,
    torch.uint16: IntegerType(16, signed=False),
    torch.uint32: IntegerType(32, signed=False),
    torch.uint64: IntegerType(64, signed=False),
}
_PLAIN_SYMBOL = re.compile(r"[\w\s+\-*(),.]+")


def type_of_dtype(dtype: torch.dtype) -> Type:
    """The element type; dtypes that the IR does not know keep their name: `!aten.complex64`."""
    return DTYPES.get(dtype) or DialectType(f"aten.{str(dtype).removeprefix('torch.')}")


@cache
def _dtypes_by_type() -> dict[Type, torch.dtype]:
    return {type_: dtype for dtype, type_ in DTYPES.items()}


def dtype_of_type(type_: Type) -> torch.dtype:
    """The dtype of an element type."""
    if isinstance(type_, DialectType):
        return getattr(torch, type_.mnemonic.removeprefix("aten."))
    return _dtypes_by_type()[type_]


def known_number(value: object) -> int | float | bool | None:
    """The Python number of a symbolic value whose expression has become constant, else None."""
    if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return None
    expression = cast(Any, value).node.expr
    if isinstance(value, torch.SymBool):
        return bool(expression) if expression.is_Boolean and not expression.free_symbols else None
    if expression.free_symbols:
        return None
    return int(expression) if isinstance(value, torch.SymInt) else float(expression)


def example_of(size: torch.SymInt) -> int | None:
    """What a symbolic size is in the call that is being captured; None where its value is not known then."""
    number = cast(Any, size).node.hint
    return int(number) if isinstance(number, int) else None


def dim_of(size: int | torch.SymInt) -> Dim:
    """One dimension: a constant, a symbol, or unknown where the expression has no MLIR-safe text."""
    if isinstance(size, int):
        return size
    number = known_number(size)
    if number is not None:
        return int(number)
    text = symbol_text(size)
    return Symbol(text) if text else None


def symbol_text(size: torch.SymInt) -> str:
    """The expression of a size as text for `#attir.sym<...>`, with `//` and `%` spelled as words; may be empty."""
    text = str(cast(Any, size).node.expr).replace("//", " floordiv ").replace("%", " mod ")
    return text if _PLAIN_SYMBOL.fullmatch(text) else ""


def type_of_value(value: object) -> Type:
    """The type of what an fx node computes, from the example in its `meta["val"]`."""
    if isinstance(value, torch.Tensor):
        return TensorType(tuple(dim_of(size) for size in value.shape), type_of_dtype(value.dtype))
    if isinstance(value, bool | torch.SymBool):
        return i1
    if isinstance(value, int | torch.SymInt):
        return index
    if isinstance(value, float | torch.SymFloat):
        return f64
    if value is None:
        return NoneType()
    return DialectType("fx.object")
