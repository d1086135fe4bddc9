"""Proves that every query of a mask keeps a key, by naming one for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.attributes import Dim
from ..ir.core import Region
from .key_pieces import key_pieces
from .mask_forms import MaskForms
from .number_math import NumberMath
from .position_forms import (
    POSITION_LIMIT,
    Atom,
    Both,
    Choice,
    Compare,
    Condition,
    Either,
    Forms,
    Known,
    Linear,
    M,
    N,
    Not,
    Unknown,
    atoms_of,
)
from .tile_predicates import TileEvaluator

Array = np.ndarray[Any, np.dtype[Any]]

MOST_ROWS = 1 << 20
"""Rows that are looked at one by one."""

MOST_RANGES = 16
"""Ranges of rows, between the constants of a mask, that may keep different keys."""


def every_row_has_key(mask: Region, queries: Dim, keys: Dim) -> bool:
    """Whether it is certain that each of `queries` keeps one of `keys`; equal symbols are equal sizes.

    An unknown number of keys is taken to be at least 1: without any key PyTorch gives zeros, as
    attention does.
    """
    if queries == 0:
        return True
    if keys == 0:
        return False
    forms = MaskForms.of(mask)
    fits = queries == keys is not None or (isinstance(queries, int) and isinstance(keys, int) and queries <= keys)
    witnesses = list(_witnesses(forms, fits=fits))
    last = queries - 1 if isinstance(queries, int) else POSITION_LIMIT - 1
    if _by_ranges(forms.condition, [condition for _, condition in witnesses], last):
        return True
    if not (isinstance(queries, int) and isinstance(keys, int)) or queries > MOST_ROWS:
        return False
    every = list(_witnesses(forms, fits=True))
    return _by_rows(forms.condition, every, queries, keys)


def _witnesses(forms: MaskForms, *, fits: bool) -> Iterator[tuple[Linear, Condition]]:
    """Keys by the row, and the mask at them: the first key and, if those of the queries exist (`fits`), more.

    The query's own position, and the start of its block.
    """
    row = forms.forms.position(M)
    keys = [row] if fits else []
    for atom in atoms_of(forms.condition) if fits else ():
        if atom.kind in ("floor_divide", "modulo") and M in atom.positions and atom.operands[1].is_constant:
            start = row.plus(forms.forms.modulo(row, atom.operands[1]), -1)
            keys += [start] if start not in keys else []
    for key in (*keys, Linear()):
        yield key, Substitution(forms.forms, key).condition(forms.condition)


def _by_ranges(mask: Condition, witnesses: Sequence[Condition], last: int) -> bool:
    """Whether each range of rows between constants of the mask has a witness for all of its rows."""
    if _hold_from(witnesses, 0, last):
        return True
    found = {abs(x.constant) + more for x in _sides(mask) for more in (0, 1)}
    starts = sorted({0} | {start for start in found if 0 < start <= last})
    if not 1 < len(starts) <= MOST_RANGES:
        return False
    ends = [start - 1 for start in starts[1:]] + [last]
    return all(_hold_from(witnesses, *rows) for rows in zip(starts, ends, strict=True))


def _hold_from(witnesses: Sequence[Condition], first: int, last: int) -> bool:
    """Whether one of the witnesses is kept by all rows from first to last, for every batch and head."""
    tiles = TileEvaluator(NumberMath(), {M: (first, last)})
    return any(tiles.truth(condition).must is True for condition in witnesses)


def _sides(condition: Condition) -> Iterator[Linear]:
    match condition:
        case Compare():
            yield from (condition.left, condition.right)
        case Not():
            yield from _sides(condition.x)
        case Both() | Either():
            yield from (*_sides(condition.x), *_sides(condition.y))
        case Choice():
            yield from (*_sides(condition.chooser), *_sides(condition.x), *_sides(condition.y))
        case _:
            return


def _by_rows(mask: Condition, witnesses: Sequence[tuple[Linear, Condition]], queries: int, keys: int) -> bool:
    """Whether each row has a witness, or loop bounds between which it keeps all keys."""
    rows = np.arange(queries, dtype=np.int64)
    math = NumberMath()
    tiles = TileEvaluator(math, {M: (rows, rows)})
    proved: Array = np.zeros(queries, np.bool_)
    for key, condition in witnesses:
        at = tiles.interval(key)
        if at.low is not None and at.is_point and at.valid is True:
            exists = (np.asarray(at.low) >= 0) & (np.asarray(at.low) < keys)
            proved |= exists & np.asarray(tiles.truth(condition).must, np.bool_)
    for piece in key_pieces(mask, tiles, keys):
        proved |= np.asarray(piece.full_begin) < np.asarray(piece.full_end)
    return bool(proved.all())


@dataclass
class Substitution:
    """Conditions and numbers with the key position replaced by a number of the row."""

    forms: Forms
    key: Linear
    _numbers: dict[Atom, Linear] = field(default_factory=dict[Atom, Linear])
    _conditions: dict[Condition, Condition] = field(default_factory=dict[Condition, Condition])

    def condition(self, x: Condition) -> Condition:
        if N not in x.positions:
            return x
        if x not in self._conditions:
            self._conditions[x] = self._condition(x)
        return self._conditions[x]

    def _condition(self, x: Condition) -> Condition:
        forms = self.forms
        match x:
            case Compare():
                return forms.compare("eq" if x.equal else "le", self.number(x.left), self.number(x.right))
            case Not():
                return forms.negation(self.condition(x.x))
            case Both():
                return forms.both(self.condition(x.x), self.condition(x.y))
            case Either():
                return forms.either(self.condition(x.x), self.condition(x.y))
            case Choice():
                return forms.choice(self.condition(x.chooser), self.condition(x.x), self.condition(x.y))
            case Unknown(atom=Atom() as atom):
                found = self._atom(atom)
                return Unknown(found.positions, found.atom)
            case Known():
                return x
            case _:
                return Unknown(x.positions)

    def number(self, x: Linear) -> Linear:
        total = Linear(constant=x.constant)
        for atom, factor in x.terms:
            total = self.forms.sum(total, self._atom(atom), factor)
        return total

    def _atom(self, atom: Atom) -> Linear:
        if N not in atom.positions:
            return Linear(((atom, 1),))
        if atom not in self._numbers:
            self._numbers[atom] = self._replaced(atom)
        return self._numbers[atom]

    def _replaced(self, atom: Atom) -> Linear:
        forms, operands = self.forms, tuple(map(self.number, atom.operands))
        match atom.kind:
            case "position":
                return self.key
            case "load" if atom.load is not None:
                return forms.load(atom.load, atom.load.source, operands, atom.limit)
            case "boolean" if atom.condition is not None:
                return forms.boolean(self.condition(atom.condition))
            case "select" if atom.condition is not None:
                return forms.select(self.condition(atom.condition), *operands)
            case "minimum" | "maximum":
                return forms.extreme(atom.kind, *operands)
            case "fits":
                return forms.fits(*operands, limit=atom.limit)
            case "floor_divide" | "truncate_divide" | "modulo" | "remainder":
                divide = {
                    "floor_divide": forms.floor_divide,
                    "truncate_divide": forms.truncate_divide,
                    "modulo": forms.modulo,
                    "remainder": forms.remainder,
                }
                return divide[atom.kind](*operands)
            case "absolute":
                return forms.absolute(*operands)
            case "multiply":
                return forms.product(*operands)
            case "bit_and":
                return forms.bit_and(*operands)
            case _:
                return forms.unknown(object())
