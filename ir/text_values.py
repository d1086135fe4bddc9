"""Reads the small languages inside tokens: numbers, strings, shaped types, dialect bodies, arrays.

Every function takes the text of one token and returns the value, or raises TextError with the
reason in words; where the token stands is the caller's knowledge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches

from .attributes import (
    FLOAT_WIDTHS,
    Attribute,
    DenseArrayAttr,
    DialectAttr,
    DialectType,
    Dim,
    FloatAttr,
    FloatType,
    IndexType,
    IntegerAttr,
    IntegerType,
    NoneType,
    SplatAttr,
    Symbol,
    TensorType,
    Type,
    f64,
    float_from_bits,
    i1,
    i64,
)


class TextError(Exception):
    """What is wrong with the text of a token."""


MAX_INTEGER_WIDTH = (1 << 24) - 1
MAX_SIZE = (1 << 63) - 1
MAX_DIGITS = 100

_INTEGER_TYPE = re.compile(r"(u?)i([0-9]+)", re.ASCII)
_INTEGER = re.compile(r"-?([0-9]+|0x[0-9A-Fa-f]+)", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?", re.ASCII)
_POINTLESS = re.compile(r"(-?[0-9]+)([eE][+-]?[0-9]+)", re.ASCII)
_DIMENSION = re.compile(r"\s*(\?|[0-9]+)\s*x\s*", re.ASCII)
_ESCAPE = re.compile(rb"\\(n|t|\\|\"|[0-9A-Fa-f]{2}|)", re.DOTALL)
_ESCAPED: Mapping[bytes, bytes] = {b"n": b"\n", b"t": b"\t", b"\\": b"\\", b'"': b'"'}
_OTHER_TYPES: Mapping[str, Type] = {"index": IndexType(), "none": NoneType()}


# --- types ---------------------------------------------------------------------------------


def plain_type(name: str) -> Type:
    """A type that is one word: `i1`, `ui8`, `f32`, `index`, `none`."""
    if name in FLOAT_WIDTHS:
        return FloatType(name)
    if name in _OTHER_TYPES:
        return _OTHER_TYPES[name]
    if (found := _INTEGER_TYPE.fullmatch(name)) is None:
        known = [*FLOAT_WIDTHS, *_OTHER_TYPES, "i1", "i8", "i16", "i32", "i64", "ui8"]
        close = get_close_matches(name, known, n=1)
        raise TextError(f"'{name}' is no type" + (f"; did you mean '{close[0]}'?" if close else ""))
    if len(found[2]) > 8 or not 1 <= int(found[2]) <= MAX_INTEGER_WIDTH:
        raise TextError(f"an integer type has 1 to {MAX_INTEGER_WIDTH} bits, but this is {name}")
    return IntegerType(int(found[2]), signed=not found[1])


def shaped_type(text: str) -> TensorType:
    """`tensor<2x?xf32>`, or with names for the sizes `tensor<?x?xf32, #attir.sym<s0, _>>`."""
    kind, body = _head_and_body(text)
    if kind != "tensor":
        raise TextError(f"type '{kind}' is not supported; tensors are")
    shape_text, *encoding = _split_top_level(body or "")
    dims, element = _dimensions(shape_text)
    if not encoding:
        return TensorType(dims, element)
    if len(encoding) > 1:
        raise TextError("a tensor has a shape and at most one encoding")
    return TensorType(_named(dims, encoding[0]), element)


def _dimensions(text: str) -> tuple[tuple[Dim, ...], Type]:
    if text.lstrip().startswith("*"):
        raise TextError("tensors of unknown rank are not supported")
    dims: list[Dim] = []
    position = 0
    while (found := _DIMENSION.match(text, position)) is not None:
        dims.append(None if found[1] == "?" else _size(found[1]))
        position = found.end()
    return tuple(dims), _element(text[position:].strip())


def _size(text: str) -> int:
    if len(text) > MAX_DIGITS or int(text) > MAX_SIZE:
        raise TextError(f"a size must be at most {MAX_SIZE}, but is {_shortened(text)}")
    return int(text)


def _element(text: str) -> Type:
    if not text:
        raise TextError("a tensor needs an element type, as in tensor<4xf32>")
    element = dialect_type(text) if text.startswith("!") else plain_type(text)
    if isinstance(element, NoneType):
        raise TextError("a tensor cannot have elements of type none")
    return element


def _named(dims: tuple[Dim, ...], encoding: str) -> tuple[Dim, ...]:
    """`dims` with the names from an encoding, one for each `?`."""
    mnemonic, body = _head_and_body(encoding.strip())
    if mnemonic != "#attir.sym":
        raise TextError(f"a tensor's encoding must be #attir.sym<...>, but is {encoding.strip()}")
    names = [name.strip() for name in _split_top_level(body or "")]
    unknown = sum(d is None for d in dims)
    if len(names) != unknown or not all(names):
        raise TextError(f"#attir.sym must name each '?' ({unknown}), but names {len([n for n in names if n])}")
    rest = iter(names)
    named = (next(rest) if d is None else d for d in dims)
    return tuple((None if d == "_" else Symbol(d)) if isinstance(d, str) else d for d in named)


def dialect_type(text: str) -> DialectType:
    """`!aten.list<2>`, its body verbatim."""
    return DialectType(*_dialect_parts(text))


def dialect_attribute(text: str) -> DialectAttr:
    """`#aten.dtype<f32>`, its body verbatim."""
    return DialectAttr(*_dialect_parts(text))


def _dialect_parts(text: str) -> tuple[str, str | None]:
    head, body = _head_and_body(text)
    if body is None and "." not in head:
        raise TextError(f"'{head}' is an alias, and aliases are not supported; write out what it stands for")
    if body is not None and not _balanced(body):
        raise TextError(f"brackets in the body of '{head}' are not balanced")
    return head[1:], body


def _head_and_body(text: str) -> tuple[str, str | None]:
    head, bracket, rest = text.partition("<")
    if bracket and not rest.endswith(">"):
        raise TextError(f"nothing may follow the closing '>' in {text}")
    return head, rest[:-1] if bracket else None


# --- numbers -------------------------------------------------------------------------------


def number(text: str, type_: Type | None) -> IntegerAttr | FloatAttr:
    """`text : type`, as an attribute of exactly that type; without one it is f64 or i64, as in MLIR."""
    if type_ is None:
        type_ = f64 if "." in text else i64
    if isinstance(type_, FloatType):
        return FloatAttr(_float(text, type_), type_)
    if isinstance(type_, IntegerType | IndexType):
        return IntegerAttr(_integer(text, type_), type_)
    raise TextError(f"a number must have an integer or float type, but has {type_}")


def _float(text: str, type_: FloatType) -> float:
    if _DECIMAL.fullmatch(text):
        value = float(text)
        if type_.width == 8 and not math.isfinite(value):
            raise TextError(f"{_shortened(text)} does not fit into {type_}")
        return value
    if found := _POINTLESS.fullmatch(text):
        raise TextError(f"float {text} needs a point: write {found[1]}.0{found[2]}")
    if not _INTEGER.fullmatch(text):
        raise TextError(f"'{_shortened(text)}' is no number")
    if "x" not in text:
        raise TextError(f"float {_shortened(text)} needs a point: write {_shortened(text)}.0")
    if text.startswith("-") or type_.width == 8:
        raise TextError(
            f"bits are written without a sign and not for 8-bit floats, unlike {_shortened(text)} : {type_}"
        )
    if len(text) > MAX_DIGITS or (bits := int(text, 16)) >> type_.width:
        raise TextError(f"{type_} has {type_.width} bits, too few for {_shortened(text)}")
    return float_from_bits(bits, type_)


def _integer(text: str, type_: IntegerType | IndexType) -> int:
    """The value in the form attributes hold: signed, but 0 or 1 for an i1."""
    if _DECIMAL.fullmatch(text) or _POINTLESS.fullmatch(text):
        raise TextError(f"a number of type {type_} must be an integer, but is {_shortened(text)}")
    if not _INTEGER.fullmatch(text):
        raise TextError(f"'{_shortened(text)}' is no integer")
    width = type_.width if isinstance(type_, IntegerType) else 64
    unsigned = isinstance(type_, IntegerType) and not type_.signed
    least = 0 if unsigned else -(1 << (width - 1))
    # Signless types take the values of the signed and of the unsigned reading.
    if len(text) > MAX_DIGITS or not least <= (value := int(text, 0 if "x" in text else 10)) < 1 << width:
        raise TextError(f"{_shortened(text)} does not fit into {type_}")
    if width == 1:
        return value & 1
    return value if unsigned or value < 1 << (width - 1) else value - (1 << width)


def compact_array(text: str) -> DenseArrayAttr:
    """`array<i64: 64, 128>`; of i1 the items are `true` and `false`."""
    head, colon, items = text.removeprefix("array<").removesuffix(">").partition(":")
    element = plain_type(head.strip())
    if not isinstance(element, IntegerType):
        raise TextError(f"a compact array holds integers of fixed width, but this one holds {element}")
    if not colon:
        return DenseArrayAttr((), element)
    return DenseArrayAttr(tuple(_integer_item(item.strip(), element) for item in items.split(",")), element)


def _integer_item(text: str, type_: IntegerType) -> int:
    if type_ == i1:
        if text not in ("true", "false"):
            raise TextError(f"an i1 is true or false, but is '{text}'")
        return int(text == "true")
    return _integer(text, type_)


def splat(text: str, type_: Attribute) -> SplatAttr:
    """`dense<0.0> : tensor<4xf32>`: one number for all elements."""
    body = text.removeprefix("dense<").removesuffix(">").strip()
    if not isinstance(type_, TensorType):
        raise TextError(f"dense<{body}> must have a tensor type, but has {type_}")
    if any(not isinstance(d, int) for d in type_.shape):
        raise TextError(f"dense<{body}> must have constant sizes, but has {type_}")
    if body in ("true", "false") and type_.element == i1:
        return SplatAttr(IntegerAttr(int(body == "true"), i1), type_)
    if not re.match(r"-?[0-9]", body):
        raise TextError(f"dense<...> must hold one number for all elements, but holds '{body}'")
    return SplatAttr(number(body, type_.element), type_)


# --- strings -------------------------------------------------------------------------------


def string_value(text: str) -> str:
    """The text of a string literal; bytes that are no UTF-8 become surrogates, as in file names."""
    body = text[1:-1].encode("utf-8", "surrogatepass")

    def unescaped(found: re.Match[bytes]) -> bytes:
        if not found[1]:
            after = body[found.end() :].decode("utf-8", "replace")[:1]
            raise TextError(f"'\\{after}' is no escape: there are \\n, \\t, \\\\, \\\" and two hex digits")
        return _ESCAPED[found[1]] if found[1] in _ESCAPED else bytes([int(found[1], 16)])

    return _ESCAPE.sub(unescaped, body).decode("utf-8", "surrogateescape")


def _split_top_level(text: str) -> list[str]:
    """`text` at the commas outside of brackets and strings."""
    parts, depth, start = list[str](), 0, 0
    for found in re.finditer(r'"(?:\\.|[^"\\])*"|->|[<(\[{>)\]},]', text):
        token = found[0]
        depth += (token in tuple("<([{")) - (token in tuple(">)]}"))
        if token == "," and depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def _balanced(text: str) -> bool:
    """Whether the brackets outside of strings match."""
    closing = {"(": ")", "[": "]", "{": "}", "<": ">"}
    expected: list[str] = []
    for found in re.finditer(r'"(?:\\.|[^"\\])*"|->|[<(\[{>)\]}]', text):
        token = found[0]
        if token in closing:
            expected.append(closing[token])
        elif len(token) == 1 and (not expected or expected.pop() != token):
            return False
    return not expected


def _shortened(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}..."
