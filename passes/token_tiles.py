"""How many scores a kernel computes under a mask with tokens in some order, and the boxes that leave the fewest.

Counts by what kernels find out themselves: the tile predicate over the extremes of captured coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ..cost_model.schedule import Schedule
from ..ir.attributes import TensorType, i32
from ..ir.core import Region, Value
from ..ir.interpreter.attn_tokens import TokenOrder
from .count_tiles import CapturedMath
from .grid_masks import Grid
from .mask_forms import MaskForms
from .position_forms import B, H, M, N
from .tile_predicates import TileEvaluator
from .token_regions import capture_order

Array = np.ndarray[Any, np.dtype[Any]]

LOOKED_AT = (8, 64)
"""Tiles of rows that are counted, at least and at most, spread evenly over all; the rest is taken to be like them."""

TILES_LOOKED_AT = 1 << 16
"""Tiles of rows and keys that are counted, about, where that leaves rows enough."""

STEPS = 12
"""Improvements of a box that are tried at most."""

CUT_SCORE = 1.25
"""What a score of a tile that the mask cuts costs, one of a full tile being 1. A judgement."""


@dataclass(frozen=True)
class Work:
    """Of `total` scores of one head, those that are computed: `full` ones without the mask, `cut` ones with it."""

    full: float
    cut: float
    total: float

    @property
    def cost(self) -> float:
        """In scores of full tiles."""
        return self.full + CUT_SCORE * self.cut


def work_of(
    forms: MaskForms, lengths: tuple[int, int], schedule: Schedule, captures: Mapping[Value, Array] | None = None
) -> Work:
    """What tiles of `schedule` compute of (queries, keys) `lengths`, with nothing known of other captured tensors."""
    queries, keys = lengths
    math = CapturedMath(captures or {}, {B: 0, H: 0}, {M: queries, N: keys})
    starts = np.arange(0, queries, schedule.block_m, dtype=np.int64)
    least, most = LOOKED_AT
    count = min(most, max(least, TILES_LOOKED_AT * schedule.edge // keys))
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, count).astype(np.int64))]
    share = len(starts) / len(chosen)
    rows = chosen[:, None], np.minimum(chosen + schedule.block_m, queries)[:, None] - 1

    def found(size: int) -> tuple[Array, Array, Array]:
        first = np.arange(0, keys, size, dtype=np.int64)
        last = np.minimum(first + size, keys) - 1
        positions = {B: (0, 0), H: (0, 0), M: rows, N: (first, last)}
        truth = TileEvaluator(math, positions).truth(forms.condition)
        shape = (len(chosen), len(first))
        may, must = (np.broadcast_to(np.asarray(x), shape) for x in (truth.may, truth.must))
        return may, must, last - first + 1

    heights = rows[1] - rows[0] + 1
    may, must, widths = found(schedule.block_n)
    full, cut = (heights * widths * must).sum(), (heights * widths * (may & ~must)).sum()
    if schedule.edge < schedule.block_n:
        may_edge, _, widths = found(schedule.edge)
        inside = np.repeat(may & ~must, schedule.block_n // schedule.edge, axis=1)[:, : len(widths)]
        cut = (heights * widths * (may_edge & inside)).sum()
    return Work(float(full) * share, float(cut) * share, float(queries) * keys)


@dataclass(frozen=True)
class Boxes:
    """Boxes of `tile` tokens of `grid`, made of `inner` ones, and the work that is left."""

    grid: Grid
    tile: tuple[int, ...]
    inner: tuple[int, ...]
    work: Work = field(compare=False)

    @staticmethod
    def single(grid: Grid) -> Boxes:
        """Boxes of one token, whatever work they leave."""
        ones = (1,) * len(grid.dilation)
        return Boxes(grid, ones, ones, Work(0, 0, 0))


@dataclass
class BoxSearch:
    """Looks for the boxes that leave the least work of a mask whose region is `mask`.

    `sizes` are those of tiles: tokens of a box, and of the boxes that it is made of.
    """

    mask: Region
    grid: Grid
    lengths: tuple[int, int]
    schedule: Schedule

    def __post_init__(self) -> None:
        # The region must belong to an operation, of which nothing else is needed.
        region, types = self.mask.clone(), {p: [TensorType((None,), i32)] * self._arrays for p in (M, N)}
        self._arguments = capture_order(region, "mask", self.grid, types, shared=False)
        self._forms = MaskForms.of(region)
        self._found: dict[tuple[tuple[int, ...], tuple[int, ...]], Boxes] = {}

    @property
    def _arrays(self) -> int:
        """How many a token order has of this grid."""
        return 1 + len(self.grid.dilation) + 2 * sum(d > 1 for d in self.grid.dilation)

    def best(self) -> Boxes:
        """Boxes that no doubling of one side and halving of another improves."""
        volume = self.schedule.block_m
        current = self.measured(self._start(volume))
        for _ in range(STEPS):
            better = min((self.measured(t) for t in self._neighbours(current.tile)), key=_cost, default=current)
            if _cost(better) >= _cost(current):
                break
            current = better
        return current

    def measured(self, tile: tuple[int, ...], inner: tuple[int, ...] | None = None) -> Boxes:
        """The work with these boxes; the inner ones are as cubic as they can be where they are not given."""
        inner = self._inner(tile) if inner is None else inner
        if (tile, inner) not in self._found:
            order = TokenOrder(self.grid.inner, tile, inner, self.grid.dilation)
            made = {length: order.arrays(length) for length in set(self.lengths)}
            arrays = [array for length in self.lengths for array in made[length]]
            captures = dict(zip(self._arguments, arrays, strict=True))
            work = work_of(self._forms, self.lengths, self.schedule, captures)
            self._found[tile, inner] = Boxes(self.grid, tile, inner, work)
        return self._found[tile, inner]

    def _sizes(self) -> tuple[int, ...]:
        """Places along each axis."""
        order = TokenOrder(self.grid.inner, (), (), self.grid.dilation)
        return tuple(-(-s // d) for s, d in zip(order.sizes(self.lengths[0]), self.grid.dilation, strict=True))

    def _start(self, volume: int) -> tuple[int, ...]:
        """As cubic as the axes allow, in powers of two, wider along inner axes."""
        return _grown((1,) * len(self.grid.dilation), self._sizes(), volume)

    def _inner(self, tile: tuple[int, ...]) -> tuple[int, ...]:
        """Boxes of as many tokens as the smallest tile of keys, within `tile`."""
        size = min(self.schedule.edge, self.schedule.block_n, self.schedule.block_m)
        return _grown((1,) * len(tile), tile, size) if size < prod(tile) else tile

    def _neighbours(self, tile: Sequence[int]) -> Iterator[tuple[int, ...]]:
        sizes = self._sizes()
        for wider, x in enumerate(tile):
            for narrower, y in enumerate(tile):
                if wider != narrower and y % 2 == 0 and 2 * x < 2 * sizes[wider]:
                    changed = list(tile)
                    changed[wider], changed[narrower] = 2 * x, y // 2
                    yield tuple(changed)


def _cost(boxes: Boxes) -> float:
    return boxes.work.cost


def _grown(start: Sequence[int], most: Sequence[int], volume: int) -> tuple[int, ...]:
    """Sides doubled, the shortest and innermost first, up to a volume and to `most` along each axis."""
    sides = list(start)
    while prod(sides) * 2 <= volume:
        room = [axis for axis, side in enumerate(sides) if side * 2 <= most[axis] and most[axis] % 2 == 0]
        room = room or [axis for axis, side in enumerate(sides) if side * 2 <= most[axis]]
        if not room:
            break
        axis = min(room, key=lambda a: (sides[a], -a))
        sides[axis] *= 2
    return tuple(sides)
