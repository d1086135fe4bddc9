"""What is supposed of captured tensors that a mask reads, for plans: they are not known when a kernel is made.

A table of conditions counts as a random one, of which few hold, so that tiles inside its blocks pay; of other captured
tensors nothing is told, but of those that a program around the kernel is known to bring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .count_tiles import CapturedMath
from .mask_plan import MaskPlan
from .number_math import Number
from .position_forms import Atom, N, atoms_of

CONDITION = 2
"""The limit of what is loaded from a table of conditions."""

ONE_IN = 8
"""Of a table of conditions, about one in so many holds."""


def keys_of_blocks(plan: MaskPlan, position: int = N) -> int:
    """Keys in the blocks that a captured table of conditions tells of, `table[..., n // keys]`; 0 for no table.

    With the position M, the rows in them.
    """
    tables = [a for a in atoms_of(plan.forms.condition) if a.kind == "load" and a.limit <= CONDITION]
    indices = (atom for table in tables for index in table.operands for atom, _ in index.terms)
    by_key = (a for a in indices if a.kind == "floor_divide" and a.operands[1].is_constant and position in a.positions)
    return math.gcd(*(atom.divisor for atom in by_key))


class SupposedMath(CapturedMath):
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
