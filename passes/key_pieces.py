"""The keys that a tile of queries may keep, and those that it keeps for certain, as loop bounds in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .position_forms import Atom, Both, Choice, Compare, Condition, Either, Known, Linear, N, Not
from .tile_math import TileMath
from .tile_predicates import Interval, TileEvaluator

T = TypeVar("T")
B = TypeVar("B")

MOST = 3
"""More pieces than this become fewer, larger ones."""


@dataclass(frozen=True)
class Piece(Generic[T]):
    """The keys [begin, end), of which all rows keep [full_begin, full_end).

    begin <= full_begin <= full_end <= end, once `disjoint` has cut them: a range may be empty.
    """

    begin: T
    full_begin: T
    full_end: T
    end: T


def key_pieces(condition: Condition, tiles: TileEvaluator[T, B], keys: T) -> list[Piece[T]]:
    """At most `MOST` disjoint pieces of the keys [0, keys) for the rows of `tiles`, in ascending order.

    Every key that some row keeps lies in a piece; every key of a full range is kept by every row.
    `tiles` gives rows, batches and heads; keys must not be among its positions.
    """
    assert N not in tiles.positions
    return disjoint(tiles.math, PieceFinder(tiles, keys).find(condition, True))


def aligned(math: TileMath[T, B], pieces: Sequence[Piece[T]], block_n: int) -> list[Piece[T]]:
    """Disjoint pieces as tiles of `block_n` keys, all bounds multiples of it: no tile is visited twice.

    begin <= full_begin <= full_end <= end. A full range holds only tiles of which every key is kept.
    """
    visited = math.number(0)
    tiles: list[Piece[T]] = []
    for piece in pieces:
        begin = math.greatest(_round_down(math, piece.begin, block_n), visited)
        # An empty piece that begins where the last one ended has no tile to round up to.
        nonempty = math.boolean(True) if math.same(piece.begin, visited) else _below(math, piece.begin, piece.end)
        begin = math.select(nonempty, begin, visited)
        end = math.select(nonempty, math.greatest(_round_up(math, piece.end, block_n), begin), begin)
        full_begin = _clip(math, _round_up(math, piece.full_begin, block_n), begin, end)
        full_end = _clip(math, _round_down(math, piece.full_end, block_n), full_begin, end)
        tiles.append(Piece(begin, full_begin, full_end, end))
        visited = end
    return tiles


def _clip(math: TileMath[T, B], x: T, low: T, high: T) -> T:
    return math.greatest(low, math.least(x, high))


def _round_down(math: TileMath[T, B], x: T, step: int) -> T:
    by = math.number(step)
    return math.multiply(math.floor_divide(x, by), by)


def _round_up(math: TileMath[T, B], x: T, step: int) -> T:
    return _round_down(math, math.add(x, math.number(step - 1)), step)


def _below(math: TileMath[T, B], x: T, y: T) -> B:
    return math.negate(math.at_most(y, x))


def disjoint(math: TileMath[T, B], pieces: Sequence[Piece[T]]) -> list[Piece[T]]:
    """The keys of all of `pieces`, each once, in ascending order."""
    return _swept(math, _sorted(math, _few(math, pieces)))


def _few(math: TileMath[T, B], pieces: Sequence[Piece[T]]) -> list[Piece[T]]:
    """At most `MOST` pieces that hold the keys of all of `pieces`."""
    left = _merge_same(math, pieces)
    while len(left) > MOST:
        *left, x, y = left
        left.append(_hull(math, x, y))
    return left


def _merge_same(math: TileMath[T, B], pieces: Sequence[Piece[T]]) -> list[Piece[T]]:
    """Pieces that are known to start, or to end, together are one piece."""
    merged: list[Piece[T]] = []
    for piece in pieces:
        for i, other in enumerate(merged):
            if math.same(piece.begin, other.begin) and math.same(piece.full_begin, other.full_begin):
                full_end, end = math.greatest(piece.full_end, other.full_end), math.greatest(piece.end, other.end)
                merged[i] = Piece(piece.begin, piece.full_begin, full_end, end)
                break
            if math.same(piece.end, other.end) and math.same(piece.full_end, other.full_end):
                begin = math.least(piece.begin, other.begin)
                merged[i] = Piece(begin, math.least(piece.full_begin, other.full_begin), piece.full_end, piece.end)
                break
        else:
            merged.append(piece)
    return merged


def _hull(math: TileMath[T, B], x: Piece[T], y: Piece[T]) -> Piece[T]:
    """What holds the keys of both, with the longer one of the full ranges."""
    some_x, some_y = _below(math, x.begin, x.end), _below(math, y.begin, y.end)
    begin = math.select(some_x, math.select(some_y, math.least(x.begin, y.begin), x.begin), y.begin)
    end = math.select(some_x, math.select(some_y, math.greatest(x.end, y.end), x.end), y.end)
    longer = math.at_most(math.subtract(y.full_end, y.full_begin), math.subtract(x.full_end, x.full_begin))
    full_begin = math.select(longer, x.full_begin, y.full_begin)
    return Piece(begin, full_begin, math.select(longer, x.full_end, y.full_end), end)


def _sorted(math: TileMath[T, B], pieces: list[Piece[T]]) -> list[Piece[T]]:
    """By their beginnings; of those that begin together the longest first."""
    pieces = list(pieces)
    for last in reversed(range(1, len(pieces))):
        for i in range(last):
            x, y = pieces[i], pieces[i + 1]
            together = math.both(math.at_most(x.begin, y.begin), math.at_most(y.end, x.end))
            first = math.either(_below(math, x.begin, y.begin), together)
            bounds = ((x.begin, y.begin), (x.full_begin, y.full_begin), (x.full_end, y.full_end), (x.end, y.end))
            pieces[i] = Piece(*(math.select(first, a, b) for a, b in bounds))
            pieces[i + 1] = Piece(*(math.select(first, b, a) for a, b in bounds))
    return pieces


def _swept(math: TileMath[T, B], pieces: list[Piece[T]]) -> list[Piece[T]]:
    """Each of the sorted pieces without the keys of those before it; an empty one takes none from those after."""
    reached, found = math.number(0), list[Piece[T]]()
    for piece in pieces:
        begin = math.greatest(piece.begin, reached)
        end = math.greatest(piece.end, begin)
        full_begin = _clip(math, piece.full_begin, begin, end)
        found.append(Piece(begin, full_begin, _clip(math, piece.full_end, full_begin, end), end))
        reached = end
    return found


@dataclass(frozen=True)
class _Bound(Generic[T, B]):
    """A number on the other side of a comparison: for some row, and for every row; None for no bound."""

    some: T | None
    every: T | None
    valid: B

    def through(self, function: Callable[[T], T]) -> _Bound[T, B]:
        some, every = (None if x is None else function(x) for x in (self.some, self.every))
        return _Bound(some, every, self.valid)


class PieceFinder(Generic[T, B]):
    """Pieces in no order that may overlap, at most `MOST` after each step."""

    def __init__(self, tiles: TileEvaluator[T, B], keys: T) -> None:
        self.tiles, self.math, self.keys = tiles, tiles.math, keys
        self.loose = False
        """Whether a condition on keys was met that bounds none of them."""
        self.zero = self.math.number(0)

    def find(self, condition: Condition, truth: bool) -> list[Piece[T]]:
        """The keys for which `condition` is `truth`."""
        if N not in condition.positions:
            return self._rows(condition, truth)
        match condition:
            case Not():
                return self.find(condition.x, not truth)
            case Both() | Either():
                parts = self.find(condition.x, truth), self.find(condition.y, truth)
                return self._meet(*parts) if isinstance(condition, Both) == truth else self._join(*parts)
            case Choice():
                x = self._meet(self.find(condition.chooser, True), self.find(condition.x, truth))
                return self._join(x, self._meet(self.find(condition.chooser, False), self.find(condition.y, truth)))
            case Compare():
                return self._compare(condition, truth)
            case _:
                return self._opaque()

    def _opaque(self) -> list[Piece[T]]:
        self.loose = True
        return [Piece(self.zero, self.zero, self.zero, self.keys)]

    def _rows(self, condition: Condition, truth: bool) -> list[Piece[T]]:
        """All keys or none, by a condition on the rows."""
        math, found = self.math, self.tiles.truth(condition)
        may, must = (found.may, found.must) if truth else (math.negate(found.must), math.negate(found.may))
        if isinstance(condition, Known):
            return [Piece(self.zero, self.zero, self.keys, self.keys)] if condition.value == truth else []
        full_end, end = (math.select(held, self.keys, self.zero) for held in (must, may))
        return [Piece(self.zero, self.zero, full_end, end)]

    def _meet(self, xs: Sequence[Piece[T]], ys: Sequence[Piece[T]]) -> list[Piece[T]]:
        """The keys in both."""
        return _few(self.math, [self._overlap(x, y) for x in xs for y in ys])

    def _overlap(self, x: Piece[T], y: Piece[T]) -> Piece[T]:
        least, greatest = self.math.least, self.math.greatest
        return Piece(
            greatest(x.begin, y.begin),
            greatest(x.full_begin, y.full_begin),
            least(x.full_end, y.full_end),
            least(x.end, y.end),
        )

    def _join(self, xs: Sequence[Piece[T]], ys: Sequence[Piece[T]]) -> list[Piece[T]]:
        return _few(self.math, [*xs, *ys])

    def _compare(self, condition: Compare, truth: bool) -> list[Piece[T]]:
        """As differences that are at most 0."""
        difference = condition.left.plus(condition.right, -1)
        other = difference.times(-1)
        if not condition.equal:
            return self._negative(difference if truth else Linear(other.terms, other.constant + 1))
        if truth:
            return self._meet(self._negative(difference), self._negative(other))
        sides = [self._negative(Linear(x.terms, x.constant + 1)) for x in (difference, other)]
        return self._join(*sides)

    def _negative(self, x: Linear) -> list[Piece[T]]:
        """The keys with x <= 0."""
        return self._at_most(x, _Bound(self.zero, self.zero, self.math.boolean(True)))

    def _at_most(self, x: Linear, bound: _Bound[T, B]) -> list[Piece[T]]:
        """The keys with x <= bound. What remains of x beside its only atom of keys goes to the other side."""
        moving = [(atom, factor) for atom, factor in x.terms if N in atom.positions]
        if len(moving) != 1:
            return self._opaque() if moving else self._constant(x, bound)
        (atom, factor), *_ = moving
        rest = self.tiles.interval(x.without(atom))
        limit = self._less(bound, rest)
        if factor > 0:
            return self._atom_at_most(atom, self._divided(limit, factor))
        return self._atom_at_least(atom, self._negated(self._divided(limit, -factor)))

    def _constant(self, x: Linear, bound: _Bound[T, B]) -> list[Piece[T]]:
        """All keys or none, by whether x <= bound, which no key changes."""
        rest = self._less(bound, self.tiles.interval(x))
        full_end, end = (
            self.zero if limit is None else self.math.select(self.math.at_most(self.zero, limit), self.keys, self.zero)
            for limit in (rest.every, rest.some)
        )
        return self._guarded(Piece(self.zero, self.zero, full_end, self.keys if rest.some is None else end), rest.valid)

    def _less(self, bound: _Bound[T, B], rest: Interval[T, B]) -> _Bound[T, B]:
        """bound - rest"""
        math = self.math
        some = None if bound.some is None or rest.low is None else math.subtract(bound.some, rest.low)
        every = None if bound.every is None or rest.high is None else math.subtract(bound.every, rest.high)
        self.loose |= some is None or every is None
        return _Bound(some, every, math.both(bound.valid, rest.valid))

    def _divided(self, bound: _Bound[T, B], divisor: int) -> _Bound[T, B]:
        """Rounded down."""
        by = self.math.number(divisor)
        return bound if divisor == 1 else bound.through(lambda x: self.math.floor_divide(x, by))

    def _negated(self, bound: _Bound[T, B]) -> _Bound[T, B]:
        return bound.through(lambda x: self.math.subtract(self.zero, x))

    def _scaled(self, bound: _Bound[T, B], factor: int, shift: int) -> _Bound[T, B]:
        """bound * factor + shift"""
        by, more = self.math.number(factor), self.math.number(shift)
        return bound.through(lambda x: self.math.add(self.math.multiply(x, by), more))

    def _atom_at_most(self, atom: Atom, bound: _Bound[T, B]) -> list[Piece[T]]:
        match atom.kind:
            case "position":
                return self._keys_below(self._scaled(bound, 1, 1))
            case "floor_divide" if atom.operands[1].is_constant:
                return self._at_most(atom.operands[0], self._scaled(bound, atom.divisor, atom.divisor - 1))
            case "absolute":
                (x,) = atom.operands
                return self._meet(self._at_most(x, bound), self._at_most(x.times(-1), bound))
            case "minimum" | "maximum":
                parts = [self._at_most(x, bound) for x in atom.operands]
                return self._join(*parts) if atom.kind == "minimum" else self._meet(*parts)
            case _:
                return self._opaque()

    def _atom_at_least(self, atom: Atom, bound: _Bound[T, B]) -> list[Piece[T]]:
        match atom.kind:
            case "position":
                return self._keys_from(bound)
            case "floor_divide" if atom.operands[1].is_constant:
                return self._at_least(atom.operands[0], self._scaled(bound, atom.divisor, 0))
            case "absolute":
                (x,) = atom.operands
                return self._join(self._at_least(x, bound), self._at_least(x.times(-1), bound))
            case "minimum" | "maximum":
                parts = [self._at_least(x, bound) for x in atom.operands]
                return self._meet(*parts) if atom.kind == "minimum" else self._join(*parts)
            case _:
                return self._opaque()

    def _at_least(self, x: Linear, bound: _Bound[T, B]) -> list[Piece[T]]:
        return self._at_most(x.times(-1), self._negated(bound))

    def _keys_below(self, bound: _Bound[T, B]) -> list[Piece[T]]:
        least = self.math.least
        end = self.keys if bound.some is None else least(self.keys, bound.some)
        full_end = self.zero if bound.every is None else least(self.keys, bound.every)
        return self._guarded(Piece(self.zero, self.zero, full_end, end), bound.valid)

    def _keys_from(self, bound: _Bound[T, B]) -> list[Piece[T]]:
        greatest = self.math.greatest
        begin = self.zero if bound.some is None else greatest(self.zero, bound.some)
        full_begin = self.keys if bound.every is None else greatest(self.zero, bound.every)
        return self._guarded(Piece(begin, full_begin, self.keys, self.keys), bound.valid)

    def _guarded(self, piece: Piece[T], valid: B) -> list[Piece[T]]:
        """The piece where its bounds are valid; else all keys, none of them for certain."""
        select, zero = self.math.select, self.zero
        begin, end = select(valid, piece.begin, zero), select(valid, piece.end, self.keys)
        return [Piece(begin, piece.full_begin, select(valid, piece.full_end, zero), end)]
