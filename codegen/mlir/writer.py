"""Writes one function of MLIR's builtin dialects line by line: values, constants, memory, loops.

Knows the text of `arith`, `vector`, `scf` and `llvm` ops and nothing of tiles. Every value carries
its type, so that an op on scalars and the same op on vectors are written by the same call.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...ir.location import Location

POINTER = "!llvm.ptr"


@dataclass(frozen=True)
class Ssa:
    """A value of the text: its name and its type."""

    name: str
    type: str

    @property
    def element(self) -> str:
        return element_of(self.type)

    @property
    def lanes(self) -> int:
        return lanes_of(self.type)


def element_of(type_: str) -> str:
    """`f32` of both `f32` and `vector<16xf32>`."""
    return type_[type_.rindex("x") + 1 : -1] if type_.startswith("vector<") else type_


def lanes_of(type_: str) -> int:
    """The length of a vector; 0 for a scalar."""
    return int(type_[len("vector<") : type_.rindex("x")]) if type_.startswith("vector<") else 0


def vector(element: str, lanes: int) -> str:
    """The type of `lanes` elements; of one element itself where there are no lanes."""
    return f"vector<{lanes}x{element}>" if lanes else element


FLOAT_BITS = {"f16": ("<e", "<H", 4), "f32": ("<f", "<I", 8), "f64": ("<d", "<Q", 16)}


def literal(value: float | int, element: str) -> str:
    """A number as MLIR reads it; floats by their bits, so that nothing is lost."""
    if element == "i1":
        return "true" if value else "false"
    if not element.startswith(("f", "bf")):
        return str(int(value))
    if element == "bf16":
        bits = struct.unpack("<I", struct.pack("<f", value))[0]
        return f"0x{(bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 & 0xFFFF:04X}"
    to_float, to_bits, digits = FLOAT_BITS[element]
    return f"0x{struct.unpack(to_bits, struct.pack(to_float, value))[0]:0{digits}X}"


@dataclass
class Writer:
    """The text of one function so far. Constants are gathered in `head`, ops in `lines`."""

    lines: list[str] = field(default_factory=list[str])
    head: list[str] = field(default_factory=list[str])
    depth: int = 2
    _count: int = 0
    _constants: dict[tuple[str, str], Ssa] = field(default_factory=dict[tuple[str, str], Ssa])
    _numbers: dict[Ssa, float | int] = field(default_factory=dict[Ssa, "float | int"])
    _location: str = ""
    _hint: str = ""

    # --- lines

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def comment(self, text: str) -> None:
        self.line(f"// {text}")

    def source(self, location: Location) -> None:
        """Say which line of the user's what follows comes from, where that changes."""
        text = f"{location.file}:{location.line}" if location.known else ""
        if text and text != self._location:
            self.comment(text)
            self._location = text

    def fresh(self, hint: str = "") -> str:
        self._count += 1
        return f"%{hint or self._hint or 'x'}_{self._count}"

    @contextmanager
    def named(self, hint: str | None) -> Generator[None]:
        """Values written inside are called `hint`, with a number, where nothing else names them."""
        before, self._hint = self._hint, hint or self._hint
        yield
        self._hint = before

    def op(self, text: str, type_: str, hint: str = "") -> Ssa:
        """`%x = text`, with a name of its own; `text` ends with whatever type its op wants written."""
        result = Ssa(self.fresh(hint), type_)
        self.line(f"{result.name} = {text}")
        return result

    # --- arithmetic

    def constant(self, value: float | int, type_: str) -> Ssa:
        """A number, or a vector filled with it; equal ones are written once, before everything else."""
        element = element_of(type_)
        number = literal(value, element)
        if (number, type_) not in self._constants:
            text = f"dense<{number}>" if lanes_of(type_) else number
            # A float is written by its bits; what number that is stands beside it.
            told = f"  // {value:.9g}" if element in ("f16", "bf16", "f32", "f64") else ""
            self._define_constant((number, type_), f"c{number}" if type_ == "i64" and value >= 0 else "", text, told)
            self._numbers[self._constants[number, type_]] = value
        return self._constants[number, type_]

    def _define_constant(self, key: tuple[str, str], name: str, text: str, told: str = "") -> None:
        constant = Ssa(f"%{name or f'k{len(self._constants)}'}", key[1])
        self._constants[key] = constant
        type_ = "" if constant.type == "i1" else f" : {constant.type}"
        self.head.append(f"    {constant.name} = arith.constant {text}{type_}{told}")

    def lane_numbers(self, numbers: Sequence[float | int], element: str) -> Ssa:
        """A constant vector of different numbers."""
        type_ = vector(element, len(numbers))
        text = f"dense<[{', '.join(literal(number, element) for number in numbers)}]>"
        if (text, type_) not in self._constants:
            self._define_constant((text, type_), "", text)
        return self._constants[text, type_]

    def index(self, value: int) -> Ssa:
        return self.constant(value, "i64")

    def number(self, x: Ssa) -> float | int | None:
        """The number that a constant is, or is filled with; None of what is computed."""
        return self._numbers.get(x)

    def binary(self, op: str, x: Ssa, y: Ssa) -> Ssa:
        """An op of two operands of one type, such as `arith.addf`."""
        return self.op(f"{op} {x.name}, {y.name} : {x.type}", x.type)

    def unary(self, op: str, x: Ssa) -> Ssa:
        return self.op(f"{op} {x.name} : {x.type}", x.type)

    def add(self, x: Ssa, y: Ssa) -> Ssa:
        return self.binary("arith.addf" if x.element[0] in "fb" else "arith.addi", x, y)

    def sub(self, x: Ssa, y: Ssa) -> Ssa:
        return self.binary("arith.subf" if x.element[0] in "fb" else "arith.subi", x, y)

    def mul(self, x: Ssa, y: Ssa) -> Ssa:
        return self.binary("arith.mulf" if x.element[0] in "fb" else "arith.muli", x, y)

    def div(self, x: Ssa, y: Ssa) -> Ssa:
        """A quotient; of integers that are not negative."""
        return self.binary("arith.divf" if x.element[0] in "fb" else "arith.divui", x, y)

    def fma(self, x: Ssa, y: Ssa, z: Ssa) -> Ssa:
        """x * y + z, rounded once"""
        return self.op(f"math.fma {x.name}, {y.name}, {z.name} : {x.type}", x.type)

    def compare(self, predicate: str, x: Ssa, y: Ssa) -> Ssa:
        """`olt`, `uno`, … of floats, `slt`, `eq`, … of integers."""
        op = "arith.cmpf" if x.element[0] in "fb" else "arith.cmpi"
        return self.op(f"{op} {predicate}, {x.name}, {y.name} : {x.type}", vector("i1", x.lanes))

    def select(self, condition: Ssa, x: Ssa, y: Ssa) -> Ssa:
        """One condition for all lanes, or one for each."""
        kind = x.type if not condition.lanes else f"{condition.type}, {x.type}"
        return self.op(f"arith.select {condition.name}, {x.name}, {y.name} : {kind}", x.type)

    def least(self, x: Ssa, y: Ssa) -> Ssa:
        return self.binary("arith.minsi", x, y)

    def greatest(self, x: Ssa, y: Ssa) -> Ssa:
        """The larger of two integers; of two floats, `y` where `x` is nan: one instruction on x86."""
        if x.element[0] not in "fb":
            return self.binary("arith.maxsi", x, y)
        return self.select(self.compare("ogt", x, y), x, y)

    def cast(self, op: str, x: Ssa, element: str) -> Ssa:
        """`arith.extf`, `arith.sitofp`, … to another element type."""
        type_ = vector(element, x.lanes)
        return x if type_ == x.type else self.op(f"{op} {x.name} : {x.type} to {type_}", type_)

    def bitcast(self, x: Ssa, element: str) -> Ssa:
        return self.cast("arith.bitcast", x, element)

    def view_as(self, x: Ssa, type_: str) -> Ssa:
        """The same bits as a vector of other elements, and so of another length."""
        return x if x.type == type_ else self.op(f"llvm.bitcast {x.name} : {x.type} to {type_}", type_)

    def broadcast(self, x: Ssa, lanes: int) -> Ssa:
        """A scalar in every lane; a vector as it is."""
        if x.lanes or not lanes:
            return x
        type_ = vector(x.element, lanes)
        if x in self._numbers:
            return self.constant(self._numbers[x], type_)
        return self.op(f"vector.broadcast {x.name} : {x.type} to {type_}", type_)

    def shuffle(self, x: Ssa, y: Ssa, lanes: Sequence[int]) -> Ssa:
        """The given lanes of `x` followed by `y`."""
        text = f"vector.shuffle {x.name}, {y.name} [{', '.join(map(str, lanes))}] : {x.type}, {y.type}"
        return self.op(text, vector(x.element, len(lanes)))

    def extract(self, x: Ssa, lane: int) -> Ssa:
        return self.op(f"vector.extract {x.name}[{lane}] : {x.element} from {x.type}", x.element)

    def intrinsic(self, name: str, operands: Sequence[Ssa], type_: str) -> Ssa:
        """One of LLVM's, most of which are an instruction."""
        types = ", ".join(x.type for x in operands)
        text = f'llvm.call_intrinsic "{name}"({", ".join(x.name for x in operands)}) : ({types}) -> {type_}'
        return self.op(text, type_)

    # --- memory

    def at(self, pointer: Ssa, index: Ssa | int, element: str) -> Ssa:
        """The address `index` elements further on."""
        if isinstance(index, int):
            if index == 0:
                return pointer
            return self.op(f"llvm.getelementptr {pointer.name}[{index}] : ({POINTER}) -> {POINTER}, {element}", POINTER)
        text = f"llvm.getelementptr {pointer.name}[{index.name}] : ({POINTER}, i64) -> {POINTER}, {element}"
        return self.op(text, POINTER)

    def load(self, pointer: Ssa, type_: str, alignment: int = 0, hint: str = "") -> Ssa:
        """Read a scalar or neighbouring elements; aligned to one element unless told otherwise."""
        alignment = alignment or bytes_of(element_of(type_))
        return self.op(
            f"llvm.load {pointer.name} {{alignment = {alignment} : i64}} : {POINTER} -> {type_}", type_, hint
        )

    def store(self, value: Ssa, pointer: Ssa, alignment: int = 0) -> None:
        alignment = alignment or bytes_of(value.element)
        self.line(
            f"llvm.store {value.name}, {pointer.name} {{alignment = {alignment} : i64}} : {value.type}, {POINTER}"
        )

    # --- control

    def loop(
        self, lower: Ssa, upper: Ssa, step: Ssa, carried: Sequence[Ssa], body: Callable[[Ssa, list[Ssa]], Sequence[Ssa]]
    ) -> list[Ssa]:
        """`scf.for`: `body(position, carried)` returns what goes on to the next step."""
        position = Ssa(self.fresh("i"), "i64")
        inside = [Ssa(self.fresh(), x.type) for x in carried]
        heading = f"scf.for {position.name} = {lower.name} to {upper.name} step {step.name}"
        result = self.fresh() if carried else ""
        if carried:
            pairs = ", ".join(f"{a.name} = {b.name}" for a, b in zip(inside, carried, strict=True))
            types = ", ".join(x.type for x in carried)
            self.line(f"{result}:{len(carried)} = {heading} iter_args({pairs}) -> ({types}) : i64 {{")
        else:
            self.line(f"{heading} : i64 {{")
        with self.indented():
            after = body(position, inside)
            if carried:
                types = ", ".join(x.type for x in carried)
                self.line(f"scf.yield {', '.join(x.name for x in after)} : {types}")
        self.line("}")
        return [Ssa(f"{result}#{i}", x.type) for i, x in enumerate(carried)]

    def branch(
        self,
        condition: Ssa,
        types: Sequence[str],
        then: Callable[[], Sequence[Ssa]],
        other: Callable[[], Sequence[Ssa]],
    ) -> list[Ssa]:
        """`scf.if` with results of `types`."""
        result = self.fresh()
        heading = f"scf.if {condition.name} -> ({', '.join(types)}) {{" if types else f"scf.if {condition.name} {{"
        self.line(f"{result}:{len(types)} = {heading}" if types else heading)
        self._arm(then)
        self.line("} else {")
        self._arm(other)
        self.line("}")
        return [Ssa(f"{result}#{i}", type_) for i, type_ in enumerate(types)]

    def _arm(self, body: Callable[[], Sequence[Ssa]]) -> None:
        with self.indented():
            results = body()
            if results:
                self.line(f"scf.yield {', '.join(x.name for x in results)} : {', '.join(x.type for x in results)}")

    @contextmanager
    def when(self, condition: Ssa) -> Generator[None]:
        """What is written inside happens only where `condition` holds."""
        self.line(f"scf.if {condition.name} {{")
        with self.indented():
            yield
        self.line("}")

    @contextmanager
    def indented(self) -> Generator[None]:
        self.depth += 1
        yield
        self.depth -= 1


def bytes_of(element: str) -> int:
    """The size of one element in memory."""
    if element == POINTER:
        return 8
    return max(1, int(element.lstrip("bfiu")) // 8)
