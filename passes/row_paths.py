"""Finds what can be fused in front of q, k or v: the operators on the way from one tensor of rows, and that tensor.

A path is followed while it depends on the head and on the position. What lacks one of them (cos and
sin, weights of norms) is small and read where it stands; what is needed elsewhere is read too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from ..ir.attributes import Dim, TensorType
from ..ir.core import Block, Operation, Region, Value
from ..ir.dialects import attn
from ..ir.dialects.aten import AtenOp
from ..ir.dialects.attn import AttentionOp
from .index_function import Coordinates, tensor_type
from .region_math import literal_of
from .row_function import Reads, RowFunction, RowSource
from .row_places import name_places
from .row_rules import CONSTANTS, ROW_RULES, VIEWS
from .score_regions import tidy
from .views import Views

NOTHING = "nothing is computed in front of it"


@dataclass(frozen=True)
class Axes:
    """How the axes of a tensor are those of rows: for each axis the labels merged in it, outermost first.

    Labels are b, h, m and d, and "1" for an axis of size 1 that stands for none of them.
    """

    labels: tuple[tuple[str, ...], ...]

    @property
    def flat(self) -> list[str]:
        return [label for axis in self.labels for label in axis]

    def view(self, value: Value, shape: Sequence[Dim], views: Views) -> Value | None:
        """`value` as (b, h, m, d) of `shape`; no copy."""
        sizes = dict(zip("bhmd", shape, strict=True))
        for axis in reversed(range(len(self.labels))):
            merged = self.labels[axis]
            if len(merged) > 1:
                split = views.unflatten(value, axis, [sizes.get(label, 1) for label in merged])
                if split is None:
                    return None
                value = split
        flat = self.flat
        for label in [label for label in "bhm" if label not in flat]:
            # Axes of size 1 are as good as each other.
            if "1" in flat:
                flat[flat.index("1")] = label
        for axis in reversed(range(len(flat))):
            if flat[axis] == "1":
                value = views.squeeze(value, axis)
                del flat[axis]
        value = views.arrange(value, [flat.index(label) if label in flat else None for label in "bhmd"])
        return value if tensor_type(value).shape == tuple(shape) else None


@dataclass(frozen=True)
class RowPath:
    """What can be fused in front of an operand, or behind the output.

    `source` is the tensor of rows that is read instead, `axes` say how, `fused` are the operators that
    go, `block` the region and `captures` the tensors that it reads.
    """

    region: str
    source: Value
    axes: Axes
    fused: Sequence[Operation]
    block: Block
    captures: Sequence[Value]


@dataclass
class Follower:
    """Follows one tensor of rows of an attention, from `value` at the region's own positions."""

    attention: AttentionOp
    region: str
    value: Value

    def __post_init__(self) -> None:
        self._deps: dict[Value, frozenset[Value]] = {}
        self.shape = tensor_type(self.value).shape

    # --- the region being written

    def block(self) -> Block:
        return attn.region_block(self.region, self.attention.captures, self.value.type)

    def captured(self, block: Block) -> dict[Value, Value]:
        """What the attention captures already, and the arguments that stand for it in a block."""
        first = len(attn.REGIONS[self.region].types(self.value.type))
        return dict(zip(self.attention.captures, block.arguments[first:], strict=True))

    def function(self, block: Block, reads: Reads, source: RowSource | None = None) -> RowFunction:
        width = self.shape[3]
        assert isinstance(width, int), "paths are followed for constant head dimensions"
        function = RowFunction(
            block, ROW_RULES, lambda _op, _at: None, self.captured(block), reads=reads, width=width, source=source
        )
        function.extents[self.positions(block)[3]] = width
        return function

    def positions(self, block: Block) -> list[Value]:
        """b, h, the position and d in a block."""
        start = 1 if attn.REGIONS[self.region].value else 0
        return block.arguments[start : start + 4]

    # --- what coordinates depend on

    def required(self, block: Block) -> frozenset[Value]:
        """What the coordinates of a tensor of rows depend on: batch, head and position, where there are several."""
        pairs = zip(self.positions(block)[:3], self.shape[:3], strict=True)
        return frozenset(argument for argument, size in pairs if size != 1)

    def dependencies(self, value: Value) -> frozenset[Value]:
        """The block arguments that a coordinate is computed from."""
        if value not in self._deps:
            op = value.defining_op
            found = [self.dependencies(v) for v in op.operands] if op is not None else [frozenset({value})]
            self._deps[value] = frozenset[Value]().union(*found)
        return self._deps[value]

    def is_row(self, value: Value, at: Coordinates, required: frozenset[Value]) -> bool:
        """Whether a tensor is read at another element for each row."""
        op = value.defining_op
        if op is not None and op.dialect == "aten" and AtenOp(op).packet in CONSTANTS:
            return True
        found = frozenset[Value]().union(*(self.dependencies(c) for c in at))
        return required <= found

    # --- surveys

    def survey(self, allowed: Callable[[Operation], bool]) -> tuple[RowFunction, Block]:
        """Follow the operand through `allowed` operators, for what is met on the way."""
        block = self.block()
        required = self.required(block)

        def reads(value: Value, at: Coordinates) -> bool:
            op = value.defining_op
            return op is None or not allowed(op) or not self.is_row(value, at, required)

        function = self.function(block, reads)
        function.at(self.value, tuple(self.positions(block)))
        return function, block

    def path(self) -> RowPath | str:
        """The path in front of an operand; a sentence where there is none that can be fused."""
        if not self.required(self.block()):
            return "it has one row, which nothing tells from a table of positions"
        function, _ = self.survey(lambda _op: True)
        allowed = self.only_needed_by(list(function.followed))
        function, block = self.survey(lambda op: op in allowed)
        fused = [op for op in function.followed if not is_view(op)]
        if not fused:
            if any(not is_view(op) for op in self._all_followed()):
                return "what it is computed to is needed elsewhere too"
            return NOTHING
        found = self._source(function, block)
        return found if isinstance(found, str) else self._written(*found, allowed, fused)

    def _all_followed(self) -> Iterable[Operation]:
        return self.survey(lambda _op: True)[0].followed

    def only_needed_by(self, ops: Sequence[Operation], fused: Sequence[Operation] = ()) -> set[Operation]:
        """The operators among `ops` that have no use once they and `fused` are gone, and views, which cost nothing."""
        allowed = set(ops)
        while gone := {op for op in allowed if not is_view(op) and self._needed(op, allowed | set(fused))}:
            allowed -= gone
        return allowed

    def _needed(self, op: Operation, allowed: set[Operation]) -> bool:
        attention = self.attention.operation
        for result in op.results:
            for user in result.users:
                if user is attention:
                    if result is not self.value or attention.operands.count(result) > 1:
                        return True
                elif user not in allowed or (is_view(user) and self._needed(user, allowed)):
                    return True
        return False

    # --- the source

    def _source(self, function: RowFunction, block: Block) -> tuple[Value, Axes] | str:
        """The tensor of rows that the path starts from: the innermost one that is only viewed and has their axes."""
        required, axes = self.required(block), dict[Value, Axes | None]()
        for value, at in function.visited:
            if _only_viewed(value, function) and self.is_row(value, at, required) and not _is_constant(value):
                found = self._axes(function, block, value, at) if self._same_element(value) else None
                axes[value] = found if axes.get(value, found) == found else None
        fitting = [v for v, found in axes.items() if found is not None]
        starts = [v for v in fitting if not any(inner in fitting for inner in _viewed(v, function))]
        if not starts:
            return "no tensor that it is computed from has rows like its own"
        source = starts[0]
        below = _viewed(source, function)
        others = [v for v in axes if v not in below and source not in (v, *_viewed(v, function))]
        found = axes[source]
        assert found is not None, "what fits has axes"
        return _several(source, others) if others else (source, found)

    def _same_element(self, value: Value) -> bool:
        return tensor_type(value).element == tensor_type(self.value).element

    def _axes(self, function: RowFunction, block: Block, value: Value, at: Coordinates) -> Axes | None:
        """Which axes of a tensor read `at` are those of rows; None where it is not rows of one length."""
        names = dict(zip(self.positions(block)[:3], "bhm", strict=True))
        sizes = dict(zip("bhmd", self.shape, strict=True))
        labels: list[tuple[str, ...]] = []
        for coordinate, size in zip(at, tensor_type(value).shape, strict=True):
            here = [self._label(part, names) for part in _row_parts(function, coordinate, names)]
            if any(label is None for label in here):
                return None
            # An axis of size 1 is read at 0 where it was broadcast, and at its own position elsewhere.
            known = ("1",) if size == 1 else tuple(label for label in here if label is not None)
            wanted = [sizes.get(label, 1) for label in known]
            if len(known) == 1 and size != wanted[0]:
                return None
            if len(known) > 1 and isinstance(size, int) and _product(wanted) not in (None, size):
                return None
            labels.append(known)
        flat = [label for axis in labels for label in axis if label != "1"]
        missing = [label for label in "bhm" if label not in flat]
        fits = len(set(flat)) == len(flat) and "d" in flat and all(sizes[label] == 1 for label in missing)
        return Axes(tuple(labels)) if fits else None

    def _label(self, coordinate: Value, names: dict[Value, str]) -> str | None:
        if coordinate in names:
            return names[coordinate]
        if literal_of(coordinate) == 0:
            return "1"
        return None if self.dependencies(coordinate) & names.keys() else "d"

    def _written(self, source: Value, axes: Axes, allowed: set[Operation], fused: Sequence[Operation]) -> RowPath | str:
        """The region for a path that starts at `source`."""
        block = self.block()
        required, flat = self.required(block), axes.flat
        positions = self.positions(block)

        def arrange(at: Coordinates) -> Coordinates:
            parts = [part for c in at for part in _row_parts(function, c, positions[:3])]
            found = dict(zip(flat, parts, strict=True))
            return (*(found.get(label, own) for label, own in zip("bhm", positions, strict=False)), found["d"])

        def reads(value: Value, at: Coordinates) -> bool:
            op = value.defining_op
            return op is None or value is source or op not in allowed or not self.is_row(value, at, required)

        function = self.function(block, reads, RowSource(source, block.arguments[4], arrange))
        found = function.at(self.value, tuple(positions))
        if function.problem:
            return function.problem
        function.math.builder.create(attn.YieldOp, [function.math.as_float(found)])
        finish(block, function)
        captures = list(function.captures)[len(self.attention.captures) :]
        return RowPath(self.region, source, axes, fused, block, captures)


