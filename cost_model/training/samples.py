"""What models are trained from and tried on: rows of features, what was measured, and what belongs together."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = NDArray[np.int64]

HELD_OUT_SHARE = 5
"""Of so many families one is held out, where nothing else says which."""


@dataclass(frozen=True)
class Samples:
    """Candidates with answers: `rows` of features (n, features) and `answers` (n, outputs), nan where unknown.

    Candidates of one call share a number among `problems`, those of alike problems a name among `families`.
    `seconds` and `analytical` are the measured and the estimated time, 0 where none is known.
    """

    rows: Array
    answers: Array
    problems: Places
    families: tuple[str, ...]
    seconds: Array
    analytical: Array

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, places: Places) -> Samples:
        """Those at some places."""
        return Samples(
            self.rows[places],
            self.answers[places],
            self.problems[places],
            tuple(self.families[int(i)] for i in places),
            self.seconds[places],
            self.analytical[places],
        )


@dataclass(frozen=True)
class Split:
    """Places of the samples to train from, and of those of families that training never sees."""

    training: Places
    held_out: Places

    @staticmethod
    def of(families: Sequence[str], held_out: Collection[str] | None = None) -> Split:
        """By the names that are `held_out`; by a hash of each name where that is None."""
        out = [hashed_out(f) if held_out is None else f in held_out for f in families]
        mask = np.asarray(out, bool)
        return Split(np.flatnonzero(~mask), np.flatnonzero(mask))


def hashed_out(family: str) -> bool:
    """Whether a family is held out by its name alone, which does not change when others come."""
    return hashlib.sha256(family.encode()).digest()[0] % HELD_OUT_SHARE == 0


def numbered(keys: Sequence[Any]) -> Places:
    """A number for each key, the same for equal ones, in order of first appearance."""
    numbers: dict[Any, int] = {}
    return np.asarray([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
