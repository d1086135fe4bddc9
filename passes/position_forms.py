"""Numbers of a region as sums over positions and over what is computed from them, in one normal form.

Two equal computations become the same atom, so that differences cancel. Knows no tile and no interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from ..ir.core import Value
from ..ir.dialects.tensor import ExtractOp

B, H, M, N = range(4)
"""The positions: batch, query head, query, key."""

POSITION_LIMIT, LOAD_LIMIT, LIMIT = 2**24, 2**28, 2**31
"""Positions are below the first; a loaded number not below the second is taken for unknown; no sum reaches the third,
so that 32 bits hold it."""

CHOICES = 6
"""Comparisons of selected numbers are told apart by their conditions down to this depth."""


@dataclass(frozen=True, eq=False)
class Atom:
    """A number that is no sum. `kind` says how it follows from `operands`, or which position or load it is.

    position, load, floor_divide, truncate_divide, modulo (sign of the divisor), remainder (sign of
    the dividend), minimum, maximum, absolute, multiply, bit_and, boolean, select, fits (its operand,
    where that is not above `limit`, else anything), unknown.
    """

    kind: str
    number: int
    operands: tuple[Linear, ...] = ()
    limit: int = LIMIT
    nonnegative: bool = False
    positions: frozenset[int] = frozenset()
    position: int = 0
    condition: Condition | None = None
    load: ExtractOp | None = None

    @property
    def divisor(self) -> int:
        """The constant that this quotient or remainder divides by."""
        return self.operands[1].constant


@dataclass(frozen=True)
class Linear:
    """Σ coefficient * atom + constant; atoms in the order of their numbers, no coefficient 0."""

    terms: tuple[tuple[Atom, int], ...] = ()
    constant: int = 0

    @property
    def is_constant(self) -> bool:
        return not self.terms

    @property
    def limit(self) -> int:
        """No bound on |x| above this one is needed."""
        return sum(abs(factor) * atom.limit for atom, factor in self.terms) + abs(self.constant)

    @property
    def nonnegative(self) -> bool:
        return self.constant >= 0 and all(factor > 0 and atom.nonnegative for atom, factor in self.terms)

    @property
    def positions(self) -> frozenset[int]:
        """The positions it depends on."""
        return frozenset(p for atom, _ in self.terms for p in atom.positions)

    @property
    def atom(self) -> Atom | None:
        """The atom that this is, where it is nothing else."""
        return self.terms[0][0] if len(self.terms) == 1 and self.terms[0][1] == 1 and not self.constant else None

    def coefficient(self, atom: Atom) -> int:
        return next((factor for term, factor in self.terms if term is atom), 0)

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        """`self + factor * other`"""
        factors = dict(self.terms)
        for atom, c in other.terms:
            factors[atom] = factors.get(atom, 0) + factor * c
        terms = sorted(((a, c) for a, c in factors.items() if c), key=lambda term: term[0].number)
        return Linear(tuple(terms), self.constant + factor * other.constant)

    def times(self, factor: int) -> Linear:
        return Linear().plus(self, factor)

    def without(self, atom: Atom) -> Linear:
        return Linear(tuple(term for term in self.terms if term[0] is not atom), self.constant)


@dataclass(frozen=True, eq=False)
class Condition:
    """A boolean of positions; compared by identity. `positions` are those it depends on."""

    positions: frozenset[int]


@dataclass(frozen=True, eq=False)
class Known(Condition):
    value: bool


@dataclass(frozen=True, eq=False)
class Unknown(Condition):
    """A condition that is not understood, or a loaded one where `atom` (0 or 1) says which."""

    atom: Atom | None = None


@dataclass(frozen=True, eq=False)
class Compare(Condition):
    """`left <= right`, or `left == right` where `equal`."""

    left: Linear
    right: Linear
    equal: bool = False


@dataclass(frozen=True, eq=False)
class Not(Condition):
    x: Condition


@dataclass(frozen=True, eq=False)
class Both(Condition):
    x: Condition
    y: Condition


@dataclass(frozen=True, eq=False)
class Either(Condition):
    x: Condition
    y: Condition


@dataclass(frozen=True, eq=False)
class Choice(Condition):
    """`chooser ? x : y`"""

    chooser: Condition
    x: Condition
    y: Condition


Key: TypeAlias = tuple[object, ...]


@dataclass
class Forms:
    """Makes sums, atoms and conditions; the same atom for the same computation."""

    atoms: dict[Key, Atom] = field(default_factory=dict[Key, Atom])

    # --- numbers

    def position(self, position: int) -> Linear:
        limit, only = POSITION_LIMIT - 1, frozenset((position,))
        return self._intern("position", (), (position,), only, limit=limit, nonnegative=True, position=position)

    def unknown(self, value: object, positions: frozenset[int] = frozenset(range(4))) -> Linear:
        """A number of which nothing is known but that it is the same wherever `value` is."""
        return self._intern("unknown", (), (value,), positions)

    def load(self, op: ExtractOp, source: Value, indices: tuple[Linear, ...], limit: int) -> Linear:
        return self._intern("load", indices, (source,), limit=limit, load=op)

    def boolean(self, condition: Condition) -> Linear:
        """1 where the condition holds, else 0."""
        if isinstance(condition, Known):
            return Linear(constant=int(condition.value))
        positions = condition.positions
        key: Key = (condition,)
        return self._intern("boolean", (), key, positions, limit=1, nonnegative=True, condition=condition)

    def select(self, condition: Condition, x: Linear, y: Linear) -> Linear:
        if isinstance(condition, Known):
            return x if condition.value else y
        positions = condition.positions | x.positions | y.positions
        limit, nonnegative = max(x.limit, y.limit), x.nonnegative and y.nonnegative
        key: Key = (condition,)
        return self._intern("select", (x, y), key, positions, limit=limit, nonnegative=nonnegative, condition=condition)

    def sum(self, x: Linear, y: Linear, factor: int = 1) -> Linear:
        """x + factor * y, in which a - a // c * c is a modulo c."""
        return self._small(self._fold_modulo(x.plus(y, factor)))

    def product(self, x: Linear, y: Linear) -> Linear:
        if x.is_constant or y.is_constant:
            return self._small(x.times(y.constant) if y.is_constant else y.times(x.constant))
        if x == y:
            x = y = self.absolute(x)
        nonnegative = x.nonnegative and y.nonnegative
        return self._small(self._intern("multiply", (x, y), limit=x.limit * y.limit, nonnegative=nonnegative))

    def floor_divide(self, x: Linear, y: Linear) -> Linear:
        """The quotient rounded down; what divides evenly leaves it."""
        if not y.is_constant:
            return self._intern("floor_divide", (x, y), limit=x.limit + 1)
        divisor = y.constant
        if divisor <= 0:
            return self.floor_divide(x.times(-1), y.times(-1)) if divisor else self.unknown(object())
        whole, rest = _split(x, divisor)
        if rest.is_constant:
            return Linear(whole.terms, whole.constant + rest.constant // divisor)
        inner = rest.atom
        if inner is not None and inner.kind == "floor_divide" and inner.operands[1].is_constant:
            rest, divisor = inner.operands[0], divisor * inner.divisor
        quotient = self._divided("floor_divide", rest, divisor, rest.limit // divisor + 1, rest.nonnegative)
        return whole.plus(quotient)

    def modulo(self, x: Linear, y: Linear) -> Linear:
        """x - x // y * y"""
        if not y.is_constant or y.constant <= 0:
            return self.unknown(object())
        _, rest = _split(x, y.constant)
        if rest.is_constant:
            return Linear(constant=rest.constant % y.constant)
        return self._divided("modulo", rest, y.constant, y.constant - 1, True)

    def truncate_divide(self, x: Linear, y: Linear) -> Linear:
        if not y.is_constant or y.constant <= 0:
            return self.unknown(object())
        if x.nonnegative:
            return self.floor_divide(x, y)
        return self._divided("truncate_divide", x, y.constant, x.limit // y.constant, False)

    def remainder(self, x: Linear, y: Linear) -> Linear:
        """x - (x / y rounded towards zero) * y"""
        if not y.is_constant or y.constant == 0:
            return self.unknown(object())
        if x.nonnegative:
            return self.modulo(x, Linear(constant=abs(y.constant)))
        return self._divided("remainder", x, abs(y.constant), abs(y.constant) - 1, False)

    def extreme(self, kind: str, x: Linear, y: Linear) -> Linear:
        """The `minimum` or the `maximum`."""
        difference = x.plus(y, -1)
        if difference.is_constant:
            return x if (difference.constant <= 0) == (kind == "minimum") else y
        either = any if kind == "maximum" else all
        nonnegative = either((x.nonnegative, y.nonnegative))
        return self._intern(kind, (x, y), limit=max(x.limit, y.limit), nonnegative=nonnegative)

    def absolute(self, x: Linear) -> Linear:
        if x.nonnegative:
            return x
        if x.is_constant:
            return Linear(constant=abs(x.constant))
        if x.terms[0][1] < 0:
            x = x.times(-1)
        return self._intern("absolute", (x,), limit=x.limit, nonnegative=True)

    def bit_and(self, x: Linear, y: Linear) -> Linear:
        for bits, other in ((x, y), (y, x)):
            if bits.is_constant and bits.constant >= 0 and bits.constant & (bits.constant + 1) == 0:
                return self.modulo(other, Linear(constant=bits.constant + 1))
        if not (x.nonnegative and y.nonnegative):
            return self.unknown(object())
        return self._intern("bit_and", (x, y), limit=min(x.limit, y.limit), nonnegative=True)

    def fits(self, x: Linear, limit: int) -> Linear:
        """x in a type that holds every whole number up to `limit`."""
        if x.limit <= limit:
            return x
        return self._intern("fits", (x,), (limit,), limit=limit, nonnegative=x.nonnegative)

    def _divided(self, kind: str, x: Linear, divisor: int, limit: int, nonnegative: bool) -> Linear:
        return self._intern(kind, (x, Linear(constant=divisor)), limit=limit, nonnegative=nonnegative)

    def _small(self, x: Linear) -> Linear:
        """x, unless 32 bits may be too few for it."""
        return x if x.limit < LIMIT else self.unknown(("large", x), x.positions)

    def _fold_modulo(self, x: Linear) -> Linear:
        """a - a // c * c  →  a modulo c"""
        for atom, factor in x.terms:
            if atom.kind != "floor_divide" or not atom.operands[1].is_constant or factor % atom.divisor:
                continue
            times, inside = -(factor // atom.divisor), atom.operands[0]
            rest = x.without(atom).plus(inside, -times)
            if len(rest.terms) == len(x.terms) - 1 - len(inside.terms):
                return rest.plus(self.modulo(inside, atom.operands[1]), times)
        return x

    def _intern(
        self,
        kind: str,
        operands: tuple[Linear, ...],
        extra: Key = (),
        positions: frozenset[int] | None = None,
        *,
        limit: int = LIMIT,
        nonnegative: bool = False,
        position: int = 0,
        condition: Condition | None = None,
        load: ExtractOp | None = None,
    ) -> Linear:
        key = (kind, operands, *extra)
        if key not in self.atoms:
            if positions is None:
                positions = frozenset(p for x in operands for p in x.positions)
            number = len(self.atoms)
            self.atoms[key] = Atom(kind, number, operands, limit, nonnegative, positions, position, condition, load)
        return Linear(((self.atoms[key], 1),))

    # --- conditions

    def compare(self, relation: str, x: Linear, y: Linear, depth: int = 0) -> Condition:
        """`relation` is one of eq, ne, lt, le, gt, ge."""
        if relation in ("gt", "ge"):
            return self.compare("lt" if relation == "gt" else "le", y, x, depth)
        if relation == "ne":
            return self.negation(self.compare("eq", x, y, depth))
        difference = self._fold_modulo(x.plus(y, -1))
        if relation == "lt":
            difference = Linear(difference.terms, difference.constant + 1)
        if difference.is_constant:
            zero = difference.constant == 0 if relation == "eq" else difference.constant <= 0
            return Known(frozenset(), zero)
        chosen = next((atom for atom, _ in difference.terms if atom.kind in ("boolean", "select")), None)
        if chosen is None or chosen.condition is None or depth >= CHOICES:
            return _comparison(difference, relation == "eq")
        rest, factor = difference.without(chosen), difference.coefficient(chosen)
        values = chosen.operands or (Linear(constant=1), Linear())
        kind = "eq" if relation == "eq" else "le"
        cases = [self.compare(kind, rest.plus(value, factor), Linear(), depth + 1) for value in values]
        return self.choice(chosen.condition, *cases)

    def negation(self, x: Condition) -> Condition:
        if isinstance(x, Known):
            return Known(x.positions, not x.value)
        return x.x if isinstance(x, Not) else Not(x.positions, x)

    def both(self, x: Condition, y: Condition) -> Condition:
        for known, other in ((x, y), (y, x)):
            if isinstance(known, Known):
                return other if known.value else known
        return x if x is y else Both(x.positions | y.positions, x, y)

    def either(self, x: Condition, y: Condition) -> Condition:
        for known, other in ((x, y), (y, x)):
            if isinstance(known, Known):
                return known if known.value else other
        return x if x is y else Either(x.positions | y.positions, x, y)

    def choice(self, chooser: Condition, x: Condition, y: Condition) -> Condition:
        """chooser ? x : y, and without a choice where one of them is known."""
        if isinstance(chooser, Known):
            return x if chooser.value else y
        if isinstance(x, Known):
            return self.either(chooser, y) if x.value else self.both(self.negation(chooser), y)
        if isinstance(y, Known):
            return self.either(self.negation(chooser), x) if y.value else self.both(chooser, x)
        return Choice(chooser.positions | x.positions | y.positions, chooser, x, y)


def _split(x: Linear, divisor: int) -> tuple[Linear, Linear]:
    """`whole` and `rest` with x = divisor * whole + rest; no factor of `rest` is a multiple of the divisor."""
    whole = tuple((atom, factor // divisor) for atom, factor in x.terms if factor % divisor == 0)
    rest = tuple((atom, factor) for atom, factor in x.terms if factor % divisor)
    return Linear(whole, x.constant // divisor), Linear(rest, x.constant % divisor)


def _comparison(difference: Linear, equal: bool) -> Condition:
    """`difference` <= 0, or == 0, with each atom on the side where it is added."""
    left = Linear(tuple((atom, factor) for atom, factor in difference.terms if factor > 0))
    right = Linear(tuple((atom, -factor) for atom, factor in difference.terms if factor < 0), -difference.constant)
    if max(left.limit, right.limit) >= LIMIT and not _bare(left, right):
        return Unknown(difference.positions)
    return Compare(difference.positions, left, right, equal)


def _bare(left: Linear, right: Linear) -> bool:
    """Whether comparing these needs no arithmetic."""
    return all(x.is_constant or x.atom is not None for x in (left, right))


def atoms_of(condition: Condition) -> Iterator[Atom]:
    """Every atom that a condition is computed from, each once."""
    seen: set[Atom | Condition] = set()
    work: list[Atom | Condition] = [condition]
    while work:
        item = work.pop()
        if item in seen:
            continue
        seen.add(item)
        if isinstance(item, Atom):
            yield item
            work += [atom for x in item.operands for atom, _ in x.terms]
            work += [item.condition] if item.condition is not None else []
        else:
            work += list(_parts(item))


def _parts(condition: Condition) -> Iterator[Atom | Condition]:
    match condition:
        case Compare():
            yield from (atom for side in (condition.left, condition.right) for atom, _ in side.terms)
        case Unknown(atom=Atom() as atom):
            yield atom
        case Not():
            yield condition.x
        case Both() | Either():
            yield from (condition.x, condition.y)
        case Choice():
            yield from (condition.chooser, condition.x, condition.y)
        case _:
            return
