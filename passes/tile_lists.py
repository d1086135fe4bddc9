"""Lists of the tiles of keys to visit: a small kernel writes them, the main one goes through them without a branch.

A loop that finds out for each tile whether to visit it holds branches, under which no load is made
ahead of its use. A list moves the question in front of the loop, and tells full tiles from cut ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..cost_model.schedule import Schedule
from ..ir.attributes import DenseArrayAttr, IntegerAttr, StringAttr, Symbol, TensorType, i32, i64, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.diagnostics import error, op_error
from ..ir.dialects.arith import AddIOp, DivSIOp, IndexCastOp, MinSIOp, MulIOp, RemSIOp, SubIOp
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.scf import ForOp, YieldOp
from ..ir.dialects.tile import BroadcastOp, GatherOp, ProgramIdOp, StoreOp
from ..ir.dialects.tile import ReturnOp as KernelReturnOp
from ..ir.dialects.tile import YieldOp as GridYieldOp
from ..ir.location import Location
from .kernel_frame import KernelFrame, part_of, size_of
from .mask_plan import MaskPlan
from .mask_structure import MaskStructure
from .masking import Masking
from .position_forms import B, H, atoms_of
from .row_tiles import Place, RowTiles
from .softmax_loop import Carried, SoftmaxLoop
from .tile_builder import IndexMath
from .tile_math import ScalarMath
from .tile_tables import TABLE, TileTables
from .tile_walk import Span, TileWalk, hoist_scalars

LISTS = ("spans", "tiles")
"""The arguments that hold them."""

WORK, ORDER = "work", "order"
"""How many keys each row of `spans` lists, and the programs by that, the one with most first."""

CLASSES = 16
"""Work is told to within so many parts of all keys: programs as good as equal stay beside those that read the same."""

FULL, CUT = 0, 1
"""Which of the two ranges of a row of `spans`."""

AT_ONCE = 4
"""Tiles that the small kernel looks at in one step, so that it waits for memory once."""

Found = tuple[Value, Value | bool, Value | bool]
"""Where a tile starts, whether it is to be visited, and whether it is full."""

MOST_TILES = 2**31
"""Positions in a list are 32 bits wide."""


def tile_lists(
    attention: AttentionOp, plan: MaskPlan | None, schedule: Schedule, tables: TileTables | None
) -> TileLists | None:
    """What the schedule asks for; CompileError for a mask that leaves nothing to list."""
    if not schedule.lists:
        return None
    if plan is None:
        op_error(
            attention.operation,
            "schedule 'lists' needs a mask under which tiles of keys differ in more than their distance, "
            f"but this one is of kind {MaskPlan.of(attention.mask).kind}",
        )
    return TileLists(plan, schedule, attention.group.value, tables)


@dataclass(frozen=True)
class TileLists:
    """Which tiles of keys each tile of rows visits, in compressed rows (CSR).

    `tiles` (L >= 1) i32 holds numbers of tiles of block_n keys; `spans` (batch, head, row tile, 4) i32 says
    where in it those of a tile of rows lie: the full ones in [spans[0], spans[1]), in which every key
    exists and is kept by every row, and those that are checked key by key in [spans[2], spans[3]). Any
    order and any layout will do. Batch or head has one entry where the mask does not depend on it; the
    heads of a folded group share one. On CPUs tiles that are checked hold edge_n keys.

    Programs start with the one that has most to visit: `work` (batch, head, row tile) i32 says how many
    keys each row lists, in parts of all keys, and `order` i64 is the numbers of the programs by that.
    Where keys are split, programs of a row share its tiles evenly and there is no order.
    """

    plan: MaskPlan
    schedule: Schedule
    group: int
    tables: TileTables | None

    @property
    def types(self) -> tuple[TensorType, TensorType]:
        """Of `spans` and `tiles`."""
        batch, heads = (Symbol(x) if self._varies(p) else 1 for x, p in (("LB", B), ("LH", H)))
        return TensorType((batch, heads, Symbol("LM"), 4), i32), TensorType((Symbol("L"),), i32)

    @property
    def ordered(self) -> bool:
        """Whether programs go by `order`."""
        return not self.schedule.split

    @property
    def written(self) -> dict[str, TensorType]:
        """What the small kernel writes: names of arguments and their types."""
        spans, tiles = self.types
        work = {WORK: spans.with_shape(*spans.shape[:3])} if self.ordered else {}
        return {LISTS[0]: spans, LISTS[1]: tiles, **work}

    @property
    def read(self) -> dict[str, TensorType]:
        """What the main kernel takes of that."""
        spans, tiles = self.types
        order = {ORDER: TensorType((Symbol("LO"),), i64)} if self.ordered else {}
        return {LISTS[0]: spans, LISTS[1]: tiles, **order}

    def sizes(self, batch: int, heads: int, queries: int, keys: int) -> tuple[tuple[int, int, int, int], tuple[int]]:
        """The sizes of `spans` and `tiles` for a call with so many query heads; CompileError where they are too large.

        There is room for every tile of keys, and one more, in every row.
        """
        _, heads, rows = self.programs(batch, heads, queries)
        spans = batch if self._varies(B) else 1, heads if self._varies(H) else 1, rows, 4
        count = spans[0] * spans[1] * rows * (-(-keys // self.schedule.edge) + 1)
        if count >= MOST_TILES:
            raise error(
                f"lists hold fewer than {MOST_TILES} tiles of keys, but {queries} queries of {keys} keys need {count}"
            )
        return spans, (count,)

    def own_sizes(self, name: str, batch: int, heads: int, queries: int, keys: int) -> tuple[int, ...]:
        """The sizes of one of the tensors that hold them."""
        spans, tiles = self.sizes(batch, heads, queries, keys)
        programs = math.prod(self.programs(batch, heads, queries))
        return {LISTS[0]: spans, LISTS[1]: tiles, WORK: spans[:3], ORDER: (programs,)}[name]

    def programs(self, batch: int, heads: int, queries: int) -> tuple[int, int, int]:
        """The batches, heads and tiles of rows that the programs of a call are for."""
        folded = self.group if self.schedule.folded else 1
        return batch, heads // folded, max(1, -(-queries * folded // self.schedule.block_m))

    def _varies(self, position: int) -> bool:
        return any(position in atom.positions for atom in atoms_of(self.plan.forms.condition))

    # --- the kernel that writes them

    def kernel(self, name: str, region: Region, inputs: Sequence[Value], location: Location) -> Operation:
        """`tile.kernel @name(q, k, captures..., [extremes,] spans, tiles)`: one program for each row of `spans`."""
        tables = [] if self.tables is None else [self.tables.type]
        schedule = replace(self.schedule, num_warps=1, num_stages=1)
        frame = KernelFrame(
            name,
            [*(v.type for v in inputs), *tables, *self.written.values()],
            [*(v.name_hint for v in inputs), *[TABLE] * len(tables), *self.written],
            schedule,
            location,
        )
        (grid, counting), (body, running) = frame.region(), frame.region()
        spans = grid.arguments[-len(self.written)]
        programs = size_of(counting, spans, 2, "LM")
        for axis, size in ((0, "LB"), (1, "LH")):
            programs = counting.binary(MulIOp, programs, size_of(counting, spans, axis, size), "programs")
        counting.create(GridYieldOp, [programs])
        _ListWriter(self, region, body, running).emit()
        return frame.kernel(grid, body)

    # --- what the main kernel reads

    def ranges(self, builder: Builder, spans: Value, place: Place) -> list[Span]:
        """Where in `tiles` the full tiles and the cut ones of a tile of rows begin and end; the share of one split."""
        b = place.b if self._varies(B) else builder.index(0)
        h = (place.key_head if place.h is None else place.h) if self._varies(H) else builder.index(0)
        row = builder.binary(DivSIOp, place.start_m, builder.index(self.schedule.block_m), "row_tile")
        found: list[Span] = []
        for kind, name in ((FULL, "full"), (CUT, "cut")):
            begin, end = (
                _element(builder, spans, [b, h, row, builder.index(2 * kind + i)], f"{name}_{side}")
                for i, side in enumerate(("begin", "end"))
            )
            found.append(_share(builder, begin, end, place))
        return found


def _element(builder: Builder, source: Value, position: Sequence[Value], name: str) -> Value:
    """One i32 as an index."""
    assert isinstance(source.type, TensorType)
    loaded = builder.create(GatherOp, [source, *position], [source.type.element], name=name).out
    return builder.create(IndexCastOp, [loaded], [index], name=name).out


def _share(builder: Builder, begin: Value, end: Value, place: Place) -> Span:
    """The part of a range that falls to the program's split."""
    if place.split is None or place.splits is None:
        return begin, end
    math_ = IndexMath(builder)
    count = builder.binary(SubIOp, end, begin, "count")
    rounded_up = builder.binary(AddIOp, count, math_.add(place.splits, -1))
    chunk = builder.binary(DivSIOp, rounded_up, place.splits, "chunk")
    first = math_.least(math_.sum(begin, builder.binary(MulIOp, place.split, chunk)), end)
    return first, math_.least(math_.sum(first, chunk), end)


