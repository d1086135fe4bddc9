"""SSA structure: values, operations, blocks and regions. Knows no dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .attributes import Attribute, Type
from .location import UNKNOWN, Location


@dataclass(eq=False)
class Value:
    """One SSA value: an operation's result or a block's argument."""

    type: Type
    owner: Operation | Block = field(repr=False)  # which holds the value again
    index: int
    name_hint: str | None = None
    uses: dict[Use, None] = field(default_factory=dict["Use", None], repr=False)

    @property
    def defining_op(self) -> Operation | None:
        """The operation this value is a result of; None for a block argument."""
        return self.owner if isinstance(self.owner, Operation) else None

    @property
    def users(self) -> list[Operation]:
        """The operations that read this value, each once, in order of first use."""
        return list(dict.fromkeys(user for user, _ in self.uses))

    def replace_all_uses_with(self, new: Value) -> None:
        for user, position in list(self.uses):
            user.set_operand(position, new)
        if new.name_hint is None:
            new.name_hint = self.name_hint

    def replace_uses_if(self, new: Value, keep: Callable[[Operation], bool]) -> None:
        """Redirect the uses whose user satisfies `keep`."""
        for user, position in list(self.uses):
            if keep(user):
                user.set_operand(position, new)


@dataclass(eq=False)
class Operation:
    """A node of the graph. Dialects see it through typed `Op` views.

    `properties` are semantic data, printed in `<{}>`; `attributes` are hints and provenance,
    printed in `{}`, that any pass may drop.
    """

    name: str
    operands: list[Value] = field(default_factory=list["Value"])
    results: list[Value] = field(default_factory=list["Value"])
    properties: dict[str, Attribute] = field(default_factory=dict[str, Attribute])
    regions: list[Region] = field(default_factory=list["Region"])
    attributes: dict[str, Attribute] = field(default_factory=dict[str, Attribute])
    location: Location = UNKNOWN
    parent: Block | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for position, value in enumerate(self.operands):
            value.uses[self, position] = None
        for region in self.regions:
            region.parent = self

    @staticmethod
    def create(
        name: str,
        operands: Sequence[Value] = (),
        result_types: Sequence[Type] = (),
        properties: Mapping[str, Attribute] | None = None,
        regions: Sequence[Region] = (),
        attributes: Mapping[str, Attribute] | None = None,
        location: Location = UNKNOWN,
    ) -> Operation:
        """A detached operation with fresh results of `result_types`."""
        op = Operation(
            name, list(operands), [], dict(properties or {}), list(regions), dict(attributes or {}), location
        )
        op.results = [Value(t, op, i) for i, t in enumerate(result_types)]
        return op

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    @property
    def dialect(self) -> str:
        return self.name.partition(".")[0]

    def set_operand(self, position: int, value: Value) -> None:
        del self.operands[position].uses[self, position]
        self.operands[position] = value
        value.uses[self, position] = None

    def set_operands(self, values: Sequence[Value]) -> None:
        for position, value in enumerate(self.operands):
            del value.uses[self, position]
        self.operands = list(values)
        for position, value in enumerate(self.operands):
            value.uses[self, position] = None

    @property
    def parent_op(self) -> Operation | None:
        region = self.parent.parent if self.parent else None
        return region.parent if region else None

    def walk(self) -> Iterator[Operation]:
        """Yield this operation and everything nested in it, outermost first."""
        yield self
        for region in self.regions:
            for block in region.blocks:
                for op in list(block.ops):
                    yield from op.walk()

    def walk_inner_first(self) -> Iterator[Operation]:
        """Yield everything nested in this operation, last first, and then itself."""
        for region in reversed(self.regions):
            for block in reversed(region.blocks):
                for op in reversed(list(block.ops)):
                    yield from op.walk_inner_first()
        yield self

    def drop_operands(self) -> None:
        """Stop using any value, here and inside; the operation is about to go."""
        for op in self.walk():
            op.set_operands([])

    def erase(self) -> None:
        """Remove the operation; none of its results may have uses."""
        assert not any(r.uses for r in self.results), f"{self.name} still has uses"
        self.drop_operands()
        self.detach()

    def detach(self) -> Operation:
        """Take the operation out of its block, keeping its operands."""
        if self.parent is not None:
            self.parent.ops.remove(self)
            self.parent = None
        return self

    def replace_by(self, *values: Value) -> None:
        """Redirect every result to `values` and erase the operation."""
        for old, new in zip(self.results, values, strict=True):
            old.replace_all_uses_with(new)
        self.erase()

    def clone(self, mapping: dict[Value, Value] | None = None) -> Operation:
        """A detached deep copy; values found in `mapping` are replaced, and it is extended."""
        mapping = {} if mapping is None else mapping
        op = Operation.create(
            self.name,
            [mapping.get(v, v) for v in self.operands],
            [r.type for r in self.results],
            self.properties,
            (),
            self.attributes,
            self.location,
        )
        for old, new in zip(self.results, op.results, strict=True):
            mapping[old], new.name_hint = new, old.name_hint
        op.regions = [region.clone(mapping) for region in self.regions]
        for region in op.regions:
            region.parent = op
        return op


@dataclass(eq=False)
class Block:
    """A straight-line list of operations with typed arguments."""

    arguments: list[Value] = field(default_factory=list[Value])
    ops: list[Operation] = field(default_factory=list[Operation])
    parent: Region | None = field(default=None, repr=False)

    @staticmethod
    def with_arguments(types: Sequence[Type], names: Sequence[str | None] = ()) -> Block:
        block = Block()
        for position, type_ in enumerate(types):
            block.add_argument(type_, names[position] if position < len(names) else None)
        return block

    def add_argument(self, type_: Type, name: str | None = None) -> Value:
        self.arguments.append(Value(type_, self, len(self.arguments), name))
        return self.arguments[-1]

    def erase_argument(self, position: int) -> None:
        assert not self.arguments[position].uses, f"block argument {position} still has uses"
        del self.arguments[position]
        for index, argument in enumerate(self.arguments):
            argument.index = index

    def append(self, op: Operation) -> Operation:
        return self.insert(len(self.ops), op)

    def insert(self, position: int, op: Operation) -> Operation:
        assert op.parent is None, f"{op.name} is already in a block"
        op.parent = self
        self.ops.insert(position, op)
        return op

    def insert_before(self, anchor: Operation, op: Operation) -> Operation:
        return self.insert(self.ops.index(anchor), op)

    @property
    def terminator(self) -> Operation:
        return self.ops[-1]


@dataclass(eq=False)
class Region:
    """A list of blocks owned by one operation."""

    blocks: list[Block] = field(default_factory=list[Block])
    parent: Operation | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for block in self.blocks:
            block.parent = self

    def append(self, block: Block) -> Block:
        block.parent = self
        self.blocks.append(block)
        return block

    @property
    def block(self) -> Block:
        """The only block."""
        (block,) = self.blocks
        return block

    @property
    def empty(self) -> bool:
        return not self.blocks

    def walk(self) -> Iterator[Operation]:
        """Yield every operation inside, outermost first."""
        for block in self.blocks:
            for op in list(block.ops):
                yield from op.walk()

    def clone(self, mapping: dict[Value, Value] | None = None) -> Region:
        mapping = {} if mapping is None else mapping
        region = Region()
        for block in self.blocks:
            copy = region.append(Block.with_arguments([a.type for a in block.arguments]))
            for old, new in zip(block.arguments, copy.arguments, strict=True):
                mapping[old], new.name_hint = new, old.name_hint
            for op in block.ops:
                copy.append(op.clone(mapping))
        return region


Use: TypeAlias = tuple[Operation, int]
