"""Which products of an attention read codes as they are stored, and where the scales of those codes go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..cost_model.schedule import Schedule
from ..ir.attributes import Type, f16, f32, i8, is_float8
from ..ir.builder import Builder
from ..ir.core import Value
from ..ir.dialects.arith import MulFOp
from ..ir.dialects.attn import AttentionOp
from .mask_structure import MaskStructure
from .row_regions import RowPlace, tiles_like
from .row_tiles import Place, RowPositions
from .scaling import FLOAT8_WEIGHT_BITS, Scaling
from .softmax_loop import piece_name, starts
from .stored_rows import Load, StoredKeys, StoredRows, converted, stored_rows, value_groups
from .tile_builder import Tile, TileBuilder


@dataclass(frozen=True)
class StoredProducts:
    """The plain stored operands of an attention (see `stored_rows`), and how its products take them.

    `of_codes` is the type of both factors of q kᵀ where codes enter it as they are. Of keys with a scale for each
    channel `folded` ones go into q, once for each tile of keys: exact only in real arithmetic, but in f32 no worse than
    elsewhere. Weights times `float8_values` are 8-bit floats too. `aligned` tiles of keys start at multiples of their
    size. Values `in_groups` are in parts that have scales, and zeros, of their own for each token.
    """

    query: StoredRows | None
    key: StoredRows | None
    value: StoredRows | None
    native: bool
    aligned: bool
    of_codes: Type | None
    folded: bool
    float8_values: bool
    in_groups: bool

    @staticmethod
    def of(
        attention: AttentionOp, captures: Sequence[Value], schedule: Schedule, structure: MaskStructure
    ) -> StoredProducts:
        query, key, value = (stored_rows(attention, name, captures) for name in ("query", "key", "value"))
        native = bool(schedule.lanes)
        moved = structure.opaque or structure.has_lower_bound or bool(structure.first)
        aligned = schedule.edge == schedule.block_n or not moved
        of_codes = None if query is None or key is None else _common_codes(query, key, native=native)
        folded = key is not None and native and key.channels_differ and key.uniform(schedule.block_n)
        own_weights = attention.weight.empty and attention.empty_score is None
        float8 = of_codes is not None and is_float8(of_codes) and value is not None and own_weights
        float8 = float8 and value is not None and value.scaled_by_channel and is_float8(value.storage.element)
        in_groups = native and bool(value_groups(attention))
        return StoredProducts(query, key, value, native, aligned, of_codes, folded and aligned, float8, in_groups)

    def scaling(self, scaling: Scaling) -> Scaling:
        """The same where q cannot be scaled, and where weights are 8-bit floats."""
        if self.of_codes is not None:
            scaling = replace(scaling, before=scaling.before * scaling.queries, queries=1.0)
        return replace(scaling, weight_bits=FLOAT8_WEIGHT_BITS) if self.float8_values else scaling

    # --- queries

    def code_tiles(
        self, builder: Builder, query: Value, start: Value, pieces: Sequence[int], rows: int
    ) -> tuple[Value, ...]:
        """The tile of q in codes, in pieces of columns."""
        assert self.query is not None and self.of_codes is not None
        load = Load(self.of_codes, "q_tile")
        return tuple(
            self.query.codes(
                builder, query, (start, first), (rows, width), replace(load, name=piece_name("q_tile", i))
            )
            for i, (first, width) in enumerate(starts(pieces))
        )  # fmt: skip

    def query_scale(self, tiles: TileBuilder, place: Place, rows: RowPositions) -> Tile | None:
        """What the scores of each row are multiplied by."""
        if self.of_codes is None or self.query is None or not self.query.scales:
            return None
        (scale,) = self.query.scale_tiles(tiles, RowPlace(Tile(place.b), rows.h, rows.m, rows.valid))
        return scale

    def numbers(self, builder: Builder, codes: Value, place: RowPlace, first: int, element: Type) -> Value:
        """A tile of q that was read as codes, from a channel on, in numbers."""
        assert self.query is not None
        tile = self.query.numbers(tiles_like(builder, codes), codes, place, first=first)
        return converted(builder, tile.value, element)

    # --- keys and values

    def key_rows(self, place: Place) -> StoredKeys | None:
        if self.key is None:
            return None
        outside = self.of_codes is not None or self.key.scaled_by_token or self.folded
        element = self.of_codes or (f32 if self.native else self.key.element)
        return StoredKeys(self.key, place.b, place.key_head, element, outside, self.aligned)

    def value_rows(self, place: Place) -> StoredKeys | None:
        if self.value is None:
            return None
        # A small scale would take small weights out of the range of f16.
        by_token = self.value.scaled_by_token and (self.native or self.value.element != f16)
        outside = self.float8_values or self.value.scaled_by_channel or by_token or not self.value.scales
        outside = outside or self.in_groups
        element = self.value.storage.element if self.float8_values else f32 if self.native else self.value.element
        return StoredKeys(self.value, place.b, place.key_head, element, outside, self.aligned)

    def scaled_result(self, tiles: TileBuilder, acc: Tile, place: Place, first: int) -> Tile:
        """The sum of weighted codes of values, from a channel on, times the scales that all tokens share."""
        if self.value is None or not self.value.scaled_by_channel or not self.value.scales:
            return acc
        zero = Tile(tiles.builder.index(0))
        shared = RowPlace(Tile(place.b), Tile(place.key_head), zero, None)
        (scale,) = self.value.scale_tiles(tiles, shared, uniform=zero.value, first=first)
        return tiles.binary(MulFOp, acc, scale, "acc")


def _common_codes(query: StoredRows, key: StoredRows, *, native: bool) -> Type | None:
    """The type in which codes of both enter one product; None where they must become numbers first."""
    if not (query.scaled_by_token and key.scaled_by_token):
        return None
    if query.whole_bytes and key.whole_bytes:
        return i8
    element = query.storage.element
    return element if is_float8(element) and element == key.storage.element and not native else None
