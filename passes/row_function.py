"""Follows the rows of q, k or v backwards to region code: an element, sums over the head dimension, loads.

What `IndexFunction` does for scores, for one element of a row. Coordinates that run beyond a tensor
in a branch that is not taken are moved to its edge where they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..ir.attributes import Dim, IntegerAttr, TensorType, f32, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.dialects import arith, attn
from ..ir.dialects.aten import AtenOp, aten_op
from ..ir.dialects.tensor import ExtractOp
from .index_function import Coordinates, IndexFunction, Rule, tensor_type
from .region_math import RegionMath, Scalar, literal_of
from .row_choice import choose

Reads = Callable[[Value, Coordinates], bool]
"""Whether a tensor is read at these coordinates, rather than followed further."""


@dataclass
class RowSource:
    """The tensor whose rows a region reads as its `argument`: `arrange` maps coordinates of one to the other."""

    value: Value
    argument: Value
    arrange: Callable[[Coordinates], Coordinates]


@dataclass
class RowFunction(IndexFunction):
    """Writes an element of a row into `block`.

    `extents` bounds the coordinates that count elements of a row, `width` is the length of one:
    longer sums are not taken. `visited` lists every tensor met and where; `problem` says why the
    code cannot be used, if it cannot.
    """

    reads: Reads = lambda _value, _at: False
    width: int = 0
    source: RowSource | None = None
    extents: dict[Value, int] = field(default_factory=dict[Value, int])
    visited: list[tuple[Value, Coordinates]] = field(default_factory=list[tuple[Value, Coordinates]])
    followed: dict[Operation, None] = field(default_factory=dict[Operation, None])
    problem: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._zero, self._speculative, self.part = super().zero(), False, 0
        self._places = self._zero, self.math.builder.index(1)
        self._pairs: dict[Value, Value] = {}
        self._sums: dict[tuple[Operation, str, Coordinates], Value] = {}
        self._moved: dict[tuple[Value, int], Value] = {}
        self._outermost: dict[str, Any] = {name: vars(self)[name] for name in ("math", *CACHES)}

    # --- following

    def at(self, value: Value, coordinates: Coordinates) -> Scalar:
        """The element of `value` at `coordinates`: of complex numbers, the part being asked for."""
        if not is_complex(value):
            return super().at(value, coordinates)
        key = value, (*coordinates, self.place_of_part())
        if key not in self.memo:
            self.memo[key] = self._follow(value, coordinates)
        return self.memo[key]

    def part_of(self, value: Value, part: int, coordinates: Coordinates) -> Scalar | None:
        """The real part (0) or the imaginary part (1) of a complex element."""
        before, self.part = self.part, part
        try:
            return self.broadcast(value, coordinates)
        finally:
            self.part = before

    def place_of_part(self) -> Value:
        """The position of the part being asked for in a pair."""
        return self._places[self.part]

    def _follow(self, value: Value, coordinates: Coordinates) -> Scalar:
        self.visited.append((value, coordinates))
        operation = value.defining_op
        if operation is None or operation.dialect != "aten" or self.reads(value, coordinates):
            return self.load(value, coordinates)
        found: Scalar | None = None
        if len(operation.results) > 1:
            found = self._part(value, operation, coordinates)
        elif (rule := self._rule(operation)) is not None:
            found = self._apply(rule, operation, coordinates)
        if found is None:
            return self.load(value, coordinates)
        self.followed[operation] = None
        return found

    def _rule(self, operation: Operation) -> Rule | None:
        """The rule for an operator; complex numbers are only viewed and multiplied."""
        packet = AtenOp(operation).packet
        touches = any(is_complex(v) for v in (*operation.operands, *operation.results))
        return None if touches and packet not in ON_COMPLEX else self.rules.get(packet)

    def _part(self, value: Value, operation: Operation, coordinates: Coordinates) -> Scalar | None:
        """One of the pieces that `split`, `chunk` or `unbind` cut a tensor into."""
        op, number = AtenOp(operation), operation.results.index(value)
        source, axis = op.operand("self"), op.argument("dim", 0)
        if source is None or not isinstance(axis, int) or not tensor_type(source).rank:
            return None
        axis %= tensor_type(source).rank
        if op.packet == "unbind":
            return self.at(source, (*coordinates[:axis], self.math.builder.index(number), *coordinates[axis:]))
        if op.packet not in ("split", "split_with_sizes", "chunk"):
            return None
        sizes = [tensor_type(piece).shape[axis] for piece in operation.results[:number]]
        start = sum(size for size in sizes if isinstance(size, int))
        if not all(isinstance(size, int) for size in sizes):
            return None
        return self.at(source, (*coordinates[:axis], self.moved(coordinates[axis], start), *coordinates[axis + 1 :]))

    def zero(self) -> Value:
        return self._zero

    def moved(self, coordinate: Value, distance: int) -> Value:
        """coordinate + distance; constants that are added one after the other become one."""
        for kind, sign in ((arith.AddIOp, 1), (arith.SubIOp, -1)):
            inner = kind.producing(coordinate)
            if inner is not None and (offset := literal_of(inner.rhs)) is not None:
                return self.moved(inner.lhs, distance + sign * int(offset))
        if distance == 0:
            return coordinate
        key = coordinate, distance
        if key not in self._moved:
            kind = arith.AddIOp if distance > 0 else arith.SubIOp
            self._moved[key] = self.math.builder.binary(kind, coordinate, self.math.builder.index(abs(distance)))
        return self._moved[key]

    def parts_of(self, coordinate: Value) -> tuple[list[Value], list[int]]:
        """The coordinates that were merged into one, first the outermost, and the sizes of all but that."""
        return self._parts.get(coordinate, ([coordinate], []))

    # --- choices

    def piece(self, value: Value, coordinates: Coordinates, axis: int) -> Scalar:
        """`value` where it may be asked for elements it does not have, which nobody uses."""
        before = self._speculative
        self._speculative = before or not self._inside(coordinates[axis], tensor_type(value).shape[axis])
        try:
            return self.at(value, coordinates)
        finally:
            self._speculative = before

    def choose(self, condition: Scalar, x: Scalar, y: Scalar) -> Value:
        """x if `condition`, else y; two loads of one tensor become one."""
        return choose(self.math, self.math.as_bool(condition), self.math.as_float(x), self.math.as_float(y))

    # --- loads

    def load(self, value: Value, coordinates: Sequence[Value]) -> Value:
        if self.source is not None and value is self.source.value:
            return self._load_row(self.source, tuple(coordinates))
        shape = tensor_type(value).shape
        inside = [self._clamped(c, size) for c, size in zip(coordinates, shape, strict=True)]
        if is_complex(value):
            value, inside = self._as_pairs(value), [*inside, self.place_of_part()]
        return super().load(value, inside)

    def _load_row(self, source: RowSource, coordinates: Coordinates) -> Value:
        """An element of the operand itself."""
        *row, place = source.arrange(coordinates)
        indices = [*row, self._clamped(place, self.width)]
        element = tensor_type(source.argument).element
        return self.math.as_float(self.math.builder.create(ExtractOp, [source.argument, *indices], [element]).out)

    def _as_pairs(self, value: Value) -> Value:
        """A complex tensor as pairs of numbers along one more axis; a view, put behind what it views."""
        if value not in self._pairs:
            type_ = tensor_type(value)
            pairs = aten_op("view_as_real", {"self": value}, [TensorType((*type_.shape, 2), f32)])
            pairs.results[0].name_hint = value.name_hint
            place = value.owner if isinstance(value.owner, Block) else value.owner.parent
            assert place is not None, "a value in use belongs to a block"
            place.insert(place.ops.index(value.owner) + 1 if isinstance(value.owner, Operation) else 0, pairs)
            self._pairs[value] = pairs.result
        return self._pairs[value]

    def _clamped(self, coordinate: Value, size: Dim) -> Value:
        """A coordinate that lies within the tensor in every branch."""
        known = coordinate.defining_op is None and coordinate not in self.extents
        if not self._speculative or known or self._inside(coordinate, size):
            return coordinate
        if not isinstance(size, int):
            self.problem = self.problem or "an axis of unknown size is joined with another"
            return self._zero
        build, (low, high) = self.math.builder, self.interval(coordinate) or (-1, size)
        if low < 0:
            coordinate = build.binary(arith.MaxSIOp, coordinate, build.index(0))
        return build.binary(arith.MinSIOp, coordinate, build.index(size - 1)) if high >= size else coordinate

    def _inside(self, coordinate: Value, size: Dim) -> bool:
        bounds = self.interval(coordinate)
        return bounds is not None and isinstance(size, int) and bounds[0] >= 0 and bounds[1] < size

    def interval(self, value: Value) -> tuple[int, int] | None:
        """The least and the largest that an index may be; None where that is not known."""
        if value in self.extents:
            return 0, self.extents[value] - 1
        if (number := literal_of(value)) is not None:
            return int(number), int(number)
        op = value.defining_op
        if op is None or op.name not in INTERVALS:
            return None
        operands = op.operands[1:] if op.name == arith.SelectOp.op_name else op.operands
        bounds = [self.interval(v) for v in operands]
        x, y = bounds if len(bounds) == 2 else (None, None)
        return None if x is None or y is None else INTERVALS[op.name](x, y)

    # --- sums

    def row_sum(
        self, op: AtenOp, what: str, width: Dim, lead: Coordinates, term: Callable[[Value], Scalar | None]
    ) -> Value | None:
        """Σ of `term` at c in [0, width), which is written once for each operator, `what` and `lead`."""
        if not isinstance(width, int) or not 0 < width <= self.width or any(self._nested(c) for c in lead):
            return None
        key = op.operation, what, lead
        if key not in self._sums:
            body = Block.with_arguments([index], ["c"])
            c = body.arguments[0]
            self.extents[c] = width
            with self._within(body):
                found = term(c)
                if found is None:
                    return None
                self.math.builder.create(attn.YieldOp, [self.math.as_float(found)])
            # Behind everything in the region itself, even where another sum is being written.
            build = self._outermost["math"].builder
            properties = {"width": IntegerAttr(width)}
            self._sums[key] = build.create(attn.RowSumOp, [], [f32], properties, [Region([body])]).out
        return self._sums[key]

    def _nested(self, coordinate: Value) -> bool:
        """Whether a coordinate belongs to another sum."""
        owner = coordinate.owner
        return (owner if isinstance(owner, Block) else owner.parent) is not self.block

    @contextmanager
    def _within(self, body: Block) -> Generator[None]:
        """Write into `body`; it knows what the region itself does, and what it writes is known nowhere else."""
        before = {name: vars(self)[name] for name in self._outermost}
        self.math = RegionMath(Builder(body, location=self.math.builder.location))
        for name in CACHES:
            setattr(self, name, dict(self._outermost[name]))
        try:
            yield
        finally:
            vars(self).update(before)


def is_complex(value: Value) -> bool:
    """Whether a tensor holds complex numbers of two f32."""
    return isinstance(value.type, TensorType) and str(value.type.element) == "!aten.complex64"


ON_COMPLEX = frozenset({
    "mul", "view_as_complex", "view_as_real", "view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze",
    "transpose", "permute", "expand", "slice", "select", "narrow", "alias", "clone", "contiguous", "detach",
})  # fmt: skip
"""Operators that rules know on complex numbers too."""

CACHES = ("memo", "_divided", "_merged", "_parts", "_moved")
"""What remembers values that were written before."""

Bounds = tuple[int, int]


def _quotient(x: Bounds, y: Bounds) -> Bounds | None:
    return (x[0] // y[0], x[1] // y[0]) if y[0] == y[1] > 0 else None


def _remainder(x: Bounds, y: Bounds) -> Bounds | None:
    return (0, min(x[1], y[0] - 1)) if y[0] == y[1] > 0 and x[0] >= 0 else None


def _product(x: Bounds, y: Bounds) -> Bounds:
    ends = [a * b for a in x for b in y]
    return min(ends), max(ends)


INTERVALS: dict[str, Callable[[Bounds, Bounds], Bounds | None]] = {
    "arith.addi": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "arith.subi": lambda x, y: (x[0] - y[1], x[1] - y[0]),
    "arith.muli": _product,
    "arith.floordivsi": _quotient,
    "arith.remsi": _remainder,
    "arith.minsi": lambda x, y: (min(x[0], y[0]), min(x[1], y[1])),
    "arith.maxsi": lambda x, y: (max(x[0], y[0]), max(x[1], y[1])),
    "arith.select": lambda x, y: (min(x[0], y[0]), max(x[1], y[1])),
}
