"""What is counted over: the tiles of rows of one call, its heads and splits, and arithmetic on all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cost_model.problem import Sizes, Visits
from ..cost_model.schedule import Schedule
from .live_keys import SupposedMath
from .merge_splits import gpu_split_count, split_count
from .number_math import Number
from .position_forms import Atom, M

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Rows:
    """Tiles of rows that are looked at, of `total`: the first row of each and the one after the last, as folded."""

    first: Array
    end: Array
    total: int
    group: int

    @staticmethod
    def of(sizes: Sizes, schedule: Schedule, most: int) -> Rows:
        group = sizes.group if schedule.folded else 1
        count = sizes.queries * group
        total = -(-count // schedule.block_m)
        first = spread(total, most) * schedule.block_m
        return Rows(first, np.minimum(first + schedule.block_m, count), total, group)

    @property
    def weight(self) -> float:
        """How many tiles each one stands for."""
        return self.total / max(1, len(self.first))

    @property
    def queries(self) -> tuple[Array, Array]:
        """The first and the last query of each tile."""
        return self.first // self.group, (self.end - 1) // self.group


@dataclass(frozen=True)
class Heads:
    """The batches and heads under which a mask is looked at, each of which stands for `weight` of them."""

    places: tuple[tuple[int, int], ...]
    weight: float
    distinct: int
    """How many there are for which lists are written."""


@dataclass(frozen=True)
class Sums:
    """What all programs visit: `total` by `visits.COUNTED`, and `pairs` of rows with it, for `kept` batches and heads.

    `rows` are tiles of rows of each, and `distinct` the heads for which lists are written.
    """

    kept: int
    rows: int
    splits: int
    distinct: int = 0
    total: Mapping[str, float] | None = None
    pairs: Mapping[str, float] | None = None
    heaviest: float = 0.0
    exact: bool = True

    def visits(self, schedule: Schedule) -> Visits:
        total, pairs = self.total, self.pairs
        if total is None or pairs is None:
            return Visits(self.rows * self.kept, 0.0, 0.0, splits=self.splits)
        shared = self.distinct / self.kept if schedule.lists else 1.0
        return Visits(
            self.rows * self.kept,
            total["full"],
            total["cut"],
            total["looked"] * shared,
            self.heaviest,
            self.exact,
            self.splits,
            total["cut keys"],
            pairs["full"] * schedule.block_n,
            pairs["cut keys checked"],
            total["steps"],
            total["tested"],
            total["tested keys"],
            pairs["tested keys"],
            self.distinct * self.rows if schedule.lists else 0,
            total["listed"] if schedule.lists else 0.0,
        )


def splits_of(schedule: Schedule, sizes: Sizes) -> int:
    """Into how many parts a call splits the keys; 0 where its kernel does not."""
    if not schedule.split:
        return 0
    group = sizes.group if schedule.folded else 1
    heads, tiles = sizes.heads // max(1, group), -(-sizes.queries * group // schedule.block_m)
    if schedule.lanes:
        return split_count(sizes.batch, heads, tiles, sizes.keys, schedule)
    return gpu_split_count(sizes.batch * heads * tiles, sizes.keys, schedule)


def spread(count: int, most: int) -> Array:
    """Of `count` numbers all, or `most` of them as far apart as they can be."""
    if count <= most:
        return np.arange(count, dtype=np.int64)
    return np.arange(most, dtype=np.int64) * (count - 1) // max(1, most - 1)


@dataclass
class KernelMath(SupposedMath):
    """What a kernel's tables tell: of folded rows, the extremes reach up to `reach` queries beyond the first.

    Unless it `supposes`, nothing is known of tables that are not given.
    """

    reach: int = 0
    supposes: bool = True

    def load(self, atom: Atom, indices: Sequence[Number]) -> Number | None:
        return super().load(atom, indices) if self.supposes or self._tensor(atom) is not None else None

    def extremes(self, atom: Atom, position: int, first: Number, last: Number) -> tuple[Number, Number] | None:
        if position == M and self.reach:
            last = np.minimum(first + self.reach, self.sizes[M] - 1)
        return super().extremes(atom, position, first, last)


class ArrayMath:
    """Loop bounds as arrays of integers, one for each program."""

    def constant(self, value: int) -> Array:
        return np.asarray(value, np.int64)

    def add(self, x: Array, value: int) -> Array:
        return x + value

    def sum(self, x: Array, y: Array) -> Array:
        return x + y

    def difference(self, x: Array, y: Array) -> Array:
        return x - y

    def least(self, *values: Array) -> Array:
        return _folded(np.minimum, values)

    def greatest(self, *values: Array) -> Array:
        return _folded(np.maximum, values)

    def round_down(self, x: Array, step: int) -> Array:
        return x // step * step


def _folded(function: Callable[[Array, Array], Array], values: tuple[Array, ...]) -> Array:
    first, *others = values
    for other in others:
        first = function(first, other)
    return first
