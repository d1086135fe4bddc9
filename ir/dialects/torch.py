"""The `torch` dialect: what torch-mlir writes, read and carried, and understood only by its conversion to `aten`.

    %1 = "torch.aten.softmax.int"(%0, %int-1, %none) : (!torch.vtensor<[2,?],f32>, !torch.int, !torch.none) -> ...

Open: any op is allowed. Every argument is an operand in the order of the ATen schema; constants are
ops (`torch.constant.int`, `torch.prim.ListConstruct`), and sizes have names where an op
`torch.bind_symbolic_shape` gives them some. Weights are blobs beside the module, known by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..attributes import (
    FLOAT_WIDTHS,
    Attribute,
    DialectType,
    Dim,
    FloatType,
    IntegerType,
    NoneType,
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
from ..dialect import Dialect

TENSORS = ("torch.vtensor", "torch.tensor")
LISTS = ("torch.list", "torch.tuple")


@dataclass(frozen=True)
class VerbatimAttr(Attribute):
    """An attribute of MLIR's own, carried without a meaning: `affine_map<...>`, `dense_resource<...> : tensor<...>`."""

    text: str

    def __str__(self) -> str:
        return self.text


DTYPES: Mapping[int, Type] = {
    0: ui8, 1: i8, 2: i16, 3: i32, 4: i64, 5: f16, 6: f32, 7: f64, 11: i1, 15: bf16,
    23: FloatType("f8E5M2"), 24: FloatType("f8E4M3FN"), 28: IntegerType(32, signed=False),
}  # fmt: skip
"""Element types by the number that stands for a dtype among the operands; complex ones differ between versions."""
LAYOUTS: Mapping[int, str] = {0: "strided", 1: "sparse_coo", 2: "sparse_csr", 3: "sparse_csc"}
MEMORY_FORMATS: Mapping[int, str] = {
    0: "contiguous_format", 1: "preserve_format", 2: "channels_last", 3: "channels_last_3d",
}  # fmt: skip

_SCALARS: Mapping[str, Type] = {"torch.int": index, "torch.float": f64, "torch.bool": i1, "torch.none": NoneType()}
_COMPLEX: Mapping[str, str] = {"complex<f16>": "complex32", "complex<f32>": "complex64", "complex<f64>": "complex128"}
_INTEGER = re.compile(r"([su]?)i([0-9]{1,2})")


def value_type(type_: Type) -> Type | None:
    """What a type of the dialect is at the `aten` level; None for a tensor whose rank or dtype is unknown.

    Signed integers lose their sign, as everywhere in the IR; types without a counterpart stay.
    """
    if not isinstance(type_, DialectType):
        return type_
    if type_.mnemonic in TENSORS:
        return _tensor_type(type_.body or "")
    return _SCALARS.get(type_.mnemonic, type_)


def _tensor_type(body: str) -> TensorType | None:
    """`[2,4,?,64],f32`, perhaps with an encoding behind."""
    found = re.fullmatch(r"\s*\[([^\]]*)\]\s*,\s*(.*)", body)
    if found is None or (element := element_type(found[2].partition(",#")[0].strip())) is None:
        return None
    sizes = [size.strip() for size in found[1].split(",")] if found[1].strip() else []
    dims: list[Dim] = [None if size == "?" else int(size) for size in sizes]
    return TensorType(tuple(dims), element)


def element_type(text: str) -> Type | None:
    """The element type written as `f32`, `si64`, `ui8`, `i1` or `complex<f32>`; None for another."""
    if text in FLOAT_WIDTHS:
        return FloatType(text)
    if text in _COMPLEX:
        return DialectType(f"aten.{_COMPLEX[text]}")
    found = _INTEGER.fullmatch(text)
    return IntegerType(int(found[2]), signed=found[1] != "u") if found else None


TORCH = Dialect("torch", (), open_=True)
