"""What one loop must check of each score: -inf where the mask, or the end of the keys, drops it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.attributes import f32, index
from ..ir.core import Value
from ..ir.dialects.arith import SelectOp, SubIOp
from ..ir.dialects.tile import IotaOp
from .tile_builder import COLUMNS, ROWS, Tile, TileBuilder
from .tile_regions import RegionPositions, TileRegion

MINUS_INFINITY = float("-inf")
FULL = (ROWS, COLUMNS)


@dataclass(frozen=True)
class Masking:
    """What one loop must check of each score.

    `key_end` bounds the keys from above (exclusive; None where all tiles are whole), and `row_end`
    (exclusive) does so for each row, never beyond `key_end`; `first_keys` are lower bounds;
    `region` is an opaque mask. Where `cut` is given, scores are checked only while it holds.
    `relative` bounds are compared with positions inside the tile, which costs less where there are two.
    """

    key_end: Tile | None
    row_end: Tile | None = None
    first_keys: tuple[Tile, ...] = ()
    region: TileRegion | None = None
    cut: Value | None = None
    relative: bool = False


def kept_scores(
    tiles: TileBuilder, masking: Masking, scores: Tile, keys: tuple[Value, Tile], valid: Mapping[int, Tile]
) -> Tile:
    """The scores, -inf where the mask drops them."""
    mask = mask_tile(tiles, masking, keys, valid)
    dropped = Tile(tiles.builder.constant(MINUS_INFINITY, f32))
    kept = Tile(tiles.spread(mask, FULL), FULL)
    return tiles.elementwise(SelectOp.op_name, [kept, scores, dropped], f32, label="scores")


def mask_tile(tiles: TileBuilder, masking: Masking, keys: tuple[Value, Tile], valid: Mapping[int, Tile]) -> Tile:
    """Which scores of a tile are kept; `keys` are the first one and all of them."""
    _, columns = keys
    conditions = [valid[COLUMNS]] if COLUMNS in valid else []
    if masking.row_end is not None:
        conditions = [_bounded(tiles, "slt", keys, masking.row_end, relative=masking.relative)]
    conditions += [_bounded(tiles, "sge", keys, first, relative=masking.relative) for first in masking.first_keys]
    if masking.region is not None:
        positions = RegionPositions.of(masking.region.region)
        conditions.append(masking.region.inline(tiles, {positions.n: columns}, valid))
    mask = tiles.conjunction(conditions, "mask")
    mask.value.name_hint = mask.value.name_hint or "mask"
    return mask


def _bounded(tiles: TileBuilder, predicate: str, keys: tuple[Value, Tile], bound: Tile, *, relative: bool) -> Tile:
    """How keys compare with a bound of each row."""
    start_n, columns = keys
    if not relative:
        return tiles.compare(predicate, columns, bound)
    inside = tiles.builder.create(IotaOp, [], [tiles.type_along((COLUMNS,), index)]).out
    return tiles.compare(predicate, Tile(inside, (COLUMNS,)), tiles.binary(SubIOp, bound, Tile(start_n)))
