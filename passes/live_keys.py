"""How many keys a tile of rows visits under a mask, tried on some rows of a usual length; for plans for CPUs.

What is captured is not known when a kernel is made: a table of conditions counts as a random one, of
which few hold, so that tiles inside its blocks pay; of other captured tensors nothing is told, but of those
that a program around the kernel is known to bring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..ir.core import Value
from .count_tiles import CapturedMath
from .mask_plan import MaskPlan
from .number_math import Number
from .position_forms import Atom, B, H, M, N, atoms_of
from .tile_predicates import TileEvaluator

Array = np.ndarray[Any, np.dtype[Any]]

USUAL_LENGTH, LONGEST = 8192, 32768
"""Queries and keys where types do not say how many; and at most so many are tried."""

ROW_TILES = 16
"""Tiles of rows that are tried, as far apart as they can be."""

CONDITION = 2
"""The limit of what is loaded from a table of conditions."""

ONE_IN = 8
"""Of a table of conditions, about one in so many holds."""


@dataclass(frozen=True)
class Visits:
    """Of a tile of rows, on average: keys in tiles without the mask and in those that check it, and tiles looked at."""

    full: float
    cut: float
    looked: float


def keys_of_blocks(plan: MaskPlan, position: int = N) -> int:
    """Keys in the blocks that a captured table of conditions tells of, `table[..., n // keys]`; 0 for no table.

    With the position M, the rows in them.
    """
    tables = [a for a in atoms_of(plan.forms.condition) if a.kind == "load" and a.limit <= CONDITION]
    indices = (atom for table in tables for index in table.operands for atom, _ in index.terms)
    by_key = (a for a in indices if a.kind == "floor_divide" and a.operands[1].is_constant and position in a.positions)
    return math.gcd(*(atom.divisor for atom in by_key))


@dataclass(frozen=True)
class LiveKeys:
    """The keys that tiles of some height visit under the mask of `plan`; `edge` keys are a tile that is cut."""

    plan: MaskPlan
    queries: int
    keys: int
    edge: int
    captures: Mapping[Value, Array] = field(default_factory=dict[Value, Array], compare=False)
    """The captured tensors that are known, by the region's arguments."""

    @staticmethod
    def of(plan: MaskPlan, queries: int | None, keys: int | None, edge: int) -> LiveKeys:
        """Sizes that types do not say are None."""
        keys = min(keys or queries or USUAL_LENGTH, LONGEST)
        return LiveKeys(plan, min(queries or keys, LONGEST), keys, edge)

    def at_height(self, block_m: int) -> RowsTried:
        """Look at every short tile of keys, for some tiles of rows."""
        tiles = max(1, self.queries // block_m)
        chosen = np.unique(np.linspace(0, tiles - 1, min(tiles, ROW_TILES)).astype(np.int64)) * block_m
        last_rows = np.minimum(chosen + block_m, self.queries) - 1
        first_keys = np.arange(0, self.keys, self.edge, dtype=np.int64)
        last_keys = np.minimum(first_keys + self.edge, self.keys) - 1
        rows = (chosen[:, None], last_rows[:, None])
        positions = {B: (0, 0), H: (0, 0), M: rows, N: (first_keys, last_keys)}
        known = _Supposed(self.captures, {B: 0, H: 0}, {M: self.queries, N: self.keys})
        found = TileEvaluator(known, positions).truth(self.plan.forms.condition)
        shape = len(chosen), len(first_keys)
        may, must = (np.broadcast_to(np.asarray(x), shape) for x in (found.may, found.must))
        return RowsTried(self.plan.kind, self.plan.bounded, self.edge, may, must)


@dataclass(frozen=True)
class RowsTried:
    """Which short tiles of keys some tiles of rows may keep a key of, and which they keep whole."""

    kind: str
    bounded: bool
    edge: int
    may: Array
    must: Array
    found: dict[int, Visits] = field(default_factory=dict[int, Visits], compare=False)

    def visits(self, block_n: int) -> Visits:
        """With full tiles of `block_n` keys."""
        if block_n not in self.found:
            self.found[block_n] = self._visits(block_n)
        return self.found[block_n]

    def _visits(self, block_n: int) -> Visits:
        """Full tiles start anywhere between bounds, else at multiples of their size."""
        count, live = block_n // self.edge, self._live
        if self.kind == "bounds":
            full = float((self.must.sum(1) // count * count).mean())
            return Visits(self.edge * full, self.edge * (live - full), 0.0)
        whole = self._grouped(self.must, count).all(2)
        some = self._grouped(self.may, count).any(2)
        rows, groups = len(self.may), -(-self.may.shape[1] // count)
        full = count * float(whole.sum()) / rows
        cut = count * float((some & ~whole).sum()) / rows
        groups = float(some.sum()) / rows if self.bounded else groups
        return Visits(self.edge * full, self.edge * (live - full), groups + cut)

    @cached_property
    def _live(self) -> float:
        return float(self.may.sum(1).mean())

    def _grouped(self, tiles: Array, count: int) -> Array:
        """`count` neighbours each; those beyond the end are kept nowhere."""
        rows, columns = tiles.shape
        return np.pad(tiles, ((0, 0), (0, -columns % count))).reshape(rows, -1, count)


class _Supposed(CapturedMath):
    """Supposes that tables of conditions of which nothing is known are random."""

    def load(self, atom: Atom, indices: Sequence[Number]) -> Number | None:
        found = super().load(atom, indices)
        if found is not None or atom.limit > CONDITION:
            return found
        mixed: Number = 0
        for i, x in enumerate(indices):
            mixed = mixed * 31 + x * (73856093 >> i)
        # The low bits of such products tell neighbours apart badly.
        return ((mixed & 0x7FFFFFFF) * 0x9E3779 >> 24) % ONE_IN // (ONE_IN - 1)
