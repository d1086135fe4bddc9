"""What is proved of a mask: bounds on the keys each query may see. Knows no region and no kernel."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.attributes import Attribute, DictAttr, Dim, IntegerAttr, i1

_BOUNDS = ("upper", "lower", "last", "first")


@dataclass(frozen=True)
class MaskStructure:
    """Bounds on the keys n that query m keeps; None where there is none.

    `n <= m + upper`, `n >= m + lower`, `n <= last`, `n >= first`. Every kept key satisfies all of
    them. Unless the mask is `opaque`, the converse holds too: what satisfies them is kept.
    """

    upper: int | None = None
    lower: int | None = None
    last: int | None = None
    first: int | None = None
    opaque: bool = False

    @property
    def keeps_all(self) -> bool:
        """Whether every key is kept by every query."""
        return self == EVERYTHING

    @property
    def keeps_none(self) -> bool:
        """Whether the bounds contradict each other, for every query."""
        first = max(0, self.first or 0)
        return (self.last is not None and self.last < first) or (
            self.upper is not None and self.lower is not None and self.upper < self.lower
        )

    @property
    def has_lower_bound(self) -> bool:
        return self.lower is not None or (self.first or 0) > 0

    def meet(self, other: MaskStructure) -> MaskStructure:
        """Both masks at once."""
        return MaskStructure(
            _least(self.upper, other.upper),
            _greatest(self.lower, other.lower),
            _least(self.last, other.last),
            _greatest(self.first, other.first),
            self.opaque or other.opaque,
        )

    def hull(self, other: MaskStructure) -> MaskStructure:
        """What holds of either mask; opaque unless one of them contains the other."""
        pairs = ((self, other), (other, self))
        outer = [b for a, b in pairs if a.keeps_none or a.within(b)]
        if outer:
            return min(outer, key=lambda structure: structure.opaque)
        return MaskStructure(
            _greatest_if_both(self.upper, other.upper),
            _least_if_both(self.lower, other.lower),
            _greatest_if_both(self.last, other.last),
            _least_if_both(self.first, other.first),
            opaque=True,
        )

    def within(self, other: MaskStructure) -> bool:
        """Whether each bound of `other` follows from the same bound of this mask."""
        return (
            _at_most(self.upper, other.upper)
            and _at_most(self.last, other.last)
            and _at_most(_negated(self.lower), _negated(other.lower))
            and _at_most(_negated(self.first), _negated(other.first))
        )

    def keeps(self, m: int, n: int) -> bool:
        """Whether the bounds allow key `n` for query `m`."""
        return (
            (self.upper is None or n <= m + self.upper)
            and (self.lower is None or n >= m + self.lower)
            and (self.last is None or n <= self.last)
            and (self.first is None or n >= self.first)
        )

    def every_row_has_key(self, query_length: Dim, key_length: Dim) -> bool:
        """Whether it is certain that each of `query_length` queries keeps one of `key_length` keys.

        Equal symbols are equal sizes. An unknown key length is taken to be at least 1: without any
        key PyTorch gives zeros, as attention does.
        """
        if query_length == 0:
            return True
        if self.opaque:
            return False
        lows = [_Line(0), *_lines(self.first, self.lower)]
        highs = [*_lines(self.last, self.upper)]
        within_bounds = all(_below(low, high, query_length) for low in lows for high in highs)
        return within_bounds and all(_below_last_key(low, query_length, key_length) for low in lows)

    def to_attr(self) -> DictAttr:
        """`{lower = -127 : i64, opaque = false, upper = 0 : i64}`; absent bounds are left out."""
        entries: dict[str, Attribute] = {"opaque": IntegerAttr(int(self.opaque), i1)}
        for name in _BOUNDS:
            bound: int | None = getattr(self, name)
            if bound is not None:
                entries[name] = IntegerAttr(bound)
        return DictAttr.of(entries)

    @staticmethod
    def from_attr(attr: DictAttr) -> MaskStructure:
        """The structure written by `to_attr`."""

        def bound(name: str) -> int | None:
            value = attr.get(name)
            return value.value if isinstance(value, IntegerAttr) else None

        return MaskStructure(*(bound(name) for name in _BOUNDS), opaque=bool(bound("opaque")))


EVERYTHING, NOTHING, OPAQUE = MaskStructure(), MaskStructure(last=-1), MaskStructure(opaque=True)


def _least(a: int | None, b: int | None) -> int | None:
    return min((x for x in (a, b) if x is not None), default=None)


def _greatest(a: int | None, b: int | None) -> int | None:
    return max((x for x in (a, b) if x is not None), default=None)


def _least_if_both(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else min(a, b)


def _greatest_if_both(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else max(a, b)


def _at_most(a: int | None, b: int | None) -> bool:
    return b is None or (a is not None and a <= b)


def _negated(a: int | None) -> int | None:
    return None if a is None else -a


@dataclass(frozen=True)
class _Line:
    """A bound as a function of the query: `constant`, or `m + constant` where it `moves`."""

    constant: int
    moves: bool = False


def _lines(fixed: int | None, moving: int | None) -> list[_Line]:
    return [_Line(c, moves) for c, moves in ((fixed, False), (moving, True)) if c is not None]


def _below(low: _Line, high: _Line, query_length: Dim) -> bool:
    """low <= high for every query."""
    if low.moves and not high.moves:
        return isinstance(query_length, int) and query_length - 1 + low.constant <= high.constant
    return low.constant <= high.constant


def _below_last_key(low: _Line, query_length: Dim, key_length: Dim) -> bool:
    """low <= N - 1 for every query."""
    if low.moves and query_length is not None and query_length == key_length:
        return low.constant <= 0
    if not isinstance(key_length, int):
        return not low.moves and low.constant <= 0
    if not low.moves:
        return low.constant < key_length
    return isinstance(query_length, int) and query_length + low.constant <= key_length
