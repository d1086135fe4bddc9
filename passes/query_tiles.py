"""The tile of queries of one program, as it enters the products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cost_model.schedule import Schedule
from ..ir.attributes import Attribute, DenseArrayAttr, TensorType, UnitAttr
from ..ir.builder import Builder
from ..ir.core import Value
from ..ir.dialects.arith import MulFOp, NegFOp
from ..ir.dialects.tile import LoadOp
from .row_regions import RowPlace, RowRegion, tiles_like
from .scaling import Scaling
from .softmax_loop import piece_name, starts, widened
from .stored_products import StoredProducts
from .stored_rows import Load
from .tile_builder import TileBuilder


@dataclass(frozen=True)
class QueryTiles:
    """How q is read: changed by `region`, made of codes where it is `stored`, and scaled. `bulk` copies it as it is."""

    schedule: Schedule
    scaling: Scaling
    region: RowRegion | None
    stored: StoredProducts
    bulk: bool = False

    def emit(
        self, builder: Builder, query: Value, start: Value, place: RowPlace, pieces: Sequence[int]
    ) -> tuple[Value, ...]:
        """The tile whose first row is `start`, in pieces of columns."""
        if self.stored.of_codes is not None:
            return self.stored.code_tiles(builder, query, start, pieces, self.schedule.block_m)
        return tuple(
            self._scaled(builder, self._rows(builder, query, start, place, (first, width), piece_name("q_tile", i)))
            for i, (first, width) in enumerate(starts(pieces))
        )

    def _rows(
        self, builder: Builder, query: Value, start: Value, place: RowPlace, columns: tuple[int, int], name: str
    ) -> Value:
        """The rows in the type of q, or in f32 on CPUs."""
        type_, wide, (first, width) = query.type, bool(self.schedule.lanes), columns
        assert isinstance(type_, TensorType) and isinstance(type_.shape[1], int)
        shape = (self.schedule.block_m, width)
        if (stored := self.stored.query) is not None:
            codes = stored.codes(builder, query, (start, first), shape, Load(stored.element, name))
            return self.stored.numbers(builder, codes, place, first, stored.element)
        if self.region is not None and self.region.computed is not None:
            return self.region.rounded(TileBuilder(builder, shape), place, None, widen=wide, name=name)
        properties: dict[str, Attribute] = {
            "boundary": DenseArrayAttr((0, 1) if first + width > type_.shape[1] else (0,))
        }
        if self.bulk:  # specialised warps take no other loads
            properties["bulk"] = UnitAttr()
        tile = type_.with_shape(*shape)
        loaded = builder.create(LoadOp, [query, start, builder.index(first)], [tile], properties, name=name).out
        if self.region is None:
            return loaded
        return self.region.rounded(tiles_like(builder, loaded), place, loaded, widen=wide, name=name)

    def _scaled(self, builder: Builder, rows: Value) -> Value:
        if self.scaling.negated:
            rows = builder.create(NegFOp, [rows], [rows.type], name="q_negated").out
        if not self.schedule.lanes:
            return rows
        rows = widened(builder, rows)
        if self.scaling.queries == 1.0:
            return rows
        return builder.binary(MulFOp, rows, builder.constant(self.scaling.queries, rows.type), "q_scaled")