def _row_parts(function: RowFunction, coordinate: Value, outer: Collection[Value]) -> list[Value]:
    """The coordinates merged in one, if batch, head or position (`outer`) are among them; else itself.

    Those behind the last of the outer ones count the elements of a row together.
    """
    parts, sizes = function.parts_of(coordinate)
    inner = len(parts)
    while inner > 0 and parts[inner - 1] not in outer:
        inner -= 1
    if inner == 0:
        return [coordinate]
    joined = [function.merge(parts[inner:], sizes[inner:])] if inner < len(parts) else []
    return [*parts[:inner], *joined]


def _product(sizes: Sequence[Dim]) -> int | None:
    total = 1
    for size in sizes:
        if not isinstance(size, int):
            return None
        total *= size
    return total


def finish(block: Block, function: RowFunction) -> None:
    """Simplify a region that `function` wrote, so that what is left of it can be counted."""
    name_places(block, function.extents)
    region = Region([block])
    tidy(Operation.create("builtin.module", regions=[region]))
    region.blocks.clear()


def is_view(op: Operation) -> bool:
    """Whether an operator computes nothing."""
    return op.dialect == "aten" and AtenOp(op).packet in VIEWS


def _is_constant(value: Value) -> bool:
    op = value.defining_op
    return op is not None and op.dialect == "aten" and AtenOp(op).packet in CONSTANTS


def _viewed(value: Value, function: RowFunction) -> list[Value]:
    """The tensors that `value` is a view of, outermost first, as far as they were followed."""
    found: list[Value] = []
    op = value.defining_op
    while op is not None and op in function.followed and is_view(op):
        value = op.operands[0]
        found.append(value)
        op = value.defining_op
    return found


def _only_viewed(value: Value, function: RowFunction) -> bool:
    """Whether nothing is computed between where the path starts and `value`."""
    inner = [value, *_viewed(value, function)][-1]
    return inner.defining_op is None or inner.defining_op not in function.followed


def _several(source: Value, others: Sequence[Value]) -> str:
    names = ", ".join(sorted(f"'{v.name_hint}'" if v.name_hint else str(v.type) for v in (source, *others)))
    return f"it is computed from more than one tensor of rows: {names}"


def rows_type(attention: AttentionOp, region: str) -> TensorType:
    """The type of the rows that a region changes."""
    places = {"query": attention.q, "key": attention.k, "value": attention.v, "output": attention.out}
    return tensor_type(places[region])
