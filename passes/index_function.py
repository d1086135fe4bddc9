"""Follows a tensor backwards to a function of positions, written as region code.

What is computed from positions (arange, comparisons, where, views of those) becomes arithmetic;
what is indexed by positions becomes a load of a captured tensor; anything else is captured whole
and loaded at its own position. Nothing here knows what attention is, except that one contraction
may stand for the score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..ir.attributes import Dim, TensorType, f32, i64, is_float
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Value
from ..ir.dialects import arith
from ..ir.dialects.aten import Argument, AtenOp, aten_op
from ..ir.dialects.tensor import ExtractOp
from .region_math import RegionMath, Scalar, literal_of

Coordinates = tuple[Value, ...]
ScoreHook = Callable[[Operation, Coordinates], Value | None]
Rule = Callable[["IndexFunction", AtenOp, Coordinates], Scalar | None]
"""Region code for one element of an operator's result; None where the rule cannot tell."""


@dataclass
class IndexFunction:
    """Writes values at positions into `block`, adding a block argument for each capture.

    `score_of` is asked first for every contraction and answers with the value that stands for it.
    """

    block: Block
    rules: Mapping[str, Rule]
    score_of: ScoreHook
    captures: dict[Value, Value] = field(default_factory=dict[Value, Value])
    numbers: dict[Value, Value] = field(default_factory=dict[Value, Value])
    memo: dict[tuple[Value, Coordinates], Scalar] = field(default_factory=dict[tuple[Value, Coordinates], Scalar])

    def __post_init__(self) -> None:
        self.math = RegionMath(Builder(self.block))
        self._divided: dict[tuple[str, Value, int], Value] = {}
        self._merged: dict[tuple[tuple[Value, int], ...], Value] = {}
        self._parts: dict[Value, tuple[list[Value], list[int]]] = {}

    def at(self, value: Value, coordinates: Coordinates) -> Scalar:
        """The element of `value` at `coordinates`, one for each of its dimensions."""
        key = value, coordinates
        if key not in self.memo:
            self.memo[key] = self._follow(value, coordinates)
        return self.memo[key]

    def _follow(self, value: Value, coordinates: Coordinates) -> Scalar:
        operation = value.defining_op
        if operation is not None and operation.dialect == "aten" and len(operation.results) == 1:
            if (score := self.score_of(operation, coordinates)) is not None:
                return score
            rule = self.rules.get(AtenOp(operation).packet)
            found = self._apply(rule, operation, coordinates) if rule is not None else None
            if found is not None:
                return found
        return self.load(value, coordinates)

    def _apply(self, rule: Rule, operation: Operation, coordinates: Coordinates) -> Scalar | None:
        """What a rule answers; the code it writes comes from where the operation comes from."""
        builder = self.math.builder
        before, builder.location = builder.location, operation.location
        try:
            return rule(self, AtenOp(operation), coordinates)
        finally:
            builder.location = before

    def load(self, value: Value, coordinates: Sequence[Value]) -> Value:
        """One element of a captured tensor."""
        type_ = tensor_type(value)
        if value not in self.captures:
            self.captures[value] = self.block.add_argument(type_, value.name_hint)
        extract = self.math.builder.create(ExtractOp, [self.captures[value], *coordinates], [type_.element])
        return self.math.as_float(extract.out) if is_float(type_) else extract.out

    def zero(self) -> Value:
        return self.math.builder.index(0)

    def argument(self, op: AtenOp, name: str, coordinates: Coordinates) -> Scalar | None:
        """A tensor argument at the coordinates it broadcasts to, or a number."""
        given = op.argument(name)
        if isinstance(given, Value):
            return self.broadcast(given, coordinates) if isinstance(given.type, TensorType) else self.number(given)
        return given if isinstance(given, bool | int | float) else None

    def number(self, value: Value) -> Value:
        """A number known only at run time, captured as a tensor without axes."""
        if value not in self.numbers:
            element = f32 if is_float(value.type) else i64
            tensor = aten_op("scalar_tensor", {"s": value, "dtype": element}, [TensorType((), element)])
            tensor.results[0].name_hint = value.name_hint
            place = value.owner if isinstance(value.owner, Block) else value.owner.parent
            assert place is not None, "a value in use belongs to a block"
            place.insert(place.ops.index(value.owner) + 1 if isinstance(value.owner, Operation) else 0, tensor)
            self.numbers[value] = tensor.result
        return self.load(self.numbers[value], ())

    def broadcast(self, value: Value, coordinates: Coordinates) -> Scalar | None:
        """`value` where it is broadcast to the shape that `coordinates` walk."""
        if not isinstance(value.type, TensorType):
            return None
        shape = value.type.shape
        own = coordinates[len(coordinates) - len(shape) :]
        return self.at(value, tuple(self.zero() if d == 1 else c for d, c in zip(shape, own, strict=True)))

    def merge(self, coordinates: Sequence[Value], sizes: Sequence[int]) -> Value:
        """The flat index of `coordinates`; `sizes` are those of all but the first."""
        key = tuple(zip(coordinates, (1, *sizes), strict=True))
        if key not in self._merged:
            strides = [1]
            for size in reversed(sizes):
                strides.insert(0, strides[0] * size)
            self._merged[key] = self.math.linear(list(zip(coordinates, strides, strict=True)))
            if len(coordinates) > 1:
                self._parts[self._merged[key]] = list(coordinates), list(sizes)
        return self._merged[key]

    def split(self, flat: Value, sizes: Sequence[int]) -> list[Value]:
        """The coordinates whose flat index is `flat`; `sizes` are those of all but the first."""
        parts, merged_sizes = self._parts.get(flat, ([], []))
        if parts and merged_sizes == list(sizes):
            return list(parts)
        coordinates, rest = list[Value](), flat
        for size in reversed(sizes):
            coordinates.insert(0, self._divide("rem", rest, size))
            rest = self._divide("div", rest, size)
        found = [rest, *coordinates]
        # What is split here and merged again, as around the addition of a mask, is what it was.
        self._merged.setdefault(tuple(zip(found, (1, *sizes), strict=True)), flat)
        return found

    def _divide(self, what: str, flat: Value, size: int) -> Value:
        if size == 1:
            return flat if what == "div" else self.zero()
        if literal_of(flat) == 0:
            return flat
        key = what, flat, size
        if key not in self._divided:
            kind = arith.FloorDivSIOp if what == "div" else arith.RemSIOp
            divisor = self.math.builder.index(size)
            self._divided[key] = self.math.builder.binary(kind, flat, divisor)
        return self._divided[key]


