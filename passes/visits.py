"""Which tiles of keys the programs of one call visit, counted as the kernels' loops go, without running them.

Tiles of rows are counted all at once, in arrays. Where a mask has too many tiles for that, some rows and heads are
tried, as far apart as they can be. Captured tensors that are not given are supposed as `live_keys` supposes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..cost_model.problem import Sizes, Visits
from ..cost_model.schedule import Schedule
from ..ir.core import Value
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tensor import ExtractOp
from .analyze_mask import analyze_mask
from .key_pieces import aligned
from .key_ranges import key_ranges, whole_tiles
from .known_orders import KnownOrder
from .live_keys import keys_of_blocks
from .mask_plan import MaskPlan
from .mask_structure import MaskStructure
from .mask_values import kept_scores
from .number_math import Number
from .plan_gpu import LEAST_BLOCK
from .position_forms import B, H, M, N, atoms_of
from .tile_lists import AT_ONCE as LOOKED_AT_ONCE
from .tile_regions import RegionPositions
from .visited_rows import ArrayMath, Heads, KernelMath, Rows, Sums, splits_of, spread

Array = np.ndarray[Any, np.dtype[Any]]

PLANNED_AT_ONCE = 1 << 12
"""Tiles of keys that are looked at for a tile size while many of them are ranked; some rows beyond that."""

FEWEST_ROWS = 16
"""Tiles of rows that are tried at least."""

EVERY_TILE = 1 << 23
"""Tiles that are looked at where a count is asked for once."""

SCORES_OF_A_TILE = 8
"""Scores that may be computed, to find out whether a mask keeps any, for each tile that may be looked at."""

COUNTED = ("full", "cut", "cut keys", "cut keys checked", "steps", "looked", "tested", "tested keys", "listed")
FULL, CUT = 0, 1
"""What is counted of each program, as in `Visits`; keys of cut tiles that exist, and those that also lie below the
last key that a mask allows."""


def visits_of(
    attention: AttentionOp, schedule: Schedule, sizes: Sizes, captures: Mapping[Value, Array] | None = None
) -> Visits:
    """What one call visits; `captures` are the captured tensors by the mask region's arguments, as far as known."""
    return MaskVisits(attention, sizes, captures, at_once=EVERY_TILE).at(schedule)


@dataclass(frozen=True)
class Loops:
    """What each tile of rows visits: `counts` (len(COUNTED), tiles of rows, splits or 1)."""

    counts: Array
    exact: bool = True


