"""What a mask is over a tile of queries and keys: kept nowhere, everywhere, or it cannot be told.

Interval arithmetic over the sums of `position_forms`, written once for every `TileMath`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..ir.attributes import IntegerType
from .position_forms import (
    LOAD_LIMIT,
    Atom,
    Both,
    Choice,
    Compare,
    Condition,
    Either,
    Known,
    Linear,
    M,
    N,
    Not,
    Unknown,
)
from .tile_math import TileMath

T = TypeVar("T")
B = TypeVar("B")


@dataclass(frozen=True)
class Interval(Generic[T, B]):
    """The numbers from `low` to `high`, None for no bound; where not `valid`, it says nothing.

    A number that is the same all over the tile has one object as both bounds.
    """

    low: T | None
    high: T | None
    valid: B

    @property
    def is_point(self) -> bool:
        return self.low is not None and self.low is self.high


@dataclass(frozen=True)
class Truth(Generic[B]):
    """Whether a condition may hold somewhere in a tile, and whether it holds everywhere."""

    may: B
    must: B


@dataclass
class TileEvaluator(Generic[T, B]):
    """Evaluates conditions over the tile whose positions lie between the given first and last, inclusive.

    The positions are B, H, M and N; a missing one may have any value. All that it finds holds for
    nonempty tiles whose positions exist.
    """

    math: TileMath[T, B]
    positions: Mapping[int, tuple[T, T]]
    _intervals: dict[Atom, Interval[T, B]] = field(default_factory=dict[Atom, Interval[T, B]])
    _truths: dict[Condition, Truth[B]] = field(default_factory=dict[Condition, Truth[B]])

    # --- conditions

    def truth(self, condition: Condition) -> Truth[B]:
        if condition not in self._truths:
            self._truths[condition] = self._truth(condition)
        return self._truths[condition]

    def _truth(self, condition: Condition) -> Truth[B]:
        math = self.math
        match condition:
            case Known():
                return Truth(math.boolean(condition.value), math.boolean(condition.value))
            case Not():
                x = self.truth(condition.x)
                return Truth(math.negate(x.must), math.negate(x.may))
            case Both():
                x, y = self.truth(condition.x), self.truth(condition.y)
                return Truth(math.both(x.may, y.may), math.both(x.must, y.must))
            case Either():
                x, y = self.truth(condition.x), self.truth(condition.y)
                return Truth(math.either(x.may, y.may), math.either(x.must, y.must))
            case Choice():
                return self._choice(condition)
            case Compare():
                left, right = self.interval(condition.left), self.interval(condition.right)
                return self._compare(left, right, condition.equal)
            case Unknown(atom=Atom() as atom):
                one = Interval(math.number(1), math.number(1), math.boolean(True))
                return self._compare(one, self._atom(atom), False)
            case _:
                return Truth(math.boolean(True), math.boolean(False))

    def _choice(self, condition: Choice) -> Truth[B]:
        """chooser ? x : y; x alone counts where the chooser must hold, y alone where it may not."""
        math = self.math
        chooser, x, y = (self.truth(part) for part in (condition.chooser, condition.x, condition.y))
        other = Truth(math.negate(chooser.must), math.negate(chooser.may))
        may = math.either(math.both(chooser.may, x.may), math.both(other.may, y.may))
        alone = math.either(math.both(chooser.must, x.must), math.both(other.must, y.must))
        return Truth(may, math.either(alone, math.both(x.must, y.must)))

    def _compare(self, left: Interval[T, B], right: Interval[T, B], equal: bool) -> Truth[B]:
        math, valid = self.math, self.math.both(left.valid, right.valid)
        may, must = self._at_most(left.low, right.high, True), self._at_most(left.high, right.low, False)
        if equal:
            may = math.both(may, self._at_most(right.low, left.high, True))
            same = left.is_point and right.is_point
            must = may if same else math.both(must, self._at_most(right.high, left.low, False))
        return Truth(math.either(may, math.negate(valid)), math.both(must, valid))

    def _at_most(self, x: T | None, y: T | None, otherwise: bool) -> B:
        return self.math.boolean(otherwise) if x is None or y is None else self.math.at_most(x, y)

    # --- numbers

    def interval(self, x: Linear) -> Interval[T, B]:
        """Between what `x` lies."""
        math = self.math
        total: Interval[T, B] | None = None
        for atom, factor in x.terms:
            term = self._times(self._atom(atom), factor)
            total = term if total is None else self._sum(total, term)
        constant = math.number(x.constant)
        if total is None:
            return Interval(constant, constant, math.boolean(True))
        if not x.constant:
            return total
        return self._monotone(total, lambda bound: math.add(bound, constant))

    def _sum(self, x: Interval[T, B], y: Interval[T, B]) -> Interval[T, B]:
        math = self.math
        valid = math.both(x.valid, y.valid)
        low = None if x.low is None or y.low is None else math.add(x.low, y.low)
        if x.is_point and y.is_point:
            return Interval(low, low, valid)
        return Interval(low, None if x.high is None or y.high is None else math.add(x.high, y.high), valid)

    def _times(self, x: Interval[T, B], factor: int) -> Interval[T, B]:
        if factor == 1:
            return x
        scaled = self._monotone(x, lambda bound: self.math.multiply(bound, self.math.number(factor)))
        return scaled if factor > 0 else Interval(scaled.high, scaled.low, scaled.valid)

    def _monotone(self, x: Interval[T, B], function: Callable[[T], T]) -> Interval[T, B]:
        """Both bounds through a function that keeps their order (or turns it, for the caller to swap)."""
        low = None if x.low is None else function(x.low)
        if x.is_point:
            return Interval(low, low, x.valid)
        return Interval(low, None if x.high is None else function(x.high), x.valid)

    def _atom(self, atom: Atom) -> Interval[T, B]:
        if atom not in self._intervals:
            self._intervals[atom] = self._of_atom(atom)
        return self._intervals[atom]

    def _of_atom(self, atom: Atom) -> Interval[T, B]:
        match atom.kind:
            case "position" if atom.position in self.positions:
                return Interval(*self.positions[atom.position], self.math.boolean(True))
            case "position":
                return self._between(0, None)
            case "load":
                return self._load(atom)
            case "boolean" | "select":
                return self._selected(atom)
            case "floor_divide":
                return self._quotient(atom)
            case "truncate_divide":
                return self._monotone(self.interval(atom.operands[0]), lambda x: self._truncated(x, atom.divisor))
            case "modulo" | "remainder":
                return self._remainder(atom)
            case "minimum" | "maximum":
                return self._extreme(atom)
            case "absolute":
                return self._absolute(self.interval(atom.operands[0]))
            case "multiply":
                return self._product(*map(self.interval, atom.operands))
            case "bit_and":
                return self._bit_and(*map(self.interval, atom.operands))
            case "fits":
                return self._within(self.interval(atom.operands[0]), atom.limit + 1)
            case _:
                return self._between(0 if atom.nonnegative else None, None)

    def _between(self, low: int | None, high: int | None) -> Interval[T, B]:
        bounds = [None if x is None else self.math.number(x) for x in (low, high)]
        return Interval(bounds[0], bounds[1], self.math.boolean(True))

    def _within(self, x: Interval[T, B], limit: int) -> Interval[T, B]:
        """x, valid only where it lies between -limit and limit, neither included."""
        if x.low is None or x.high is None:
            return self._between(None, None)
        math = self.math
        above, below = math.at_most(math.number(1 - limit), x.low), math.at_most(x.high, math.number(limit - 1))
        return Interval(x.low, x.high, math.both(x.valid, math.both(above, below)))

    def _truncated(self, x: T, divisor: int) -> T:
        """x / divisor rounded towards zero."""
        math, by = self.math, self.math.number(divisor)
        negative = math.subtract(math.number(0), math.floor_divide(math.subtract(math.number(0), x), by))
        return math.select(math.at_most(math.number(0), x), math.floor_divide(x, by), negative)

    def _quotient(self, atom: Atom) -> Interval[T, B]:
        x, y = map(self.interval, atom.operands)
        math = self.math
        if atom.operands[1].is_constant:
            return self._monotone(x, lambda bound: math.floor_divide(bound, math.number(atom.divisor)))
        if x.low is None or x.high is None or y.low is None or y.high is None:
            return self._between(None, None)
        one = math.number(1)
        small, large = math.greatest(y.low, one), math.greatest(y.high, one)
        low = math.least(math.floor_divide(x.low, small), math.floor_divide(x.low, large))
        high = math.greatest(math.floor_divide(x.high, small), math.floor_divide(x.high, large))
        return Interval(low, high, math.both(math.both(x.valid, y.valid), math.at_most(one, y.low)))

    def _remainder(self, atom: Atom) -> Interval[T, B]:
        """Exact where the quotient is the same at both ends; and of negative numbers with their sign."""
        x, divisor = self.interval(atom.operands[0]), atom.divisor
        smallest = 0 if atom.kind == "modulo" else 1 - divisor
        if x.low is None or x.high is None:
            return self._between(smallest, divisor - 1)
        math, by = self.math, self.math.number(divisor)
        first = math.floor_divide(x.low, by)
        start = math.multiply(first, by)
        low = math.subtract(x.low, start)
        positive = math.boolean(True) if atom.kind == "modulo" else math.at_most(math.number(0), x.low)
        if x.is_point and atom.kind == "modulo":
            return Interval(low, low, x.valid)
        together = math.both(positive, math.at_most(math.floor_divide(x.high, by), first))
        low = math.select(together, low, math.select(positive, math.number(0), math.number(smallest)))
        return Interval(low, math.select(together, math.subtract(x.high, start), math.number(divisor - 1)), x.valid)

    def _extreme(self, atom: Atom) -> Interval[T, B]:
        """A missing bound of one side leaves the bound of the other where that is the stronger."""
        x, y = map(self.interval, atom.operands)
        smaller = atom.kind == "minimum"
        function = self.math.least if smaller else self.math.greatest
        bounds: list[T | None] = []
        for a, b, one_is_enough in ((x.low, y.low, not smaller), (x.high, y.high, smaller)):
            if a is None or b is None:
                bounds.append((b if a is None else a) if one_is_enough else None)
            else:
                bounds.append(function(a, b))
        valid = self.math.both(x.valid, y.valid)
        return Interval(bounds[0], bounds[0] if x.is_point and y.is_point else bounds[1], valid)

    def _absolute(self, x: Interval[T, B]) -> Interval[T, B]:
        math, zero = self.math, self.math.number(0)
        if x.low is None or x.high is None:
            return self._between(0, None)
        minus_low = math.subtract(zero, x.low)
        if x.is_point:
            high = math.greatest(x.low, minus_low)
            return Interval(high, high, x.valid)
        low = math.greatest(zero, math.greatest(x.low, math.subtract(zero, x.high)))
        return Interval(low, math.greatest(x.high, minus_low), x.valid)

    def _product(self, x: Interval[T, B], y: Interval[T, B]) -> Interval[T, B]:
        if x.low is None or x.high is None or y.low is None or y.high is None:
            return self._between(None, None)
        math = self.math
        low = high = math.multiply(x.low, y.low)
        if not (x.is_point and y.is_point):
            for corner in (math.multiply(x.low, y.high), math.multiply(x.high, y.low), math.multiply(x.high, y.high)):
                low, high = math.least(low, corner), math.greatest(high, corner)
        return Interval(low, high, math.both(x.valid, y.valid))

    def _bit_and(self, x: Interval[T, B], y: Interval[T, B]) -> Interval[T, B]:
        """Of two numbers that are not negative."""
        highs = [bound for bound in (x.high, y.high) if bound is not None]
        high = self.math.least(highs[0], highs[-1]) if highs else None
        return Interval(self.math.number(0), high, self.math.both(x.valid, y.valid))

    def _selected(self, atom: Atom) -> Interval[T, B]:
        """1 or 0 by a condition, or one of two numbers."""
        assert atom.condition is not None
        math, chooser = self.math, self.truth(atom.condition)
        if not atom.operands:
            zero, one = math.number(0), math.number(1)
            low, high = math.select(chooser.must, one, zero), math.select(chooser.may, one, zero)
            return Interval(low, high, math.boolean(True))
        x, y = map(self.interval, atom.operands)
        valid = math.both(x.valid, y.valid)
        low = None if x.low is None or y.low is None else self._one_of(chooser, x.low, y.low, math.least)
        high = None if x.high is None or y.high is None else self._one_of(chooser, x.high, y.high, math.greatest)
        return Interval(low, high, valid)

    def _one_of(self, chooser: Truth[B], x: T, y: T, outer: Callable[[T, T], T]) -> T:
        math = self.math
        return math.select(chooser.must, x, math.select(chooser.may, outer(x, y), y))

    # --- captured tensors

    def _load(self, atom: Atom) -> Interval[T, B]:
        points = all(self.interval(index).is_point for index in atom.operands)
        found = self._table(atom) if needs_table(atom) and not points else self._element(atom)
        assert atom.load is not None
        type_ = atom.load.out.type
        if found is None:
            return self._between(0, 1) if atom.limit <= 2 else self._between(None, None)
        narrow = isinstance(type_, IntegerType) and type_.width < 28
        return found if narrow else self._within(found, LOAD_LIMIT)

    def _table(self, atom: Atom) -> Interval[T, B] | None:
        """The extremes over the tile, of what depends on the row or on the key alone."""
        math, position = self.math, N if N in atom.positions else M
        if position not in self.positions or not self._fixed(atom.positions - {position}):
            return None
        first, last = self.positions[position]
        found = math.extremes(atom, position, first, last)
        return None if found is None else Interval(*found, math.boolean(True))

    def _fixed(self, positions: frozenset[int]) -> bool:
        """Whether each of these positions is the same all over the tile."""
        return all(p in self.positions and self.positions[p][0] is self.positions[p][1] for p in positions)

    def _element(self, atom: Atom) -> Interval[T, B] | None:
        """One element, valid where every index is the same at both ends."""
        math, valid = self.math, self.math.boolean(True)
        lows: list[T] = []
        for index in atom.operands:
            x = self.interval(index)
            blockwise = attained(index) and not _moving(index) & {M, N}
            if x.low is None or x.high is None or not (x.is_point or blockwise):
                return None
            valid = math.both(valid, x.valid)
            if not x.is_point:
                valid = math.both(valid, math.at_most(x.high, x.low))
            lows.append(x.low)
        value = math.load(atom, lows)
        return None if value is None else Interval(value, value, valid)


def needs_table(atom: Atom) -> bool:
    """Whether a load moves with each row, or with each key, but not with both: its extremes are worth a table."""
    moving = {p for index in atom.operands for p in _moving(index)}
    return len({M, N} & moving) == 1 and len({M, N} & atom.positions) == 1


def _moving(index: Linear) -> frozenset[int]:
    """The positions with which an index changes at each step; a quotient stays for a while."""
    return frozenset(p for atom, _ in index.terms if atom.kind != "floor_divide" for p in atom.positions)


def attained(x: Linear) -> bool:
    """Whether some position of the tile gives the lower bound of `x`, so that it may be an index there."""
    if x.is_constant:
        return True
    atom, factor = x.terms[0]
    if len(x.terms) > 1 or factor < 1:
        return False
    if atom.kind == "position":
        return True
    return atom.kind == "floor_divide" and atom.operands[1].is_constant and attained(atom.operands[0])
