"""What an operator's schema says about its arguments, as far as the IR asks; not where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .aten import Constant


@dataclass(frozen=True)
class Parameter:
    """One argument of an operator.

    `kind` is "dtype", "layout" or "memory_format" where a number may stand for one, else empty;
    `default` has a meaning where it is `optional`.
    """

    name: str
    kind: str = ""
    optional: bool = False
    default: Constant = None


Signatures: TypeAlias = Callable[[str], Sequence[Parameter] | None]
"""The parameters of an operator by its name, such as `aten.softmax.int`; None where nobody knows it."""


def no_signatures(name: str) -> None:
    """What is known without PyTorch: nothing."""
    del name
