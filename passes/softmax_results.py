"""What an attention kernel stores at its end: rows divided by their sums, and log-sum-exps."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..ir.attributes import DenseArrayAttr, TensorType, f32, i1
from ..ir.core import Value
from ..ir.dialects.arith import AddFOp, CmpFOp, DivFOp, MulFOp, SelectOp, TruncFOp
from ..ir.dialects.math import Log2Op
from ..ir.dialects.tile import StoreOp
from .tile_builder import Tile, TileBuilder


def one_where_zero(tiles: TileBuilder, row_sum: Tile) -> Tile:
    """The row sum, or 1 for rows without any key, whose accumulator is 0 and maximum -inf."""
    zero, one = (Tile(tiles.builder.constant(x, f32)) for x in (0.0, 1.0))
    properties = {"predicate": CmpFOp.predicate_attr("oeq")}
    empty = tiles.elementwise(CmpFOp.op_name, [row_sum, zero], i1, properties, "no_key")
    return tiles.elementwise(SelectOp.op_name, [empty, one, row_sum], f32, label="row_sum")


def store_out(
    tiles: TileBuilder,
    target: Value,
    start: tuple[Value, int],
    acc: Tile,
    row_sum: Tile,
    change: Callable[[TileBuilder, Tile], Tile] | None = None,
) -> None:
    """Store acc / row_sum, as `change` makes it, in `target` from row and column `start` on, in its type."""
    memory, width = target.type, tiles.shape[1]
    assert isinstance(memory, TensorType)
    out = tiles.binary(DivFOp, acc, row_sum, "out_tile")
    out = out if change is None else change(tiles, out)
    if memory.element != f32:
        out = tiles.elementwise(TruncFOp.op_name, [out], memory.element, label="out_tile")
    (start_m, first), columns = start, memory.shape[1]
    assert isinstance(columns, int)
    axes = DenseArrayAttr((0, 1) if first + width > columns else (0,))
    operands = [out.value, target, start_m, tiles.builder.index(first)]
    tiles.builder.create(StoreOp, operands, [], {"boundary": axes})


def log_sum(tiles: TileBuilder, row_max: Tile, row_sum: Tile, *, natural: bool) -> Tile:
    """The natural logarithm of the sum of the exponentials of a row's scores.

    The maximum is in powers of two, or already `natural`.
    """
    logarithm = tiles.elementwise(Log2Op.op_name, [row_sum], f32)
    unit = Tile(tiles.builder.constant(math.log(2.0), f32))
    if natural:
        return tiles.binary(AddFOp, row_max, tiles.binary(MulFOp, logarithm, unit), "lse_tile")
    return tiles.binary(MulFOp, tiles.binary(AddFOp, row_max, logarithm), unit, "lse_tile")
