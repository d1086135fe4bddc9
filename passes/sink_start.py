"""Where the online softmax starts in a row with a score that has no value behind it."""

from __future__ import annotations

from ..ir.attributes import f32, i1, index
from ..ir.core import Value
from ..ir.dialects.arith import CmpFOp, MulFOp, SelectOp
from .masking import MINUS_INFINITY
from .scaling import LOG2_E, Scaling
from .tile_builder import ROWS, Tile, TileBuilder


def sink_start(tiles: TileBuilder, sink: Tile, scaling: Scaling, split: Value | None) -> tuple[Value, Value]:
    """The first row_max and row_sum: exp(sink) under its own maximum, nothing where the sink is -inf.

    Where the keys are split, only the first part starts from the sink.
    """
    nothing, zero, one = (Tile(tiles.builder.constant(x, f32)) for x in (MINUS_INFINITY, 0.0, 1.0))
    if split is not None:
        first = tiles.compare("eq", Tile(split), Tile(tiles.builder.constant(0, index)), "first_part")
        sink = tiles.elementwise(SelectOp.op_name, [first, sink, nothing], f32, label="sink")
    if not scaling.late:
        sink = tiles.binary(MulFOp, sink, Tile(tiles.builder.constant(LOG2_E, f32)), "sink")
    properties = {"predicate": CmpFOp.predicate_attr("oeq")}
    absent = tiles.elementwise(CmpFOp.op_name, [sink, nothing], i1, properties, "no_sink")
    row_sum = tiles.elementwise(SelectOp.op_name, [absent, zero, one], f32, label="row_sum")
    return tiles.spread(sink, (ROWS,)), tiles.spread(row_sum, (ROWS,))