@dataclass(frozen=True)
class ListedLoops:
    """One program's loops over the tiles that `tiles` lists in `ranges`; `masking` checks single scores of cut ones."""

    loop: SoftmaxLoop
    masking: Masking
    tiles: Value
    ranges: Sequence[Span]

    def emit(self, builder: Builder, state: Carried) -> Carried:
        """A loop over full tiles, then one over cut ones."""
        state = self._loop(builder, self.ranges[FULL], state, None, "listed key tiles that are kept whole")
        return self._loop(
            builder, self.ranges[CUT], state, self.masking, "listed key tiles that the mask or the end of the keys cuts"
        )

    def _loop(self, builder: Builder, span: Span, start: Carried, masking: Masking | None, about: str) -> Carried:
        """The number of the next tile is read a step before it is needed, and once more at the end."""
        (begin, end), types = span, [index, *(v.type for v in start.values)]
        last = IndexMath(builder).add(size_of(builder, self.tiles, 0, "L"), -1)
        first = self._listed(builder, begin, last, "key_tile")
        block = Block.with_arguments([index, *types], ["visited", "key_tile", *start.names])
        inner = Builder(block, location=builder.location)
        visited, tile, *carried = block.arguments
        keys = self.loop.schedule.block_n if masking is None else self.loop.schedule.edge
        start_n = inner.binary(MulIOp, tile, inner.index(keys), "start_n")
        coming = self._listed(inner, IndexMath(inner).add(visited, 1), last, "next_tile")
        after = self.loop.unless_empty(inner, start_n, start.with_values(carried), masking)
        inner.create(YieldOp, [coming, *after.values])
        bounds = [begin, end, builder.index(1)]
        loop = builder.create(ForOp, [*bounds, first, *start.values], types, regions=[Region([block])])
        loop.operation.attributes["about"] = StringAttr(about)
        return start.with_values(loop.results[1:])

    def _listed(self, builder: Builder, position: Value, last: Value, name: str) -> Value:
        """The number of a listed tile, or of some tile past the end."""
        place = builder.binary(MinSIOp, position, last, "place")
        return _element(builder, self.tiles, [place], name)


