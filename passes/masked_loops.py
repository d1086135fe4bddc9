"""The loops of a kernel whose mask is no pair of bounds: tiles that it leaves empty are skipped, full ones unmasked.

What a tile of queries and keys is (empty, full or cut) is found with scalar arithmetic on its first
and last positions, from what `mask_plan` knows of the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..ir.attributes import TensorType
from ..ir.builder import Builder
from ..ir.core import Value
from ..ir.dialects.arith import AddIOp, DivSIOp
from ..ir.dialects.scf import ForOp
from ..ir.dialects.tile import GatherOp
from .key_pieces import aligned
from .mask_plan import MaskPlan
from .position_forms import Atom, B, H, N
from .softmax_loop import Carried, Masking, SoftmaxLoop, each_tile, step_where
from .tile_math import ScalarMath
from .tile_tables import TileTables

Span = tuple[Value, Value]


@dataclass(frozen=True)
class MaskedLoops:
    """What one program needs to loop over the keys of its rows.

    `positions` are the first and last batch, head and row of the tile. The program works on the
    keys [key_begin, key_end) of `key_length`; key_begin is a multiple of block_n, None for 0.
    `captures` are the kernel's arguments by those of the mask region; `tables` say what `extremes`
    holds, None where there is nothing to hold, and `row_tile` is the number of the tile of rows.
    `masking` checks single scores.
    """

    loop: SoftmaxLoop
    plan: MaskPlan
    masking: Masking
    positions: Mapping[int, tuple[Value, Value]]
    key_begin: Value | None
    key_end: Value
    key_length: Value
    captures: Mapping[Value, Value]
    tables: TileTables | None
    extremes: Value | None
    row_tile: Value

    def emit(self, builder: Builder, state: Carried) -> Carried:
        """One loop over all tiles of `block_n` keys that the mask's pieces hold."""
        block_n = self.loop.schedule.block_n
        first, *others = self._spans(builder)
        if not others:
            bounds, starts = (*first, block_n), None
        else:
            total, starts = self._joined(builder, [first, *others])
            bounds = builder.index(0), total, block_n
        visit = self._visit_native if self.loop.schedule.lanes else self._visit

        def body(inner: Builder, visited: Value, before: Carried) -> Carried:
            visited.name_hint = "start_n" if starts is None else "visited"
            start_n = visited if starts is None else self._start(inner, visited, starts)
            return visit(inner, start_n, before)

        after = each_tile(builder, bounds, state, "key tiles of which the mask may keep some", body)
        hoist_scalars(after.acc)
        return after

    # --- which tiles

    def _spans(self, builder: Builder) -> list[Span]:
        """The ranges of keys to visit, in multiples of block_n from the first of this program."""
        begin = builder.index(0) if self.key_begin is None else self.key_begin
        if not self.plan.bounded:
            return [(begin, self.key_end)]
        math, block_n = self._math(builder), self.loop.schedule.block_n
        spans: list[Span] = []
        for piece in aligned(math, self.plan.pieces(math, self.positions, self.key_length), block_n):
            if self.key_begin is None:
                spans.append((math.value(piece.begin), math.value(piece.end)))
                continue
            # The last part ends with the keys, inside a tile.
            tiles = math.floor_divide(math.add(self.key_end, block_n - 1), block_n)
            end = math.least(piece.end, math.multiply(tiles, block_n))
            first = math.greatest(piece.begin, begin)
            spans.append((math.value(first), math.value(math.greatest(first, end))))
        return spans

    def _joined(self, builder: Builder, spans: Sequence[Span]) -> tuple[Value, list[tuple[Value, Value]]]:
        """The keys of all spans, and for each but the last where it ends among them; with each, how far it is moved."""
        math, visited = self._math(builder), builder.index(0)
        ends: list[tuple[Value, Value]] = []
        for begin, end in spans:
            moved = math.value(math.subtract(begin, visited))
            visited = math.value(math.add(visited, math.subtract(end, begin)))
            ends.append((visited, moved))
        visited.name_hint = "visited_end"
        return visited, ends

    def _start(self, builder: Builder, visited: Value, ends: Sequence[tuple[Value, Value]]) -> Value:
        """The first key of the tile after so many visited keys."""
        math = ScalarMath(builder)
        *before, (_, moved) = ends
        for end, distance in reversed(before):
            moved = math.value(math.select(math.negate(math.at_most(end, visited)), distance, moved))
        return builder.binary(AddIOp, visited, moved, "start_n")

    # --- one tile

    def _visit(self, builder: Builder, start_n: Value, before: Carried) -> Carried:
        """A step unless the tile is empty, in which the mask is read unless it is full."""
        live, full = self._found(builder, start_n, self.loop.schedule.block_n)
        cut = self._math(builder).negate(full)
        if isinstance(cut, Value):
            cut.name_hint = "cut"
        masking = replace(self.masking, cut=cut) if isinstance(cut, Value) else self.masking
        if not isinstance(live, Value):
            return self.loop.step(builder, start_n, before, masking)
        return step_where(builder, live, before, lambda inside: self.loop.step(inside, start_n, before, masking))

    def _visit_native(self, builder: Builder, start_n: Value, before: Carried) -> Carried:
        """A step without mask for a full tile; else short tiles, each unless it is empty."""
        schedule, math = self.loop.schedule, self._math(builder)
        live, full = self._found(builder, start_n, schedule.block_n)
        after = before
        if isinstance(full, Value):
            after = step_where(builder, full, before, lambda inside: self.loop.step(inside, start_n, before, None))
        cut = math.both(live, math.negate(full))
        end = math.least(math.add(start_n, schedule.block_n), self.key_length)
        cut_end = math.value(math.select(cut, end, start_n))
        cut_end.name_hint = "cut_end"

        def visit(inner: Builder, start: Value, before: Carried) -> Carried:
            some, _ = self._found(inner, start, schedule.edge)
            if not isinstance(some, Value):
                return self.loop.unless_empty(inner, start, before, self.masking)
            return step_where(
                inner, some, before, lambda inside: self.loop.unless_empty(inside, start, before, self.masking)
            )  # fmt: skip

        after = each_tile(builder, (start_n, cut_end, schedule.edge), after, "key tiles that the mask cuts", visit)
        hoist_scalars(after.acc)
        return after

    def _found(self, builder: Builder, start_n: Value, keys: int) -> tuple[Value | bool, Value | bool]:
        """Whether the mask may keep some of the keys from `start_n` on, and whether all exist and are kept."""
        math = self._math(builder, start_n, keys)
        end = math.add(start_n, keys)
        last = math.value(math.add(math.least(end, self.key_length), -1))
        truth = self.plan.truth(math, {**self.positions, N: (start_n, last)})
        live = truth.may if self.plan.kind == "tiles" or self.loop.schedule.lanes else True
        full = math.both(truth.must, math.at_most(end, self.key_length))
        for value, name in ((live, "live"), (full, "full")):
            if isinstance(value, Value):
                value.name_hint = value.name_hint or name
        return live, full

    def _math(self, builder: Builder, start_n: Value | None = None, keys: int = 0) -> ScalarMath:
        """Arithmetic on the rows of the program, and on the tile of so many `keys` from `start_n` on."""

        def element(atom: Atom, indices: Sequence[Value]) -> Value | None:
            assert atom.load is not None
            source = self.captures[atom.load.source]
            assert isinstance(source.type, TensorType)
            return builder.create(GatherOp, [source, *indices], [source.type.element]).out

        def table(atom: Atom, position: int, first: Value, last: Value) -> tuple[Value, Value] | None:
            if self.tables is None or self.extremes is None or (position == N and start_n is None):
                return None
            size, entry = self.loop.schedule.block_m, self.row_tile
            if position == N and start_n is not None:
                size, entry = keys, builder.binary(DivSIOp, start_n, builder.index(keys))
            place = (self.positions[B][0], self.positions[H][0], entry)
            return self.tables.read(builder, self.extremes, (atom, position, size), place)

        return ScalarMath(builder, element, table)


def hoist_scalars(carried: Value) -> None:
    """Compute numbers that no step of the loop before changes ahead of it."""
    loop = ForOp.producing(carried)
    assert loop is not None and loop.operation.parent is not None
    block = loop.body.block
    inside = set(block.arguments)
    for op in list(block.ops):
        scalar = op.dialect == "arith" or op.name == GatherOp.op_name
        if not scalar or any(isinstance(v.type, TensorType) for v in op.results) or inside & set(op.operands):
            inside.update(op.results)
            continue
        loop.operation.parent.insert_before(loop.operation, op.detach())
