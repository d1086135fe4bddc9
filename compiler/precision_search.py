"""Which site takes which precision: the fastest assignment whose error, measured end to end, fits a budget.

Knows numbers only. Moves that each make one site faster stand in one order, by the squared error of the site's own
output for the predicted time gained; bisection finds how many of them fit ("Augmenting Hessians with Inter-Layer
Dependencies", arXiv 2306.04879, orders layers so for two precisions). How errors add up through the layers is never
guessed: every assignment that counts was evaluated as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

Assignment: TypeAlias = tuple[int, ...]
"""For each site the number of its option; 0 is exact."""

EVALUATIONS = 32
"""How many assignments a search evaluates at most."""


@dataclass(frozen=True)
class Option:
    """What a site may take: the relative L2 error of its own output, and its time in any one unit."""

    error: float
    time: float


@dataclass(frozen=True)
class Found:
    """The fastest assignment that a search found, with its error as evaluated.

    `noise` is what two exact runs differ by. `exhausted` says that evaluations ran out before ideas did.
    """

    assignment: Assignment
    error: float
    noise: float
    evaluations: int
    exhausted: bool = False


@dataclass(frozen=True)
class Move:
    """A site goes from the option that it has to a faster one, at `price`: squared error for time gained."""

    site: int
    option: int
    price: float


def search(
    sites: Sequence[Sequence[Option]],
    budget: float,
    evaluate: Callable[[Assignment], float],
    most: int = EVALUATIONS,
) -> Found:
    """Choose an option for each site; the first of each is exact.

    `evaluate` gives the error of a whole assignment, nan or infinity where there is none. The order is bisected, and
    again without the site that stopped it, until none is left: O(log n) evaluations each time. Then sites try the
    options that the order had passed over. The same numbers give the same answer. Where nothing fits, all are exact.
    """
    trials = _Trials(evaluate, budget, most)
    exact: Assignment = (0,) * len(sites)
    noise = trials.error(exact)
    if not noise <= budget:
        return Found(exact, noise, noise, trials.spent)
    chosen, moves = exact, in_order(sites)
    while moves and not trials.exhausted:
        count = _how_many(chosen, moves, trials)
        chosen = _after(chosen, moves[:count])
        stopped = {m.site for m in moves[count : count + 1]}
        moves = [m for m in moves[count + 1 :] if m.site not in stopped]
    chosen = _refined(chosen, sites, trials)
    return Found(chosen, trials.known[chosen], noise, trials.spent, trials.exhausted)


def in_order(sites: Sequence[Sequence[Option]]) -> list[Move]:
    """All moves that are worth a try, the cheapest in error first; those of one site come from slow to fast."""
    moves: list[Move] = []
    for site, options in enumerate(sites):
        hull = _hull(options, front(options))
        moves += [Move(site, b, _price(options, a, b)) for a, b in pairwise(hull)]
    return sorted(moves, key=lambda m: (m.price, m.site, -sites[m.site][m.option].time))


def front(options: Sequence[Option]) -> list[int]:
    """The options that no other beats in both error and time, from exact (number 0) to the fastest."""
    useful = [i for i, o in enumerate(options) if i and math.isfinite(o.error) and o.time < options[0].time]
    kept: list[int] = []
    for number in sorted(useful, key=lambda i: (options[i].time, options[i].error, i)):
        if not kept or options[number].error < options[kept[-1]].error:
            kept.append(number)
    return [0, *reversed(kept)]


def _hull(options: Sequence[Option], numbers: Sequence[int]) -> list[int]:
    """Those of a front on its lower convex hull: from one to the next, time is bought ever more dearly."""
    kept: list[int] = []
    for number in numbers:
        while len(kept) > 1 and _price(options, kept[-2], kept[-1]) >= _price(options, kept[-1], number):
            kept.pop()
        kept.append(number)
    return kept


def _price(options: Sequence[Option], slow: int, fast: int) -> float:
    """The squared error that a step costs, for the time that it gains."""
    added = options[fast].error ** 2 - options[slow].error ** 2
    return added / (options[slow].time - options[fast].time)


def _after(chosen: Assignment, moves: Sequence[Move]) -> Assignment:
    taken = dict(enumerate(chosen)) | {m.site: m.option for m in moves}
    return tuple(taken[site] for site in range(len(chosen)))


def _how_many(chosen: Assignment, moves: Sequence[Move], trials: _Trials) -> int:
    """How many of the moves fit, made in their order: all of them, or found by bisection."""
    if trials.fits(_after(chosen, moves)):
        return len(moves)
    low, high = 0, len(moves)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if trials.fits(_after(chosen, moves[:middle])) else (low, middle)
    return low


def _refined(chosen: Assignment, sites: Sequence[Sequence[Option]], trials: _Trials) -> Assignment:
    """Sites one by one, those with most to gain first, go as far along their fronts as fits; by bisection."""

    def faster(site: int) -> list[int]:
        now = sites[site][chosen[site]].time
        return [i for i in front(sites[site]) if sites[site][i].time < now]

    def gain(site: int) -> float:
        options = sites[site]
        return max((options[chosen[site]].time - options[i].time for i in faster(site)), default=0.0)

    for site in sorted(range(len(sites)), key=lambda s: (-gain(s), s)):
        moves = [Move(site, option, 0.0) for option in faster(site)]
        if moves and (count := _how_many(chosen, moves, trials)):
            chosen = _after(chosen, moves[:count])
    return chosen


@dataclass
class _Trials:
    """What was evaluated so far; nothing is evaluated twice, and nothing beyond `most` fits."""

    evaluate: Callable[[Assignment], float]
    budget: float
    most: int
    known: dict[Assignment, float] = field(default_factory=dict[Assignment, float])
    exhausted: bool = False

    @property
    def spent(self) -> int:
        return len(self.known)

    def error(self, assignment: Assignment) -> float:
        """The error of an assignment; infinite where it may not be evaluated any more."""
        if assignment not in self.known:
            if self.spent >= self.most:
                self.exhausted = True
                return math.inf
            self.known[assignment] = self.evaluate(assignment)
        return self.known[assignment]

    def fits(self, assignment: Assignment) -> bool:
        return self.error(assignment) <= self.budget
