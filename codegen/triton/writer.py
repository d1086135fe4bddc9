"""Writes the body of one kernel line by line: names, inlining, parameters, source comments.

An expression with one reader and no name of its own is put into its reader; everything else
becomes a variable. A variable is reused for a new value where the old one is no longer needed.
"""

from __future__ import annotations

import keyword
import linecache
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ...ir.attributes import Symbol, TensorType, element_type, i1, is_float
from ...ir.core import Block, Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.tile import KernelOp
from ...ir.location import UNKNOWN, Location
from .expression import Expression, call, name, signature_type, triton_type
from .layout import wrapped

INLINE_COLUMNS = 48
RESERVED = frozenset({"tl", "triton", "range", "float", "launch", "grid", "max", "min", "num_warps", "num_stages"})


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: its name, its type (`*fp16`, `i32`), and its value as the launcher writes it.

    `argument` is the kernel argument it belongs to, by number; `axis` the axis of a stride or size;
    `block` the shape of the tiles that a tensor descriptor copies.
    """

    name: str
    type: str
    value: str
    argument: int
    axis: int | None = None
    block: tuple[int, ...] = ()

    @property
    def kind(self) -> Literal["pointer", "descriptor", "stride", "size"]:
        if self.type.startswith("*"):
            return "pointer"
        if self.block:
            return "descriptor"
        return "stride" if self.name.startswith("stride_") else "size"


Emitter: TypeAlias = "Callable[[Operation, KernelWriter], None]"


@dataclass
class KernelWriter:
    """The state of writing one kernel."""

    kernel: KernelOp
    emitters: Mapping[str, Emitter]
    arguments: tuple[str, ...]
    environment: dict[Value, Expression] = field(default_factory=dict[Value, Expression])
    taken: set[str] = field(default_factory=set[str])
    readers: dict[str, list[Value]] = field(default_factory=dict[str, "list[Value]"])
    prologue: list[str] = field(default_factory=list[str])
    lines: list[str] = field(default_factory=list[str])
    depth: int = 1
    parameters: dict[str, Parameter] = field(default_factory=dict[str, Parameter])
    library: dict[str, None] = field(default_factory=dict[str, None])
    targets: dict[Value, str] = field(default_factory=dict[Value, str])
    offsets: dict[tuple[Value, tuple[int, ...]], Expression] = field(
        default_factory=dict[tuple[Value, tuple[int, ...]], Expression]
    )
    descriptors: dict[tuple[Value, tuple[int, ...]], Expression] = field(
        default_factory=dict[tuple[Value, tuple[int, ...]], Expression]
    )
    vectors: dict[str, Expression] = field(default_factory=dict[str, Expression])
    bytes: dict[tuple[object, ...], Expression] = field(default_factory=dict[tuple[object, ...], Expression])
    kept: set[str] = field(default_factory=set[str])
    carried: set[str] = field(default_factory=set[str])
    location: Location = UNKNOWN

    def __post_init__(self) -> None:
        self.taken |= {*RESERVED, *keyword.kwlist, *(f"{a}_ptr" for a in self.arguments)}
        self.taken |= {d.text for t in self.tensor_types for d in t.shape if isinstance(d, Symbol)}
        self.location = self.kernel.operation.location

    @property
    def tensor_types(self) -> list[TensorType]:
        return [t for t in self.kernel.function_type.inputs if isinstance(t, TensorType)]

    # --- values

    def operand(self, value: Value) -> Expression:
        """The text of a value, perhaps not yet spread out to the value's shape."""
        return self.environment[value]

    def full(self, value: Value) -> Expression:
        """The text of a value in its own shape."""
        x, type_ = self.environment[value], value.type
        shape = type_.shape if isinstance(type_, TensorType) else ()
        if not isinstance(type_, TensorType) or x.shape == shape:
            return x
        sizes = f"[{', '.join(map(str, shape))}]"
        if not x.shape:
            filled = call("tl.full", sizes, x, triton_type(element_type(type_)))
        else:
            filled = call("tl.broadcast_to", x, sizes)
        return Expression(filled.text, shape=tuple(d for d in shape if isinstance(d, int)), names=x.names)

    def alias(self, value: Value, expression: Expression) -> None:
        """Let `value` stand for `expression` wherever it is read."""
        self.environment[value] = expression
        for variable in expression.names:
            self.readers.setdefault(variable, []).append(value)

    def define(self, op: Operation, expression: Expression) -> None:
        """Give the result of a pure operation its text, inline or as a variable."""
        value = op.result
        if not value.uses:
            return
        if self._is_inlined(op, expression):
            self.alias(value, expression)
        else:
            self.assign(op, expression)

    def alias_or_define(self, op: Operation, expression: Expression) -> None:
        """As `define`, but a result that is just another name for a variable needs no line."""
        if expression.is_name or expression.literal:
            self.alias(op.result, expression)
        else:
            self.define(op, expression)

    def _is_inlined(self, op: Operation, expression: Expression) -> bool:
        value = op.result
        users = value.users
        return (
            value.name_hint is None
            and value not in self.targets
            and len(value.uses) == 1
            and users[0].parent is op.parent
            and len(expression.text) <= INLINE_COLUMNS
        )

    def assign(self, op: Operation, expression: Expression, default: str = "") -> None:
        """Write `variable = expression` for the result of `op`."""
        variable = self.variable_for(op, expression.shape, default)
        self.line(f"{variable} = {expression.text}", op)
        self.alias(op.result, name(variable, expression.shape))

    def variable(self, hint: str, expression: Expression, op: Operation) -> Expression:
        """Write `variable = expression` for what is no result of its own."""
        variable = self.fresh(hint)
        self.line(f"{variable} = {expression.text}", op)
        return name(variable, expression.shape)

    # --- names

    def fresh(self, hint: str | None, default: str = "x") -> str:
        """An identifier nobody uses yet."""
        base = re.sub(r"\W", "_", hint or default)
        base = base if base.isidentifier() else f"_{base}"
        candidate, suffix = base, 1
        while candidate in self.taken:
            suffix += 1
            candidate = f"{base}_{suffix}"
        self.taken.add(candidate)
        return candidate

    def keep(self, variable: str) -> str:
        """Take a name for the whole kernel."""
        self.kept.add(variable)
        self.taken.add(variable)
        return variable

    def variable_for(self, op: Operation, shape: tuple[int, ...], default: str = "") -> str:
        """A name for the result of `op`: that of a value which ends here, if it is the same word.

        A result without a word of its own takes that of an operand which ends here.
        """
        value = op.result
        similar = (
            [] if default or value.name_hint else [self.operand(v).text for v in op.operands if v.type == value.type]
        )
        for wanted in (self.targets.get(value), value.name_hint, *similar):
            if wanted is not None and self._can_reuse(wanted, op, shape):
                self.readers[wanted] = []
                return wanted
        return self.fresh(value.name_hint, default or DEFAULT_NAMES.get(op.name, "x"))

    def _can_reuse(self, variable: str, op: Operation, shape: tuple[int, ...]) -> bool:
        """Whether nothing after `op` reads what `variable` holds, and it is a variable of this block."""
        readers = self.readers.get(variable, [])
        holder = next((r for r in readers if self.environment[r].text == variable), None)
        if holder is None or variable in self.kept:
            return False
        same = element_type(holder.type) == element_type(op.result.type) and self.environment[holder].shape == shape
        if variable in self.carried and not same:
            return False
        return all(_block_of(r) is op.parent and ends_at(r, op) for r in readers)

    def hold(self, variable: str, value: Value, shape: tuple[int, ...]) -> None:
        """From here on `variable` holds `value` and nothing else."""
        self.readers[variable] = []
        self.alias(value, name(variable, shape))

    @contextmanager
    def scope(self) -> Generator[None]:
        """A loop: names that appear inside it are free again afterwards."""
        before = set(self.taken)
        yield
        for variable in self.taken - before - self.kept:
            self.readers.pop(variable, None)
        self.taken = before | self.kept

    @contextmanager
    def indented(self) -> Generator[None]:
        self.depth += 1
        yield
        self.depth -= 1

    # --- text

    def line(self, text: str, op: Operation | None = None) -> None:
        """Add a line, under a comment with the user's source line where that changes."""
        indent = "    " * self.depth
        if op is not None and op.location.known and op.location != self.location:
            self.location = op.location
            self.lines.append(f"{indent}# {source_comment(op.location)}")
        self.lines += wrapped(indent + text)

    def body(self, ops: Sequence[Operation]) -> None:
        """Write operations one after the other."""
        for op in ops:
            if op.name not in self.emitters:
                op_error(op, "has no form in Triton")
            self.emitters[op.name](op, self)

    # --- what the kernel takes

    def stride(self, argument: int, axis: int) -> Expression:
        """The parameter that holds the distance, in elements, between neighbours along `axis`."""
        tensor = self.arguments[argument]
        text = f"stride_{tensor}_{axis_letter(self.tensor_types[argument], axis)}"
        self.parameters.setdefault(text, Parameter(text, "i32", f"{tensor}.stride({axis})", argument, axis))
        return name(self.keep(text))

    def size(self, argument: int, axis: int) -> Expression:
        """The size of an axis: a number, or the parameter named after its symbol."""
        size = self.tensor_types[argument].shape[axis]
        if isinstance(size, int):
            return Expression(str(size), literal=True)
        parameter = size_parameter(self.arguments, self.tensor_types, argument, axis)
        self.parameters.setdefault(parameter.name, parameter)
        return name(self.keep(parameter.name))

    def library_function(self, function: str) -> str:
        """Use a function of `library.py`; it is written above the kernel."""
        self.library[function] = None
        return self.keep(function)

    def positions(self, extent: int) -> Expression:
        """0, 1, ..., extent - 1, defined once at the top."""
        text = f"range_{extent}"
        if text not in self.kept:
            self.prologue.append(f"    {text} = tl.arange(0, {extent})")
        return name(self.keep(text), (extent,))

    def row_vector(self, x: Expression, hint: str) -> Expression:
        """What is made of positions, defined once at the top."""
        if x.text not in self.vectors:
            variable = self.keep(self.fresh(hint))
            self.prologue += wrapped(f"    {variable} = {x.text}")
            self.vectors[x.text] = name(variable, x.shape)
        return self.vectors[x.text]


