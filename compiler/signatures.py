"""The schemas of PyTorch's operators as passes ask for them: by name, without PyTorch's own types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

from ..ir.dialects.aten import Constant
from ..ir.dialects.aten_schema import Parameter

_KINDS: Mapping[str, str] = {"ScalarType": "dtype", "Layout": "layout", "MemoryFormat": "memory_format"}


@cache
def signature(name: str) -> Sequence[Parameter] | None:
    """The parameters of an operator such as `aten.softmax.int`; None where PyTorch has none of that name."""
    target = operator_by_name(name)
    return None if target is None else [_parameter(a) for a in target._schema.arguments]


def operator_by_name(name: str) -> Any:
    """The overload of `namespace.operator` or `namespace.operator.overload`; None where there is none."""
    import torch

    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    try:
        return getattr(getattr(getattr(cast(Any, torch).ops, namespace), packet), overload or "default")
    except (AttributeError, RuntimeError):
        return None


def _parameter(argument: Any) -> Parameter:
    declared = str(argument.real_type)
    kind = next((kind for word, kind in _KINDS.items() if word in declared), "")
    has_default = bool(argument.has_default_value())
    return Parameter(argument.name, kind, has_default, _constant(argument.default_value) if has_default else None)


def _constant(value: Any) -> Constant:
    """A default as a constant argument; one that has no form in the IR compares equal to nothing."""
    if isinstance(value, list | tuple):
        items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return [_constant(item) for item in items]
    return value
