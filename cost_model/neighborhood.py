"""Simulates generalised neighbourhood attention on a grid that is cut into boxes: how many pairs of boxes are live.

The mask is a product over axes, and so are boxes; hence so is each count. It follows GNA (2504.16922): queries in
groups of `stride` share the window of a leader, windows move inside the grid at its borders, and with a dilation
each residue is an axis of its own. Knows no kernel: what tiles one visits is for it to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Axis:
    """One axis of `length` cells; the numbers mean what they do for `attir.masks.neighborhood`."""

    length: int
    window: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window or self.dilation < 1 or self.window * self.dilation > self.length:
            raise ValueError(
                f"an axis needs 1 <= stride <= window and window * dilation <= length, but has length {self.length}, "
                f"window {self.window}, stride {self.stride} and dilation {self.dilation}"
            )

    @property
    def classes(self) -> tuple[int, ...]:
        """How many cells there are of each residue."""
        return tuple(-(-(self.length - r) // self.dilation) for r in range(self.dilation))

    def windows(self, cells: int) -> tuple[Array, Array]:
        """The first and the last key of each query in a class of so many cells. Both never fall."""
        q = np.arange(cells, dtype=np.int64)
        within = self.stride - 1 if self.causal else self.stride // 2
        leader = np.minimum(q // self.stride * self.stride + within, cells - 1) if self.stride > 1 else q
        if self.causal:
            return np.maximum(leader - self.window + 1, 0), q
        first = np.clip(leader - self.window // 2, 0, cells - self.window)
        return first, first + self.window - 1


@dataclass(frozen=True)
class BoxCount:
    """Of `total` pairs of a box of queries and one of keys, those in which any key is kept, or every one.

    `kept` and `scores` count single pairs of a query and a key.
    """

    live: int
    full: int
    total: int
    kept: int
    scores: int

    @property
    def partial(self) -> int:
        """Pairs that need the mask."""
        return self.live - self.full

    @property
    def ideal(self) -> float:
        """The speed-up over dense attention if nothing but kept scores were computed."""
        return self.scores / self.kept

    @property
    def achievable(self) -> float:
        """The speed-up if every live pair of boxes costs what one does in dense attention."""
        return self.total / self.live

    def times(self, other: BoxCount) -> BoxCount:
        """Along two axes together."""
        return BoxCount(
            self.live * other.live,
            self.full * other.full,
            self.total * other.total,
            self.kept * other.kept,
            self.scores * other.scores,
        )


def count_boxes(axes: Sequence[Axis], query_tile: Sequence[int], key_tile: Sequence[int]) -> BoxCount:
    """The boxes of a neighbourhood on a grid of `axes`; tiles are their sides, in cells of one residue.

    Where a side does not divide, the last box is smaller.
    """
    if not len(axes) == len(query_tile) == len(key_tile) or min((*query_tile, *key_tile), default=0) < 1:
        raise ValueError(f"{len(axes)} axes need as many positive sides, but boxes are {query_tile} and {key_tile}")
    counted = BoxCount(1, 1, 1, 1, 1)
    for axis, rows, keys in zip(axes, query_tile, key_tile, strict=True):
        counted = counted.times(_along(axis, rows, keys))
    return counted


def tokens(axes: Sequence[Axis]) -> int:
    """Of the whole grid."""
    return prod(axis.length for axis in axes)


def _along(axis: Axis, rows: int, keys: int) -> BoxCount:
    """Of one axis; boxes of different residues are never live."""
    live = full = kept = row_boxes = key_boxes = 0
    for cells, count in Counter(axis.classes).items():
        first, last = axis.windows(cells)
        starts = np.arange(0, cells, rows)
        ends = np.minimum(starts + rows, cells) - 1
        # The union of a box's windows has no gap, since no stride is larger than the window.
        begin, end = first[starts] // keys, last[ends] // keys
        live += count * int((end - begin + 1).sum())
        key_ends = np.minimum(np.arange(0, cells, keys) + keys, cells) - 1
        full_begin = -(-first[ends] // keys)
        full_end = np.searchsorted(key_ends, last[starts], side="right")
        full += count * int(np.maximum(full_end - full_begin, 0).sum())
        kept += count * int((last - first + 1).sum())
        row_boxes += count * len(starts)
        key_boxes += count * len(key_ends)
    return BoxCount(live, full, row_boxes * key_boxes, kept, axis.length**2)
