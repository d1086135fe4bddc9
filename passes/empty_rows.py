"""Rows that a mask by a finite number leaves without a key: all keys score the same, so they average all values."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.attributes import TensorType, f32, i1, i32
from ..ir.builder import Builder
from ..ir.core import Block, Region, Value
from ..ir.dialects.arith import AddFOp, CmpFOp, DivFOp, IndexCastOp, SelectOp, SIToFPOp
from ..ir.dialects.scf import IfOp, YieldOp
from ..ir.dialects.tile import AnyOp
from .masking import FULL, Masking
from .scaling import LOG2_E
from .softmax_loop import Carried, SoftmaxLoop, each_tile, row_sums
from .tile_builder import COLUMNS, ROWS, Tile, TileBuilder

LARGEST = 3e38
"""Scores in powers of two go no further, so that they stay finite."""


@dataclass(frozen=True)
class EmptyRows:
    """A second look at the rows that kept no key in one program.

    Each of all keys weighs 1 under a maximum of `score`, which no sum with a real score feels. Where the
    keys are split, all `splits` parts do so, each with its share of the sum: the logarithms of how many
    keys each part has would be lost beside `score`.
    """

    loop: SoftmaxLoop
    score: float
    key_length: Value
    splits: Value | None = None

    def emit(self, builder: Builder, state: Carried) -> Carried:
        """What the loops left, but for rows without a key; those with one keep their bits."""
        tiles = self._tiles(builder, self.loop.value_pieces[0] if self.loop.value_pieces else 1)
        zero = Tile(builder.constant(0.0, f32))
        properties = {"predicate": CmpFOp.predicate_attr("oeq")}
        row_sum = Tile(state.row_sum, (ROWS,))
        empty = tiles.elementwise(CmpFOp.op_name, [row_sum, zero], i1, properties, "empty_row")
        empty = tiles.conjunction([empty, self.loop.row_valid], "empty_row")
        some = builder.create(AnyOp, [tiles.spread(empty, (ROWS,))], [i1], name="some_empty").out
        then, otherwise = Block(), Block()
        inside = TileBuilder(Builder(then, location=builder.location), tiles.shape)
        inside.builder.create(YieldOp, self._averaged(inside, state, empty).values)
        Builder(otherwise, location=builder.location).create(YieldOp, state.values)
        types = [v.type for v in state.values]
        chosen = builder.create(IfOp, [some], types, regions=[Region([then]), Region([otherwise])])
        return state.with_values(chosen.results)

    def _tiles(self, builder: Builder, width: int) -> TileBuilder:
        return TileBuilder(builder, (self.loop.schedule.block_m, width))

    def _averaged(self, tiles: TileBuilder, state: Carried, empty: Tile) -> Carried:
        builder, count = tiles.builder, tiles.shape[0]
        row = TensorType((count,), f32)
        start = Carried(
            tuple(builder.constant(0.0, acc.type, "total") for acc in state.accs),
            state.row_max,
            builder.constant(0.0, row, "count"),
        )
        bounds = builder.index(0), self.key_length, self.loop.schedule.edge
        summed = each_tile(builder, bounds, start, "all keys, for rows that keep none", self._step)
        score = self.score if self.loop.scaling.late else max(-LARGEST, min(LARGEST, self.score * LOG2_E))
        zero, base = (Tile(builder.constant(x, f32)) for x in (0.0, score))
        properties = {"predicate": CmpFOp.predicate_attr("ogt")}
        counted = Tile(summed.row_sum, (ROWS,))
        any_key = tiles.elementwise(CmpFOp.op_name, [counted, zero], i1, properties, "any_key")
        moved = tiles.conjunction([empty, any_key], "moved")

        def chosen(where: Tile, new: Tile, old: Value, name: str, tiles: TileBuilder = tiles) -> Value:
            axes = FULL if isinstance(old.type, TensorType) and old.type.rank == len(FULL) else (ROWS,)
            condition = Tile(tiles.spread(where, axes), axes)
            return tiles.elementwise(SelectOp.op_name, [condition, new, Tile(old, axes)], f32, label=name).value

        accs: list[Value] = []
        for width, total, acc in zip(self.loop.value_pieces, summed.accs, state.accs, strict=True):
            wide = self._tiles(builder, width)
            accs.append(chosen(empty, self._share(wide, Tile(total, FULL)), acc, "acc", wide))
        return Carried(
            tuple(accs),
            chosen(moved, base, state.row_max, "row_max"),
            chosen(empty, self._share(tiles, counted), state.row_sum, "row_sum"),
        )

    def _share(self, tiles: TileBuilder, total: Tile) -> Tile:
        """What one part contributes to a sum that all parts know."""
        if self.splits is None:
            return total
        parts = tiles.builder.create(IndexCastOp, [self.splits], [i32]).out
        return tiles.binary(DivFOp, total, Tile(tiles.builder.create(SIToFPOp, [parts], [f32]).out), "share")

    def _step(self, builder: Builder, start_n: Value, before: Carried) -> Carried:
        """One tile of values more, each with weight 1."""
        tiles = TileBuilder(builder, (self.loop.schedule.block_m, self.loop.schedule.edge))
        masking = Masking(Tile(self.key_length))
        _, valid = self.loop.positions(tiles, start_n, masking)
        one, zero = (Tile(builder.constant(x, f32)) for x in (1.0, 0.0))
        exists = Tile(tiles.spread(valid[COLUMNS], FULL), FULL)
        p = tiles.elementwise(SelectOp.op_name, [exists, one, zero], f32, label="p")
        count = tiles.binary(AddFOp, Tile(before.row_sum, (ROWS,)), row_sums(tiles, p), "count")
        p = self.loop.weighted(tiles, start_n, p, masking)
        alpha = Tile(builder.constant(1.0, f32))
        accs = self.loop.accumulate(tiles, start_n, before.accs, alpha, p, masking)
        return Carried(accs, before.row_max, count.value)
