"""The extremes of captured tensors over tiles of rows and of keys: a small kernel writes them, the main one reads them.

A document mask compares what is captured for rows and for keys. Whether a tile is empty or full
shows in the least and largest of those numbers, of which there are a few for each tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..cost_model.schedule import Schedule
from ..ir.attributes import DenseArrayAttr, IntegerAttr, IntegerType, Symbol, TensorType, i1, i32, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.define import Op
from ..ir.dialects.arith import (
    AddIOp,
    CmpIOp,
    DivSIOp,
    ExtUIOp,
    IndexCastOp,
    MaxSIOp,
    MinSIOp,
    MulIOp,
    RemSIOp,
    SelectOp,
    TruncIOp,
)
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.scf import ForOp, YieldOp
from ..ir.dialects.tile import GatherOp, ProgramIdOp, StoreOp
from ..ir.dialects.tile import ReturnOp as KernelReturnOp
from ..ir.dialects.tile import YieldOp as GridYieldOp
from ..ir.location import Location
from .analyze_mask import analyze_mask
from .kernel_frame import KernelFrame, part_of, size_of
from .mask_plan import MaskPlan
from .mask_structure import MaskStructure
from .position_forms import LOAD_LIMIT, Atom, B, H, M, N
from .tile_builder import ROWS, IndexMath, Tile, TileBuilder
from .tile_regions import RegionPositions, emit_op

TABLE = "extremes"
"""The argument that holds them."""

ENTRIES_ON_GPU = 128
"""Tiles that one program looks at."""


def mask_plan(attention: AttentionOp) -> MaskPlan | None:
    """How to loop over a mask that is no pair of bounds; None where nothing but every tile will do."""
    hint = attention.structure
    structure = MaskStructure.from_attr(hint) if hint is not None else analyze_mask(attention.mask)
    if not structure.opaque or attention.mask.empty:
        return None
    plan = MaskPlan.of(attention.mask)
    return plan if plan.kind in ("pieces", "tiles") else None


@dataclass(frozen=True)
class Level:
    """The extremes of one load over tiles of one size, along M or N; `size` counts rows or keys."""

    atom: Atom
    position: int
    size: int


@dataclass(frozen=True)
class TileTables:
    """What one kernel writes for another, both made for `schedule`.

    All lies in one tensor of i32 (slots, batch, head, tile): the least number of level i in slot 2 i,
    the largest in the next one. Batch or head has one entry where no load depends on it.
    """

    levels: tuple[Level, ...]
    schedule: Schedule
    group: int

    @staticmethod
    def of(plan: MaskPlan, schedule: Schedule, group: int) -> TileTables | None:
        """None where nothing is captured for each row or for each key."""
        keys = sorted({schedule.block_n, schedule.edge}, reverse=True)
        levels = [
            Level(atom, position, size)
            for atom in plan.tables
            for position in (M, N)
            if position in atom.positions
            for size in ([schedule.block_m] if position == M else keys)
        ]
        return TileTables(tuple(levels), schedule, group if schedule.folded else 1) if levels else None

    @property
    def type(self) -> TensorType:
        batch, heads = (Symbol(x) if self._varies(p) else 1 for x, p in (("TB", B), ("TH", H)))
        return TensorType((2 * len(self.levels), batch, heads, Symbol("T")), i32)

    def sizes(self, batch: int, heads: int, queries: int, keys: int) -> tuple[int, int, int, int]:
        """The sizes of the tensor for a call."""
        rows = queries * self.group
        counts = [-(-(rows if level.position == M else keys) // level.size) for level in self.levels]
        return (
            2 * len(self.levels),
            batch if self._varies(B) else 1,
            heads if self._varies(H) else 1,
            max(1, *counts),
        )  # fmt: skip

    def _varies(self, position: int) -> bool:
        return any(position in level.atom.positions for level in self.levels)

    # --- what the main kernel reads

    def read(
        self, builder: Builder, tensor: Value, level: tuple[Atom, int, int], place: tuple[Value, Value, Value]
    ) -> tuple[Value, Value] | None:
        """The least and the largest number for an atom, a position and a tile size, at a batch, head and tile."""
        found = next((i for i, x in enumerate(self.levels) if (x.atom, x.position, x.size) == level), None)
        if found is None:
            return None
        b, h, entry = place
        where = (b if B in level[0].positions else builder.index(0), h if H in level[0].positions else builder.index(0))
        names = ("least", "largest")
        low, high = (
            builder.create(GatherOp, [tensor, builder.index(2 * found + i), *where, entry], [i32], name=name).out
            for i, name in enumerate(names)
        )
        return low, high

    # --- the kernel

    def kernel(self, name: str, region: Region, inputs: Sequence[Value], location: Location) -> Operation:
        """`tile.kernel @name(q, k, captures..., extremes)`: one program for a few tiles of one batch and head."""
        entries = self.schedule.lanes or ENTRIES_ON_GPU
        frame = KernelFrame(
            name,
            [*(v.type for v in inputs), self.type],
            [*(v.name_hint for v in inputs), TABLE],
            self.schedule,
            location,
        )
        (grid, counting), (body, running) = frame.region(), frame.region()
        counting.create(GridYieldOp, [self._programs(counting, grid.arguments[-1], entries)])
        writer = _TableWriter(self, region, body, TileBuilder(running, (entries, 1)))
        writer.emit()
        return frame.kernel(grid, body)

    def _programs(self, builder: Builder, table: Value, entries: int) -> Value:
        tiles = IndexMath(builder).ceiling_quotient(size_of(builder, table, 3, "T"), entries, "runs")
        for axis, size in ((1, "TB"), (2, "TH")):
            tiles = builder.binary(MulIOp, tiles, size_of(builder, table, axis, size), "programs")
        return tiles


@dataclass(frozen=True)
class _TableWriter:
    """Writes the body of the small kernel: lanes are tiles, and a loop goes through the positions of all of them."""

    tables: TileTables
    region: Region
    block: Block
    tiles: TileBuilder

    def emit(self) -> None:
        builder, entries = self.tiles.builder, self.tiles.shape[0]
        table = self.block.arguments[-1]
        pid = builder.create(ProgramIdOp, [], [index], {"axis": IntegerAttr(0)}, name="pid").out
        runs = IndexMath(builder).ceiling_quotient(size_of(builder, table, 3, "T"), entries, "runs")
        heads = size_of(builder, table, 2, "TH")
        run, head = builder.binary(RemSIOp, pid, runs, "run"), builder.binary(DivSIOp, pid, runs, "bh")
        b, h = builder.binary(DivSIOp, head, heads, "b"), builder.binary(RemSIOp, head, heads, "h")
        first = builder.binary(MulIOp, run, builder.index(entries), "first_tile")
        numbers = self.tiles.positions(first, ROWS, "tiles")
        for slot, level in enumerate(self.tables.levels):
            for i, extreme in enumerate(self._extremes(level, (first, numbers), b, h)):
                target = part_of(builder, table, [builder.index(2 * slot + i), b, h], ("least", "largest")[i])
                operands = [self.tiles.spread(extreme, (ROWS,)), target, first]
                builder.create(StoreOp, operands, [], {"boundary": DenseArrayAttr((0,))})
        builder.create(KernelReturnOp)

    def _extremes(self, level: Level, entries: tuple[Value, Tile], b: Value, h: Value) -> tuple[Tile, Tile]:
        """The least and largest number of each tile; those of a tile that does not exist mean nothing.

        `entries` are the number of the first tile, and of all. There may be fewer of this level than of others.
        """
        tiles, group, (first, numbers) = self.tiles, self.tables.group, entries
        starts = tiles.binary(MulIOp, numbers, tiles.index(level.size))
        steps = level.size
        if level.position == M and group > 1:
            starts, steps = tiles.binary(DivSIOp, starts, tiles.index(group)), (level.size - 1) // group + 2
        source, name = self.block.arguments[0 if level.position == M else 1], "MN"[level.position == N]
        length = size_of(tiles.builder, source, 2, name)
        outer = tiles.builder
        row = TensorType((tiles.shape[0],), i32)
        initial = [outer.constant(x, row, n) for x, n in ((LOAD_LIMIT, "least"), (-LOAD_LIMIT, "largest"))]
        block = Block.with_arguments([index, row, row], ["i", "least", "largest"])
        inner = TileBuilder(Builder(block, location=outer.location), tiles.shape)
        i, low, high = block.arguments
        positions = inner.binary(AddIOp, starts, Tile(i), "position")
        valid = inner.compare("slt", positions, Tile(length), "exists")
        found = self._loaded(inner, level, {B: Tile(b), H: Tile(h), level.position: positions}, valid)
        kinds: Sequence[tuple[type[Op], Value]] = ((MinSIOp, low), (MaxSIOp, high))
        after = [self._better(inner, kind, found, Tile(held, (ROWS,)), valid) for kind, held in kinds]
        inner.builder.create(YieldOp, [x.value for x in after])
        rows = outer.binary(MulIOp, length, outer.index(group)) if level.position == M and group > 1 else length
        reached = outer.binary(MulIOp, first, outer.index(level.size), "reached")
        exists = outer.create(CmpIOp, [reached, rows], [i1], {"predicate": CmpIOp.predicate_attr("slt")}).out
        end = outer.create(SelectOp, [exists, outer.index(steps), outer.index(0)], [index], name="steps").out
        bounds = [outer.index(0), end, outer.index(1)]
        loop = outer.create(ForOp, [*bounds, *initial], [row, row], regions=[Region([block])])
        for result, value in zip(loop.results, initial, strict=True):
            result.name_hint = value.name_hint
        least, largest = (Tile(x, (ROWS,)) for x in loop.results)
        return least, largest

    def _better(self, tiles: TileBuilder, kind: type[Op], found: Tile, held: Tile, valid: Tile) -> Tile:
        chosen = tiles.binary(kind, held, found)
        return tiles.elementwise(SelectOp.op_name, [valid, chosen, held], i32)

    def _loaded(self, tiles: TileBuilder, level: Level, at: Mapping[int, Tile], valid: Tile) -> Tile:
        """What the load gives at each position, as i32."""
        load = level.atom.load
        assert load is not None
        positions = RegionPositions.of(self.region)
        arguments = self.region.block.arguments
        captured = self.block.arguments[2:-1]
        captures = dict(zip(arguments[len(arguments) - len(captured) :], captured, strict=True))
        known = {
            value: at[position]
            for position, value in ((B, positions.b), (H, positions.h), (M, positions.m), (N, positions.n))
            if position in at
        }
        for op in _needed(load.operation):
            known[op.result] = emit_op(op, tiles, known, captures, {ROWS: valid})
        return _as_i32(tiles, known[load.out])


def _needed(op: Operation) -> list[Operation]:
    """An op of a region and what it is computed from, in order."""
    found: dict[Operation, None] = {}

    def visit(op: Operation) -> None:
        for value in op.operands:
            if value.defining_op is not None:
                visit(value.defining_op)
        found[op] = None

    visit(op)
    return list(found)


def _as_i32(tiles: TileBuilder, x: Tile) -> Tile:
    """An integer or i1, cut off where 32 bits might not hold it."""
    type_ = x.value.type.element if isinstance(x.value.type, TensorType) else x.value.type
    if type_ == i32:
        return x
    if type_ == i1:
        return tiles.elementwise(ExtUIOp.op_name, [x], i32)
    if type_ == index:
        return tiles.elementwise(IndexCastOp.op_name, [x], i32)
    assert isinstance(type_, IntegerType)
    if type_.width < 32:
        return tiles.elementwise("arith.extsi", [x], i32)
    for kind, bound in ((MinSIOp, LOAD_LIMIT), (MaxSIOp, -LOAD_LIMIT)):
        x = tiles.binary(kind, x, Tile(tiles.builder.constant(bound, type_)))
    return tiles.elementwise(TruncIOp.op_name, [x], i32)
