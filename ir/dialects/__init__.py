"""Every dialect, in the order of the ladder."""

from __future__ import annotations

from collections.abc import Mapping

from ..core import Operation
from ..define import Op
from ..dialect import Dialect
from .arith import ARITH
from .aten import ATEN, FX
from .attn import ATTN
from .builtin import BUILTIN
from .func import FUNC
from .math import MATH
from .scf import SCF
from .tensor import TENSOR
from .tile import TILE
from .torch import TORCH

DIALECTS: Mapping[str, Dialect] = {
    d.name: d for d in (BUILTIN, FUNC, ARITH, MATH, SCF, TENSOR, ATEN, FX, TORCH, ATTN, TILE)
}


def op_class(operation: Operation) -> type[Op] | None:
    """The declared class of an operation; None for ops of open or unknown dialects."""
    dialect = DIALECTS.get(operation.dialect)
    return dialect.by_name.get(operation.name) if dialect else None


def is_pure(operation: Operation) -> bool:
    """Whether an operation may be merged with an equal one and dropped when unused."""
    declared = op_class(operation)
    return declared.pure if declared else False
