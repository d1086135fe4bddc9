"""How the meaning of an ATen overload reads its arguments: by schema name, as data or as constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias, cast

import numpy as np

from ..attributes import FloatType, Type, element_type
from ..core import Value
from ..diagnostics import op_error
from ..dialects.aten import Argument, AtenOp
from .call import Array, Call, Handler
from .rounding import round_array, wide


class Arguments:
    """The arguments of one execution of an `aten` op."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.view = AtenOp(call.op)
        self._data = dict(zip(call.op.operands, call.operands, strict=True))

    def fail(self, message: str) -> NoReturn:
        op_error(self.call.op, message)

    def value(self, name: str, default: Any = None) -> Any:
        """The argument as given: arrays for operands, Python constants, and lists of either."""
        given = self._resolve(self.view.argument(name))
        return default if given is None else given

    def _resolve(self, argument: Argument) -> Any:
        if isinstance(argument, list):
            return [self._resolve(item) for item in cast("list[Argument]", argument)]
        return self._data[argument] if isinstance(argument, Value) else argument

    def required(self, name: str) -> Any:
        given = self.value(name)
        if given is None:
            self.fail(f"argument '{name}' is missing")
        return given

    def array(self, name: str) -> Array:
        """A tensor as it is held, for ops that only move data."""
        return np.asarray(self.required(name))

    def wide(self, name: str, default: Any = None) -> Array:
        """A tensor or number in float64, int64 or bool, for ops that compute."""
        return wide(np.asarray(default if default is not None and self.value(name) is None else self.required(name)))

    def tensors(self, name: str) -> list[Array]:
        return [np.asarray(item) for item in self.required(name)]

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self.required(name) if default is None else self.value(name, default))

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """A list of integers; a single one is a list of one, as in a schema's `int[1]`."""
        given = self.required(name) if default is None else self.value(name, default)
        return [int(item) for item in np.atleast_1d(given)]

    def flag(self, name: str) -> bool:
        return bool(self.value(name, False))

    def element(self, name: str) -> Type | None:
        """The element type of an operand; None for a constant."""
        operand = self.view.operand(name)
        return None if operand is None else element_type(operand.type)

    @property
    def result(self) -> Type:
        """The element type of the first result."""
        return element_type(self.view.out.type)

    def rounded(self, data: Array, type_: Type) -> Array:
        """`data` rounded to `type_` on the way (not when precise), and wide again."""
        return wide(round_array(data, type_, self.call.precise))

    def compared(self, name: str, other: str) -> Array:
        """Like `wide`; but a float constant is first rounded to the type of `other`, as PyTorch does."""
        given, type_ = self.wide(name), self.element(other)
        if self.element(name) is None and isinstance(type_, FloatType):
            return self.rounded(given, type_)
        return given


Meaning: TypeAlias = Callable[[Arguments], Array | Sequence[Array]]
"""What an overload does; several results come as a list or a tuple."""


def executed(meaning: Meaning) -> Handler:
    """The handler of an op whose arguments are read by schema name."""

    def run(call: Call) -> Sequence[Array]:
        results = meaning(Arguments(call))
        return [np.asarray(results)] if isinstance(results, np.ndarray | np.generic) else results

    return run
