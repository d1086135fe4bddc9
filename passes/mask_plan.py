"""What is known of a mask, for kernels and for planning: its bounds, its loop pieces, its tile predicate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ..ir.core import Region
from .analyze_mask import analyze_mask
from .key_pieces import Piece, key_pieces
from .mask_forms import MaskForms
from .mask_structure import MaskStructure
from .position_forms import Atom, atoms_of
from .tile_math import TileMath
from .tile_predicates import TileEvaluator, Truth, needs_table

T = TypeVar("T")
Bool = TypeVar("Bool")


@dataclass(frozen=True)
class MaskPlan:
    """How a kernel may loop over the keys of a mask.

    `kind` is the cheapest of these that loses nothing:
    - `bounds`: the mask is what `structure` says.
    - `pieces`: every condition on keys is a loop bound of `pieces`, so that the tile predicate finds
      hardly more than they do.
    - `tiles`: the tile predicate finds empty or full tiles which the pieces do not; it needs the
      extremes of `tables`, loads that move with each row or with each key.
    - `opaque`: no tile can be told from another, but where the bounds of `structure` do.
    """

    structure: MaskStructure
    forms: MaskForms
    kind: str
    bounded: bool
    """Whether the pieces leave out any key at all."""
    tables: tuple[Atom, ...]

    @staticmethod
    def of(mask: Region) -> MaskPlan:
        """An empty region keeps everything."""
        # Numbers come as arrays, and small commands do not load numpy.
        from .mask_trials import tried

        structure, forms = analyze_mask(mask), MaskForms.of(mask)
        loose, bounded, found = tried(forms)
        kind = "pieces"
        if not structure.opaque:
            kind = "bounds"
        elif loose or not bounded:
            kind = "tiles" if found else "opaque"
        tables = [a for a in atoms_of(forms.condition) if a.kind == "load" and needs_table(a)] if found else []
        return MaskPlan(structure, forms, kind, bounded, tuple(tables) if kind in ("pieces", "tiles") else ())

    def pieces(self, math: TileMath[T, Bool], positions: Mapping[int, tuple[T, T]], keys: T) -> list[Piece[T]]:
        """At most 3 disjoint, ascending pieces of the keys [0, keys) for the rows and heads of `positions`."""
        return key_pieces(self.forms.condition, TileEvaluator(math, positions), keys)

    def truth(self, math: TileMath[T, Bool], positions: Mapping[int, tuple[T, T]]) -> Truth[Bool]:
        """Whether a tile may keep a key, and whether it keeps all; positions are first and last, inclusive."""
        return TileEvaluator(math, positions).truth(self.forms.condition)
