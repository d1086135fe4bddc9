"""Attention whose keys are split over programs: how many parts, their types, the kernel that merges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..cost_model.counts import rows_of_merge
from ..cost_model.devices import INTERPRETER, device_described
from ..cost_model.schedule import Schedule
from ..ir.attributes import DenseArrayAttr, IntegerAttr, Symbol, TensorType, f32, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.dialects.arith import AddFOp, DivSIOp, MaximumFOp, MulFOp, MulIOp, RemSIOp, SubFOp
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.scf import ForOp, YieldOp
from ..ir.dialects.tile import BroadcastOp, GatherOp, LoadOp, ProgramIdOp, StoreOp
from ..ir.dialects.tile import ReturnOp as KernelReturnOp
from ..ir.dialects.tile import YieldOp as GridYieldOp
from .head_pieces import head_pieces
from .kernel_frame import KernelFrame, part_of, size_of, width_of
from .masking import FULL, MINUS_INFINITY
from .row_regions import RowPlace, RowRegion, output_change
from .scaling import LOG2_E
from .softmax_loop import exp2, finite_or_zero, piece_name, starts
from .softmax_results import log_sum, one_where_zero, store_out
from .tile_builder import ROWS, IndexMath, Tile, TileBuilder

PARTS = ("part_out", "part_lse")
"""The results of a kernel that works on split keys."""

WANTED_PROGRAMS, LEAST_KEYS, MOST_SPLITS = 64, 512, 64
"""Programs that keep the cores of a large machine busy; keys below which a part is not worth its own
program; parts that one program merges in no time."""


BUSY, GOOD_WAVES, FEW_TILES, MOST_GPU_SPLITS = 0.8, 0.85, 4, 128
"""Programs for each multiprocessor that leave nothing to gain; see `gpu_split_count` for the others."""

PRETENDED_MULTIPROCESSORS = 8
"""Of the interpreter: few, so that small problems are split there too."""


def split_count(batch: int, key_heads: int, row_tiles: int, key_length: int, schedule: Schedule) -> int:
    """Into how many parts to split the keys: a function of sizes alone, so that results are the same on any machine.

    Enough for `WANTED_PROGRAMS`, none of fewer than `LEAST_KEYS` keys unless it is the only or the last one.
    """
    programs = batch * key_heads * row_tiles
    if not schedule.split or programs <= 0:
        return 1
    wanted = -(-WANTED_PROGRAMS // programs)
    splits = max(1, min(wanted, MOST_SPLITS, key_length // LEAST_KEYS))
    # Parts are whole tiles of keys, of which the last ones may be left without any.
    chunk = -(-key_length // splits) + schedule.block_n - 1
    return max(1, -(-key_length // max(1, chunk // schedule.block_n * schedule.block_n)))


def gpu_split_count(programs: int, key_length: int, schedule: Schedule) -> int:
    """Into how many parts a GPU's kernel splits the keys that each of `programs` programs would read alone.

    The rule of FlashAttention-3: as few parts as keep, in the last wave of programs too, at least
    `GOOD_WAVES` of what the best count keeps of the multiprocessors busy. Few keys are worth
    splitting only where most of the device would idle (arXiv 2604.00028). A function of sizes and of
    what is known of the device alone, so that results are the same from run to run. No part is empty.
    """
    if not schedule.split:
        return 1
    return _count_of_waves(programs, -(-key_length // schedule.block_n), _multiprocessors(schedule.target))


@lru_cache(maxsize=1024)
def _count_of_waves(programs: int, tiles: int, multiprocessors: int) -> int:
    if programs <= 0 or programs >= BUSY * multiprocessors:
        return 1
    if tiles <= FEW_TILES and 4 * programs >= multiprocessors:
        return 1
    most = min(MOST_GPU_SPLITS, multiprocessors, tiles)
    # Of the counts that give every part as many tiles, the least leaves no part empty.
    counts = [s for s in range(1, most + 1) if s == 1 or -(-tiles // s) < -(-tiles // (s - 1))]
    busy = {s: programs * s / multiprocessors / -(-programs * s // multiprocessors) for s in counts}
    wanted = GOOD_WAVES * max(busy.values(), default=0.0)
    return next((s for s in counts if busy[s] >= wanted), 1)


def _multiprocessors(target: str) -> int:
    return PRETENDED_MULTIPROCESSORS if target == INTERPRETER else device_described(target).multiprocessors


def partial_types(attention: AttentionOp) -> tuple[TensorType, TensorType]:
    """part_out (S, B, H, M, E) and part_lse (S, B, H, M), both f32."""
    out = attention.out.type
    assert isinstance(out, TensorType)
    shape = (Symbol("S"), *out.shape)
    return TensorType(shape, f32), TensorType(shape[:-1], f32)


def merge_kernel(attention: AttentionOp, name: str, results: Sequence[str], schedule: Schedule) -> Operation:
    """`tile.kernel @name_merge(part_out, part_lse, [captures...,] results...)`: out = Σ exp(lse_s - lse) part_s.

    One program merges one row (b, h, m), on a GPU a few of them. Rows without a key in any part give
    out 0 and lse -inf, as attention does; nan in a part reaches the result. An output region, which
    reads the captures, changes the row before it is stored.
    """
    types = {"out": attention.out.type, "lse": attention.lse.type}
    captures = [] if attention.output.empty else attention.captures
    frame = KernelFrame(
        f"{name}_merge",
        [*partial_types(attention), *(c.type for c in captures), *(types[result] for result in results)],
        [*PARTS, *(c.name_hint for c in captures), *results],
        replace(schedule, num_warps=4, num_stages=1),
        attention.operation.location,
    )
    (grid, counting), (body, running) = frame.region(), frame.region()
    part_lse = grid.arguments[1]
    merge = _Merge(schedule, head_pieces(attention, padded=not schedule.lanes, few_rows=schedule.few_rows).values)
    counting.create(GridYieldOp, [merge.count_programs(counting, part_lse)])
    inside = body.arguments[2 : 2 + len(captures)]
    region = RowRegion.of("output", attention.output, inside, width_of(body.arguments[0]), None)
    merge.emit_body(running, body, results, None if region is None else region.along(schedule.lanes))
    return frame.kernel(grid, body)


@dataclass(frozen=True)
class _Merge:
    """Writes the body of a merging kernel. Rows are numbers on a CPU, and tiles of a few on a GPU."""

    schedule: Schedule
    pieces: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of a program; 0 where they are numbers."""
        return 0 if self.schedule.lanes else rows_of_merge(self.schedule)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which what belongs to a row varies."""
        return (ROWS,) if self.rows else ()

    def count_programs(self, builder: Builder, part_lse: Value) -> Value:
        programs = size_of(builder, part_lse, 1, "B")
        for axis, size in ((2, "H"), (3, "M")):
            count = size_of(builder, part_lse, axis, size)
            if size == "M" and self.rows:
                count = IndexMath(builder).ceiling_quotient(count, self.rows, "row_tiles")
            programs = builder.binary(MulIOp, programs, count, "programs")
        return programs

    def emit_body(self, builder: Builder, block: Block, results: Sequence[str], region: RowRegion | None) -> None:
        targets = block.arguments[len(block.arguments) - len(results) :]
        place = b, h, m = self._place(builder, block.arguments[1])
        tiles = [TileBuilder(builder, (self.rows or 1, width)) for width in self.pieces]
        *accs, row_max, row_sum = self._merged(builder, tiles, block, place)
        row = self._row(builder)
        total = one_where_zero(row, Tile(row_sum, self.axes))
        for name, target in zip(results, targets, strict=True):
            head = part_of(builder, target, (b, h), f"{name}_head")
            if name == "out":
                change = output_change(region, RowPlace(Tile(b), Tile(h), *self._positions(row, target, m)))
                for (first, _), wide, acc in zip(starts(self.pieces), tiles, accs, strict=True):
                    store_out(wide, head, (m, first), Tile(acc, FULL), total, change)
                continue
            lse = log_sum(row, Tile(row_max, self.axes), total, natural=True).value
            if not self.rows:
                type_ = TensorType((1,), f32)
                lse = builder.create(BroadcastOp, [lse], [type_], {"axes": DenseArrayAttr((0,))}).out
            builder.create(StoreOp, [lse, head, m], [], {"boundary": self._boundary})
        builder.create(KernelReturnOp)

    @property
    def _boundary(self) -> DenseArrayAttr:
        return DenseArrayAttr((0,) if self.rows else ())

    def _positions(self, tiles: TileBuilder, target: Value, m: Value) -> tuple[Tile, Tile | None]:
        """The queries of the rows, and which of them exist."""
        if not self.rows:
            return Tile(m), None
        queries = tiles.positions(m, ROWS, "offs_m")
        return queries, tiles.compare("slt", queries, Tile(size_of(tiles.builder, target, 2, "M")), "row_valid")

    def _place(self, builder: Builder, part_lse: Value) -> tuple[Value, Value, Value]:
        """The batch, head and first query of this program's rows."""
        heads, queries = size_of(builder, part_lse, 2, "H"), size_of(builder, part_lse, 3, "M")
        pid = builder.create(ProgramIdOp, [], [index], {"axis": IntegerAttr(0)}, name="pid").out
        if self.rows:
            queries = IndexMath(builder).ceiling_quotient(queries, self.rows, "row_tiles")
        head = builder.binary(DivSIOp, pid, queries, "bh")
        b, h = builder.binary(DivSIOp, head, heads, "b"), builder.binary(RemSIOp, head, heads, "h")
        m = builder.binary(RemSIOp, pid, queries, "m")
        return b, h, builder.binary(MulIOp, m, builder.index(self.rows), "start_m") if self.rows else m

    def _merged(
        self, builder: Builder, tiles: Sequence[TileBuilder], block: Block, place: tuple[Value, Value, Value]
    ) -> list[Value]:
        """Σ w_s part_s (rows, E) in pieces, the largest lse and Σ w_s, with w_s = exp(lse_s - that maximum)."""
        part_out, part_lse, *_ = block.arguments
        row = self._row(builder).type_along(self.axes, f32)
        names = [*(piece_name("acc", i) for i in range(len(tiles))), "row_max", "row_sum"]
        start = [
            *(builder.constant(0.0, TensorType(x.shape, f32), name) for x, name in zip(tiles, names, strict=False)),
            builder.constant(MINUS_INFINITY, row, "row_max"),
            builder.constant(0.0, row, "row_sum"),
        ]
        types = [v.type for v in start]
        inside = Block.with_arguments([index, *types], ["s", *names])
        inner = Builder(inside, location=builder.location)
        inner.create(YieldOp, self._step(inner, part_out, part_lse, place, inside.arguments))
        bounds = [builder.index(0), size_of(builder, part_lse, 0, "S"), builder.index(1)]
        loop = builder.create(ForOp, [*bounds, *start], types, regions=[Region([inside])])
        for result, name in zip(loop.results, names, strict=True):
            result.name_hint = name
        return loop.results

    def _step(
        self,
        builder: Builder,
        part_out: Value,
        part_lse: Value,
        place: tuple[Value, Value, Value],
        arguments: Sequence[Value],
    ) -> list[Value]:
        """One part more."""
        b, h, m = place
        s, *accs, row_max, row_sum = arguments
        row = self._row(builder)
        lse = Tile(self._part_lse(builder, part_lse, (s, b, h), m), self.axes)
        before = Tile(row_max, self.axes)
        new_max = row.binary(MaximumFOp, before, lse, "new_max")
        base = finite_or_zero(row, new_max)
        alpha, weight = (
            exp2(row, row.binary(MulFOp, row.binary(SubFOp, x, base), Tile(builder.constant(LOG2_E, f32))), label)
            for x, label in ((before, "alpha"), (lse, "weight"))
        )
        head = part_of(builder, part_out, (s, b, h), "part_head")
        found = [
            self._weighted(builder, head, (m, first), width, (acc, alpha, weight), piece_name("acc", i))
            for i, ((first, width), acc) in enumerate(zip(starts(self.pieces), accs, strict=True))
        ]
        kept = row.binary(MulFOp, Tile(row_sum, self.axes), alpha)
        return [*found, new_max.value, row.binary(AddFOp, kept, weight, "row_sum").value]

    def _row(self, builder: Builder) -> TileBuilder:
        """Builds what belongs to rows, of any width."""
        return TileBuilder(builder, (self.rows or 1, 1))

    def _part_lse(self, builder: Builder, part_lse: Value, place: tuple[Value, Value, Value], m: Value) -> Value:
        if not self.rows:
            return builder.create(GatherOp, [part_lse, *place, m], [f32], name="lse").out
        head, type_ = part_of(builder, part_lse, place, "lse_part"), TensorType((self.rows,), f32)
        return builder.create(LoadOp, [head, m], [type_], {"boundary": self._boundary}, name="lse").out

    def _weighted(
        self,
        builder: Builder,
        head: Value,
        start: tuple[Value, int],
        width: int,
        terms: tuple[Value, Tile, Tile],
        name: str,
    ) -> Value:
        """alpha acc + weight part, for the columns of one piece."""
        (m, first), (acc, alpha, weight) = start, terms
        tiles, memory = TileBuilder(builder, (self.rows or 1, width)), head.type
        assert isinstance(memory, TensorType) and isinstance(memory.shape[1], int)
        axes = (*self._boundary.values, *((1,) if first + width > memory.shape[1] else ()))
        operands, type_ = [head, m, builder.index(first)], TensorType(tiles.shape, f32)
        part = builder.create(LoadOp, operands, [type_], {"boundary": DenseArrayAttr(axes)}).out
        weighted = tiles.binary(MulFOp, Tile(part, FULL), weight)
        return tiles.binary(AddFOp, tiles.binary(MulFOp, Tile(acc, FULL), alpha), weighted, name).value
