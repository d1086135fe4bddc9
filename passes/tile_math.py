"""The arithmetic that masks are analysed in, once for numbers and arrays of numbers, once for kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

from ..ir.attributes import IntegerAttr, IntegerType, Type, i1, index
from ..ir.builder import Builder
from ..ir.core import Value
from ..ir.define import Op
from ..ir.dialects import arith
from .position_forms import LOAD_LIMIT, Atom

T = TypeVar("T")
B = TypeVar("B")


class TileMath(Protocol[T, B]):
    """Numbers `T` and booleans `B` of one backend. `same` is what is known without running anything."""

    def number(self, value: int) -> T: ...
    def boolean(self, value: bool) -> B: ...
    def same(self, x: T, y: T) -> bool: ...
    def add(self, x: T, y: T) -> T: ...
    def subtract(self, x: T, y: T) -> T: ...
    def multiply(self, x: T, y: T) -> T: ...
    def floor_divide(self, x: T, y: T) -> T:
        """Rounded down; y is at least 1."""
        ...

    def least(self, x: T, y: T) -> T: ...
    def greatest(self, x: T, y: T) -> T: ...
    def select(self, condition: B, x: T, y: T) -> T: ...
    def at_most(self, x: T, y: T) -> B: ...
    def both(self, x: B, y: B) -> B: ...
    def either(self, x: B, y: B) -> B: ...
    def negate(self, x: B) -> B: ...
    def load(self, atom: Atom, indices: Sequence[T]) -> T | None:
        """The element of `atom.load`, an i1 as 0 or 1; what is not below `LOAD_LIMIT` may be cut off to it."""
        ...

    def extremes(self, atom: Atom, position: int, first: T, last: T) -> tuple[T, T] | None:
        """The least and the largest element that `atom.load` gives for the rows (M) or keys (N) from first to last."""
        ...


Scalar: TypeAlias = Value | int
Loaded: TypeAlias = Callable[[Atom, Sequence[Value]], Value | None]
Table: TypeAlias = Callable[[Atom, int, Value, Value], tuple[Value, Value] | None]


@dataclass
class ScalarMath:
    """Scalar `arith` ops on `index` and i1, each emitted once; what is constant is a Python number.

    All ops are emitted where `builder` stands, which must not move into another block meanwhile.
    `element` emits the load of one element of a captured tensor in the tensor's type, `table` the
    least and the largest element over a tile; without them, nothing is known of captured tensors.
    """

    builder: Builder
    element: Loaded | None = None
    table: Table | None = None
    emitted: dict[tuple[object, ...], Value] = field(default_factory=dict[tuple[object, ...], Value])

    def value(self, x: Scalar) -> Value:
        """A number as an `index` value."""
        return x if isinstance(x, Value) else self._once(("index", x), lambda: self.builder.index(x))

    def condition(self, x: Value | bool) -> Value:
        """A boolean as an i1 value."""
        return x if isinstance(x, Value) else self._once(("i1", x), lambda: self.builder.constant(x, i1))

    def number(self, value: int) -> Scalar:
        return value

    def boolean(self, value: bool) -> Value | bool:
        return value

    def same(self, x: Scalar, y: Scalar) -> bool:
        return x is y or (not isinstance(x, Value) and not isinstance(y, Value) and x == y)

    def add(self, x: Scalar, y: Scalar) -> Scalar:
        if not isinstance(x, Value):
            x, y = y, x
        if not isinstance(x, Value):
            return x + y if not isinstance(y, Value) else y
        if not isinstance(y, Value):
            return self._shifted(x, y)
        return self._binary(arith.AddIOp, x, y)

    def subtract(self, x: Scalar, y: Scalar) -> Scalar:
        if not isinstance(y, Value):
            return self.add(x, -y)
        return 0 if x is y else self._binary(arith.SubIOp, x, y)

    def _shifted(self, x: Value, distance: int) -> Scalar:
        """x + distance; a constant that `x` already adds is merged with it."""
        for kind, sign in ((arith.AddIOp, 1), (arith.SubIOp, -1)):
            inner = kind.producing(x)
            offset = arith.ConstantOp.producing(inner.rhs) if inner is not None else None
            if inner is not None and offset is not None and isinstance(offset.value, IntegerAttr):
                return self.add(inner.lhs, sign * offset.value.value + distance)
        if distance == 0:
            return x
        kind = arith.AddIOp if distance > 0 else arith.SubIOp
        return self._binary(kind, x, abs(distance))

    def multiply(self, x: Scalar, y: Scalar) -> Scalar:
        if not isinstance(x, Value):
            x, y = y, x
        if not isinstance(y, Value):
            if not isinstance(x, Value):
                return x * y
            if y in (0, 1):
                return x if y else 0
            if y == -1:
                return self._binary(arith.SubIOp, 0, x)
        return self._binary(arith.MulIOp, x, y)

    def floor_divide(self, x: Scalar, y: Scalar) -> Scalar:
        if not isinstance(y, Value) and not isinstance(x, Value):
            return x // y
        return x if y == 1 else self._binary(arith.FloorDivSIOp, x, y)

    def least(self, x: Scalar, y: Scalar) -> Scalar:
        return self._extreme(arith.MinSIOp, x, y)

    def greatest(self, x: Scalar, y: Scalar) -> Scalar:
        return self._extreme(arith.MaxSIOp, x, y)

    def _extreme(self, kind: type[Op], x: Scalar, y: Scalar) -> Scalar:
        if not isinstance(x, Value) and not isinstance(y, Value):
            return min(x, y) if kind is arith.MinSIOp else max(x, y)
        return x if x is y else self._binary(kind, x, y)

    def select(self, condition: Value | bool, x: Scalar, y: Scalar) -> Scalar:
        if not isinstance(condition, Value):
            return x if condition else y
        if self.same(x, y):
            return x
        operands = (condition, self.value(x), self.value(y))
        return self._once(("select", *operands), lambda: self.builder.create(arith.SelectOp, operands, [index]).out)

    def at_most(self, x: Scalar, y: Scalar) -> Value | bool:
        if not isinstance(x, Value) and not isinstance(y, Value):
            return x <= y
        if x is y:
            return True
        return self._compare("sle", self.value(x), self.value(y))

    def _compare(self, name: str, lhs: Value, rhs: Value) -> Value:
        properties = {"predicate": arith.CmpIOp.predicate_attr(name)}
        return self._once(
            (name, lhs, rhs), lambda: self.builder.create(arith.CmpIOp, [lhs, rhs], [i1], properties).out
        )  # fmt: skip

    def both(self, x: Value | bool, y: Value | bool) -> Value | bool:
        for known, other in ((x, y), (y, x)):
            if not isinstance(known, Value):
                return other if known else False
        return x if x is y else self._logical(arith.AndIOp, x, y)

    def either(self, x: Value | bool, y: Value | bool) -> Value | bool:
        for known, other in ((x, y), (y, x)):
            if not isinstance(known, Value):
                return True if known else other
        return x if x is y else self._logical(arith.OrIOp, x, y)

    def negate(self, x: Value | bool) -> Value | bool:
        if not isinstance(x, Value):
            return not x
        if (compare := arith.CmpIOp.producing(x)) is not None and compare.predicate_name == "sle":
            return self._compare("sgt", compare.lhs, compare.rhs)
        return self._logical(arith.XOrIOp, x, True)

    def load(self, atom: Atom, indices: Sequence[Scalar]) -> Scalar | None:
        found = self.element(atom, [self.value(x) for x in indices]) if self.element is not None else None
        return None if found is None else self._once(("load", found), lambda: self.as_index(found))

    def extremes(self, atom: Atom, position: int, first: Scalar, last: Scalar) -> tuple[Scalar, Scalar] | None:
        if self.table is None or (found := self.table(atom, position, self.value(first), self.value(last))) is None:
            return None
        low, high = (self._once(("load", x), lambda x=x: self.as_index(x)) for x in found)
        return low, high

    def as_index(self, x: Value) -> Value:
        """A loaded integer or i1 as an index, cut off where 32 bits might not hold it."""
        if x.type == index:
            return x
        if x.type == i1:
            return self.value(self.select(x, 1, 0))
        if isinstance(x.type, IntegerType) and x.type.width > 32:
            for kind, bound in ((arith.MinSIOp, LOAD_LIMIT), (arith.MaxSIOp, -LOAD_LIMIT)):
                x = self.builder.binary(kind, x, self.builder.constant(bound, x.type))
        return self.builder.create(arith.IndexCastOp, [x], [index]).out

    def _logical(self, kind: type[Op], x: Value | bool, y: Value | bool) -> Value:
        lhs, rhs = self.condition(x), self.condition(y)
        return self._once((kind, lhs, rhs), lambda: self.builder.binary(kind, lhs, rhs))

    def _binary(self, kind: type[Op], x: Scalar, y: Scalar) -> Value:
        lhs, rhs = self.value(x), self.value(y)
        return self._once((kind, lhs, rhs), lambda: self.builder.binary(kind, lhs, rhs))

    def _once(self, key: tuple[object, ...], emit: Callable[[], Value]) -> Value:
        if key not in self.emitted:
            self.emitted[key] = emit()
        return self.emitted[key]


def is_loadable(type_: Type) -> bool:
    """Whether elements of this type can be compared with positions: integers and booleans can."""
    return type_ == index or isinstance(type_, IntegerType)
