"""Which tiles of keys one tile of queries must visit, found with scalar arithmetic on first and last positions.

What a tile is (empty, full or cut) follows from what `mask_plan` knows of the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..cost_model.schedule import Schedule
from ..ir.attributes import TensorType
from ..ir.builder import Builder
from ..ir.core import Block, Value
from ..ir.dialects.arith import AddIOp, DivSIOp
from ..ir.dialects.scf import ForOp
from ..ir.dialects.tile import GatherOp
from .key_pieces import aligned
from .mask_plan import MaskPlan
from .position_forms import Atom, B, H, M, N
from .row_tiles import Place, RowTiles
from .tile_builder import IndexMath
from .tile_math import ScalarMath
from .tile_tables import TileTables

Span = tuple[Value, Value]
Extremes = tuple[Value, Value]


@dataclass(frozen=True)
class TileWalk:
    """The tiles of keys of one tile of rows.

    `positions` are the first and last batch, head and row of the tile of rows. The program works on the
    keys [key_begin, key_end) of `key_length`; key_begin is a multiple of block_n, None for 0.
    `captures` are the kernel's arguments by those of the mask region; `tables` say what `extremes`
    holds, None where there is nothing to hold, and `row_tile` is the number of the tile of rows. What
    a block has read of it about the rows is in `known`.
    """

    schedule: Schedule
    plan: MaskPlan
    positions: Mapping[int, tuple[Value, Value]]
    key_begin: Value | None
    key_end: Value
    key_length: Value
    captures: Mapping[Value, Value]
    tables: TileTables | None
    extremes: Value | None
    row_tile: Value
    known: dict[tuple[Block, Atom], Extremes | None] = field(default_factory=dict[Any, Any], compare=False)

    @staticmethod
    def of(
        builder: Builder,
        rows: RowTiles,
        place: Place,
        plan: MaskPlan,
        captures: Mapping[Value, Value],
        tables: TileTables | None,
        extremes: Value | None,
    ) -> TileWalk:
        """The walk of the tile of rows at `place`."""
        row_begin, row_end = rows.queries(builder, place)
        key_begin, key_end = rows.keys(builder, place)
        last_row = IndexMath(builder).add(row_end, -1)
        last_row.name_hint = last_row.name_hint or "last_row"
        positions = {B: (place.b, place.b), H: rows.heads(builder, place), M: (row_begin, last_row)}
        row_tile = builder.binary(DivSIOp, place.start_m, builder.index(rows.schedule.block_m), "row_tile")
        return TileWalk(
            rows.schedule, plan, positions, key_begin, key_end, place.key_length, captures, tables, extremes, row_tile
        )  # fmt: skip

    def spans(self, builder: Builder) -> list[Span]:
        """The ranges of keys to visit, in multiples of block_n from the first of this program."""
        begin = builder.index(0) if self.key_begin is None else self.key_begin
        if not self.plan.bounded:
            return [(begin, self.key_end)]
        math, block_n = self.math(builder), self.schedule.block_n
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

    def joined(self, builder: Builder, spans: Sequence[Span]) -> tuple[Value, list[tuple[Value, Value]]]:
        """The keys of all spans, and for each but the last where it ends among them; with each, how far it is moved."""
        math, visited = self.math(builder), builder.index(0)
        ends: list[tuple[Value, Value]] = []
        for begin, end in spans:
            moved = math.value(math.subtract(begin, visited))
            visited = math.value(math.add(visited, math.subtract(end, begin)))
            ends.append((visited, moved))
        visited.name_hint = "visited_end"
        return visited, ends

    def start(self, builder: Builder, visited: Value, ends: Sequence[tuple[Value, Value]]) -> Value:
        """The first key of the tile after so many visited keys."""
        math = ScalarMath(builder)
        *before, (_, moved) = ends
        for end, distance in reversed(before):
            moved = math.value(math.select(math.negate(math.at_most(end, visited)), distance, moved))
        return builder.binary(AddIOp, visited, moved, "start_n")

    def found(self, builder: Builder, start_n: Value, keys: int) -> tuple[Value | bool, Value | bool]:
        """Whether the mask may keep some of the keys from `start_n` on, and whether all exist and are kept."""
        math = self.math(builder, start_n, keys)
        end = math.add(start_n, keys)
        last = math.value(math.add(math.least(end, self.key_length), -1))
        truth = self.plan.truth(math, {**self.positions, N: (start_n, last)})
        live = truth.may if self.plan.kind == "tiles" or self.schedule.lanes else True
        full = math.both(truth.must, math.at_most(end, self.key_length))
        for value, name in ((live, "live"), (full, "full")):
            if isinstance(value, Value):
                value.name_hint = value.name_hint or name
        return live, full

    def math(self, builder: Builder, start_n: Value | None = None, keys: int = 0) -> ScalarMath:
        """Arithmetic on the rows of the program, and on the tile of so many `keys` from `start_n` on."""

        def element(atom: Atom, indices: Sequence[Value]) -> Value | None:
            assert atom.load is not None
            source = self.captures[atom.load.source]
            assert isinstance(source.type, TensorType)
            return builder.create(GatherOp, [source, *indices], [source.type.element]).out

        def table(atom: Atom, position: int, first: Value, last: Value) -> Extremes | None:
            if position == N:
                tile = None if start_n is None else builder.binary(DivSIOp, start_n, builder.index(keys))
                return None if tile is None else self._read(builder, (atom, N, keys), tile)
            if (builder.block, atom) not in self.known:
                found = self._read(builder, (atom, M, self.schedule.block_m), self.row_tile)
                self.known[builder.block, atom] = found
            return self.known[builder.block, atom]

        return ScalarMath(builder, element, table)

    def _read(self, builder: Builder, level: tuple[Atom, int, int], tile: Value) -> Extremes | None:
        """What the tables hold of a tile of rows or of keys."""
        if self.tables is None or self.extremes is None:
            return None
        return self.tables.read(builder, self.extremes, level, (self.positions[B][0], self.positions[H][0], tile))


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
