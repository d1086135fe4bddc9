"""What the meaning of an op is written against: one execution, with its operands' data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..core import Operation, Region
from ..diagnostics import op_error

Array: TypeAlias = NDArray[Any]
"""The data of any value; a scalar is an array of rank 0, or varies over positions in a region."""


@dataclass(frozen=True)
class Call:
    """One execution of `op`. `run` executes a region and gives what its terminator reads.

    `program` is this program's position in the grid of a kernel, empty outside of one.
    """

    op: Operation
    operands: Sequence[Array]
    precise: bool
    program: tuple[int, ...]
    run: Callable[[Region, Sequence[Array]], list[Array]]

    @property
    def real(self) -> type[np.floating[Any]]:
        """The float type that sums and products of lower types are kept in."""
        return np.float64 if self.precise else np.float32

    def integer(self, position: int) -> int:
        """The integer given as an operand; fails where it varies over the positions of a region."""
        data = self.operands[position]
        if data.ndim:
            op_error(self.op, f"operand {position} must be one number, but it differs between positions")
        return int(data)


Handler: TypeAlias = Callable[[Call], Sequence[Array]]
