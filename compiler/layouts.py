"""How tensors lie in memory, and what calls give that have nothing to compute; for kernels of every kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

Sizes: TypeAlias = tuple[int, ...]
Tensors: TypeAlias = tuple[torch.Tensor, ...]
Results: TypeAlias = tuple[torch.Tensor, torch.Tensor]


class Plan(Protocol):
    """Runs calls whose tensors have one set of shapes, strides and dtypes; lse has no elements where there is none."""

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor]
    ) -> Results: ...


@dataclass(frozen=True)
class Layout:
    """The sizes and strides of a tensor, strides in elements."""

    sizes: Sizes
    strides: Sizes

    @staticmethod
    def of(tensor: torch.Tensor) -> Layout:
        return Layout(tuple(tensor.shape), tensor.stride())

    @staticmethod
    def contiguous(sizes: Sequence[int]) -> Layout:
        strides, extent = [1] * len(sizes), 1
        for axis in reversed(range(len(sizes))):
            strides[axis], extent = extent, extent * sizes[axis]
        return Layout(tuple(sizes), tuple(strides))

    def with_positions_first(self) -> Layout:
        """The layout of a tensor of the same (B, H, M, E) sizes that lies in memory as (B, M, H, E)."""
        _, heads, rows, width = self.sizes
        return Layout(self.sizes, (heads * rows * width, width, heads * width, 1))

    @property
    def regular(self) -> Layout:
        """The same elements, where strides of axes of one entry, which mean nothing, are multiples of 16.

        That of the last axis is 1. So what is known of strides does not change where a size happens to be 1.
        """
        strides, extent = list(self.strides), 1
        for axis in reversed(range(len(strides))):
            if self.sizes[axis] == 1:
                strides[axis] = 1 if axis == len(strides) - 1 else -(-extent // 16) * 16
            extent = max(extent, self.sizes[axis] * strides[axis])
        return Layout(self.sizes, tuple(strides))

    @property
    def transposed(self) -> Layout:
        """The last two axes swapped."""
        return Layout(*((*x[:-2], x[-1], x[-2]) for x in (self.sizes, self.strides)))

    @property
    def memory(self) -> Sizes:
        """The sizes in the order in which the axes lie in memory."""
        batch, heads, rows, width = self.sizes
        return (batch, rows, heads, width) if self.positions_first else self.sizes

    @property
    def positions_first(self) -> bool:
        return self != Layout.contiguous(self.sizes)

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Nothing:
    """Calls without any key, or without any result: there is nothing to compute."""

    out: Layout
    lse: Layout
    dtype: torch.dtype | None = None

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor]) -> Results:
        lse = q.new_full(self.lse.sizes, float("-inf"), dtype=torch.float32)
        out = q.new_zeros(self.out.memory, dtype=self.dtype)
        return out.transpose(1, 2) if self.out.positions_first else out, lse


def heaviest_first(work: torch.Tensor, programs: Sizes) -> torch.Tensor:
    """The numbers (i64) of so many `programs` by their work, the most first; waits for no device.

    `work` has one entry where that of all batches or heads is the same.
    """
    return work.expand(programs).reshape(-1).argsort(descending=True, stable=True)
