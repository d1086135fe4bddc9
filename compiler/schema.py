"""How the arguments of an fx call are named, encoded as attributes of the IR, and decoded again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import fx
from torch._ops import OpOverload

from ..ir.attributes import ArrayAttr, Attribute, DialectAttr, Type
from ..ir.dialects.aten import Constant, constant_from
from .torch_types import dtype_of_type, type_of_dtype


def is_aten(target: object) -> bool:
    return isinstance(target, OpOverload) and target.namespace == "aten"


def overload(name: str) -> OpOverload:
    """The ATen overload of an IR op name without its dialect: `softmax.int`, `matmul`."""
    packet, _, suffix = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), suffix or "default")


def op_name(node: fx.Node) -> str:
    """The IR name of a node: `aten.softmax.int`, `fx.getitem`, `fx.get_attr`."""
    target = node.target
    if node.op == "get_attr":
        return "fx.get_attr"
    if isinstance(target, OpOverload):
        name = target.name().replace("::", ".")
        return name if target.namespace == "aten" else f"fx.{name}"
    return f"fx.{target if isinstance(target, str) else getattr(target, '__name__', type(target).__name__)}"


def schema_arguments(target: Any) -> list[torch.Argument]:
    """The declared arguments of an overload; none for other callables."""
    return list(cast(Any, target)._schema.arguments) if isinstance(target, OpOverload) else []


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by name, in the order of the schema; positions without one are `arg<i>`."""
    names = [a.name for a in schema_arguments(node.target)]
    positional = {names[i] if i < len(names) else f"arg{i}": value for i, value in enumerate(node.args)}
    ordered = sorted(node.kwargs, key=lambda k: names.index(k) if k in names else len(names))
    return {**positional, **{key: node.kwargs[key] for key in ordered}}


def without_defaults(target: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that differ from the schema's defaults."""
    defaults = {a.name: a.default_value for a in schema_arguments(target) if a.has_default_value()}
    return {k: v for k, v in arguments.items() if not (k in defaults and _same(v, defaults[k]))}


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, fx.Node):
        return False
    if isinstance(value, list | tuple):
        items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return isinstance(default, list) and len(default) == len(items) and all(map(_same, items, default))  # pyright: ignore[reportUnknownArgumentType]
    return type(value) is type(default) and value == default


def encode_constant(value: Any) -> Constant | Attribute:
    """A constant argument as `aten_op` takes it; what has no form in the IR as its text."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case torch.dtype():
            return type_of_dtype(value)
        case torch.device():
            return DialectAttr("aten.device", str(value))
        case torch.layout() | torch.memory_format():
            kind = "layout" if isinstance(value, torch.layout) else "memory_format"
            return DialectAttr(f"aten.{kind}", str(value).removeprefix("torch."))
        case complex():
            return DialectAttr("aten.complex", f"{value.real!r}, {value.imag!r}")
        case _:
            return DialectAttr("fx.constant", type(value).__name__)


def decode_constant(attr: Attribute) -> Any:
    """The PyTorch value of a constant argument."""
    match attr:
        case DialectAttr("aten.device", str(body)):
            return torch.device(body)
        case DialectAttr("aten.layout" | "aten.memory_format", str(body)):
            return getattr(torch, body)
        case DialectAttr("aten.complex", str(body)):
            real, imaginary = body.split(", ")
            return complex(float(real), float(imaginary))
        case ArrayAttr(items):
            return [decode_constant(item) for item in items]
        case Type():
            return dtype_of_type(attr)
        case _:
            return constant_from(attr)


def split_call(target: Any, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by schema name as positional and keyword ones; after a gap everything goes by keyword."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for declared in schema_arguments(target):
        if declared.name not in arguments:
            keywords.setdefault("", None)
        elif declared.kwarg_only or "" in keywords:
            keywords[declared.name] = arguments[declared.name]
        else:
            positional.append(arguments[declared.name])
    keywords.pop("", None)
    return tuple(positional), keywords


def map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """`value` with every leaf replaced by what `function` returns for it, visited in order."""
    match value:
        case list():
            return [map_leaves(item, function) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case tuple():
            return tuple(map_leaves(item, function) for item in value)  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return {key: map_leaves(item, function) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case slice():
            parts = [map_leaves(part, function) for part in (value.start, value.stop, value.step)]  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType]
            return slice(*parts)
        case _:
            return function(value)


def as_lists(value: Any) -> Any:
    """Nested containers as nested lists, the only container that arguments have in the IR."""
    match value:
        case list() | tuple():
            return [as_lists(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return [as_lists(item) for item in value.values()]  # pyright: ignore[reportUnknownVariableType]
        case slice():
            return as_lists([value.start, value.stop, value.step])  # pyright: ignore[reportUnknownMemberType]
        case _:
            return value
