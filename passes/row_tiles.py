"""Which rows of which heads, and which keys, one program of an attention kernel works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cost_model.schedule import Schedule
from ..ir.attributes import FloatType, IntegerAttr, IntegerType, TensorType, i64, index
from ..ir.builder import Builder
from ..ir.core import Value
from ..ir.dialects.arith import AddIOp, DivSIOp, IndexCastOp, MaxSIOp, MinSIOp, MulIOp, RemSIOp, SubIOp
from ..ir.dialects.tile import GatherOp, GroupRowsOp, ProgramIdOp
from .kernel_frame import part_of, size_of
from .mask_structure import MaskStructure
from .tile_builder import ROWS, IndexMath, Tile, TileBuilder

L2_BYTES = 32 * 2**20
"""What the keys and values of the heads that are worked on at once may take of the second-level cache."""


@dataclass(frozen=True)
class Place:
    """Where one program works: its batch and heads, its first row, and the sizes.

    `h` is the query head, None where the rows of a tile belong to all heads of a group; `rows`
    counts those rows. `split` of `splits` is the part of the keys that the program works on, and `slot`
    the part of the results where it leaves what it finds.
    """

    b: Value
    h: Value | None
    key_head: Value
    start_m: Value
    rows: Value
    query_length: Value
    key_length: Value
    split: Value | None
    splits: Value | None
    slot: Value | None


@dataclass(frozen=True)
class RowPositions:
    """The rows of a tile: the head and the query of each, and which of them exist."""

    h: Tile
    m: Tile
    valid: Tile


@dataclass(frozen=True)
class RowTiles:
    """How the rows of q are cut into tiles.

    Where `schedule` folds, the `group` query heads that read one key head lie in one tile: row r is
    query r // group of head r % group among them. Otherwise a tile holds rows of one head.
    """

    schedule: Schedule
    group: int
    structure: MaskStructure

    @property
    def folds(self) -> bool:
        return bool(self.schedule.folded) and self.group > 1

    def count_programs(self, builder: Builder, q: Value, k: Value, splits: Value | None) -> Value:
        tiles = self._count(builder, self._rows(builder, size_of(builder, q, 2, "M")))
        heads = builder.binary(MulIOp, size_of(builder, q, 0, "B"), self._heads(builder, q, k))
        programs = builder.binary(MulIOp, tiles, heads, "programs")
        return programs if splits is None else builder.binary(MulIOp, programs, splits, "programs")

    def place(self, builder: Builder, q: Value, k: Value, splits: Value | None, order: Value | None = None) -> Place:
        """Splits of the keys fastest, then row tiles, heads, and batches; programs in the `order` of their numbers."""
        query_length, key_length = size_of(builder, q, 2, "M"), size_of(builder, k, 2, "N")
        heads = self._heads(builder, q, k)
        pid, split = builder.create(ProgramIdOp, [], [index], {"axis": IntegerAttr(0)}, name="pid").out, None
        if splits is not None:
            split = builder.binary(RemSIOp, pid, splits, "split")
            pid = builder.binary(DivSIOp, pid, splits, "pid")
        rows = self._rows(builder, query_length)
        row_tiles = self._count(builder, rows)
        if order is not None:
            pid = builder.create(GatherOp, [order, pid], [i64], name="number").out
            pid = builder.create(IndexCastOp, [pid], [index], name="number").out
            head, tile = self._in_turn(builder, pid, row_tiles)
        elif self._longest_first:
            if self.schedule.lanes:
                head, tile = self._in_turn(builder, pid, row_tiles)
            else:
                total = builder.binary(MulIOp, size_of(builder, q, 0, "B"), heads)
                head, tile = self._head_and_tile(builder, pid, total, (row_tiles, key_length), k)
            # Later queries see more keys: the longest programs go first, the short ones fill the gaps.
            tile = builder.binary(SubIOp, IndexMath(builder).add(row_tiles, -1), tile, "tile")
        else:
            head, tile = self._in_turn(builder, pid, row_tiles)
        b, h = builder.binary(DivSIOp, head, heads, "b"), builder.binary(RemSIOp, head, heads, "h")
        key_head = h
        if self.folds:
            h.name_hint = "kh"
        elif self.group > 1:
            key_head = builder.binary(DivSIOp, h, builder.index(self.group), "kh")
        start_m = builder.binary(MulIOp, tile, builder.index(self.schedule.block_m), "start_m")
        own = None if self.folds else h
        return Place(b, own, key_head, start_m, rows, query_length, key_length, split, splits, split)

    def _in_turn(self, builder: Builder, pid: Value, row_tiles: Value) -> tuple[Value, Value]:
        """The head, counted over batches, and the tile."""
        return builder.binary(DivSIOp, pid, row_tiles, "bh"), builder.binary(RemSIOp, pid, row_tiles, "tile")

    @property
    def _longest_first(self) -> bool:
        return self.structure.upper is not None and self.structure.lower is None

    def _head_and_tile(
        self, builder: Builder, pid: Value, total: Value, sizes: tuple[Value, Value], k: Value
    ) -> tuple[Value, Value]:
        """Of `total` heads, as many at a time as the second-level cache holds keys of: the same tile of each in turn.

        As in FlashAttention-3's scheduler: long programs of all those heads go before their short ones.
        """
        row_tiles, key_length = sizes
        math_, type_ = IndexMath(builder), k.type
        assert isinstance(type_, TensorType) and isinstance(type_.element, FloatType | IntegerType)
        width = type_.shape[3]
        row_bytes = 2 * width * type_.element.width // 8 if isinstance(width, int) else 1
        keys = builder.index(L2_BYTES // row_bytes * (1 if self.folds else self.group))
        at_once = builder.binary(DivSIOp, keys, math_.greatest(key_length, builder.index(1)))
        at_once = builder.binary(MinSIOp, builder.binary(MaxSIOp, at_once, builder.index(1)), total, "heads_at_once")
        programs = builder.binary(MulIOp, at_once, row_tiles, "programs_at_once")
        first = builder.binary(MulIOp, builder.binary(DivSIOp, pid, programs), at_once, "first_bh")
        here = builder.binary(MinSIOp, at_once, math_.difference(total, first), "heads_here")
        place = builder.binary(RemSIOp, pid, programs, "place")
        head = math_.sum(first, builder.binary(RemSIOp, place, here))
        head.name_hint = "bh"
        return head, builder.binary(DivSIOp, place, here, "tile")

    def positions(self, tiles: TileBuilder, place: Place) -> RowPositions:
        rows = tiles.positions(place.start_m, ROWS, "offs_m")
        valid = tiles.compare("slt", rows, Tile(place.rows), "row_valid")
        if place.h is not None:
            return RowPositions(Tile(place.h), rows, valid)
        rows.value.name_hint = "offs_r"
        group = tiles.index(self.group)
        first = Tile(tiles.builder.binary(MulIOp, place.key_head, group.value, "first_head"))
        h = tiles.binary(AddIOp, first, tiles.binary(RemSIOp, rows, group), "offs_h")
        return RowPositions(h, tiles.binary(DivSIOp, rows, group, "offs_m"), valid)

    def queries(self, builder: Builder, place: Place) -> tuple[Value, Value]:
        """The first query of the tile's rows, and the one after the last."""
        math_ = IndexMath(builder)
        end = builder.binary(MinSIOp, math_.add(place.start_m, self.schedule.block_m), place.rows, "row_end")
        if not self.folds:
            return place.start_m, end
        group = builder.index(self.group)
        last = builder.binary(DivSIOp, math_.add(end, -1), group)
        return builder.binary(DivSIOp, place.start_m, group, "query_begin"), math_.add(last, 1)

    def heads(self, builder: Builder, place: Place) -> tuple[Value, Value]:
        """The first and the last head of the tile's rows."""
        if place.h is not None:
            return place.h, place.h
        first = builder.binary(MulIOp, place.key_head, builder.index(self.group), "first_head")
        return first, IndexMath(builder).add(first, self.group - 1)

    def keys(self, builder: Builder, place: Place) -> tuple[Value | None, Value]:
        """The first key of the program's part, a multiple of block_n (None for 0), and the one after the last."""
        if place.split is None or place.splits is None:
            return None, place.key_length
        math_, block_n = IndexMath(builder), self.schedule.block_n
        rounded_up = builder.binary(AddIOp, place.key_length, math_.add(place.splits, -1))
        share = builder.binary(DivSIOp, rounded_up, place.splits)
        tiles = math_.ceiling_quotient(share, block_n, "tiles")
        chunk = builder.binary(MulIOp, tiles, builder.index(block_n), "chunk")
        begin = builder.binary(MulIOp, place.split, chunk, "key_begin")
        end = builder.binary(MinSIOp, math_.sum(begin, chunk), place.key_length, "key_end")
        return begin, end

    def rows_of(self, builder: Builder, tensor: Value, place: Place, name: str, *, partial: bool = False) -> Value:
        """The rows (rows[, D]) of q or of a result that the tiles are cut from; no copy."""
        leading = [place.slot] if partial and place.slot is not None else []
        if place.h is not None:
            return part_of(builder, tensor, [*leading, place.b, place.h], name)
        if leading:
            tensor = part_of(builder, tensor, leading, name)
        type_ = tensor.type
        assert isinstance(type_, TensorType)
        return self._grouped(builder, tensor, type_, place, name)

    def _grouped(self, builder: Builder, tensor: Value, type_: TensorType, place: Place, name: str) -> Value:
        queries, *rest = type_.shape[2:]
        rows = queries * self.group if isinstance(queries, int) else None
        result = type_.with_shape(rows, *rest)
        properties = {"group": IntegerAttr(self.group)}
        operands: Sequence[Value] = (tensor, place.b, place.key_head)
        return builder.create(GroupRowsOp, operands, [result], properties, name=name).out

    def _heads(self, builder: Builder, q: Value, k: Value) -> Value:
        return size_of(builder, k, 1, "K") if self.folds else size_of(builder, q, 1, "H")

    def _rows(self, builder: Builder, query_length: Value) -> Value:
        if not self.folds:
            return query_length
        return builder.binary(MulIOp, query_length, builder.index(self.group), "rows")

    def _count(self, builder: Builder, rows: Value) -> Value:
        return IndexMath(builder).ceiling_quotient(rows, self.schedule.block_m, "query_tiles")