def tensor_type(value: Value) -> TensorType:
    assert isinstance(value.type, TensorType), f"expected a tensor, but it is {value.type}"
    return value.type


def view_coordinates(
    function: IndexFunction, source: TensorType, target: TensorType, coordinates: Coordinates
) -> Coordinates | None:
    """Coordinates in `source` of an element of its reshape `target`; None where sizes do not tell.

    Axes of size 1 and equal sizes at both ends map to each other; what remains in the middle falls
    into the shortest groups of axes that hold equally many elements, and each group is taken as one
    flat index, so all its sizes but the first must be constants.
    """
    inner = [(d, c) for d, c in zip(target.shape, coordinates, strict=True) if d != 1]
    dims = [d for d in source.shape if d != 1]
    head = _common_length([d for d, _ in inner], dims)
    tail = _common_length([d for d, _ in reversed(inner[head:])], list(reversed(dims[head:])))
    mapped = [c for _, c in inner[:head]]
    for outside, inside in _groups(inner[head : len(inner) - tail], dims[head : len(dims) - tail]):
        sizes_out, sizes_in = [d for d, _ in outside[1:]], inside[1:]
        if not all(isinstance(d, int) for d in (*sizes_out, *sizes_in)):
            return None
        flat = function.merge([c for _, c in outside], [d for d in sizes_out if isinstance(d, int)])
        mapped += function.split(flat, [d for d in sizes_in if isinstance(d, int)])
    mapped += [c for _, c in inner[len(inner) - tail :]]
    left = iter(mapped)
    return tuple(function.zero() if d == 1 else next(left) for d in source.shape)


def _groups(
    outside: Sequence[tuple[Dim, Value]], inside: Sequence[Dim]
) -> list[tuple[Sequence[tuple[Dim, Value]], Sequence[Dim]]]:
    """Both sides cut wherever equally many elements follow, as far as sizes from the end are constants."""
    mine, theirs = _ends([d for d, _ in outside]), _ends(inside)
    cuts = [(mine[count], theirs[count]) for count in sorted(mine.keys() & theirs.keys(), reverse=True)]
    starts = [(0, 0), *(cut for cut in cuts if 0 not in cut)]
    ends = [*starts[1:], (len(outside), len(inside))]
    return [(outside[a:c], inside[b:d]) for (a, b), (c, d) in zip(starts, ends, strict=True) if b < d]


def _ends(sizes: Sequence[Dim]) -> dict[int, int]:
    """Where the axes begin that hold a number of elements together, by that number; without the empty end."""
    found: dict[int, int] = {}
    count = 1
    for axis in reversed(range(len(sizes))):
        size = sizes[axis]
        if not isinstance(size, int):
            break
        count *= size
        found[count] = axis
    return found


def _common_length(a: Sequence[Dim], b: Sequence[Dim]) -> int:
    """How many leading sizes are the same; an unknown size equals nothing."""
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count] is not None:
        count += 1
    return count


def argument_list(given: Argument) -> list[Argument]:
    return list(given) if isinstance(given, list) else []
