"""The meaning of `fx`: Python's arithmetic on symbolic sizes, as captured graphs hold it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .aten_arguments import Arguments, executed
from .call import Array, Handler


def floor_divide(x: int, y: int) -> int:
    return x // y


def divide(x: float, y: float) -> float:
    return x / y


def power(x: float, y: float) -> float:
    return x**y


def number(function: Callable[..., Any]) -> Handler:
    """A Python function of the numbers given as `arg0`, `arg1`, ..."""

    def run(a: Arguments) -> Array:
        given = [a.value(f"arg{i}") for i in range(3)]
        return np.asarray(function(*(np.asarray(x).item() for x in given if x is not None)))

    return executed(run)


FX: Mapping[str, Handler] = {
    "fx.add": number(operator.add),
    "fx.sub": number(operator.sub),
    "fx.mul": number(operator.mul),
    "fx.floordiv": number(floor_divide),
    "fx.truediv": number(divide),
    "fx.mod": number(operator.mod),
    "fx.neg": number(operator.neg),
    "fx.pow": number(power),
    "fx.eq": number(operator.eq),
    "fx.ne": number(operator.ne),
    "fx.lt": number(operator.lt),
    "fx.le": number(operator.le),
    "fx.gt": number(operator.gt),
    "fx.ge": number(operator.ge),
    "fx.sym_max": number(max),
    "fx.sym_min": number(min),
    "fx.sym_int": number(int),
    "fx.sym_float": number(float),
    "fx._sym_sqrt": number(math.sqrt),
}
