"""Which key tiles a tile of queries visits: loop bounds in closed form, for numbers and for IR alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .mask_structure import MaskStructure

T = TypeVar("T")


class PositionMath(Protocol[T]):
    """The arithmetic on positions that loop bounds need."""

    def constant(self, value: int) -> T: ...
    def add(self, x: T, value: int) -> T: ...
    def least(self, *values: T) -> T: ...
    def greatest(self, *values: T) -> T: ...
    def round_down(self, x: T, step: int) -> T:
        """The multiple of `step` at or below `x`, which is not negative."""
        ...


class IntegerMath:
    """Bounds as Python integers."""

    def constant(self, value: int) -> int:
        return value

    def add(self, x: int, value: int) -> int:
        return x + value

    def least(self, *values: int) -> int:
        return min(values)

    def greatest(self, *values: int) -> int:
        return max(values)

    def round_down(self, x: int, step: int) -> int:
        return x // step * step


@dataclass(frozen=True)
class KeyRanges(Generic[T]):
    """The keys of one tile of queries, visited in tiles that start at multiples of `block_n`.

    [begin, full_begin) and [full_end, end) hold kept and dropped keys, and `end` may lie inside a
    tile; every key of [full_begin, full_end) is kept by every query. The first of these ranges ends
    early where `end` comes before `full_begin`. A range whose end is not above its start is empty.
    """

    begin: T
    full_begin: T
    full_end: T
    end: T


def key_ranges(
    structure: MaskStructure, math: PositionMath[T], row_begin: T, row_end: T, key_length: T, block_n: int
) -> KeyRanges[T]:
    """The ranges for the queries [row_begin, row_end), at least one, over `key_length` keys.

    An opaque mask has no full range: all its tiles lie in [full_end, end).
    """
    end = math.least(key_length, *_ends(structure, math, math.add(row_end, -1)))
    starts = _starts(structure, math, row_begin)
    begin = math.round_down(math.greatest(math.constant(0), *starts), block_n) if starts else math.constant(0)
    if structure.opaque:
        return KeyRanges(begin, begin, begin, end)
    full_begin = begin
    if starts:
        first_full = math.greatest(math.constant(0), *_starts(structure, math, math.add(row_end, -1)))
        full_begin = math.round_down(math.add(first_full, block_n - 1), block_n)
    last_full = math.least(key_length, *_ends(structure, math, row_begin))
    if min(structure.upper or 0, structure.last or 0) < -1:
        last_full = math.greatest(math.constant(0), last_full)
    full_end = math.round_down(last_full, block_n)
    return KeyRanges(begin, full_begin, math.greatest(full_begin, full_end) if starts else full_end, end)


def _starts(structure: MaskStructure, math: PositionMath[T], row: T) -> list[T]:
    """The lower bounds on keys for query `row`."""
    moving, first = [] if structure.lower is None else [math.add(row, structure.lower)], structure.first or 0
    return [*moving, math.constant(first)] if first > 0 else moving


def _ends(structure: MaskStructure, math: PositionMath[T], row: T) -> list[T]:
    """The upper bounds on keys for query `row`, exclusive."""
    moving = [] if structure.upper is None else [math.add(row, structure.upper + 1)]
    return moving + ([] if structure.last is None else [math.constant(structure.last + 1)])
