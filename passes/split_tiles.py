"""Decides what tiles hold that the tile predicate leaves open, by looking at elements and at parts of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .number_math import Number
from .position_forms import M, N
from .tile_predicates import Truth

Array = np.ndarray[Any, np.dtype[Any]]

SPLIT_WORK = 1 << 16
"""How many parts of tiles may be looked at."""


@dataclass(frozen=True)
class Tiles:
    """The first and the last row and key of each tile."""

    first_row: Array
    last_row: Array
    first_key: Array
    last_key: Array

    def __len__(self) -> int:
        return len(self.first_row)

    def __getitem__(self, chosen: Array) -> Tiles:
        return Tiles(self.first_row[chosen], self.last_row[chosen], self.first_key[chosen], self.last_key[chosen])

    def positions(self, others: dict[int, tuple[Number, Number]]) -> dict[int, tuple[Number, Number]]:
        """The tiles as positions of a `TileEvaluator`."""
        return {**others, M: (self.first_row, self.last_row), N: (self.first_key, self.last_key)}

    def halves(self) -> tuple[Tiles, Array]:
        """The up to four parts of each tile, and which tile each is of."""
        parts: list[tuple[Array, Array, Array, Array]] = []
        row, key = (self.first_row + self.last_row) // 2, (self.first_key + self.last_key) // 2
        for first_row, last_row in ((self.first_row, row), (row + 1, self.last_row)):
            for first_key, last_key in ((self.first_key, key), (key + 1, self.last_key)):
                parts.append((first_row, last_row, first_key, last_key))
        every = Tiles(*(np.concatenate(bounds) for bounds in zip(*parts, strict=True)))
        origin = np.tile(np.arange(len(self)), len(parts))
        exists = (every.first_row <= every.last_row) & (every.first_key <= every.last_key)
        return every[exists], origin[exists]


Predicate = Callable[[Tiles], Truth[Number]]


def settle(truth: Predicate, undecided: Tiles) -> tuple[int, int]:
    """How many of the undecided tiles hold no kept key, and how many hold no other."""
    kept, dropped = _sampled(truth, undecided)
    unknown = np.zeros(len(undecided), np.bool_)
    open_tiles = np.nonzero(~(kept & dropped))[0]
    parts, work = undecided[open_tiles], 0
    while len(parts):
        work += 4 * len(parts)
        if work > SPLIT_WORK:
            unknown[open_tiles] = True
            break
        parts, origin = parts.halves()
        open_tiles = open_tiles[origin]
        may, must = _found(truth, parts)
        kept[open_tiles[must]], dropped[open_tiles[~may]] = True, True
        element = (parts.first_row == parts.last_row) & (parts.first_key == parts.last_key)
        unknown[open_tiles[may & ~must & element]] = True
        left = may & ~must & ~element & ~(kept & dropped)[open_tiles]
        parts, open_tiles = parts[left], open_tiles[left]
    decided = ~unknown
    return int((decided & ~kept).sum()), int((decided & ~dropped).sum())


def _found(truth: Predicate, tiles: Tiles) -> tuple[Array, Array]:
    found = truth(tiles)
    may, must = (np.broadcast_to(np.asarray(x, np.bool_), (len(tiles),)) for x in (found.may, found.must))
    return may, must


def _sampled(truth: Predicate, tiles: Tiles) -> tuple[Array, Array]:
    """Whether elements at the edges and in the middle of each tile are kept, and whether some are dropped."""
    kept, dropped = np.zeros(len(tiles), np.bool_), np.zeros(len(tiles), np.bool_)
    rows, keys = (
        [first, np.minimum(first + 1, last), (first + last) // 2, last]
        for first, last in ((tiles.first_row, tiles.last_row), (tiles.first_key, tiles.last_key))
    )
    for row in rows:
        for key in keys:
            may, must = _found(truth, Tiles(row, row, key, key))
            kept, dropped = kept | must, dropped | ~may
    return kept, dropped
