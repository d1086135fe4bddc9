"""What the constants, literals and maps of torch-mlir's `torch` dialect say, as Python values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from ..ir.attributes import (
    Attribute,
    DialectAttr,
    FloatAttr,
    FloatType,
    IntegerAttr,
    SplatAttr,
    StringAttr,
    TensorType,
    Type,
    float_from_bits,
    is_float,
)
from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.dialects.aten import Argument
from ..ir.dialects.torch import VerbatimAttr

Known: TypeAlias = "Argument | DialectAttr | list[Known]"
"""What a value has become: a value, a constant, a list of them, or the name of a device or layout."""

CONSTANTS = "torch.constant."
_MAP = re.compile(r"affine_map<\(\)\[([^\]]*)\]\s*->\s*\((.*)\)>")


def constant(op: Operation) -> Known:
    """The Python value of a `torch.constant` op."""
    value = op.properties.get("value", op.attributes.get("value"))
    match op.name.removeprefix(CONSTANTS), value:
        case "none", _:
            return None
        case "device", StringAttr(text):
            return DialectAttr("aten.device", text)
        case "bool", IntegerAttr(number):
            return bool(number)
        case _, IntegerAttr(number) | FloatAttr(number):
            return number
        case _, StringAttr(text):
            return text
        case _:
            raise error(f"'{op.name}' op needs a value", op.location)


def only_number(value: Attribute | None, type_: Type) -> int | float | None:
    """The number of `dense<3> : tensor<si64>`; None for lists and blobs."""
    if isinstance(value, SplatAttr):
        return value.value.value
    found = re.fullmatch(r"dense<\s*([^\[\]\"<>]+?)\s*>.*", value.text) if isinstance(value, VerbatimAttr) else None
    if found is None or not isinstance(type_, TensorType):
        return None
    if found[1] in ("true", "false"):
        return int(found[1] == "true")
    if found[1].startswith("0x") and isinstance(type_.element, FloatType):
        return float_from_bits(int(found[1], 16), type_.element)
    try:
        return float(found[1]) if is_float(type_.element) else int(found[1], 0)
    except ValueError:
        return None


def blob_name(value: Attribute | None) -> str | None:
    """What the blob of a literal is called, as a name for a value."""
    found = re.match(r'dense_resource<"?([^<>"]+)"?>', value.text) if isinstance(value, VerbatimAttr) else None
    return re.sub(r"\W", "_", found[1]) if found else None


def bound_sizes(shape: Attribute | None, names: Sequence[str]) -> list[str] | None:
    """The sizes that `affine_map<()[s0, s1] -> (s1, s0 + 1)>` gives, with `names` for its symbols."""
    found = _MAP.fullmatch(shape.text) if isinstance(shape, VerbatimAttr) else None
    if found is None:
        return None
    named = dict(zip((symbol.strip() for symbol in found[1].split(",")), names, strict=False))
    results = [text for text in re.split(r",(?![^()]*\))", found[2]) if text.strip()]
    return [re.sub(r"\bs\d+\b", lambda symbol: named.get(symbol[0]) or symbol[0], text.strip()) for text in results]
