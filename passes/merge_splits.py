"""Attention whose keys are split over programs: how many parts, their types, the kernel that merges them."""

from __future__ import annotations

from collections.abc import Sequence

from ..cost_model.devices import INTERPRETER, device_named
from ..ir.attributes import DenseArrayAttr, IntegerAttr, Symbol, TensorType, f32, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.dialects.arith import AddFOp, DivSIOp, MaximumFOp, MulFOp, MulIOp, RemSIOp, SubFOp
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.scf import ForOp, YieldOp
from ..ir.dialects.tile import BroadcastOp, GatherOp, LoadOp, ProgramIdOp, StoreOp
from ..ir.dialects.tile import ReturnOp as KernelReturnOp
from ..ir.dialects.tile import YieldOp as GridYieldOp
from .kernel_frame import KernelFrame, part_of, size_of, width_of
from .row_regions import RowPlace, RowRegion, output_change
from .schedule import Schedule
from .softmax_loop import FULL, LOG2_E, MINUS_INFINITY, exp2, finite_or_zero
from .softmax_results import log_sum, one_where_zero, store_out
from .tile_builder import Tile, TileBuilder

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
    wanted = _multiprocessors(schedule.target)
    tiles = -(-key_length // schedule.block_n)
    if not schedule.split or programs <= 0 or programs >= BUSY * wanted:
        return 1
    if tiles <= FEW_TILES and 4 * programs >= wanted:
        return 1
    # Of the counts that give every part as many tiles, the least leaves no part empty.
    counts = [
        s for s in range(1, min(MOST_GPU_SPLITS, wanted, tiles) + 1) if s == 1 or -(-tiles // s) < -(-tiles // (s - 1))
    ]
    busy = {s: programs * s / wanted / -(-programs * s // wanted) for s in counts}
    return next((s for s in counts if busy[s] >= GOOD_WAVES * max(busy.values())), 1)


def _multiprocessors(target: str) -> int:
    return PRETENDED_MULTIPROCESSORS if target == INTERPRETER else device_named(target).multiprocessors


def partial_types(attention: AttentionOp) -> tuple[TensorType, TensorType]:
    """part_out (S, B, H, M, E) and part_lse (S, B, H, M), both f32."""
    out = attention.out.type
    assert isinstance(out, TensorType)
    shape = (Symbol("S"), *out.shape)
    return TensorType(shape, f32), TensorType(shape[:-1], f32)


def merge_kernel(attention: AttentionOp, name: str, results: Sequence[str], schedule: Schedule) -> Operation:
    """`tile.kernel @name_merge(part_out, part_lse, [captures...,] results...)`: out = Σ exp(lse_s - lse) part_s.

    One program merges one row (b, h, m). Rows without a key in any part give out 0 and lse -inf,
    as attention does; nan in a part reaches the result. An output region, which reads the captures,
    changes the row before it is stored.
    """
    types = {"out": attention.out.type, "lse": attention.lse.type}
    captures = [] if attention.output.empty else attention.captures
    frame = KernelFrame(
        f"{name}_merge",
        [*partial_types(attention), *(c.type for c in captures), *(types[result] for result in results)],
        [*PARTS, *(c.name_hint for c in captures), *results],
        schedule,
        attention.operation.location,
    )
    (grid, counting), (body, running) = frame.region(), frame.region()
    part_lse = grid.arguments[1]
    programs = size_of(counting, part_lse, 1, "B")
    for axis, size in ((2, "H"), (3, "M")):
        programs = counting.binary(MulIOp, programs, size_of(counting, part_lse, axis, size), "programs")
    counting.create(GridYieldOp, [programs])
    inside = body.arguments[2 : 2 + len(captures)]
    region = RowRegion.of("output", attention.output, inside, width_of(body.arguments[0]), None)
    region = None if region is None else region.along(schedule.lanes)
    _emit_body(running, body, results, region)
    return frame.kernel(grid, body)


def _emit_body(builder: Builder, block: Block, results: Sequence[str], region: RowRegion | None) -> None:
    part_out, part_lse = block.arguments[:2]
    targets = block.arguments[len(block.arguments) - len(results) :]
    b, h, m = _row(builder, part_lse)
    tiles = TileBuilder(builder, (1, width_of(part_out)))
    acc, row_max, row_sum = (Tile(v, FULL if i == 0 else ()) for i, v in enumerate(_merged(tiles, block, (b, h, m))))
    row_sum = one_where_zero(tiles, row_sum)
    for name, target in zip(results, targets, strict=True):
        head = part_of(builder, target, (b, h), f"{name}_head")
        if name == "out":
            change = output_change(region, RowPlace(Tile(b), Tile(h), Tile(m), None))
            store_out(tiles, head, (m, 0), acc, row_sum, change)
        else:
            lse = log_sum(tiles, row_max, row_sum, natural=True).value
            row = TensorType((1,), f32)
            tile = builder.create(BroadcastOp, [lse], [row], {"axes": DenseArrayAttr((0,))}).out
            builder.create(StoreOp, [tile, head, m], [], {"boundary": DenseArrayAttr(())})
    builder.create(KernelReturnOp)


def _row(builder: Builder, part_lse: Value) -> tuple[Value, Value, Value]:
    """The batch, head and query of this program's row."""
    heads, queries = size_of(builder, part_lse, 2, "H"), size_of(builder, part_lse, 3, "M")
    pid = builder.create(ProgramIdOp, [], [index], {"axis": IntegerAttr(0)}, name="pid").out
    head = builder.binary(DivSIOp, pid, queries, "bh")
    b, h = builder.binary(DivSIOp, head, heads, "b"), builder.binary(RemSIOp, head, heads, "h")
    return b, h, builder.binary(RemSIOp, pid, queries, "m")


def _merged(tiles: TileBuilder, block: Block, row: tuple[Value, Value, Value]) -> list[Value]:
    """Σ w_s part_s (1, E), the largest lse and Σ w_s, with w_s = exp(lse_s - that maximum)."""
    builder, (part_out, part_lse, *_) = tiles.builder, block.arguments
    start = [
        builder.constant(0.0, TensorType(tiles.shape, f32), "acc"),
        builder.constant(MINUS_INFINITY, f32, "row_max"),
        builder.constant(0.0, f32, "row_sum"),
    ]
    types = [v.type for v in start]
    inner_block = Block.with_arguments([index, *types], ["s", "acc", "row_max", "row_sum"])
    inner = TileBuilder(Builder(inner_block, location=builder.location), tiles.shape)
    inner.builder.create(YieldOp, _step(inner, part_out, part_lse, row, inner_block.arguments))
    bounds = [builder.index(0), size_of(builder, part_lse, 0, "S"), builder.index(1)]
    loop = builder.create(ForOp, [*bounds, *start], types, regions=[Region([inner_block])])
    for result, value in zip(loop.results, start, strict=True):
        result.name_hint = value.name_hint
    return loop.results


def _step(
    tiles: TileBuilder, part_out: Value, part_lse: Value, row: tuple[Value, Value, Value], arguments: Sequence[Value]
) -> list[Value]:
    """One part more."""
    builder, (b, h, m) = tiles.builder, row
    s, acc, row_max, row_sum = arguments
    lse = Tile(builder.create(GatherOp, [part_lse, s, b, h, m], [f32], name="lse").out)
    new_max = tiles.binary(MaximumFOp, Tile(row_max), lse, "new_max")
    base = finite_or_zero(tiles, new_max)
    alpha, weight = (
        exp2(tiles, tiles.binary(MulFOp, tiles.binary(SubFOp, x, base), Tile(builder.constant(LOG2_E, f32))), label)
        for x, label in ((Tile(row_max), "alpha"), (lse, "weight"))
    )
    head = part_of(builder, part_out, (s, b, h), "part_head")
    type_ = TensorType(tiles.shape, f32)
    part = builder.create(LoadOp, [head, m, builder.index(0)], [type_], {"boundary": DenseArrayAttr(())}).out
    weighted = tiles.binary(MulFOp, Tile(part, FULL), weight)
    kept = tiles.binary(MulFOp, Tile(acc, FULL), alpha)
    total = tiles.binary(AddFOp, tiles.binary(MulFOp, Tile(row_sum), alpha), weight, "row_sum")
    return [tiles.binary(AddFOp, kept, weighted, "acc").value, new_max.value, total.value]
