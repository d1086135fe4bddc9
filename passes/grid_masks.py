"""Finds the grid that a mask means when it takes positions apart by dividing: `n // W`, `n % W`.

A digit is `position // step % size`. The grid's axes lie between the steps and ends of all digits, so that each
digit is a sum over coordinates; a dilation that does not divide its axis is kept beside the axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..ir.attributes import IndexType, IntegerType
from ..ir.core import Region, Value
from .mask_forms import number_reader
from .position_forms import Linear, M, N

MOST_AXES = 6
"""Of the grids that are looked at: three, and a residue of each."""


@dataclass(frozen=True)
class Digit:
    """`position // step % size`, without the remainder where `size` is 0."""

    step: int
    size: int

    @property
    def end(self) -> int | None:
        """The step of what lies above it."""
        return self.step * self.size or None


@dataclass(frozen=True)
class Part:
    """A number of a region that follows from one position alone.

    It is `digit` of `position`, or with a `dilation` its residue (`residue`) or its place, the quotient.
    """

    position: int
    digit: Digit
    dilation: int = 1
    residue: bool = False


@dataclass(frozen=True)
class Grid:
    """The sizes of the inner axes, outermost first, and the dilation of each axis."""

    inner: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """How far apart in the sequence neighbours along each axis are."""
        found = [1]
        for size in reversed(self.inner):
            found.insert(0, found[0] * size)
        return tuple(found)

    def axis_of(self, digit: Digit) -> int | None:
        """The axis whose coordinate a digit is."""
        bounds = (None, *self.steps)
        for axis, step in enumerate(self.steps):
            if (digit.step, digit.end) == (step, bounds[axis]):
                return axis
        return None


def part_of(x: Linear) -> Part | None:
    """A sum as a digit of the row or the key, or as the residue or quotient of one; None for anything else."""
    atom = x.atom
    if atom is None:
        return None
    if atom.kind == "position":
        return Part(atom.position, Digit(1, 0)) if atom.position in (M, N) else None
    if atom.kind not in ("floor_divide", "modulo") or not atom.operands[1].is_constant:
        return None
    inner, divisor = part_of(atom.operands[0]), atom.divisor
    if inner is None or inner.dilation != 1:
        return None
    step, size = inner.digit.step, inner.digit.size
    residue = atom.kind == "modulo"
    if size % divisor:
        return Part(inner.position, inner.digit, divisor, residue) if divisor < size else None
    return Part(inner.position, Digit(step, divisor) if residue else Digit(step * divisor, size // divisor))


def parts_of(region: Region, positions: Mapping[Value, int]) -> dict[Value, Part]:
    """The numbers in a region that are parts of m or n, which `positions` names."""
    read, found = number_reader(positions), dict[Value, Part]()
    for op in region.block.ops:
        for value in op.results:
            if isinstance(value.type, IndexType | IntegerType) and (part := part_of(read(value))) is not None:
                found[value] = part
    return found


def grids_of(parts: Mapping[Value, Part]) -> Iterator[Grid]:
    """The grids that the parts of a mask may mean: that of all digits first.

    A stride, `x // 4`, looks like an axis inside that of x; boxes may be better without it.
    """
    every = list(parts.values())
    sized = {p.digit for p in every if p.digit.size}
    ends = {step for digit in sized for step in (digit.step, digit.step * digit.size)}
    if not ends:
        ends = {p.digit.step for p in every}
    steps = sorted(ends - {1})
    inside = [s for s in steps if any(d.step < s < d.step * d.size for d in sized)]
    choices = [steps, [s for s in steps if s not in inside], *([s for s in steps if s != x] for x in inside)]
    for chosen in dict.fromkeys(tuple(c) for c in choices):
        grid = _grid(chosen, every)
        if grid is not None:
            yield grid


def _grid(steps: tuple[int, ...], parts: list[Part]) -> Grid | None:
    """Axes that begin at 1 and at each of `steps`; None where one does not divide the next."""
    bounds = (1, *steps)
    sizes = [after // before if after % before == 0 else 0 for before, after in zip(bounds, steps, strict=False)]
    if not steps or not all(sizes) or len(bounds) > MOST_AXES:
        return None
    plain = Grid(tuple(reversed(sizes)), (1,) * len(bounds))
    dilation = [1] * len(bounds)
    for part in parts:
        axis = plain.axis_of(part.digit)
        if part.residue and part.dilation > 1 and axis is not None:
            dilation[axis] = part.dilation
    return Grid(plain.inner, tuple(dilation))
