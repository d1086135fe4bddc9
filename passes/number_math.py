"""The arithmetic of masks in numbers, or in arrays of numbers that stand for many tiles at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from .position_forms import Atom

Number: TypeAlias = Any
"""A Python integer or an int64 array; arrays broadcast."""


class NumberMath:
    """Python integers, or int64 arrays, that stand for many tiles at once; knows no captured tensor."""

    def number(self, value: int) -> Number:
        return value

    def boolean(self, value: bool) -> Number:
        return value

    def same(self, x: Number, y: Number) -> bool:
        return x is y or (isinstance(x, int) and isinstance(y, int) and x == y)

    def add(self, x: Number, y: Number) -> Number:
        return x + y

    def subtract(self, x: Number, y: Number) -> Number:
        return x - y

    def multiply(self, x: Number, y: Number) -> Number:
        return x * y

    def floor_divide(self, x: Number, y: Number) -> Number:
        return x // y

    def least(self, x: Number, y: Number) -> Number:
        if x is y:
            return x
        return np.minimum(x, y) if np.ndim(x) or np.ndim(y) else min(x, y)

    def greatest(self, x: Number, y: Number) -> Number:
        if x is y:
            return x
        return np.maximum(x, y) if np.ndim(x) or np.ndim(y) else max(x, y)

    def select(self, condition: Number, x: Number, y: Number) -> Number:
        if isinstance(condition, bool):
            return x if condition else y
        return np.where(condition, np.asarray(x), np.asarray(y))

    def at_most(self, x: Number, y: Number) -> Number:
        return x <= y

    def both(self, x: Number, y: Number) -> Number:
        if isinstance(x, bool):
            return y if x else False
        return x & y if not isinstance(y, bool) else (x if y else False)

    def either(self, x: Number, y: Number) -> Number:
        if isinstance(x, bool):
            return True if x else y
        return x | y if not isinstance(y, bool) else (True if y else x)

    def negate(self, x: Number) -> Number:
        return not x if isinstance(x, bool) else ~x

    def load(self, atom: Atom, indices: Sequence[Number]) -> Number | None:
        return None

    def extremes(self, atom: Atom, position: int, first: Number, last: Number) -> tuple[Number, Number] | None:
        return None
