"""How many tiles of a mask hold kept keys, and how many hold no other, without building the mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.core import Region, Value
from .key_pieces import aligned, key_pieces
from .mask_forms import MaskForms
from .number_math import Number, NumberMath
from .position_forms import Atom, B, H, Linear, M, N
from .split_tiles import Tiles, settle
from .tile_predicates import TileEvaluator

Array = np.ndarray[Any, np.dtype[Any]]

AT_ONCE = 1 << 17
"""Tiles that are looked at one by one; where there are more, those that the loop bounds allow are counted."""


@dataclass(frozen=True)
class TileCount:
    """Of `total` tiles, those that a kernel computes (`live`) and those it computes without the mask (`full`)."""

    live: int
    full: int
    total: int

    @property
    def partial(self) -> int:
        return self.live - self.full


def count_tiles(
    mask: Region | MaskForms,
    queries: int,
    keys: int,
    block_m: int,
    block_n: int,
    captures: Mapping[Value, Array] | None = None,
    b: int = 0,
    h: int = 0,
    split: bool = False,
    at_once: int = AT_ONCE,
) -> TileCount:
    """Count for one batch and head; `captures` are the captured tensors by the region's arguments.

    What is not given of the captured tensors counts as unknown. A tile counts as live unless no
    key of it is kept for certain, and as full if all its keys are kept for certain, which is what a
    kernel finds out. To `split` the tiles that remain finds out more, as far as `SPLIT_WORK` goes.
    The last tiles end with the positions. Of more tiles than `at_once`, those that loop bounds allow count.
    """
    forms = MaskForms.of(mask) if isinstance(mask, Region) else mask
    rows, columns = -(-queries // block_m), -(-keys // block_n)
    if rows * columns == 0:
        return TileCount(0, 0, 0)
    math = CapturedMath(captures or {}, {B: b, H: h}, {M: queries, N: keys})
    (first_rows, last_rows), (first_keys, last_keys) = _tiles(queries, block_m), _tiles(keys, block_n)
    heads = {B: (b, b), H: (h, h)}
    if rows * columns > at_once:
        evaluator = TileEvaluator(math, {**heads, M: (first_rows, last_rows)})
        return _count_pieces(forms, evaluator, keys, block_n, rows * columns)
    may, must = _classes(forms, math, queries, keys, block_m, block_n)
    live, full = int(may.sum()), int(must.sum())
    if split:
        row, column = np.nonzero(may & ~must)
        undecided = Tiles(first_rows[row], last_rows[row], first_keys[column], last_keys[column])
        empty, more = settle(lambda t: TileEvaluator(math, t.positions(heads)).truth(forms.condition), undecided)
        live, full = live - empty, full + more
    return TileCount(live, full, rows * columns)


def tile_classes(
    mask: Region,
    queries: int,
    keys: int,
    block_m: int,
    block_n: int,
    captures: Mapping[Value, Array] | None = None,
    b: int = 0,
    h: int = 0,
) -> tuple[Array, Array]:
    """Of each tile whether a kernel computes it, and whether without the mask, as `count_tiles` counts them.

    Two bool arrays (tiles of queries, tiles of keys); there must be at least one of each.
    """
    math = CapturedMath(captures or {}, {B: b, H: h}, {M: queries, N: keys})
    return _classes(MaskForms.of(mask), math, queries, keys, block_m, block_n)


def _classes(
    forms: MaskForms, math: CapturedMath, queries: int, keys: int, block_m: int, block_n: int
) -> tuple[Array, Array]:
    (first_rows, last_rows), (first_keys, last_keys) = _tiles(queries, block_m), _tiles(keys, block_n)
    heads = {position: (fixed, fixed) for position, fixed in math.fixed.items()}
    positions = {**heads, M: (first_rows[:, None], last_rows[:, None]), N: (first_keys, last_keys)}
    found = TileEvaluator(math, positions).truth(forms.condition)
    shape = len(first_rows), len(first_keys)
    may, must = (np.broadcast_to(np.asarray(x, bool), shape) for x in (found.may, found.must))
    return may, must


def _tiles(count: int, block: int) -> tuple[Array, Array]:
    """The first and the last position of each tile; the last tile ends with the positions."""
    first = np.arange(0, count, block, dtype=np.int64)
    return first, np.minimum(first + block, count) - 1


def _count_pieces(
    forms: MaskForms, tiles: TileEvaluator[Number, Number], keys: int, block_n: int, total: int
) -> TileCount:
    """The tiles that the loop bounds visit, and that they know to be full."""
    math, rows = tiles.math, np.shape(tiles.positions[M][0])
    live = full = 0
    for piece in aligned(math, key_pieces(forms.condition, tiles, keys), block_n):
        live += int(np.broadcast_to(piece.end - piece.begin, rows).sum()) // block_n
        full += int(np.broadcast_to(piece.full_end - piece.full_begin, rows).sum()) // block_n
    return TileCount(live, full, total)


@dataclass
class CapturedMath(NumberMath):
    """Numbers that know the captured tensors `captures`, for one batch and head.

    `fixed` holds B and H, `sizes` how many rows (M) and keys (N) there are.
    """

    captures: Mapping[Value, Array]
    fixed: Mapping[int, int]
    sizes: Mapping[int, int]
    _tables: dict[tuple[Atom, int], tuple[Array, Array]] = field(
        default_factory=dict[tuple[Atom, int], tuple[Array, Array]]
    )

    def load(self, atom: Atom, indices: Sequence[Number]) -> Number | None:
        tensor = self._tensor(atom)
        if tensor is None:
            return None
        found = tensor[tuple(np.clip(x, 0, size - 1) for x, size in zip(indices, tensor.shape, strict=True))]
        return int(found) if np.ndim(found) == 0 else found.astype(np.int64)

    def extremes(self, atom: Atom, position: int, first: Number, last: Number) -> tuple[Number, Number] | None:
        if self._tensor(atom) is None:
            return None
        if (atom, position) not in self._tables and not self._build(atom, position):
            return None
        least, greatest = self._tables[atom, position]
        level = np.floor(np.log2(np.asarray(last - first + 1))).astype(np.int64)
        other = last + 1 - (1 << level)
        low = np.minimum(least[level, first], least[level, other])
        return low, np.maximum(greatest[level, first], greatest[level, other])

    def _tensor(self, atom: Atom) -> Array | None:
        assert atom.load is not None
        return self.captures.get(atom.load.source)

    def _build(self, atom: Atom, position: int) -> bool:
        """The extremes of 1, 2, 4, ... elements from each on."""
        every = np.arange(self.sizes[position], dtype=np.int64)
        positions: dict[int, tuple[Number, Number]] = {p: (x, x) for p, x in self.fixed.items()}
        loaded = TileEvaluator(self, {**positions, position: (every, every)}).interval(Linear(((atom, 1),)))
        if loaded.low is None or loaded.low is not loaded.high:
            return False
        least: Array = np.broadcast_to(np.asarray(loaded.low, np.int64), every.shape)
        greatest, tables, width = least, [(least, least)], 1
        while 2 * width <= len(every):
            least = np.minimum(least, np.append(least[width:], least[len(every) - width :]))
            greatest = np.maximum(greatest, np.append(greatest[width:], greatest[len(every) - width :]))
            tables.append((least, greatest))
            width *= 2
        self._tables[atom, position] = (np.stack([low for low, _ in tables]), np.stack([high for _, high in tables]))
        return True
