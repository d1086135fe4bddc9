"""How far outputs are from exact ones: the relative L2 error of tensors, and of all tensors of a nested result."""

from __future__ import annotations

import math

import torch

from ..ir.diagnostics import error
from .agreement import tensors_in

AT_ONCE = 1 << 24
"""Numbers that are compared at once, since in f64 they take several times their memory."""


def squared_difference(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(found - wanted)² in f64; 0 where both are the same infinity or both nan, infinite where only one is."""
    found, wanted = found.double(), wanted.double()
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    squared = (found - wanted).square().nan_to_num(nan=math.inf, posinf=math.inf)
    return torch.where(same, 0.0, squared)


def squares(x: torch.Tensor) -> torch.Tensor:
    """x² in f64; 0 where x is infinite or nan, which are no size to compare with."""
    return x.double().square().nan_to_num(nan=0.0, posinf=0.0)


def relative_error(found: object, wanted: object) -> float:
    """The largest relative L2 error of any tensor of floats in a result, each over its own exact one.

    Zero for tensors that are equal, infinite for one that is nan, infinite, or not zero where the exact one is not so,
    and for results that have other tensors.
    """
    left, right = floats_in(found), floats_in(wanted)
    if [t.shape for t in left] != [t.shape for t in right]:
        return math.inf
    return max((_relative(x, y) for x, y in zip(left, right, strict=True)), default=0.0)


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    wrong = whole = 0.0
    found, wanted = found.reshape(-1), wanted.reshape(-1)
    for first in range(0, len(found), AT_ONCE):
        exact = wanted[first : first + AT_ONCE]
        wrong += float(squared_difference(found[first : first + AT_ONCE], exact).sum())
        whole += float(squares(exact).sum())
    if wrong == 0:
        return 0.0
    return math.sqrt(wrong / whole) if whole else math.inf


def require_numbers(result: object, batch: int) -> None:
    """Fail on exact outputs from which no error can be told; `batch` is the number of their inputs."""
    floats = floats_in(result)
    if not floats:
        raise error(
            f"errors are measured on outputs, but batch {batch} gave no tensor of floats; expected at least one"
        )
    if any(t.numel() for t in floats) and not any(bool(t.isfinite().any()) for t in floats):
        raise error(f"errors are measured on outputs, but those of batch {batch} are nan or infinite throughout")


def floats_in(result: object) -> list[torch.Tensor]:
    """The tensors of floats in a result."""
    return [t for t in tensors_in(result) if t.is_floating_point()]
