"""The `aten` dialect: the captured graph, one op per ATen overload. Open: any overload is allowed.

    %5 = "aten.softmax.int"(%4) <{args = ["self"], dim = -1 : i64}> : (tensor<...>) -> tensor<...>

Tensors and symbolic sizes are operands; `args` names the schema argument each operand is for.
Everything else is a property under its schema name; arguments left at their default are absent.
A list that holds operands is a property too, with `#aten.operand` for each, in operand order.
The default overload has no suffix: `aten.matmul`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..attributes import (
    ArrayAttr,
    Attribute,
    DialectAttr,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    Type,
    f64,
    i1,
    i64,
)
from ..core import Operation, Value
from ..define import Op, Operand
from ..dialect import Dialect
from ..location import UNKNOWN, Location

OPERAND = DialectAttr("aten.operand")
NONE = DialectAttr("aten.none")

Constant: TypeAlias = "int | float | bool | str | Type | list[Constant] | None"
Argument: TypeAlias = "Value | Constant | list[Argument]"


class AtenOp:
    """A view of any `aten` (or `fx`) operation that reads its arguments by schema name."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    @property
    def name(self) -> str:
        """The overload without the dialect: `softmax.int`."""
        return self.operation.name.partition(".")[2]

    @property
    def packet(self) -> str:
        """The operator without its overload: `softmax`."""
        return self.name.partition(".")[0]

    @property
    def out(self) -> Value:
        return self.operation.results[0]

    @property
    def operand_names(self) -> list[str]:
        names = self.operation.properties.get("args")
        items = names.items if isinstance(names, ArrayAttr) else ()
        return [n.value for n in items if isinstance(n, StringAttr)]

    def operand(self, name: str) -> Value | None:
        """The single operand given for `name`; None where it is absent or a constant."""
        found = self._operands(name)
        return found[0] if len(found) == 1 and name not in self.operation.properties else None

    def argument(self, name: str, default: Constant = None) -> Argument:
        """The value, constant or list given for `name`, or `default`."""
        found = self._operands(name)
        attr = self.operation.properties.get(name)
        if attr is None:
            return found[0] if found else default
        return _merge(attr, list(found))

    def _operands(self, name: str) -> list[Value]:
        return [v for n, v in zip(self.operand_names, self.operation.operands, strict=True) if n == name]


def _merge(attr: Attribute, operands: list[Value]) -> Argument:
    if isinstance(attr, ArrayAttr):
        return [_merge(item, operands) for item in attr.items]
    return operands.pop(0) if attr == OPERAND else constant_from(attr)


def constant_from(attr: Attribute) -> Constant:
    """The Python value of a constant argument; devices and layouts as their names."""
    match attr:
        case IntegerAttr(value, type_):
            return bool(value) if type_ == i1 else value
        case FloatAttr(value) | StringAttr(value):
            return value
        case ArrayAttr(items):
            return [constant_from(item) for item in items]
        case Type():
            return attr
        case DialectAttr("aten.none"):
            return None
        case DialectAttr(_, body):
            return body
        case _:
            raise ValueError(f"{attr} is not a constant argument")


def constant_attr(value: Constant) -> Attribute:
    """The attribute of a constant argument."""
    match value:
        case None:
            return NONE
        case bool():
            return IntegerAttr(int(value), i1)
        case int():
            return IntegerAttr(value, i64)
        case float():
            return FloatAttr(value, f64)
        case str():
            return StringAttr(value)
        case list():
            return ArrayAttr(tuple(constant_attr(v) for v in value))
        case _:
            return value


def aten_op(
    name: str,
    arguments: Mapping[str, Argument],
    result_types: Sequence[Type],
    location: Location = UNKNOWN,
    attributes: Mapping[str, Attribute] | None = None,
) -> Operation:
    """A detached `aten.<name>` from arguments by schema name, in schema order."""
    operands: list[Value] = []
    names: list[Attribute] = []

    def encode(key: str, value: Argument) -> Attribute:
        if isinstance(value, Value):
            operands.append(value)
            names.append(StringAttr(key))
            return OPERAND
        if isinstance(value, list):
            return ArrayAttr(tuple(encode(key, item) for item in value))
        return constant_attr(value)

    encoded = {key: encode(key, value) for key, value in arguments.items()}
    properties = {key: attr for key, attr in encoded.items() if attr != OPERAND}
    if names:
        properties["args"] = ArrayAttr(tuple(names))
    return Operation.create(f"aten.{name}", operands, result_types, properties, (), attributes, location)


class YieldOp(Op, name="fx.yield", terminator=True):
    """The value of a function that a captured operator holds, as `aten.flex_attention` does."""

    value = Operand()


ATEN = Dialect("aten", (), open_=True)
FX = Dialect("fx", (YieldOp,), open_=True)
"""What fx graphs hold beside ATen: symbolic arithmetic, attributes, other libraries' ops."""
