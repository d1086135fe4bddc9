"""Whether a compiled call agrees with eager PyTorch, result by result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# Two implementations that each round a chain of products differ by a few units of the largest value.
RELATIVE = {torch.float64: 1e-5, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Agreement:
    """The largest difference over all results, beside the largest that rounding explains."""

    tensors: int
    difference: float
    bound: float
    problem: str = ""

    @property
    def holds(self) -> bool:
        return not self.problem and self.difference <= self.bound

    def __str__(self) -> str:
        if self.problem:
            return f"check: DISAGREES with eager PyTorch: {self.problem}"
        word = "agrees" if self.holds else "DISAGREES"
        what = "1 tensor" if self.tensors == 1 else f"{self.tensors} tensors"
        measured = f"largest difference {self.difference:.1e}, bound {self.bound:.1e}"
        return f"check: {word} with eager PyTorch ({what}, {measured})"


def compare(ours: Any, eager: Any) -> Agreement:
    """Compare every tensor in two results; nan agrees with nan."""
    left, right = tensors_in(ours), tensors_in(eager)
    if len(left) != len(right):
        return Agreement(len(left), 0.0, 0.0, f"{len(left)} tensors against {len(right)}")
    worst = Agreement(len(left), 0.0, float("inf"))
    for position, (x, y) in enumerate(zip(left, right, strict=True)):
        if x.shape != y.shape or x.dtype != y.dtype:
            found = f"{x.dtype} {tuple(x.shape)} against {y.dtype} {tuple(y.shape)}"
            return Agreement(len(left), 0.0, 0.0, f"result {position} is {found}")
        one = _compare_one(x, y, len(left))
        if one.problem:
            return one
        if one.difference / max(one.bound, 1e-30) >= worst.difference / worst.bound:
            worst = one
    return worst


def _compare_one(x: torch.Tensor, y: torch.Tensor, count: int) -> Agreement:
    if not x.is_floating_point():
        return Agreement(count, 0.0, 0.0, "" if torch.equal(x, y) else f"a result of {x.dtype} differs")
    x, y, relative = x.double(), y.double(), RELATIVE[x.dtype]
    same = (x == y) | (x.isnan() & y.isnan())
    if not bool((x.isfinite() & y.isfinite())[~same].all()):
        return Agreement(count, 0.0, 0.0, "one has inf or nan where the other has something else")
    difference = (x - y)[~same].abs().max().item() if bool((~same).any()) else 0.0
    finite = y[y.isfinite()].abs()
    return Agreement(count, difference, relative * (1.0 + (finite.max().item() if finite.numel() else 0.0)))


def tensors_in(result: Any) -> list[torch.Tensor]:
    """The tensors of a result, in order: of tuples, lists, dictionaries and model outputs."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, dict):
        return [t for value in result.values() for t in tensors_in(value)]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(result, list | tuple):
        return [t for value in result for t in tensors_in(value)]  # pyright: ignore[reportUnknownVariableType]
    return []
