"""Figures of how well a planner predicts and chooses, from plain numbers; measures nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def regret(seconds: Sequence[float], choice: int) -> float:
    """How many times as long the choice takes as the best."""
    return seconds[choice] / min(seconds)


def fastest(seconds: Sequence[float]) -> int:
    """The place of the smallest, the first of equals."""
    return min(range(len(seconds)), key=lambda place: seconds[place])


def relative_errors(found: Sequence[float], predicted: Sequence[float]) -> list[float]:
    """|predicted / found - 1|"""
    return [abs(y / x - 1.0) for x, y in zip(found, predicted, strict=True)]


def as_one_step(gains: Sequence[float]) -> list[bool]:
    """Whether the second of two takes over at each size, as the single change that explains `gains` best.

    `gains` are logarithms of how many times as fast the second is, in order of the sizes. What lies on the wrong side
    of the change counts by how far, so that a draw says little. The change may lie outside of the sizes.
    """

    def wrong(pattern: Sequence[bool]) -> float:
        return sum(abs(gain) for gain, second in zip(gains, pattern, strict=True) if second != (gain > 0))

    count = len(gains)
    patterns = [[(place >= change) == rises for place in range(count)] for change in range(count + 1)
                for rises in (True, False)]  # fmt: skip
    return min(patterns, key=wrong)


def steps_apart(one: Sequence[bool], other: Sequence[bool]) -> int:
    """At how many sizes two patterns differ: for those of one change in the same direction, how far their changes are
    apart.
    """
    return sum(x != y for x, y in zip(one, other, strict=True))


def change_in_words(pattern: Sequence[bool], sizes: Sequence[object], names: tuple[str, str]) -> str:
    """Such as `never` where the first of `names` always wins, or `from 512 on`."""
    if all(pattern):
        return f"{names[1]} everywhere"
    if not any(pattern):
        return f"{names[0]} everywhere"
    place = next(i for i in range(1, len(pattern)) if pattern[i] != pattern[i - 1])
    return f"{names[pattern[place]]} from {sizes[place]} on"
