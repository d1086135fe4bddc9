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
    def sum(self, x: T, y: T) -> T: ...
    def difference(self, x: T, y: T) -> T: ...
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

    def sum(self, x: int, y: int) -> int:
        return x + y

    def difference(self, x: int, y: int) -> int:
        return x - y

    def least(self, *values: int) -> int:
        return min(values)

    def greatest(self, *values: int) -> int:
        return max(values)

    def round_down(self, x: int, step: int) -> int:
        return x // step * step


@dataclass(frozen=True)
class KeyRanges(Generic[T]):
    """The keys of one tile of queries, visited in tiles of `block_n` or, where they are cut, of `edge_n` keys.

    [begin, full_begin) and [full_end, end) hold kept and dropped keys, and `end` may lie inside a
    tile; every key of [full_begin, full_end), whole tiles of `block_n`, is kept by every query. The
    first of these ranges ends early where `end` comes before `full_begin`. A range whose end is not
    above its start is empty. `begin`, `full_begin` and `full_end` are multiples of `edge_n`.
    """

    begin: T
    full_begin: T
    full_end: T
    end: T


def key_ranges(
    structure: MaskStructure,
    math: PositionMath[T],
    row_begin: T,
    row_end: T,
    key_end: T,
    block_n: int,
    edge_n: int = 0,
    key_begin: T | None = None,
) -> KeyRanges[T]:
    """The ranges for the queries [row_begin, row_end), at least one, over the keys [key_begin, key_end).

    `block_n` is a multiple of `edge_n` (0: the same), as `key_begin` is (None: the first key).
    An opaque mask has no full range: all its tiles lie in [full_end, end).
    """
    edge = edge_n or block_n

    def lowest() -> T:
        return math.constant(0) if key_begin is None else key_begin

    end = math.least(key_end, *_ends(structure, math, math.add(row_end, -1)))
    starts = _starts(structure, math, row_begin)
    begin = math.round_down(math.greatest(lowest(), *starts), edge) if starts else lowest()
    if structure.opaque:
        return KeyRanges(begin, begin, begin, end)
    full_begin = begin
    if starts:
        first_full = math.greatest(lowest(), *_starts(structure, math, math.add(row_end, -1)))
        full_begin = math.round_down(math.add(first_full, edge - 1), edge)
    last_full = math.least(key_end, *_ends(structure, math, row_begin))
    if edge != block_n or key_begin is not None:
        return KeyRanges(begin, full_begin, whole_tiles(math, full_begin, last_full, block_n), end)
    if min(structure.upper or 0, structure.last or 0) < -1:
        last_full = math.greatest(math.constant(0), last_full)
    full_end = math.round_down(last_full, block_n)
    return KeyRanges(begin, full_begin, math.greatest(full_begin, full_end) if starts else full_end, end)


def whole_tiles(math: PositionMath[T], begin: T, end: T, block_n: int) -> T:
    """Where the last whole tile of those that start at `begin` ends, none of them beyond `end`."""
    length = math.greatest(math.constant(0), math.difference(end, begin))
    return math.sum(begin, math.round_down(length, block_n))


def _starts(structure: MaskStructure, math: PositionMath[T], row: T) -> list[T]:
    """The lower bounds on keys for query `row`."""
    moving, first = [] if structure.lower is None else [math.add(row, structure.lower)], structure.first or 0
    return [*moving, math.constant(first)] if first > 0 else moving


def _ends(structure: MaskStructure, math: PositionMath[T], row: T) -> list[T]:
    """The upper bounds on keys for query `row`, exclusive."""
    moving = [] if structure.upper is None else [math.add(row, structure.upper + 1)]
    return moving + ([] if structure.last is None else [math.constant(structure.last + 1)])
