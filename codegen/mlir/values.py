"""What the values of a tile program are inside a CPU kernel: scalars, rows of lanes, tiles in scratch memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...ir.attributes import TensorType, Type
from ...ir.storage import Storage
from .writer import Ssa, Writer

Spread: TypeAlias = "Ssa | list[Ssa]"
"""One scalar for all rows of a tile, or one vector (or scalar) for each group of rows."""


@dataclass(frozen=True)
class Codes:
    """Packed integers, in rows of bytes: their format, and the channel that a tile begins with."""

    storage: Storage
    first: int = 0


@dataclass(frozen=True)
class View:
    """A tensor in memory: where it starts, and a size and a stride (in elements) for each axis.

    With `group`, the first axis counts (query, head) pairs of one group of heads: row r lies
    r % group heads and r // group queries on, and `strides[0]` is the query's. Of `codes` the last
    axis counts bytes.
    """

    pointer: Ssa
    element: str
    sizes: tuple[Ssa, ...]
    strides: tuple[Ssa, ...]
    group: int = 1
    head_stride: Ssa | None = None
    codes: Codes | None = None

    def row(self, w: Writer, number: Ssa) -> Ssa:
        """How many elements into memory row `number` begins."""
        if self.head_stride is None:
            return w.mul(number, self.strides[0])
        group = w.index(self.group)
        query, head = w.div(number, group), w.binary("arith.remui", number, group)
        return w.add(w.mul(query, self.strides[0]), w.mul(head, self.head_stride))


@dataclass(frozen=True)
class Loaded:
    """A tile that is still in memory: where it starts, which axes may run past the end of the tensor."""

    view: View
    offsets: tuple[Ssa, ...]
    shape: tuple[int, ...]
    boundary: tuple[int, ...]
    transposed: bool = False

    def valid_rows(self, w: Writer) -> Ssa:
        """How many of its rows exist."""
        rows = w.index(self.shape[0])
        if 0 not in self.boundary:
            return rows
        rest = w.sub(self.view.sizes[0], self.offsets[0])
        return w.greatest(w.least(rest, rows), w.index(0))


@dataclass(frozen=True)
class Buffer:
    """An f32 tile in scratch memory, `pitch` elements from one line to the next.

    Lines are the tile's rows if vectors run `along` the columns, its columns otherwise.
    """

    pointer: Ssa
    pitch: int
    along: bool = False


@dataclass(frozen=True)
class Rows:
    """A tile along the rows: the lanes of a few vectors, or one number for all rows."""

    spread: Spread


Held: TypeAlias = Ssa | View | Loaded | Buffer | Rows


def shape_of(type_: Type) -> tuple[int, ...]:
    """The constant sizes of a tile; none for a scalar."""
    if not isinstance(type_, TensorType):
        return ()
    return tuple(d for d in type_.shape if isinstance(d, int))


def together(
    w: Writer, operands: Sequence[Spread], indices: Sequence[bool], emit: Callable[[Sequence[Ssa]], Ssa]
) -> Spread:
    """Apply `emit` to each group of rows, once if no operand varies; `indices` says which are positions."""
    count = next((len(x) for x in operands if isinstance(x, list)), None)
    lanes = max(part.lanes for x in operands for part in (x if isinstance(x, list) else [x]))
    fitted = [
        x if isinstance(x, list) else _fit(w, x, lanes, is_index) for x, is_index in zip(operands, indices, strict=True)
    ]
    if count is None:
        return emit([x for x in fitted if isinstance(x, Ssa)])
    return [
        emit([_fit(w, x[group], lanes, i) if isinstance(x, list) else x for x, i in zip(fitted, indices, strict=True)])
        for group in range(count)
    ]


def _fit(w: Writer, x: Ssa, lanes: int, is_index: bool) -> Ssa:
    """A scalar in every lane, where others have lanes; a position becomes the i32 that lanes hold."""
    if x.lanes or not lanes:
        return x
    return w.broadcast(w.cast("arith.trunci", x, "i32") if is_index and x.type == "i64" else x, lanes)
