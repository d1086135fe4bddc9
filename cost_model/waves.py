"""How long programs take on multiprocessors that each do one program's work at a time, the longest program first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Waves:
    """`count` programs of together `total` work, of which one has the `heaviest`, on so many multiprocessors.

    Programs that are resident together share a multiprocessor, so that only sums on one of them count.
    """

    total: float
    heaviest: float
    count: int
    multiprocessors: int

    @property
    def even(self) -> float:
        """The time if work could be spread at will."""
        return self.total / max(1, self.multiprocessors)

    @property
    def makespan(self) -> float:
        """From the first program to the end of the last one.

        Of equal programs some multiprocessors do one more than others. Where lengths differ by as much as under a
        causal mask, whose longest program is twice the mean, short ones fill these gaps; in between, partly.
        """
        if self.count <= 0 or self.total <= 0.0:
            return 0.0
        mean = self.total / self.count
        whole = -(-self.count // max(1, self.multiprocessors)) * mean
        unlike = min(1.0, max(0.0, self.heaviest / mean - 1.0))
        return max(self.heaviest, self.even + (whole - self.even) * (1.0 - unlike))

    @property
    def imbalance(self) -> float:
        """What of the makespan waits for the heaviest program alone."""
        return min(max(0.0, self.heaviest - max(self.even, self.total / max(1, self.count))), self._idle)

    @property
    def tail(self) -> float:
        """What of it passes while multiprocessors that are done wait for a last, partly filled wave."""
        return self._idle - self.imbalance

    @property
    def _idle(self) -> float:
        return max(0.0, self.makespan - self.even)
