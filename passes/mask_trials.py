"""Tries a mask on numbers: how much of it its loop bounds and its tile predicate find out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.core import Value
from .count_tiles import count_tiles
from .key_pieces import PieceFinder
from .mask_forms import MaskForms
from .number_math import Number, NumberMath
from .position_forms import Atom, B, H, M, N
from .tile_predicates import TileEvaluator

PLANNED_AT_ONCE = 1 << 14
"""Tiles that planning looks at one by one, for each tile size."""


def live_part(
    forms: MaskForms,
    queries: int,
    keys: int,
    block_m: int,
    block_n: int,
    captures: Mapping[Value, np.ndarray[Any, Any]] | None = None,
) -> float:
    """The part of the key tiles that a kernel computes, with nothing known of other captured tensors; 1 for none."""
    found = count_tiles(forms, queries, keys, block_m, block_n, captures, at_once=PLANNED_AT_ONCE)
    return found.live / found.total if found.live else 1.0


class _AnyNumber(NumberMath):
    """Gives numbers for whatever is loaded, to find out what depends on them."""

    def load(self, atom: Atom, indices: Sequence[Number]) -> Number | None:
        return np.zeros(1, np.int64)

    def extremes(self, atom: Atom, position: int, first: Number, last: Number) -> tuple[Number, Number] | None:
        return np.zeros(1, np.int64), np.ones(1, np.int64)


def tried(forms: MaskForms) -> tuple[bool, bool, bool]:
    """Whether pieces are loose, whether they bound keys at all, and whether the predicate ever finds anything."""
    math, keys = _AnyNumber(), np.full(1, 16, np.int64)
    batch, head, row, key = (np.full(1, x, np.int64) for x in (0, 1, 4, 8))
    positions = {B: (batch, batch), H: (head, head), M: (row, row + 3)}
    finder = PieceFinder(TileEvaluator(math, positions), keys)
    pieces = finder.find(forms.condition, True)
    bounded = any(not math.same(p.begin, 0) or p.end is not keys for p in pieces)
    found = TileEvaluator(math, {**positions, N: (key, key + 3)}).truth(forms.condition)
    return finder.loose, bounded, not (found.may is True and found.must is False)