class MaskVisits:
    """The visits of one attention in calls of one size, for any schedule; what schedules share is found out once.

    `at_once` tiles are looked at for a tile size; where there are more, some rows and heads stand for all.
    """

    def __init__(
        self,
        attention: AttentionOp,
        sizes: Sizes,
        captures: Mapping[Value, Array] | None = None,
        *,
        at_once: int = PLANNED_AT_ONCE,
    ) -> None:
        self.attention, self.sizes, self.at_once = attention, sizes, at_once
        self.captures = dict(captures) if captures is not None else _known_captures(attention, sizes)
        hint = attention.structure
        self.structure = MaskStructure.from_attr(hint) if hint is not None else analyze_mask(attention.mask)
        self._found: dict[tuple[int, ...], Visits] = {}
        self._sums: dict[tuple[int, ...], Sums] = {}
        self._kept: dict[tuple[Any, ...], Array | None] = {}
        self._grids: dict[tuple[Any, ...], tuple[Array, Array]] = {}

    @cached_property
    def plan(self) -> MaskPlan | None:
        """How kernels loop over a mask that is no pair of bounds; None where nothing but every tile will do."""
        if not self.structure.opaque or self.attention.mask.empty:
            return None
        plan = MaskPlan.of(self.attention.mask)
        return plan if plan.kind in ("pieces", "tiles") else None

    def at(self, schedule: Schedule) -> Visits:
        """What a call visits with this schedule."""
        s = schedule
        split = splits_of(s, self.sizes)
        key = s.block_m, s.block_n, s.edge, s.lanes, s.folded, split, s.lists
        if key not in self._found:
            self._found[key] = self._visits(s, split)
        return self._found[key]

    # --- totals

    def _visits(self, schedule: Schedule, split: int) -> Visits:
        # On CPUs only parts of split keys are others for lists: what programs visit is counted once for both.
        lists = 0 if schedule.lanes and split <= 1 else schedule.lists
        key = schedule.block_m, schedule.block_n, schedule.edge, schedule.lanes, schedule.folded, split, lists
        if key not in self._sums:
            self._sums[key] = self._summed(schedule, split)
        return self._sums[key].visits(schedule)

    def _summed(self, schedule: Schedule, split: int) -> Sums:
        sizes, group = self.sizes, self.sizes.group if schedule.folded else 1
        kept = self.sizes.batch * (sizes.heads // max(1, group))
        columns = max(1, -(-sizes.keys // schedule.edge))
        rows = Rows.of(sizes, schedule, max(FEWEST_ROWS, self.at_once // (columns if self.structure.opaque else 1)))
        splits = max(1, split)
        if not (rows.total and sizes.keys and kept):
            return Sums(kept, rows.total, splits)
        heads = self._heads(kept, schedule, len(rows.first) * columns)
        found = [self._loops(schedule, split, rows, place) for place in heads.places]
        counts = np.stack([loops.counts for loops in found])
        weight, valid = heads.weight * rows.weight, rows.end - rows.first
        by_tile = counts.sum((0, 3))
        total: dict[str, float] = dict(zip(COUNTED, (weight * by_tile.sum(1)).tolist(), strict=True))
        pairs: dict[str, float] = dict(zip(COUNTED, (weight * (by_tile @ valid)).tolist(), strict=True))
        heaviest = (schedule.block_n * counts[:, FULL] + schedule.edge * counts[:, CUT]).max(initial=0)
        every = len(rows.first) == rows.total and heads.distinct == len(heads.places)
        exact = every and all(loops.exact for loops in found)
        return Sums(kept, rows.total, splits, heads.distinct, total, pairs, float(heaviest), exact)

    def _heads(self, kept: int, schedule: Schedule, tiles: int) -> Heads:
        """Where the mask depends on batch or head, as many of them as may be looked at."""
        if not self.structure.opaque or self.attention.mask.empty:
            return Heads(((0, 0),), kept, 1)
        at, sizes = RegionPositions.of(self.attention.mask), self.sizes
        heads = sizes.heads // (sizes.group if schedule.folded else 1)
        batches = sizes.batch if at.b.uses else 1
        heads = heads if at.h.uses else 1
        distinct = batches * heads
        tried = min(distinct, max(1, self.at_once // max(1, tiles))) if self.captures or not self._captured else 1
        places = tuple((int(i) // heads, int(i) % heads) for i in spread(distinct, tried))
        return Heads(places, kept / len(places), distinct)

    @cached_property
    def _captured(self) -> bool:
        """Whether the mask reads captured tensors."""
        return any(ExtractOp.match(op) for op in self.attention.mask.block.ops)

    def _loops(self, schedule: Schedule, split: int, rows: Rows, place: tuple[int, int]) -> Loops:
        if self.plan is not None:
            return _Grid(self, schedule, split, rows, place, self.plan).loops()
        return _Ranges(self, schedule, split, rows, place).loops()

    # --- what the loops ask for

    def head_range(self, rows: Rows, head: int) -> tuple[int, int]:
        """The first and the last head of tiles of rows; one object where that is the same."""
        return (head, head) if rows.group == 1 else (head * rows.group, head * rows.group + rows.group - 1)

    def math(self, schedule: Schedule, rows: Rows, place: tuple[int, int]) -> KernelMath:
        """Numbers as the kernels know them for one batch and head."""
        b, h = place[0], self.head_range(rows, place[1])[0]
        reach = 0 if rows.group == 1 else (schedule.block_m - 1) // rows.group + 1
        sizes = {M: self.sizes.queries, N: self.sizes.keys}
        supposes = bool(schedule.lanes) or self._large_blocks
        return KernelMath(self.captures, {B: b, H: h}, sizes, reach=reach, supposes=supposes)

    @cached_property
    def _large_blocks(self) -> bool:
        """Whether the blocks of captured tables are as large as tiles on GPUs; of smaller ones nothing is supposed,
        since tiles that made use of them would leave tensor cores idle."""
        if self.plan is None:
            return False
        return min(keys_of_blocks(self.plan, position) for position in (M, N)) >= LEAST_BLOCK

    def positions(self, rows: Rows, place: tuple[int, int]) -> dict[int, tuple[Number, Number]]:
        """Batch, heads and queries of tiles of rows, as columns of a grid."""
        first, last = rows.queries
        b = place[0]
        return {B: (b, b), H: self.head_range(rows, place[1]), M: (first[:, None], last[:, None])}

    def grid(
        self, schedule: Schedule, rows: Rows, place: tuple[int, int], plan: MaskPlan, keys: int
    ) -> tuple[Array, Array]:
        """Of each tile of rows and tile of so many keys, whether a kept key may be there, and whether all are kept."""
        key = schedule.block_m, rows.group, len(rows.first), place, keys, bool(schedule.lanes)
        if key not in self._grids:
            first = np.arange(0, self.sizes.keys, keys, dtype=np.int64)
            last = np.minimum(first + keys, self.sizes.keys) - 1
            math = self.math(schedule, rows, place)
            found = plan.truth(math, {**self.positions(rows, place), N: (first, last)})
            shape = len(rows.first), len(first)
            may, must = (np.broadcast_to(np.asarray(x, bool), shape) for x in (found.may, found.must))
            self._grids[key] = may, must
        return self._grids[key]

    def keeping(
        self, schedule: Schedule, rows: Rows, place: tuple[int, int], undecided: Array, start: Array
    ) -> Array | None:
        """Which of the undecided short tiles keep a score, whatever the long ones; None if that is not found out."""
        key = schedule.block_m, rows.group, len(rows.first), place, schedule.edge
        if key not in self._kept:
            row, column = np.nonzero(undecided)
            some = self.keeps_some(schedule, rows, place, (row, start[column]), schedule.edge)
            self._kept[key] = None
            if some is not None:
                self._kept[key] = found = np.zeros(undecided.shape, bool)
                found[row, column] = some
        return self._kept[key]

    def keeps_some(
        self, schedule: Schedule, rows: Rows, place: tuple[int, int], tiles: tuple[Array, Array], keys: int
    ) -> Array | None:
        """Of tiles (numbers of rows among `rows`, first keys), whether the mask keeps any score; None if unknown."""
        row, first_key = tiles
        unknown = self._captured and not self.captures
        if unknown or len(row) * schedule.block_m * keys > self.at_once * SCORES_OF_A_TILE:
            return None
        r = (rows.first[row][:, None] + np.arange(schedule.block_m))[:, :, None]
        n = (first_key[:, None] + np.arange(keys))[:, None, :]
        exists = r < self.sizes.queries * rows.group, n < self.sizes.keys
        h = self.head_range(rows, place[1])[0] + r % rows.group
        positions = np.asarray(place[0]), h, r // rows.group, n
        kept = kept_scores(self.attention.mask, positions, exists, self.captures)
        if kept is None:
            return None
        shape = len(row), schedule.block_m, keys
        every: Array = np.broadcast_to(np.asarray(kept, bool) & exists[1], shape)
        return np.any(every, axis=(1, 2))


def _known_captures(attention: AttentionOp, sizes: Sizes) -> dict[Value, Array]:
    """The captured tensors that a program around the kernel is known to bring."""
    known = KnownOrder.of(attention)
    if known is None or attention.mask.empty:
        return {}
    return dict(known.captures(attention, sizes.queries, sizes.keys))


@dataclass(frozen=True)
class _Ranges:
    """Programs whose loops go over ranges of keys: under bounds, or under a mask of which nothing else is known."""

    of: MaskVisits
    schedule: Schedule
    split: int
    rows: Rows
    place: tuple[int, int]

    def loops(self) -> Loops:
        schedule, structure, math = self.schedule, self.of.structure, ArrayMath()
        first, last = self.rows.queries
        begin, end = self._keys()
        ranges = key_ranges(
            structure, math, first[:, None], last[:, None] + 1, end, schedule.block_n, schedule.edge_n, begin
        )
        if structure.opaque:
            return self._opaque(math, ranges.begin, ranges.end)
        full = _steps(ranges.full_begin, ranges.full_end, schedule.block_n)
        cut = [(ranges.full_end, ranges.end)]
        if structure.has_lower_bound:
            cut.append((ranges.begin, np.minimum(ranges.full_begin, ranges.end)))
        counts = [_steps(low, high, schedule.edge) for low, high in cut]
        keys = self.of.sizes.keys
        valid = keys if structure.last is None else min(keys, structure.last + 1)
        existing = [
            sum(self._reached(low, count, limit) for (low, _), count in zip(cut, counts, strict=True))
            for limit in (keys, valid)
        ]
        return self._spread(full, sum(counts), existing, full + sum(counts))

    def _keys(self) -> tuple[Array | None, Array]:
        """The keys of each program, as columns for the splits."""
        keys = np.full((1, 1), self.of.sizes.keys, np.int64)
        if not self.split:
            return None, keys
        chunk = _chunk(self.of.sizes.keys, self.split, self.schedule.block_n)
        begin = np.arange(self.split, dtype=np.int64)[None] * chunk
        return begin, np.minimum(begin + chunk, keys)

    def _reached(self, low: Array, steps: Array, limit: int) -> Array:
        """How many keys below `limit` lie in so many short tiles from `low` on."""
        return np.maximum(0, np.minimum(low + steps * self.schedule.edge, limit) - low)

    def _spread(self, full: Any, cut: Any, existing: list[Any], steps: Any, tested: tuple[Any, Any] = (0, 0)) -> Loops:
        shape = len(self.rows.first), max(1, self.split)
        counts = np.empty((len(COUNTED), *shape), np.int64)
        for place, numbers in enumerate((full, cut, *existing, steps, 0, *tested, 0)):
            counts[place] = numbers
        return Loops(counts)

    # --- masks of which nothing is known

    def _opaque(self, math: ArrayMath, begin: Array, end: Array) -> Loops:
        """Whole tiles that are checked, then short ones; on CPUs without those that keep no score."""
        schedule, keys = self.schedule, self.of.sizes.keys
        wide = begin
        if schedule.edge != schedule.block_n:
            wide = whole_tiles(math, begin, end, schedule.block_n)
        counts = _steps(begin, wide, schedule.block_n), _steps(wide, end, schedule.edge)
        parts = schedule.block_n // schedule.edge
        ranges = ((begin, counts[0], schedule.block_n), (wide, counts[1], schedule.edge))
        if not schedule.lanes:
            existing = counts[0] * schedule.block_n + self._reached(wide, counts[1], keys)
            return self._spread(0, counts[0] * parts + counts[1], [existing, existing], counts[0] + counts[1])
        shape = len(self.rows.first), max(1, self.split)
        totals = [np.zeros(shape, np.int64) for _ in range(5)]
        exact = True
        for low, count, width in ranges:
            row, column, start = _enumerated(np.broadcast_to(low, shape), np.broadcast_to(count, shape), width)
            kept = self.of.keeps_some(schedule, self.rows, self.place, (row, start), width)
            exact &= kept is not None
            inside = np.minimum(start + width, keys) - start
            ran = np.ones(len(row), bool) if kept is None else kept
            every = (ran * (width // schedule.edge), ran * inside, ran, np.ones_like(inside), inside)
            for total, amounts in zip(totals, every, strict=True):
                np.add.at(total, (row, column), amounts)
        cut, existing, steps, *tested = totals
        return replace(self._spread(0, cut, [existing, existing], steps, (tested[0], tested[1])), exact=exact)


def _steps(low: Array, high: Array, step: int) -> Array:
    return np.maximum(0, -(-(high - low) // step))


def _chunk(keys: int, splits: int, block_n: int) -> int:
    """The keys of a part: whole tiles."""
    share = -(-keys // splits)
    return -(-share // block_n) * block_n


def _enumerated(low: Array, counts: Array, width: int) -> tuple[Array, Array, Array]:
    """Every tile of loops: the row and the column of its program, and where it starts."""
    row, column = np.nonzero(counts)
    repeats = counts[row, column]
    before = np.repeat(np.cumsum(repeats) - repeats, repeats)
    begin: Array = low[row, column]
    number: Array = np.arange(int(repeats.sum())) - before
    start: Array = np.repeat(begin, repeats) + number * width
    return np.repeat(row, repeats), np.repeat(column, repeats), start


@dataclass(frozen=True)
class _Grid:
    """Programs that find out of each tile what it is, or read lists of that."""

    of: MaskVisits
    schedule: Schedule
    split: int
    rows: Rows
    place: tuple[int, int]
    plan: MaskPlan

    def loops(self) -> Loops:
        schedule, keys = self.schedule, self.of.sizes.keys
        may, must = self.of.grid(schedule, self.rows, self.place, self.plan, schedule.block_n)
        first = np.arange(0, keys, schedule.block_n, dtype=np.int64)
        inside = self._inside(first)
        full = must & (first + schedule.block_n <= keys) & inside
        live = (may & inside) if self.plan.kind == "tiles" or schedule.lanes else inside
        cut = live & ~full
        if schedule.lanes:
            return self._short(first, inside, full, cut)
        existing = cut * np.minimum(schedule.block_n, keys - first)
        none = np.zeros_like(cut)
        visited = full | cut
        counts = self._summed((full, cut, existing, existing, visited, inside, none, none, visited), schedule.block_n)
        if schedule.lists:
            tiles = inside.sum(1)
            looked = counts[COUNTED.index("looked")]
            looked[:] = 0
            looked[:, 0] = tiles + -tiles % LOOKED_AT_ONCE
        return Loops(counts, self._all_known)

    def _inside(self, first: Array) -> Array:
        """Which tiles the loop bounds hold."""
        shape = len(self.rows.first), len(first)
        if not self.plan.bounded:
            return np.ones(shape, bool)
        math = self.of.math(self.schedule, self.rows, self.place)
        pieces = self.plan.pieces(math, self.of.positions(self.rows, self.place), self.of.sizes.keys)
        found = np.zeros(shape, bool)
        for piece in aligned(math, pieces, self.schedule.block_n):
            found |= (np.asarray(piece.begin) <= first) & (first < np.asarray(piece.end))
        return found

    def _short(self, first: Array, inside: Array, full: Array, cut: Array) -> Loops:
        """On CPUs cut tiles are short ones, without those that keep no score."""
        schedule, keys = self.schedule, self.of.sizes.keys
        parts = schedule.block_n // schedule.edge
        may, must = self.of.grid(schedule, self.rows, self.place, self.plan, schedule.edge)
        count = may.shape[1]
        looked = np.repeat(cut, parts, axis=1)[:, :count]
        asked = looked & may
        start = np.arange(0, keys, schedule.edge, dtype=np.int64)
        kept = self.of.keeping(schedule, self.rows, self.place, may & ~must, start)
        ran = asked if kept is None else asked & (must | kept)
        existing = np.minimum(schedule.edge, keys - start)
        exact = kept is not None
        none, keys_there = np.zeros_like(ran), ran * existing
        short = (none, ran, keys_there, keys_there, ran, looked, asked, asked * existing, asked)
        counts = self._summed(short, schedule.edge)
        whole = self._summed((full, inside), schedule.block_n)
        counts[FULL] += whole[0]
        for name in ("steps", "listed"):
            counts[COUNTED.index(name)] += whole[0]
        counts[COUNTED.index("looked")] += whole[1]
        return Loops(counts, exact and self._all_known)

    def _summed(self, tiles: tuple[Array, ...], keys: int) -> Array:
        """Sums over tiles of so many keys, for each tile of rows and split."""
        if self.split <= 1:
            return np.stack([x.sum(1, keepdims=True) for x in tiles])
        if self.schedule.lists:
            return np.stack([self._shared(x.sum(1, keepdims=True)) for x in tiles])
        per_split = _chunk(self.of.sizes.keys, self.split, self.schedule.block_n) // keys
        wide = np.zeros((len(tiles), len(tiles[0]), self.split * per_split), np.int64)
        for place, x in enumerate(tiles):
            wide[place, :, : x.shape[1]] = x
        return wide.reshape(len(tiles), -1, self.split, per_split).sum(3)

    def _shared(self, total: Array) -> Array:
        """Listed tiles, spread evenly."""
        chunk = -(-total // self.split)
        first = np.arange(self.split)[None] * chunk
        return np.clip(total - first, 0, chunk)

    @property
    def _all_known(self) -> bool:
        loads = [a.load.source for a in atoms_of(self.plan.forms.condition) if a.load is not None]
        return all(source in self.of.captures for source in loads)