@dataclass(frozen=True)
class _ListWriter:
    """Writes the small kernel: a row's part of `tiles` holds full ones from the front, cut ones from the back."""

    lists: TileLists
    region: Region
    block: Block
    builder: Builder

    @property
    def schedule(self) -> Schedule:
        return self.lists.schedule

    @property
    def _given(self) -> int:
        """How many of the arguments are read."""
        return len(self.block.arguments) - len(self.lists.written)

    def emit(self) -> None:
        builder, (spans, tiles, *work) = self.builder, self.block.arguments[self._given :]
        pid = builder.create(ProgramIdOp, [], [index], {"axis": IntegerAttr(0)}, name="pid").out
        rows, place = self._place(pid)
        walk = self._walk(rows, place)
        math_ = IndexMath(builder)
        tiles_of_keys = math_.ceiling_quotient(place.key_length, self.schedule.edge, "key_tiles")
        capacity = math_.add(tiles_of_keys, 1)
        front = builder.binary(MulIOp, pid, capacity, "front")
        back = builder.binary(AddIOp, front, capacity, "back")
        full_end, cut_begin = self._listed(walk, front, back, tiles)
        row_tile = builder.binary(RemSIOp, pid, size_of(builder, spans, 2, "LM"), "row_tile")
        entry = self._entry(spans, pid)
        row = part_of(builder, spans, [*entry, row_tile], "row")
        for i, bound in enumerate((front, full_end, cut_begin, back)):
            _store(builder, row, builder.index(i), bound)
        for target in work:
            part = self._part_of_all((front, full_end, cut_begin, back), place.key_length)
            _store(builder, part_of(builder, target, entry, "work_head"), row_tile, part)
        builder.create(KernelReturnOp)

    def _part_of_all(self, spans: tuple[Value, Value, Value, Value], key_length: Value) -> Value:
        """How many of `CLASSES` parts of all keys are listed."""
        builder, (front, full_end, cut_begin, back) = self.builder, spans
        full, cut = (
            builder.binary(MulIOp, builder.binary(SubIOp, end, begin), builder.index(keys))
            for begin, end, keys in ((front, full_end, self.schedule.block_n), (cut_begin, back, self.schedule.edge))
        )
        listed = builder.binary(MulIOp, builder.binary(AddIOp, full, cut), builder.index(CLASSES), "listed")
        return builder.binary(DivSIOp, listed, IndexMath(builder).greatest(key_length, builder.index(1)), "part")

    def _entry(self, spans: Value, pid: Value) -> tuple[Value, Value]:
        """The batch and the head of this program in `spans`."""
        builder = self.builder
        heads = size_of(builder, spans, 1, "LH")
        bh = builder.binary(DivSIOp, pid, size_of(builder, spans, 2, "LM"), "bh")
        return builder.binary(DivSIOp, bh, heads, "b"), builder.binary(RemSIOp, bh, heads, "h")

    def _place(self, pid: Value) -> tuple[RowTiles, Place]:
        """Which rows the program lists tiles for; the first of all batches or heads where any will do."""
        builder, (q, k), spans = self.builder, self.block.arguments[:2], self.block.arguments[self._given]
        rows = RowTiles(self.schedule, self.lists.group, MaskStructure())
        b, h = self._entry(spans, pid)
        tile = builder.binary(RemSIOp, pid, size_of(builder, spans, 2, "LM"), "row_tile")
        start_m = builder.binary(MulIOp, tile, builder.index(self.schedule.block_m), "start_m")
        query_length, key_length = size_of(builder, q, 2, "M"), size_of(builder, k, 2, "N")
        count = query_length
        if rows.folds:
            count = builder.binary(MulIOp, query_length, builder.index(self.lists.group), "rows")
        own = None if rows.folds else h
        place = Place(b, own, h, start_m, count, query_length, key_length, split=None, splits=None, slot=None)
        return rows, place

    def _walk(self, rows: RowTiles, place: Place) -> TileWalk:
        tables = self.lists.tables
        inside, arguments = self.block.arguments[2 : self._given], self.region.block.arguments
        extremes = None if tables is None else inside.pop()
        captures = dict(zip(arguments[len(arguments) - len(inside) :], inside, strict=True))
        return TileWalk.of(self.builder, rows, place, self.lists.plan, captures, tables, extremes)

    def _listed(self, walk: TileWalk, front: Value, back: Value, tiles: Value) -> tuple[Value, Value]:
        """Look at all tiles that the mask's pieces hold; the end of the full ones and the begin of the cut ones."""
        builder, block_n = self.builder, self.schedule.block_n
        total, starts = walk.joined(builder, walk.spans(builder))
        visits = IndexMath(builder).ceiling_quotient(total, block_n, "visits")
        block = Block.with_arguments([index, index, index], ["i", "full_end", "cut_begin"])
        inner = Builder(block, location=builder.location)
        first, *ends = block.arguments
        at_once = 1 if self.schedule.lanes else AT_ONCE
        found = [self._found(inner, walk, first, i, visits, starts) for i in range(at_once)]
        for tile in found:
            if self.schedule.lanes:
                ends = self._written_in_parts(inner, walk, tile, ends, tiles)
            else:
                ends = self._written(inner, tile, ends, tiles)
        inner.create(YieldOp, ends)
        bounds = [builder.index(0), visits, builder.index(at_once)]
        loop = builder.create(ForOp, [*bounds, front, back], [index, index], regions=[Region([block])])
        loop.operation.attributes["about"] = StringAttr("key tiles of which the mask may keep some")
        for result, name in zip(loop.results, ("full_end", "cut_begin"), strict=True):
            result.name_hint = name
        hoist_scalars(loop.results[0])
        full_end, cut_begin = loop.results
        return full_end, cut_begin

    def _found(
        self, builder: Builder, walk: TileWalk, first: Value, i: int, visits: Value, starts: Sequence[Span]
    ) -> Found:
        """The start of a tile, and whether it is to be visited and full; past the end, the last one once more."""
        math, block_n = ScalarMath(builder), self.schedule.block_n
        number = math.add(first, i)
        exists = math.at_most(math.add(number, 1), visits) if i else True
        last = builder.binary(MinSIOp, math.value(number), math.value(math.add(visits, -1))) if i else first
        visited = builder.binary(MulIOp, last, builder.index(block_n), "visited")
        start_n = walk.start(builder, visited, starts)
        live, full = walk.found(builder, start_n, block_n)
        return start_n, math.both(exists, live), math.both(exists, full)

    def _written(self, builder: Builder, found: Found, ends: Sequence[Value], tiles: Value) -> list[Value]:
        """Put a tile to the full or to the cut ones.

        One that is neither is written behind the full ones, where the next one overwrites it: there is
        room for one more than all tiles, so that this place is free.
        """
        (start_n, live, full), (full_end, cut_begin), math = found, ends, ScalarMath(builder)
        cut = math.both(live, math.negate(full))
        moved = math.subtract(cut_begin, math.select(cut, 1, 0))
        target = math.value(math.select(cut, moved, full_end))
        number = builder.binary(DivSIOp, start_n, builder.index(self.schedule.block_n), "key_tile")
        _store(builder, tiles, target, number)
        return [math.value(math.add(full_end, math.select(full, 1, 0))), math.value(moved)]

    def _written_in_parts(
        self, builder: Builder, walk: TileWalk, found: Found, ends: Sequence[Value], tiles: Value
    ) -> list[Value]:
        """Put a tile to the full ones, or those of its short tiles that are live to the cut ones."""
        (start_n, live, full), (full_end, cut_begin), math = found, ends, ScalarMath(builder)
        schedule = self.schedule
        _store(builder, tiles, full_end, builder.binary(DivSIOp, start_n, builder.index(schedule.block_n), "key_tile"))
        after = math.value(math.add(full_end, math.select(full, 1, 0)))
        cut = math.both(live, math.negate(full))
        end = math.least(math.add(start_n, schedule.block_n), walk.key_length)
        block = Block.with_arguments([index, index], ["short_n", "cut_begin"])
        inner = Builder(block, location=builder.location)
        short_n, begin = block.arguments
        some, _ = walk.found(inner, short_n, schedule.edge)
        here = ScalarMath(inner)
        moved = here.subtract(begin, here.select(some, 1, 0))
        number = inner.binary(DivSIOp, short_n, inner.index(schedule.edge), "key_tile")
        _store(inner, tiles, here.value(here.select(some, moved, after)), number)
        inner.create(YieldOp, [here.value(moved)])
        bounds = [start_n, math.value(math.select(cut, end, start_n)), builder.index(schedule.edge)]
        loop = builder.create(ForOp, [*bounds, cut_begin], [index], regions=[Region([block])])
        loop.operation.attributes["about"] = StringAttr("short tiles of a cut one")
        hoist_scalars(loop.results[0])
        return [after, loop.results[0]]


def _store(builder: Builder, target: Value, position: Value, number: Value) -> None:
    """Write one index as i32."""
    narrow = builder.create(IndexCastOp, [number], [i32]).out
    one = builder.create(BroadcastOp, [narrow], [TensorType((1,), i32)], {"axes": DenseArrayAttr((0,))}).out
    builder.create(StoreOp, [one, target, position], [], {"boundary": DenseArrayAttr(())})
