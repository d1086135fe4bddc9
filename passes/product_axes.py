"""Tells which axes of a product are queries, keys, heads and batches, by the positions they are read at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.attributes import Dim
from ..ir.builder import Builder
from ..ir.core import Operation, Value
from ..ir.dialects import arith
from .contraction import Contraction, rows_of
from .einsum import Einsum
from .index_function import Coordinates, IndexFunction, tensor_type
from .region_math import literal_of
from .views import Views


@dataclass(frozen=True)
class Axis:
    """An axis of the product's result: its letter, where it is read, how long it is."""

    letter: str
    place: Value
    size: Dim


@dataclass
class Term:
    """One of the two tensors, with a letter for each axis."""

    value: Value
    letters: str

    def size(self, letter: str) -> Dim:
        return tensor_type(self.value).shape[self.letters.index(letter)]

    def pick(self, letter: str, place: int, views: Views) -> None:
        """Take one element along an axis, which goes away."""
        if letter in self.letters:
            axis = self.letters.index(letter)
            self.value = views.select(self.value, axis, 0 if self.size(letter) == 1 else place)
            self.letters = self.letters.replace(letter, "")

    def cut(self, letter: str, start: int, step: int, size: int, views: Views) -> None:
        """Take `size` elements along an axis, unless it is broadcast along."""
        if letter in self.letters and self.size(letter) != 1:
            self.value = views.slice(self.value, self.letters.index(letter), start, step, size)


@dataclass(frozen=True)
class ProductAxes:
    """The axes (lead..., query, key) that a product must have, by their coordinates and sizes."""

    function: IndexFunction
    coordinates: Coordinates
    lead: tuple[Dim, ...]
    lengths: tuple[Dim, ...]

    def read(self, operation: Operation, einsum: Einsum, at: Coordinates) -> Contraction | None:
        """The product read at `at` as rows of queries and of keys; None where its axes are others."""
        if len(einsum.summed) != 1 or len(einsum.out) != len(at):
            return None
        shape = tensor_type(operation.results[0]).shape
        axes = [Axis(c, place, size) for c, place, size in zip(einsum.out, at, shape, strict=True)]
        key = self._find(einsum, axes, self.coordinates[-1], self.lengths[1])
        if key is None:
            return None
        if key.letter in einsum.left:
            einsum = einsum.swapped
        row = self._find(einsum, [a for a in axes if a.letter in einsum.left], self.coordinates[-2], self.lengths[0])
        if row is None:
            return None
        terms = Term(einsum.tensors[0], einsum.left), Term(einsum.tensors[1], einsum.right)
        views = Views(Builder.before(operation))
        lead = self._lead([a for a in axes if a not in (key, row)], terms, views)
        if lead is None:
            return None
        lhs, rhs = terms
        return Contraction(
            rows_of(lhs.value, lhs.letters, lead, row.letter, einsum.summed),
            rows_of(rhs.value, rhs.letters, lead, key.letter, einsum.summed),
        )

    def _find(self, einsum: Einsum, axes: Sequence[Axis], place: Value, length: Dim) -> Axis | None:
        """The axis of one tensor alone that is read at `place`."""
        own = [a for a in axes if (a.letter in einsum.left) != (a.letter in einsum.right)]
        exact = [a for a in own if a.place is place and a.size == length]
        if exact or length != 1:
            return exact[0] if exact else None
        single = [a for a in own if a.size == 1]
        return single[-1] if single else None

    def _lead(self, axes: Sequence[Axis], terms: Sequence[Term], views: Views) -> list[str | None] | None:
        """The letters of the leading axes in our order, after what is read at one place only was picked."""
        wide = [a for a in axes if a.size != 1]
        ours = [(c, d) for c, d in zip(self.coordinates[:-2], self.lead, strict=True) if d != 1]
        if (same := self._merged_or_split(wide, ours)) is not None:
            self._drop([a for a in axes if a.size == 1], terms, views)
            return same
        lead: list[str | None] = [None] * len(self.lead)
        for axis in wide:
            if not self._place(axis, lead, terms, views):
                return None
        rest = [a for a in axes if a.size == 1]
        for slot in reversed(range(len(lead))):
            if lead[slot] is None and rest:
                lead[slot] = rest.pop().letter
        self._drop(rest, terms, views)
        return lead

    def _merged_or_split(self, axes: Sequence[Axis], ours: Sequence[tuple[Value, Dim]]) -> list[str | None] | None:
        """One axis that holds all of ours, or several that our only one holds."""
        inner, own = ([d for _, d in ours[1:]], [a.size for a in axes[1:]])
        if len(axes) == 1 < len(ours) and all(isinstance(d, int) for d in inner):
            merged = self.function.merge([c for c, _ in ours], [d for d in inner if isinstance(d, int)])
            return [axes[0].letter] if axes[0].place is merged else None
        if len(ours) == 1 < len(axes) and all(isinstance(d, int) for d in own):
            split = self.function.split(ours[0][0], [d for d in own if isinstance(d, int)])
            return [a.letter for a in axes] if all(a.place is p for a, p in zip(axes, split, strict=True)) else None
        return None

    def _place(self, axis: Axis, lead: list[str | None], terms: Sequence[Term], views: Views) -> bool:
        """Put an axis where it belongs among ours, cut to what is read of it."""
        known = literal_of(axis.place)
        if isinstance(known, int):
            for term in terms:
                term.pick(axis.letter, known, views)
            return True
        for slot, (base, size) in enumerate(zip(self.coordinates[:-2], self.lead, strict=True)):
            line = line_through(axis.place, base)
            if line is None or lead[slot] is not None:
                continue
            if line != (1, 0) or size != axis.size:
                if not isinstance(size, int) or not isinstance(axis.size, int) or line[0] <= 0:
                    return False
                for term in terms:
                    term.cut(axis.letter, line[1], line[0], size, views)
            lead[slot] = axis.letter
            return True
        return False

    def _drop(self, axes: Sequence[Axis], terms: Sequence[Term], views: Views) -> None:
        for axis in axes:
            for term in terms:
                term.pick(axis.letter, 0, views)


def line_through(place: Value, base: Value) -> tuple[int, int] | None:
    """Factor and offset with place = factor * base + offset; None where it is no such line."""
    if place is base:
        return 1, 0
    for kind in (arith.AddIOp, arith.MulIOp, arith.IndexCastOp):
        if (op := kind.producing(place)) is None:
            continue
        inner = line_through(op.operation.operands[0], base)
        if inner is None or isinstance(op, arith.IndexCastOp):
            return inner
        number = literal_of(op.rhs)
        if not isinstance(number, int):
            return None
        return (inner[0], inner[1] + number) if isinstance(op, arith.AddIOp) else (inner[0] * number, inner[1] * number)
    return None


def offset_from(place: Value, base: Value) -> int | None:
    """How far `place` lies behind `base`, if that is a constant."""
    line = line_through(place, base)
    return line[1] if line is not None and line[0] == 1 else None
