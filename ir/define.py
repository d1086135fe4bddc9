"""The definition language: a class body that reads like an op's signature.

Each field is one descriptor. It is the schema the verifier checks and the accessor that passes
use, so the two can never disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, overload

from .attributes import Attribute, Type
from .core import Operation, Region, Value
from .diagnostics import op_error
from .location import UNKNOWN, Location

A = TypeVar("A", bound=Attribute)


class Field:
    """A named slot of an operation."""

    name: str
    index: int

    def __set_name__(self, owner: type[Op], name: str) -> None:
        self.name = name

    def check(self, op: Operation) -> None:
        """Verify this slot of `op`. The default accepts anything."""


@dataclass(frozen=True)
class Constraint:
    """A named predicate on types, such as `tensor of float`."""

    description: str
    accepts: Callable[[Type], bool]


TypeRule = type[Type] | Constraint


def _accepts(rules: Sequence[TypeRule], actual: Type) -> bool:
    return not rules or any(
        rule.accepts(actual) if isinstance(rule, Constraint) else isinstance(actual, rule) for rule in rules
    )


def _wanted(rules: Sequence[TypeRule]) -> str:
    names = {"TensorType": "tensor", "IndexType": "index", "FloatType": "float", "IntegerType": "integer"}
    return " or ".join(r.description if isinstance(r, Constraint) else names.get(r.__name__, r.__name__) for r in rules)


class Operand(Field):
    """A value the op reads; its type satisfies one of `rules`."""

    def __init__(self, *rules: TypeRule) -> None:
        self.rules = rules

    @overload
    def __get__(self, op: None, owner: type[Op]) -> Self: ...
    @overload
    def __get__(self, op: Op, owner: type[Op]) -> Value: ...
    def __get__(self, op: Op | None, owner: type[Op]) -> Self | Value:
        return self if op is None else op.operation.operands[self.index]

    def __set__(self, op: Op, value: Value) -> None:
        op.operation.set_operand(self.index, value)

    def check(self, op: Operation) -> None:
        actual = op.operands[self.index].type
        if not _accepts(self.rules, actual):
            op_error(op, f"operand '{self.name}' must be {_wanted(self.rules)}, but is {actual}")


class Variadic(Field):
    """The remaining operands, after every `Operand`."""

    def __init__(self, *rules: TypeRule) -> None:
        self.rules = rules
        self.start = 0

    @overload
    def __get__(self, op: None, owner: type[Op]) -> Self: ...
    @overload
    def __get__(self, op: Op, owner: type[Op]) -> list[Value]: ...
    def __get__(self, op: Op | None, owner: type[Op]) -> Self | list[Value]:
        return self if op is None else op.operation.operands[self.start :]

    def check(self, op: Operation) -> None:
        for position, value in enumerate(op.operands[self.start :]):
            if not _accepts(self.rules, value.type):
                op_error(op, f"operand '{self.name}[{position}]' must be {_wanted(self.rules)}, but is {value.type}")


class Result(Field):
    """A value the op defines; its type satisfies one of `rules`."""

    def __init__(self, *rules: TypeRule) -> None:
        self.rules = rules

    @overload
    def __get__(self, op: None, owner: type[Op]) -> Self: ...
    @overload
    def __get__(self, op: Op, owner: type[Op]) -> Value: ...
    def __get__(self, op: Op | None, owner: type[Op]) -> Self | Value:
        return self if op is None else op.operation.results[self.index]

    def check(self, op: Operation) -> None:
        actual = op.results[self.index].type
        if not _accepts(self.rules, actual):
            op_error(op, f"result '{self.name}' must be {_wanted(self.rules)}, but is {actual}")


class VariadicResult(Field):
    """Any number of results."""

    @overload
    def __get__(self, op: None, owner: type[Op]) -> Self: ...
    @overload
    def __get__(self, op: Op, owner: type[Op]) -> list[Value]: ...
    def __get__(self, op: Op | None, owner: type[Op]) -> Self | list[Value]:
        return self if op is None else op.operation.results


class Prop(Field, Generic[A]):
    """Compile-time data the op needs, printed between `<{` and `}>`."""

    def __init__(self, kind: type[A], default: A | None = None) -> None:
        self.kind, self.default = kind, default

    @overload
    def __get__(self, op: None, owner: type[Op]) -> Self: ...
    @overload
    def __get__(self, op: Op, owner: type[Op]) -> A: ...
    def __get__(self, op: Op | None, owner: type[Op]) -> Self | A:
        if op is None:
            return self
        return cast(A, op.operation.properties.get(self.name, self.default))

    def __set__(self, op: Op, value: A) -> None:
        op.operation.properties[self.name] = value

    def check(self, op: Operation) -> None:
        actual = op.properties.get(self.name, self.default)
        if actual is None:
            op_error(op, f"property '{self.name}' ({self.kind.__name__}) is missing")
        if not isinstance(actual, self.kind):
            op_error(op, f"property '{self.name}' must be {self.kind.__name__}, but is {actual}")


class OptionalProp(Field, Generic[A]):
    """Compile-time data that may be absent."""

    def __init__(self, kind: type[A]) -> None:
        self.kind = kind

    @overload
    def __get__(self, op: None, owner: type[Op]) -> Self: ...
    @overload
    def __get__(self, op: Op, owner: type[Op]) -> A | None: ...
    def __get__(self, op: Op | None, owner: type[Op]) -> Self | A | None:
        return self if op is None else cast("A | None", op.operation.properties.get(self.name))

    def __set__(self, op: Op, value: A | None) -> None:
        if value is None:
            op.operation.properties.pop(self.name, None)
        else:
            op.operation.properties[self.name] = value

    def check(self, op: Operation) -> None:
        actual = op.properties.get(self.name)
        if actual is not None and not isinstance(actual, self.kind):
            op_error(op, f"property '{self.name}' must be {self.kind.__name__}, but is {actual}")


class Hint(Field, Generic[A]):
    """A decision or provenance a pass may drop, printed in `{}`; None where absent."""

    def __init__(self, kind: type[A]) -> None:
        self.kind = kind

    @overload
    def __get__(self, op: None, owner: type[Op]) -> Self: ...
    @overload
    def __get__(self, op: Op, owner: type[Op]) -> A | None: ...
    def __get__(self, op: Op | None, owner: type[Op]) -> Self | A | None:
        return self if op is None else cast("A | None", op.operation.attributes.get(self.name))

    def __set__(self, op: Op, value: A | None) -> None:
        if value is None:
            op.operation.attributes.pop(self.name, None)
        else:
            op.operation.attributes[self.name] = value

    def check(self, op: Operation) -> None:
        actual = op.attributes.get(self.name)
        if actual is not None and not isinstance(actual, self.kind):
            op_error(op, f"attribute '{self.name}' must be {self.kind.__name__}, but is {actual}")


class Body(Field):
    """A region the op owns. An empty one is allowed where `optional`; a `trailing` one may be left out at the end."""

    def __init__(self, *, optional: bool = False, trailing: bool = False) -> None:
        self.optional, self.trailing = optional or trailing, trailing

    @overload
    def __get__(self, op: None, owner: type[Op]) -> Self: ...
    @overload
    def __get__(self, op: Op, owner: type[Op]) -> Region: ...
    def __get__(self, op: Op | None, owner: type[Op]) -> Self | Region:
        if op is None:
            return self
        regions = op.operation.regions
        return regions[self.index] if self.index < len(regions) else Region()

    def check(self, op: Operation) -> None:
        blocks = op.regions[self.index].blocks if self.index < len(op.regions) else []
        if len(blocks) > 1:
            op_error(op, f"region '{self.name}' must have one block, but has {len(blocks)}")
        if not blocks and not self.optional:
            op_error(op, f"region '{self.name}' must not be empty")


class Op:
    """A typed view of an `Operation`. Subclasses declare fields and, where needed, `verify`.

    Class keywords: `name` is the full op name; `pure` ops may be merged, moved and dropped;
    `terminator` ops end their block; `isolated` ops' regions use no value from outside.
    """

    op_name: ClassVar[str]
    pure: ClassVar[bool]
    terminator: ClassVar[bool]
    isolated: ClassVar[bool]
    fields: ClassVar[tuple[Field, ...]] = ()

    def __init_subclass__(
        cls, *, name: str = "", pure: bool = False, terminator: bool = False, isolated: bool = False, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.op_name, cls.pure, cls.terminator, cls.isolated = name, pure, terminator, isolated
        declared = {k: v for base in reversed(cls.__mro__) for k, v in vars(base).items() if isinstance(v, Field)}
        cls.fields = tuple(declared.values())
        seen: Counter[type[Field]] = Counter()
        for slot in cls.fields:
            slot.index = seen[type(slot)]
            seen[type(slot)] += 1
        for slot in cls.fields:
            if isinstance(slot, Variadic):
                slot.start = seen[Operand]

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    @classmethod
    def match(cls, operation: Operation | None) -> Self | None:
        """The typed view of `operation`, if it is one of ours."""
        return cls(operation) if operation is not None and operation.name == cls.op_name else None

    @classmethod
    def producing(cls, value: Value) -> Self | None:
        """The op that defines `value`, if it is one of ours."""
        return cls.match(value.defining_op)

    @classmethod
    def create(
        cls,
        operands: Sequence[Value] = (),
        result_types: Sequence[Type] = (),
        properties: Mapping[str, Attribute] | None = None,
        regions: Sequence[Region] = (),
        attributes: Mapping[str, Attribute] | None = None,
        location: Location = UNKNOWN,
    ) -> Self:
        """A detached op with fresh results."""
        return cls(Operation.create(cls.op_name, operands, result_types, properties, regions, attributes, location))

    def verify(self) -> None:
        """Check what the field declarations cannot say."""


def check_counts(cls: type[Op], op: Operation) -> None:
    """Fail unless `op` has as many operands, results and regions as `cls` declares."""
    counted: list[tuple[str, type[Field], type[Field], int]] = [
        ("operand", Operand, Variadic, len(op.operands)),
        ("result", Result, VariadicResult, len(op.results)),
    ]
    for noun, kind, open_kind, actual in counted:
        wanted = sum(isinstance(f, kind) for f in cls.fields)
        is_open = any(isinstance(f, open_kind) for f in cls.fields)
        if actual < wanted or (actual > wanted and not is_open):
            least = "at least " if is_open else ""
            op_error(op, f"must have {least}{wanted} {noun}{'s' if wanted != 1 else ''}, but has {actual}")
    bodies = [f for f in cls.fields if isinstance(f, Body)]
    most, least = len(bodies), sum(not f.trailing for f in bodies)
    if not least <= len(op.regions) <= most:
        wanted = str(most) if least == most else f"{least} to {most}"
        op_error(op, f"must have {wanted} region{'s' if wanted != '1' else ''}, but has {len(op.regions)}")


def check_properties(cls: type[Op], op: Operation) -> None:
    """Fail on a property that `cls` does not declare."""
    known = [f.name for f in cls.fields if isinstance(f, Prop | OptionalProp)]
    for name in op.properties:
        if name not in known:
            have = f"it has {', '.join(known)}" if known else "it has none"
            op_error(op, f"has no property '{name}' ({have})")
