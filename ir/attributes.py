"""Types and attributes: frozen, hashable, compared by value; `str()` is their MLIR text.

Knows the builtin types and attributes and the two symbolic ones of attir; knows no operation.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


class Attribute:
    """Compile-time data attached to an operation."""


class Type(Attribute):
    """The type of a value. Types are attributes, as in MLIR."""


# --- types ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class IntegerType(Type):
    """A signless integer `i1`, `i8`, `i32`, `i64`, or an unsigned one such as `ui8`."""

    width: int
    signed: bool = True

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}i{self.width}"


@dataclass(frozen=True)
class IndexType(Type):
    """A size or a position."""

    def __str__(self) -> str:
        return "index"


@dataclass(frozen=True)
class FloatType(Type):
    """A float by its MLIR name: `f16`, `bf16`, `f32`, `f64`, `f8E4M3FN`, `f8E5M2`."""

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def width(self) -> int:
        return FLOAT_WIDTHS[self.name]


FLOAT_WIDTHS: Mapping[str, int] = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64, "f8E4M3FN": 8, "f8E5M2": 8}


@dataclass(frozen=True)
class Symbol:
    """A size known only at run time, by name or expression: `s0`, `8*s0`, `s0 + 1`."""

    text: str

    def __str__(self) -> str:
        return self.text


Dim: TypeAlias = int | Symbol | None
"""One dimension: a constant, a symbol shared across values, or unknown."""


@dataclass(frozen=True)
class TensorType(Type):
    """A ranked tensor. Symbols travel as the encoding, one per `?` and `_` for an unnamed one.

    `tensor<?x8x?x64xf16, #attir.sym<s0, s1>>`
    """

    shape: tuple[Dim, ...]
    element: Type

    def __str__(self) -> str:
        dims = "".join(f"{d if isinstance(d, int) else '?'}x" for d in self.shape)
        names = [d for d in self.shape if not isinstance(d, int)]
        if any(isinstance(d, Symbol) for d in names):
            symbols = ", ".join("_" if d is None else str(d) for d in names)
            return f"tensor<{dims}{self.element}, #attir.sym<{symbols}>>"
        return f"tensor<{dims}{self.element}>"

    @property
    def rank(self) -> int:
        return len(self.shape)

    def with_shape(self, *shape: Dim) -> TensorType:
        return TensorType(tuple(shape), self.element)

    def with_element(self, element: Type) -> TensorType:
        return TensorType(self.shape, element)


@dataclass(frozen=True)
class FunctionType(Type):
    """`(inputs) -> (results)`; a single result is printed without parentheses."""

    inputs: tuple[Type, ...]
    results: tuple[Type, ...]

    def __str__(self) -> str:
        results = ", ".join(map(str, self.results))
        bare = len(self.results) == 1 and not isinstance(self.results[0], FunctionType)
        return f"({', '.join(map(str, self.inputs))}) -> {results if bare else f'({results})'}"


@dataclass(frozen=True)
class NoneType(Type):
    """The type of a value that carries nothing."""

    def __str__(self) -> str:
        return "none"


@dataclass(frozen=True)
class DialectType(Type):
    """A type of an open dialect, its body kept verbatim: `!aten.list<2>`."""

    mnemonic: str
    body: str | None = None

    def __str__(self) -> str:
        return f"!{self.mnemonic}" + (f"<{self.body}>" if self.body is not None else "")


i1, i8, i16, i32, i64 = (IntegerType(w) for w in (1, 8, 16, 32, 64))
ui8 = IntegerType(8, signed=False)
f16, bf16, f32, f64 = (FloatType(n) for n in ("f16", "bf16", "f32", "f64"))
index = IndexType()
none = NoneType()


def element_type(type_: Type) -> Type:
    """The scalar type of a tensor type, or the type itself."""
    return type_.element if isinstance(type_, TensorType) else type_


def is_float8(type_: Type) -> bool:
    """Whether a type is a float of 8 bits."""
    return isinstance(type_, FloatType) and type_.width == 8


def is_float(type_: Type) -> bool:
    """Whether the type, or its element type, is a float."""
    return isinstance(element_type(type_), FloatType)


def is_integer(type_: Type) -> bool:
    """Whether the type, or its element type, is an integer or `index`."""
    return isinstance(element_type(type_), IntegerType | IndexType)


# --- attributes ----------------------------------------------------------------------------


@dataclass(frozen=True)
class IntegerAttr(Attribute):
    """An integer with its type; `i1` prints as `true` or `false`."""

    value: int
    type: Type = i64

    def __str__(self) -> str:
        if self.type == i1:
            return "true" if self.value else "false"
        return f"{self.value} : {self.type}"


TRUE, FALSE = IntegerAttr(1, i1), IntegerAttr(0, i1)


@dataclass(frozen=True)
class FloatAttr(Attribute):
    """A float with its type, held as the nearest value of that type.

    Equality is by bits, so nan equals nan and 0.0 differs from -0.0.
    """

    value: float
    type: FloatType = f32

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", round_to(self.value, self.type))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FloatAttr) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f"{float_text(self.value, self.type)} : {self.type}"


@dataclass(frozen=True)
class StringAttr(Attribute):
    """A quoted string."""

    value: str

    def __str__(self) -> str:
        return quoted(self.value)


@dataclass(frozen=True)
class UnitAttr(Attribute):
    """A flag: its presence is its meaning."""

    def __str__(self) -> str:
        return "unit"


@dataclass(frozen=True)
class ArrayAttr(Attribute):
    """A list of attributes: `[1 : i64, "x"]`."""

    items: tuple[Attribute, ...]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.items))}]"


@dataclass(frozen=True)
class DictAttr(Attribute):
    """A dictionary, printed sorted by key: `{block_m = 64 : i64}`."""

    items: tuple[tuple[str, Attribute], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(sorted(self.items)))

    @staticmethod
    def of(entries: Mapping[str, Attribute]) -> DictAttr:
        return DictAttr(tuple(entries.items()))

    def get(self, key: str) -> Attribute | None:
        return dict(self.items).get(key)

    def __str__(self) -> str:
        return "{" + ", ".join(entry_text(k, v) for k, v in self.items) + "}"


@dataclass(frozen=True)
class DenseArrayAttr(Attribute):
    """A compact list of integers: `array<i64: 64, 128>`."""

    values: tuple[int, ...]
    element: IntegerType = i64

    def __str__(self) -> str:
        body = f": {', '.join(map(str, self.values))}" if self.values else ""
        return f"array<{self.element}{body}>"


@dataclass(frozen=True)
class SplatAttr(Attribute):
    """A tensor constant with one value everywhere: `dense<0.0> : tensor<64x64xf32>`."""

    value: FloatAttr | IntegerAttr
    type: TensorType

    def __str__(self) -> str:
        scalar = str(self.value).partition(" : ")[0]
        return f"dense<{scalar}> : {self.type}"


@dataclass(frozen=True)
class SymbolRefAttr(Attribute):
    """A reference to a named operation: `@main`."""

    name: str

    def __str__(self) -> str:
        return f"@{self.name if _PLAIN_KEY.fullmatch(self.name) else quoted(self.name)}"


@dataclass(frozen=True)
class DialectAttr(Attribute):
    """An attribute of an open dialect, its body kept verbatim: `#aten.dtype<f32>`."""

    mnemonic: str
    body: str | None = None

    def __str__(self) -> str:
        return f"#{self.mnemonic}" + (f"<{self.body}>" if self.body is not None else "")


# --- text of scalars -----------------------------------------------------------------------


_PLAIN_KEY = re.compile(r"[A-Za-z_][\w$.]*", re.ASCII)


def entry_text(key: str, value: Attribute) -> str:
    """One dictionary entry; a unit attribute is its key alone."""
    name = key if _PLAIN_KEY.fullmatch(key) else quoted(key)
    return name if isinstance(value, UnitAttr) else f"{name} = {value}"


def quoted(text: str) -> str:
    """`text` as an MLIR string literal: quotes, backslashes and control bytes as `\\xx` hex."""
    data = text.encode("utf-8", "surrogateescape")
    plain = (chr(b) if 32 <= b < 127 and b not in (34, 92) else f"\\{b:02X}" for b in data)
    return f'"{"".join(plain)}"'


_BITS_FORMAT: Mapping[str, tuple[str, str, int]] = {
    "f16": ("<e", "<H", 4),
    "f32": ("<f", "<I", 8),
    "f64": ("<d", "<Q", 16),
}


def float_bits(value: float, type_: FloatType) -> int:
    """The bit pattern of `value` in `type_` (bf16 rounds to nearest even)."""
    if type_.name == "bf16":
        if value != value:
            return 0x7FC0
        bits = _bits_rounded_to_odd(value)
        return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    if type_.name not in _BITS_FORMAT:
        raise ValueError(f"no bit pattern is known for {type_}")
    pack, unpack, _ = _BITS_FORMAT[type_.name]
    return struct.unpack(unpack, struct.pack(pack, _saturate(value, type_)))[0]


def _bits_rounded_to_odd(value: float) -> int:
    """The f32 bits of `value`, inexact ones odd, so that rounding them again equals rounding once."""
    nearest = _saturate(value, f32)
    bits = struct.unpack("<I", struct.pack("<f", nearest))[0]
    single = float_from_bits(bits, f32)
    if single == value or single in (float("inf"), float("-inf")):
        return bits
    return (bits - (abs(single) > abs(value))) | 1


def float_from_bits(bits: int, type_: FloatType) -> float:
    """The value of a bit pattern of `type_`."""
    if type_.name == "bf16":
        return struct.unpack("<f", struct.pack("<I", bits << 16))[0]
    pack, unpack, _ = _BITS_FORMAT[type_.name]
    return struct.unpack(pack, struct.pack(unpack, bits))[0]


def _saturate(value: float, type_: FloatType) -> float:
    """`value`, or the infinity of its sign where it overflows `type_`."""
    try:
        struct.pack(_BITS_FORMAT[type_.name][0], value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return value


def round_to(value: float, type_: FloatType) -> float:
    """`value` rounded to the nearest value of `type_`; 8-bit floats are kept as given."""
    if type_.width == 8 or value != value:
        return float(value)
    return float_from_bits(float_bits(value, type_), type_)


def float_text(value: float, type_: FloatType) -> str:
    """The shortest digits that read back as `value` in `type_`, in a form MLIR accepts."""
    if value != value or value in (float("inf"), float("-inf")):
        digits = 4 if type_.width == 16 else type_.width // 4
        return f"0x{float_bits(value, type_):0{digits}X}"
    candidates = (f"{value:.{precision}e}" for precision in range(17))
    text = next(t for t in candidates if round_to(float(t), type_) == value)
    mantissa, exponent = text.split("e")
    if "." not in mantissa:
        mantissa += ".0"
    return mantissa if int(exponent) == 0 else f"{mantissa}e{int(exponent):+03d}"
