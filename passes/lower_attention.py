"""Turns a function around one attention into one kernel: loops over key tiles, softmax kept up as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from ..cost_model.schedule import ELEMENTS, FLOAT8, Schedule, warps_of
from ..ir.attributes import (
    DenseArrayAttr,
    FloatType,
    IntegerAttr,
    StringAttr,
    TensorType,
    UnitAttr,
    f32,
    is_float8,
)
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.arith import MinSIOp, MulFOp
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.func import FuncOp, ReturnOp
from ..ir.dialects.scf import ForOp
from ..ir.dialects.tile import KernelOp, LoadOp, StoreOp
from ..ir.dialects.tile import ReturnOp as KernelReturnOp
from ..ir.dialects.tile import YieldOp as GridYieldOp
from .analyze_mask import analyze_mask
from .empty_rows import EmptyRows
from .head_pieces import head_pieces
from .kernel_frame import KernelFrame, part_of, size_of
from .key_ranges import KeyRanges, key_ranges, whole_tiles
from .manager import Pass, PassContext
from .mask_plan import MaskPlan
from .mask_structure import MaskStructure
from .masked_loops import MaskedLoops
from .masking import MINUS_INFINITY, Masking
from .merge_splits import PARTS, merge_kernel, partial_types
from .query_tiles import QueryTiles
from .row_regions import KeyRows, OutputChange, RowPlace, RowRegion, output_change
from .row_tiles import Place, RowPositions, RowTiles
from .scaling import Scaling
from .sink_start import sink_start
from .softmax_loop import Carried, SoftmaxLoop, not_pipelined, piece_name, starts
from .softmax_results import log_sum, one_where_zero, store_out
from .stored_products import StoredProducts
from .tile_builder import ROWS, IndexMath, Tile, TileBuilder
from .tile_lists import ListedLoops, TileLists, tile_lists
from .tile_regions import RegionPositions, TileRegion, hoist
from .tile_tables import TABLE, TileTables, mask_plan
from .tile_walk import TileWalk

WHOLE, REST = "whole", "rest"
PART_SLOTS = {WHOLE: 0, REST: 1}
"""Where each part leaves its results."""


@dataclass(frozen=True)
class LowerAttention(Pass):
    """Replace each function that holds one attention by a kernel that computes it.

    Before: `func.func @f(q, k, v, captures...) -> (out[, lse])`, scheduled by `plan`. After:
    `tile.kernel @f(q, k, v, captures..., out[, lse])`. Where the schedule splits the keys:
    `tile.kernel @f(q, k, v, captures..., part_out, part_lse)`, whose results have the number of parts
    as their first size, and `tile.kernel @f_merge(part_out, part_lse, out[, lse])`. Where the mask
    compares what is captured for rows and keys: `tile.kernel @f_tables(q, k, captures..., extremes)`,
    which runs first, and `extremes` after the captures of the main kernel. Where the schedule asks for
    lists: `tile.kernel @f_list(q, k, captures..., [extremes,] spans, tiles[, work])`, which runs next, and
    `spans, tiles[, order]` in place of `extremes` in the main kernel; `order` sorts `work` (see `TileLists`).
    """

    name: ClassVar[str] = "lower-attention"

    def run(self, module: Operation, ctx: PassContext) -> None:
        for operation in list(module.walk()):
            function = FuncOp.match(operation)
            if function is None or not any(AttentionOp.match(op) for op in operation.walk()):
                continue
            site = _site(function)
            assert operation.parent is not None
            schedule = Schedule.of(site.attention)
            if schedule.specialised and any(site.attention.stored(name) for name in ("query", "key", "value")):
                op_error(site.attention.operation, "specialised warps copy q, k and v as they are, but some are codes")
            lowering = _Lowering(site, schedule, WHOLE if schedule.specialised else "")
            kernels = [lowering.kernel()]
            if schedule.specialised:
                others = replace(schedule, specialised=0, num_warps=warps_of(schedule.block_m), persistent=0)
                kernels.append(_Lowering(site, others, REST).kernel())
            if schedule.split or schedule.specialised:
                results = ["out" if v is site.attention.out else "lse" for v in site.returned]
                kernels.append(merge_kernel(site.attention, function.sym_name.value, results, schedule))
            q, k, _, *captures = function.body.block.arguments
            for suffix, before in (("list", lowering.lists), ("tables", lowering.tables)):
                if before is not None:
                    name, location = f"{function.sym_name.value}_{suffix}", site.attention.operation.location
                    kernels.append(before.kernel(name, site.attention.mask, [q, k, *captures], location))
            for kernel in kernels:
                operation.parent.insert_before(operation, kernel)
            operation.erase()
            ctx.statistics["attentions lowered"] += 1


@dataclass(frozen=True)
class _Site:
    """A function that does nothing but one attention, and which of its results are returned."""

    function: FuncOp
    attention: AttentionOp
    returned: Sequence[Value]

    @property
    def structure(self) -> MaskStructure:
        hint = self.attention.structure
        return MaskStructure.from_attr(hint) if hint is not None else analyze_mask(self.attention.mask)


def _site(function: FuncOp) -> _Site:
    ops = function.body.block.ops
    attention = AttentionOp.match(ops[0])
    if attention is None or len(ops) != 2:
        found = ", ".join(op.name for op in ops[:-1])
        op_error(
            function.operation, f"must hold one 'attn.attention' and nothing else to become a kernel, but has {found}"
        )
    returned = ReturnOp(ops[1]).values
    if any(v.defining_op is not attention.operation for v in returned) or len(set(returned)) != len(returned):
        op_error(ops[1], "must return results of the attention, each at most once, for the function to become a kernel")
    for name, type_ in zip("qkv", attention.shapes, strict=True):
        if not isinstance(type_.element, FloatType) or type_.element.name not in (*ELEMENTS, *FLOAT8):
            op_error(attention.operation, f"kernels take f16, bf16, f32 or 8-bit floats, but {name} is {type_}")
    if is_float8(attention.shapes[0].element) and not (attention.weight.empty and attention.empty_score is None):
        op_error(attention.operation, "cannot change 8-bit weights, nor average values of rows without a key in 8 bits")
    return _Site(function, attention, returned)


@dataclass(frozen=True)
class _Lowering:
    """Builds the kernel of one site; one that leaves partial results where keys are split.

    Of `WHOLE` it visits only tiles that the mask keeps whole, of the `REST` only the others.
    """

    site: _Site
    schedule: Schedule
    part: str = ""

    @cached_property
    def _mask_plan(self) -> MaskPlan | None:
        """How to loop over a mask that is no pair of bounds; None where nothing but every tile will do."""
        return mask_plan(self.site.attention)

    @cached_property
    def tables(self) -> TileTables | None:
        """What a kernel before this one must find out of captured tensors."""
        if self._mask_plan is None:
            return None
        return TileTables.of(self._mask_plan, self.schedule, self.site.attention.group.value)

    @cached_property
    def lists(self) -> TileLists | None:
        """Which tiles of keys a kernel before this one must write down."""
        return tile_lists(self.site.attention, self._mask_plan, self.schedule, self.tables)

    @property
    def _before(self) -> list[tuple[TensorType, str]]:
        """What the kernel takes from those before it."""
        if self.lists is not None:
            return [(type_, name) for name, type_ in self.lists.read.items()]
        return [] if self.tables is None else [(self.tables.type, TABLE)]

    @property
    def _partial(self) -> bool:
        """Whether results are merged with those of other programs."""
        return bool(self.schedule.split or self.part)

    @property
    def _rows(self) -> RowTiles:
        return RowTiles(self.schedule, self.site.attention.group.value, self.site.structure)

    def _results(self) -> list[tuple[Value, TensorType, str]]:
        """Each result that the kernel stores: the attention's, its type in memory, its name."""
        attention = self.site.attention
        if self._partial:
            types = zip((attention.out, attention.lse), partial_types(attention), strict=True)
            return [(value, type_, name) for (value, type_), name in zip(types, PARTS, strict=True)]
        found: list[tuple[Value, TensorType, str]] = []
        for value in self.site.returned:
            assert isinstance(value.type, TensorType)
            found.append((value, value.type, "out" if value is attention.out else "lse"))
        return found

    def kernel(self) -> Operation:
        """The arguments are those of the function, then what a kernel before it finds out, then the results."""
        inputs, results = self.site.function.body.block.arguments, self._results()
        before = self._before
        frame = KernelFrame(
            self.site.function.sym_name.value + (f"_{REST}" if self.part == REST else ""),
            [*(v.type for v in inputs), *(type_ for type_, _ in before), *(type_ for _, type_, _ in results)],
            [*(v.name_hint for v in inputs), *(name for _, name in before), *(name for *_, name in results)],
            self.schedule,
            self.site.attention.operation.location,
        )
        (grid, counting), (body, running) = frame.region(), frame.region()
        self._emit_grid(counting, grid)
        self._emit_body(running, body)
        kernel = KernelOp(frame.kernel(grid, body))
        if any(load.bulk is not None for op in kernel.operation.walk() if (load := LoadOp.match(op))):
            kernel.descriptors = StringAttr(self.schedule.descriptors)
        kernel.swapped = UnitAttr() if self.schedule.swap else None
        kernel.persistent = IntegerAttr(self.schedule.persistent) if self.schedule.persistent else None
        return kernel.operation

    # --- the grid

    def _emit_grid(self, builder: Builder, block: Block) -> None:
        """One axis, since the others are limited to 65535: query tiles fastest, then heads, then batches."""
        q, k = (self._argument(block, x) for x in (self.site.attention.q, self.site.attention.k))
        builder.create(GridYieldOp, [self._rows.count_programs(builder, q, k, self._splits(builder, block))])

    def _splits(self, builder: Builder, block: Block) -> Value | None:
        """Into how many parts the keys are split: as many as there is memory for."""
        return size_of(builder, self._argument(block, self.site.attention.out), 0, "S") if self.schedule.split else None

    def _given(self, block: Block) -> list[Value]:
        """What kernels before this one found out."""
        first = len(self.site.function.body.block.arguments)
        return list(block.arguments[first : first + len(self._before)])

    def _order(self, block: Block) -> Value | None:
        """The order of programs, where lists tell it."""
        return self._given(block)[-1] if self.lists is not None and self.lists.ordered else None

    def _argument(self, block: Block, value: Value) -> Value:
        """The kernel argument for an argument or a result of the function."""
        arguments = self.site.function.body.block.arguments
        if value in arguments:
            return block.arguments[arguments.index(value)]
        stored = [result for result, *_ in self._results()]
        return block.arguments[len(arguments) + len(self._before) + stored.index(value)]

    # --- the program

    def _emit_body(self, builder: Builder, block: Block) -> None:
        attention, schedule = self.site.attention, self.schedule
        q, k, v = (self._argument(block, x) for x in (attention.q, attention.k, attention.v))
        place = self._rows.place(builder, q, k, self._splits(builder, block), self._order(block))
        if self.part:
            place = replace(place, slot=builder.index(PART_SLOTS[self.part]))
        tiles = TileBuilder(builder, (schedule.block_m, schedule.block_n))
        rows = self._rows.positions(tiles, place)
        pieces = head_pieces(attention, padded=not schedule.lanes, few_rows=schedule.few_rows)
        query = self._rows.rows_of(builder, q, place, "q_head")
        keys, values = (part_of(builder, x, (place.b, place.key_head), f"{n}_head") for x, n in ((k, "k"), (v, "v")))
        element, native = attention.shapes[0].element, bool(schedule.lanes)
        captures = self._captures(block)
        stored = StoredProducts.of(attention, captures, schedule, self.site.structure)
        # Specialised warps copy q as it is, and so do products of codes.
        may_negate = self.part != WHOLE and stored.of_codes is None
        scaling = Scaling.of(attention.scale.value, attention.score, element, native=native, may_negate=may_negate)
        scaling = stored.scaling(scaling)
        regions = self._row_regions(captures, (q, k, v), stored)
        row_place = RowPlace(Tile(place.b), rows.h, rows.m, rows.valid)
        queries = QueryTiles(schedule, scaling, regions["query"], stored, bulk=self.part == WHOLE)
        q_tiles = queries.emit(builder, query, place.start_m, row_place, pieces.keys)
        score = self._hoist(attention.score, tiles, place, rows, captures)
        mask = self._hoist(attention.mask, tiles, place, rows, captures) if self.site.structure.opaque else None
        loop = SoftmaxLoop(
            schedule, scaling, q_tiles, keys, values, pieces.keys, pieces.values, rows.valid, score,
            stored.key_rows(place) or self._key_rows(regions["key"], place),
            stored.value_rows(place) or self._key_rows(regions["value"], place),
            query_scale=stored.query_scale(tiles, place, rows),
        )  # fmt: skip
        weight = self._hoist(attention.weight, tiles, place, rows, captures)
        loop = replace(loop, weight=weight, largest=attention.normaliser.value == "max")
        start = self._start(loop, tiles, place, rows, captures)
        result = self._emit_loops(builder, loop, start, place, tiles, rows.m, mask)
        if attention.empty_score is not None:
            empty_rows = EmptyRows(loop, attention.empty_score.value, place.key_length, place.splits)
            result = empty_rows.emit(builder, result)
        change = None if self._partial else output_change(regions["output"], row_place)
        scaled = self._scaled(builder, stored, place, pieces.values, result)
        self._emit_results(builder, block, place, pieces.values, scaled, scaling, change)
        builder.create(KernelReturnOp)

    def _scaled(
        self, builder: Builder, stored: StoredProducts, place: Place, pieces: Sequence[int], result: Carried
    ) -> Carried:
        """The result with the scales of values that all tokens share."""
        accs = [
            stored.scaled_result(TileBuilder(builder, (self.schedule.block_m, width)), Tile(acc, (0, 1)), place, first)
            for (first, width), acc in zip(starts(pieces), result.accs, strict=True)
        ]
        return replace(result, accs=tuple(acc.value for acc in accs))

    def _row_regions(
        self, captures: list[Value], operands: Sequence[Value], stored: StoredProducts
    ) -> dict[str, RowRegion | None]:
        """The regions that change rows, for their tiles. Vectors run along keys, values and few queries."""
        attention, schedule = self.site.attention, self.schedule
        few = schedule.lanes if schedule.block_m < schedule.lanes else 0
        sources: dict[str, Value] = dict(zip(("query", "key", "value"), operands, strict=True))
        types = dict(zip((*sources, "output"), (*attention.shapes, attention.shapes[2]), strict=True))
        found: dict[str, RowRegion | None] = {}
        for name, type_ in types.items():
            if getattr(stored, name, None) is not None:
                found[name] = None
                continue
            width = type_.shape[3]
            assert isinstance(width, int), "the planner refuses unknown head dimensions"
            computed = type_.element if name in sources and attention.stored(name) is not None else None
            region = RowRegion.of(name, attention.region(name), captures, width, sources.get(name), computed)
            lanes = schedule.lanes if name in ("key", "value") else few
            found[name] = None if region is None else region.along(lanes)
        return found

    def _key_rows(self, region: RowRegion | None, place: Place) -> KeyRows | None:
        return None if region is None else KeyRows(region, place.b, place.key_head)

    def _captures(self, block: Block) -> list[Value]:
        return [self._argument(block, capture) for capture in self.site.attention.captures]

    def _hoist(
        self, region: Region, tiles: TileBuilder, place: Place, rows: RowPositions, captures: list[Value]
    ) -> TileRegion | None:
        if region.empty:
            return None
        positions = RegionPositions.of(region)
        arguments = region.block.arguments[len(region.block.arguments) - len(captures) :]
        known = {positions.b: Tile(place.b), positions.h: rows.h, positions.m: rows.m}
        return hoist(region, tiles, known, dict(zip(arguments, captures, strict=True)), {ROWS: rows.valid})

    # --- the loops

    def _emit_loops(
        self,
        builder: Builder,
        loop: SoftmaxLoop,
        state: Carried,
        place: Place,
        tiles: TileBuilder,
        rows: Tile,
        mask: TileRegion | None,
    ) -> Carried:
        """Masked tiles at the left edge, whole tiles, masked tiles at the right edge with the ragged tail."""
        structure, math_ = self.site.structure, IndexMath(builder)
        if mask is not None and self._mask_plan is not None:
            return self._masked_loops(builder, loop, self._mask_plan, place, mask).emit(builder, state)
        ranges = self._ranges(builder, place)
        right = self._masking(math_, place, tiles, rows, mask)
        if structure.opaque:
            begin = ranges.begin
            if self.schedule.edge != self.schedule.block_n:
                begin = whole_tiles(math_, begin, ranges.end, self.schedule.block_n)
                begin.name_hint = "whole_end"
                state = loop.emit(builder, ranges.begin, begin, state, Masking(None, region=mask))
            return loop.emit(builder, begin, ranges.end, state, right)
        if self.part == WHOLE:
            state = loop.emit(builder, ranges.full_begin, ranges.full_end, state, None)
            each = ForOp.producing(state.row_max)
            assert each is not None
            each.operation.attributes["specialised"] = UnitAttr()
            return state
        if structure.has_lower_bound:
            left_end = math_.least(ranges.full_begin, ranges.end)
            left_end.name_hint = "left_end"
            left = replace(right, first_keys=self._first_keys(tiles, rows))
            state = self._edge(loop.emit(builder, ranges.begin, left_end, state, left))
        if self.part != REST:
            state = loop.emit(builder, ranges.full_begin, ranges.full_end, state, None)
        return self._edge(loop.emit(builder, ranges.full_end, ranges.end, state, right))

    def _edge(self, state: Carried) -> Carried:
        """The loop at an edge of the mask, which has at most two steps where tiles are no higher than wide."""
        low = self.schedule.block_m <= self.schedule.block_n
        return not_pipelined(state) if self.schedule.descriptors and low and not self._rows.folds else state

    def _masked_loops(
        self,
        builder: Builder,
        loop: SoftmaxLoop,
        plan: MaskPlan,
        place: Place,
        mask: TileRegion,
    ) -> MaskedLoops | ListedLoops:
        masking, before = Masking(Tile(place.key_length), region=mask), self._given(builder.block)
        if self.lists is not None:
            spans, listed, *_ = before
            return ListedLoops(loop, masking, listed, self.lists.ranges(builder, spans, place))
        walk = TileWalk.of(builder, self._rows, place, plan, mask.captures, self.tables, *(before or [None]))
        return MaskedLoops(loop, masking, walk)

    def _ranges(self, builder: Builder, place: Place) -> KeyRanges[Value]:
        schedule, structure, math_ = self.schedule, self.site.structure, IndexMath(builder)
        row_begin, row_end = self._rows.queries(builder, place)
        key_begin, key_end = self._rows.keys(builder, place)
        ranges = key_ranges(structure, math_, row_begin, row_end, key_end, schedule.block_n, schedule.edge_n, key_begin)
        for name in ("begin", "full_begin", "full_end", "end"):
            bound: Value = getattr(ranges, name)
            bound.name_hint = bound.name_hint or name
        return ranges

    def _start(
        self, loop: SoftmaxLoop, tiles: TileBuilder, place: Place, rows: RowPositions, captures: list[Value]
    ) -> Carried:
        """Before any key: nothing, or the sink of each row."""
        builder, count, region = tiles.builder, self.schedule.block_m, self.site.attention.sink
        accs = tuple(
            builder.constant(0.0, TensorType((count, width), f32), piece_name("acc", i))
            for i, width in enumerate(loop.value_pieces)
        )
        if region.empty or self.part == WHOLE:  # of the two parts, the rest starts from the sink
            row_max = builder.constant(MINUS_INFINITY, TensorType((count,), f32), "row_max")
            return Carried(accs, row_max, builder.constant(0.0, TensorType((count,), f32), "row_sum"))
        b, h, m, *arguments = region.block.arguments
        known, valid = {b: Tile(place.b), h: rows.h, m: rows.m}, {ROWS: rows.valid}
        sinks = hoist(region, tiles, known, dict(zip(arguments, captures, strict=True)), valid)
        return Carried(accs, *sink_start(tiles, sinks.inline(tiles, {}, valid), loop.scaling, place.split))

    def _masking(
        self, math_: IndexMath, place: Place, tiles: TileBuilder, rows: Tile, mask: TileRegion | None
    ) -> Masking:
        """The checks at the right edge, where lower bounds hold already; all of them if the mask is opaque."""
        structure = self.site.structure
        key_end = place.key_length
        if structure.last is not None:
            key_end = math_.least(key_end, math_.constant(structure.last + 1))
        if structure.opaque or structure.upper is None:
            return Masking(Tile(key_end), region=mask)
        row_end = tiles.binary(MinSIOp, tiles.shifted(rows, structure.upper + 1), Tile(key_end), "end_key")
        relative = structure.has_lower_bound and not self.schedule.lanes
        return Masking(Tile(key_end), row_end, relative=relative)

    def _first_keys(self, tiles: TileBuilder, rows: Tile) -> tuple[Tile, ...]:
        structure, bounds = self.site.structure, list[Tile]()
        if structure.lower is not None:
            bounds.append(tiles.shifted(rows, structure.lower, "first_key"))
        if (structure.first or 0) > 0:
            bounds.append(tiles.index(structure.first or 0))
        return tuple(bounds)

    # --- the results

    def _divisor(self, tiles: TileBuilder, row_sum: Tile, scaling: Scaling) -> Tile:
        """What the accumulated values are divided by."""
        if not scaling.weight_bits:
            return row_sum
        return tiles.binary(MulFOp, row_sum, Tile(tiles.builder.constant(2.0**scaling.weight_bits, f32)), "divisor")

    def _emit_results(
        self,
        builder: Builder,
        block: Block,
        place: Place,
        pieces: Sequence[int],
        result: Carried,
        scaling: Scaling,
        change: OutputChange | None,
    ) -> None:
        tiles = TileBuilder(builder, (self.schedule.block_m, pieces[0] if pieces else 1))
        row_sum = one_where_zero(tiles, Tile(result.row_sum, (ROWS,)))
        for value, *_ in self._results():
            target = self._rows.rows_of(builder, self._argument(block, value), place, "", partial=True)
            if value is self.site.attention.out:
                target.name_hint = "out_head"
                divisor = self._divisor(tiles, row_sum, scaling)
                for (first, width), acc in zip(starts(pieces), result.accs, strict=True):
                    wide = TileBuilder(builder, (self.schedule.block_m, width))
                    store_out(wide, target, (place.start_m, first), Tile(acc, (0, 1)), divisor, change)
            else:
                target.name_hint = "lse_head"
                lse = log_sum(tiles, Tile(result.row_max, (ROWS,)), row_sum, natural=scaling.late).value
                builder.create(StoreOp, [lse, target, place.start_m], [], {"boundary": DenseArrayAttr((0,))})
