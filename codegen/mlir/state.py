"""The state of writing one kernel: what is known of every value, and the scratch memory handed out so far."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...ir.core import Operation, Value
from .values import Buffer, Held, Loaded, Rows, View
from .writer import Ssa, Writer

LINE_WORDS = 16
"""f32 numbers in a cache line, to which scratch tiles are aligned."""

FLOAT_DEGREE, HALF_DEGREE = 5, 4
"""Degrees of the polynomial behind powers of two: errors of 1.8e-7, and of 3e-6 where inputs have 11 bits or fewer."""


@dataclass
class Scratch:
    """Offsets into one thread's scratch memory, in f32 numbers; what a loop takes is free again after it."""

    top: int = 0
    peak: int = 0

    def take(self, words: int) -> int:
        offset = self.top
        self.top += -(-words // LINE_WORDS) * LINE_WORDS
        self.peak = max(self.peak, self.top)
        return offset

    @contextmanager
    def scope(self) -> Generator[None]:
        before = self.top
        yield
        self.top = before


@dataclass
class State:
    """`lanes` is the length of an f32 vector, `rows` the rows of every tile, `columns` the register block of dots.

    With `unit_strides` the last axis of every tensor read or written in tiles has stride 1.
    `factors` are the operations that only compute second factors of products (see `factors.py`).
    `exponential_degree` is that of the polynomial behind a softmax's powers of two. With `byte_dots` the CPU
    multiplies bytes and adds them up in 32 bits (VNNI).
    """

    w: Writer
    lanes: int
    rows: int
    columns: int
    unit_strides: bool
    base: Ssa
    exponential_degree: int = FLOAT_DEGREE
    byte_dots: bool = False
    scratch: Scratch = field(default_factory=Scratch)
    known: dict[Value, Held] = field(default_factory=dict[Value, Held])
    needs: dict[Value, set[int]] = field(default_factory=dict[Value, "set[int]"])
    factors: set[Operation] = field(default_factory=set[Operation])

    @property
    def wide(self) -> bool:
        """Whether rows fill whole vectors; else one vector holds several columns of all rows."""
        return self.rows >= self.lanes

    @property
    def groups(self) -> int:
        """The vectors that hold one column of a tile."""
        return max(1, self.rows // self.lanes)

    def buffer(self, lines: int, pitch: int, along: bool = False) -> Buffer:
        """Scratch memory for `lines` lines of `pitch` numbers."""
        return Buffer(self.w.at(self.base, self.scratch.take(lines * pitch), "f32"), pitch, along)

    def scalar(self, value: Value) -> Ssa:
        held = self.known[value]
        assert isinstance(held, Ssa), f"{value.type} is no scalar"
        return held

    def view(self, value: Value) -> View:
        held = self.known[value]
        assert isinstance(held, View), f"{value.type} is no tensor in memory"
        return held

    def spread(self, value: Value) -> Rows:
        held = self.known[value]
        assert isinstance(held, Rows), f"{value.type} does not lie along the rows"
        return held

    def loaded(self, value: Value) -> Loaded | None:
        held = self.known.get(value)
        return held if isinstance(held, Loaded) else None

    def stored(self, value: Value) -> Buffer | None:
        held = self.known.get(value)
        return held if isinstance(held, Buffer) else None