DEFAULT_NAMES: Mapping[str, str] = {
    "tile.load": "tile",
    "tile.gather": "element",
    "tile.dot": "product",
    "tile.reduce": "reduced",
    "tile.program_id": "pid",
    "arith.cmpi": "condition",
    "arith.cmpf": "condition",
    "arith.andi": "condition",
}


def argument_names(block: Block) -> tuple[str, ...]:
    """Python names for a kernel's arguments, from their hints."""
    names: list[str] = []
    for position, value in enumerate(block.arguments):
        base = re.sub(r"\W", "_", value.name_hint or f"argument{position}")
        base = base if base.isidentifier() and not keyword.iskeyword(base) else f"_{base}"
        while base in names or base in RESERVED:
            base += "_"
        names.append(base)
    return tuple(names)


def axis_letter(type_: TensorType, axis: int) -> str:
    """What an axis is called in the name of a stride: b, h, m or n, d where they are known."""
    named = type_.rank >= 3 and type_.shape[0] == Symbol("B")
    size = type_.shape[axis]
    if not named:
        return str(axis)
    if axis == 2 and isinstance(size, Symbol) and len(size.text) == 1:
        return size.text.lower()
    return {0: "b", 1: "h", 3: "d"}.get(axis, str(axis))


def size_parameter(arguments: tuple[str, ...], types: list[TensorType], argument: int, axis: int) -> Parameter:
    """The parameter for a size that is known only at run time; equal symbols share the first one."""
    size = types[argument].shape[axis]
    if isinstance(size, Symbol) and size.text.isidentifier() and not keyword.iskeyword(size.text):
        argument, axis = next((a, t.shape.index(size)) for a, t in enumerate(types) if size in t.shape)
        return Parameter(size.text, "i32", f"{arguments[argument]}.shape[{axis}]", argument, axis)
    text = f"size_{arguments[argument]}_{axis}"
    return Parameter(text, "i32", f"{arguments[argument]}.shape[{axis}]", argument, axis)


def pointer_type(type_: TensorType) -> str:
    return f"*{signature_type(type_.element)}"


def ends_at(value: Value, op: Operation) -> bool:
    """Whether no operation after `op`, in its block, reads `value`."""
    block = op.parent
    assert block is not None
    last = block.ops.index(op)
    return all(_position_in(user, block) <= last for user in value.users)


def _position_in(op: Operation, block: Block) -> int:
    """The position in `block` of `op`, or of what it is nested in; past the end if it is elsewhere."""
    current: Operation | None = op
    while current is not None and current.parent is not block:
        current = current.parent_op
    return block.ops.index(current) if current is not None else len(block.ops)


def _block_of(value: Value) -> Block | None:
    return value.owner.parent if isinstance(value.owner, Operation) else value.owner


def source_comment(location: Location) -> str:
    """`file.py:12: the line of the user's program`, as far as it can be read."""
    place = f"{Path(location.file).name}:{location.line}"
    text = linecache.getline(location.file, location.line).strip()
    return f"{place}: {text}" if text else place


def zero_of(value: Value) -> str:
    """What lies outside a tensor reads as this."""
    element = element_type(value.type)
    return "0.0" if is_float(element) else "False" if element == i1 else "0"
