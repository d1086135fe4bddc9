"""The loop of a fused attention kernel: scores of one key tile at a time, softmax kept up as it goes.

Online softmax as in FlashAttention-2 (arXiv 2307.08691), in powers of two: a carried row maximum
`m`, a carried row sum `l` of 2^(s - m), and the output accumulated under that maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..cost_model.schedule import Schedule
from ..ir.attributes import (
    Attribute,
    DenseArrayAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
    UnitAttr,
    element_type,
    f32,
    i1,
    i8,
    i32,
    index,
)
from ..ir.builder import Builder
from ..ir.core import Block, Region, Value
from ..ir.dialects.arith import (
    AddFOp,
    CmpFOp,
    ExtFOp,
    MaximumFOp,
    MulFOp,
    SelectOp,
    SIToFPOp,
    SubFOp,
    TruncFOp,
)
from ..ir.dialects.math import Exp2Op
from ..ir.dialects.scf import ForOp, IfOp, YieldOp
from ..ir.dialects.tile import AnyOp, DotOp, LoadOp, ReduceOp, TransposeOp
from .masking import FULL, MINUS_INFINITY, Masking, kept_scores, mask_tile
from .row_regions import KeyRows, tiles_like
from .scaling import Scaling
from .stored_rows import Load, StoredKeys
from .tile_builder import COLUMNS, ROWS, Tile, TileBuilder
from .tile_regions import RegionPositions, TileRegion


@dataclass(frozen=True)
class Carried:
    """What a key tile hands to the next: out (block_m, E) in pieces of columns, maximum and sum (block_m), all f32."""

    accs: tuple[Value, ...]
    row_max: Value
    row_sum: Value

    @property
    def values(self) -> list[Value]:
        return [*self.accs, self.row_max, self.row_sum]

    @property
    def names(self) -> list[str]:
        return [*(piece_name("acc", i) for i in range(len(self.accs))), "row_max", "row_sum"]

    def with_values(self, values: Sequence[Value]) -> Carried:
        """The same with other values, under the names that these have."""
        for value, name in zip(values, self.names, strict=True):
            value.name_hint = name
        *accs, row_max, row_sum = values
        return Carried(tuple(accs), row_max, row_sum)


def piece_name(name: str, piece: int) -> str:
    """The name of one piece of the head dimension."""
    return f"{name}_{piece + 1}" if piece else name


@dataclass(frozen=True)
class SoftmaxLoop:
    """Everything that the loops of one kernel share.

    `q_tiles` are (block_m, D) in pieces of columns; `keys` (N, D) and `values` (N, E) are one head's
    slices, cut into tiles of `key_pieces` and `value_pieces` columns, which together may be wider
    than D and E. `row_valid` says which rows of the tile exist. `key_rows` and `value_rows` change
    the tiles of keys and values before they are multiplied, or make them of codes. Of stored queries `query_scale` is
    what their scores are multiplied by. Where the `largest` score is all that is asked for, the row sum stays as it is.
    """

    schedule: Schedule
    scaling: Scaling
    q_tiles: tuple[Value, ...]
    keys: Value
    values: Value
    key_pieces: tuple[int, ...]
    value_pieces: tuple[int, ...]
    row_valid: Tile
    score: TileRegion | None
    key_rows: KeyRows | StoredKeys | None = None
    value_rows: KeyRows | StoredKeys | None = None
    query_scale: Tile | None = None
    weight: TileRegion | None = None
    largest: bool = False

    def emit(self, builder: Builder, lower: Value, upper: Value, start: Carried, masking: Masking | None) -> Carried:
        """One loop over the key tiles that start in [lower, upper)."""
        bounds = lower, upper, self._tile_keys(masking)

        def body(inner: Builder, start_n: Value, before: Carried) -> Carried:
            return self.unless_empty(inner, start_n, before, masking)

        return each_tile(builder, bounds, start, _about(masking), body)

    def _tile_keys(self, masking: Masking | None) -> int:
        return self.schedule.edge if _cuts(masking) else self.schedule.block_n

    def unless_empty(self, builder: Builder, start_n: Value, before: Carried, masking: Masking | None) -> Carried:
        """A step; on a CPU, none where an opaque mask keeps no score of the tile, which costs little to find out."""
        if masking is None or masking.region is None or not self.schedule.lanes:
            return self.step(builder, start_n, before, masking)
        tiles = TileBuilder(builder, (self.schedule.block_m, self._tile_keys(masking)))
        columns, valid = self.positions(tiles, start_n, masking)
        mask = tiles.spread(mask_tile(tiles, masking, (start_n, columns), valid), FULL)
        some = builder.create(AnyOp, [mask], [i1], name="keeps_some").out
        return step_where(builder, some, before, lambda inside: self.step(inside, start_n, before, masking))

    def positions(self, tiles: TileBuilder, start_n: Value, masking: Masking | None) -> tuple[Tile, dict[int, Tile]]:
        """The keys of a tile, and where along each axis positions exist."""
        columns = tiles.positions(start_n, COLUMNS, "offs_n")
        valid = {ROWS: self.row_valid}
        if masking is not None and masking.key_end is not None:
            valid[COLUMNS] = tiles.compare("slt", columns, masking.key_end, "key_valid")
        return columns, valid

    def step(self, builder: Builder, start_n: Value, before: Carried, masking: Masking | None) -> Carried:
        """What the key tile at `start_n` makes of what the tiles before it left."""
        tiles = TileBuilder(builder, (self.schedule.block_m, self._tile_keys(masking)))
        # Bulk copies are under way since the step before: one wait for keys and values is shorter than two.
        k_tiles = self._key_tiles(builder, start_n, masking)
        v_tiles = self._value_tiles(builder, start_n, masking) if self.schedule.descriptors else None
        scores = self._masked_scores(tiles, start_n, masking, k_tiles)
        exponent = Tile(builder.constant(self.scaling.exponent, f32))
        row = (ROWS,)
        tile_max = _reduce(tiles, scores, "max", "raw_max")
        if not self.scaling.late:
            tile_max = tiles.binary(MulFOp, tile_max, exponent, "tile_max")
        new_max = tiles.binary(MaximumFOp, Tile(before.row_max, row), tile_max, "new_max")
        if self.largest:
            return Carried((), new_max.value, before.row_sum)
        may_be_empty = masking is not None or self.score is not None
        base = finite_or_zero(tiles, new_max) if may_be_empty else new_max
        alpha = exp2(tiles, self._below(tiles, Tile(before.row_max, row), base, exponent, scaled=True), "alpha")
        p = exp2(tiles, self._below(tiles, scores, self._weight_base(tiles, base), exponent), "p")
        decayed = tiles.binary(MulFOp, Tile(before.row_sum, row), alpha)
        tile_sum = _reduce(tiles, p, "sum", "tile_sum")
        if self.scaling.weight_bits:
            tile_sum = tiles.binary(MulFOp, tile_sum, Tile(builder.constant(2.0**-self.scaling.weight_bits, f32)))
        row_sum = tiles.binary(AddFOp, decayed, tile_sum, "row_sum")
        p = self.weighted(tiles, start_n, p, masking)
        accs = self.accumulate(tiles, start_n, before.accs, alpha, p, masking, v_tiles)
        return Carried(accs, new_max.value, row_sum.value)

    def _weight_base(self, tiles: TileBuilder, base: Tile) -> Tile:
        """Under what scores are powers of two as the weights of values; `base` but for weights of 8 bits."""
        if not self.scaling.weight_bits:
            return base
        bits = self.scaling.weight_bits / (self.scaling.exponent if self.scaling.late else 1.0)
        return tiles.binary(SubFOp, base, Tile(tiles.builder.constant(bits, f32)), "weight_base")

    def weighted(self, tiles: TileBuilder, start_n: Value, p: Tile, masking: Masking | None) -> Tile:
        """What the weights become after the softmax; the sum of the row is that of before."""
        if self.weight is None:
            return p
        columns, valid = self.positions(tiles, start_n, masking)
        positions = RegionPositions.of(self.weight.region)
        assert positions.score is not None
        weights = self.weight.inline(tiles, {positions.score: p, positions.n: columns}, valid)
        return Tile(tiles.spread(weights, FULL), FULL)

    def _below(self, tiles: TileBuilder, x: Tile, base: Tile, exponent: Tile, *, scaled: bool = False) -> Tile:
        """How far `x` lies below the maximum, in powers of two; a `scaled` x already counts in those."""
        if self.scaling.late:
            return tiles.binary(MulFOp, tiles.binary(SubFOp, x, base), exponent)
        return tiles.binary(SubFOp, x if scaled else tiles.binary(MulFOp, x, exponent), base)

    def _masked_scores(
        self, tiles: TileBuilder, start_n: Value, masking: Masking | None, k_tiles: Sequence[Value]
    ) -> Tile:
        scores = self._scores(tiles, k_tiles, start_n, masking)
        columns, valid = self.positions(tiles, start_n, masking)
        if self.score is not None:
            positions = RegionPositions.of(self.score.region)
            assert positions.score is not None
            scores = self.score.inline(tiles, {positions.score: scores, positions.n: columns}, valid)
        if masking is None:
            return Tile(tiles.spread(scores, FULL), FULL)
        if masking.cut is None:
            return kept_scores(tiles, masking, scores, (start_n, columns), valid)
        whole = tiles.spread(scores, FULL)
        then, otherwise = Block(), Block()
        inside = TileBuilder(Builder(then, location=tiles.builder.location), tiles.shape)
        kept = kept_scores(inside, masking, Tile(whole, FULL), (start_n, columns), valid)
        inside.builder.create(YieldOp, [kept.value])
        Builder(otherwise, location=tiles.builder.location).create(YieldOp, [whole])
        regions = [Region([then]), Region([otherwise])]
        chosen = tiles.builder.create(IfOp, [masking.cut], [whole.type], regions=regions)
        chosen.results[0].name_hint = "scores"
        return Tile(chosen.results[0], FULL)

    def _scores(self, tiles: TileBuilder, k_tiles: Sequence[Value], start_n: Value, masking: Masking | None) -> Tile:
        """before * q k^T"""
        builder, q_tiles, added = tiles.builder, self.q_tiles, None
        factors = [self.query_scale] if self.query_scale is not None else []
        if isinstance(self.key_rows, StoredKeys) and self.key_rows.outside and self.key_rows.rows.scales:
            if self.key_rows.rows.scaled_by_token:
                columns, valid = self.positions(tiles, start_n, masking)
                factors += self.key_rows.scales(tiles, start_n, columns, valid.get(COLUMNS))
            else:
                q_tiles, added = self._scaled_queries(builder, self.key_rows, start_n)
        whole = element_type(k_tiles[0].type) == i8
        product = builder.constant(0, tiles.type_along(FULL, i32 if whole else f32))
        for i, (q_tile, k_tile) in enumerate(zip(q_tiles, k_tiles, strict=True)):
            type_, name = k_tile.type, piece_name("k_t", i)
            assert isinstance(type_, TensorType)
            transposed = builder.create(TransposeOp, [k_tile], [type_.with_shape(*reversed(type_.shape))], name=name)
            product = self._dot(builder, q_tile, transposed.out, product, "scores")
        if whole:
            product = builder.create(SIToFPOp, [product], [tiles.type_along(FULL, f32)], name="scores").out
        scores = Tile(product, FULL)
        if added is not None:
            scores = tiles.binary(AddFOp, scores, added, "scores")
        if self.scaling.before != 1.0:
            factors.append(Tile(builder.constant(self.scaling.before, f32)))
        # Numbers and rows are multiplied before the whole tile is.
        for factor in _joined(tiles, factors):
            scores = tiles.binary(MulFOp, scores, factor, "scores")
        return scores

    def _scaled_queries(
        self, builder: Builder, stored: StoredKeys, start_n: Value
    ) -> tuple[tuple[Value, ...], Tile | None]:
        """q times the scales of the group of keys at `start_n`, and the sum of q times their zeros for each row."""
        (q_tile,) = self.q_tiles
        tiles = tiles_like(builder, q_tile)
        place = stored.place(Tile(start_n), None)
        scale, *zeros = stored.of_middle(tiles, stored.rows.scale_tiles(tiles, place, uniform=start_n))
        scaled = tiles.binary(MulFOp, Tile(q_tile, FULL), scale, "q_by_channel")
        if not zeros:
            return (scaled.value,), None
        return (scaled.value,), row_sums(tiles, tiles.binary(MulFOp, Tile(q_tile, FULL), zeros[0]))

    def accumulate(
        self,
        tiles: TileBuilder,
        start_n: Value,
        accs: Sequence[Value],
        alpha: Tile,
        p: Tile,
        masking: Masking | None,
        v_tiles: Sequence[Value] | None = None,
    ) -> tuple[Value, ...]:
        """alpha * acc + p v, for each piece of columns; values that are not loaded yet are loaded here."""
        if not self.value_pieces:
            return ()
        builder, found = tiles.builder, list[Value]()
        kept = [
            TileBuilder(builder, (self.schedule.block_m, width)).binary(
                MulFOp, Tile(acc, FULL), alpha, piece_name("acc", i)
            )
            for i, (width, acc) in enumerate(zip(self.value_pieces, accs, strict=True))
        ]
        v_tiles = self._value_tiles(builder, start_n, masking) if v_tiles is None else v_tiles
        element = element_type(v_tiles[0].type)
        if (stored := self._scaled_values) is not None:
            return self._accumulate_scaled(tiles, start_n, kept, p, masking, v_tiles, stored)
        weights = p.value
        if element != f32:
            weights = tiles.elementwise(TruncFOp.op_name, [p], element, label="p_cast").value
        for i, (v_tile, acc) in enumerate(zip(v_tiles, kept, strict=True)):
            found.append(self._dot(builder, weights, v_tile, acc.value, piece_name("acc", i)))
        return tuple(found)

    @property
    def _scaled_values(self) -> StoredKeys | None:
        """Values whose products take codes, and whose scales belong to their tokens."""
        stored = self.value_rows
        if not isinstance(stored, StoredKeys) or not stored.outside or not stored.rows.scales:
            return None
        return None if stored.rows.scaled_by_channel else stored  # else the result is scaled

    def _accumulate_scaled(
        self,
        tiles: TileBuilder,
        start_n: Value,
        accs: Sequence[Tile],
        p: Tile,
        masking: Masking | None,
        v_tiles: Sequence[Value],
        stored: StoredKeys,
    ) -> tuple[Value, ...]:
        """acc + (p * scale) codes + sum of p * zero, for each piece of columns; weights are shared where scales are."""
        columns, valid = self.positions(tiles, start_n, masking)
        element, found, weights, added = element_type(v_tiles[0].type), list[Value](), None, None
        for i, (v_tile, acc) in enumerate(zip(v_tiles, accs, strict=True)):
            if weights is None or stored.rows.channels_differ:
                part = i if stored.rows.channels_differ else None
                scale, *zeros = stored.scales(tiles, start_n, columns, valid.get(COLUMNS), part)
                weights = tiles.binary(MulFOp, p, scale, "p_scaled")
                if element != f32:
                    weights = tiles.elementwise(TruncFOp.op_name, [weights], element, label="p_cast")
                added = row_sums(tiles, tiles.binary(MulFOp, p, zeros[0])) if zeros else None
            if added is not None:
                acc = tiles_like(tiles.builder, acc.value).binary(AddFOp, acc, added, piece_name("acc", i))
            found.append(self._dot(tiles.builder, weights.value, v_tile, acc.value, piece_name("acc", i)))
        return tuple(found)

    def _key_tiles(self, builder: Builder, start_n: Value, masking: Masking | None) -> list[Value]:
        return self._load(builder, (self.keys, "k_tile"), start_n, self.key_pieces, masking, self.key_rows)

    def _value_tiles(self, builder: Builder, start_n: Value, masking: Masking | None) -> list[Value]:
        return self._load(builder, (self.values, "v_tile"), start_n, self.value_pieces, masking, self.value_rows)

    def _load(
        self,
        builder: Builder,
        source: tuple[Value, str],
        start_n: Value,
        pieces: Sequence[int],
        masking: Masking | None,
        rows: KeyRows | StoredKeys | None,
    ) -> list[Value]:
        """The rows of `source` from `start_n` on, in `pieces` that zeros pad; in f32 on CPUs. Nothing has no width."""
        if not pieces:
            return []
        memory, name = source
        if isinstance(rows, StoredKeys):
            return self._load_codes(builder, source, start_n, pieces, masking, rows)
        type_, loaded, wide = memory.type, list[Value](), bool(self.schedule.lanes)
        assert isinstance(type_, TensorType) and isinstance(type_.shape[1], int)
        key_end = masking.key_end if masking else None
        if rows is not None and rows.region.computed is not None:
            tiles = TileBuilder(builder, (self._tile_keys(masking), sum(pieces)))
            return [rows.changed(tiles, None, start_n, key_end, widen=wide, name=name)]
        for i, (first, width) in enumerate(starts(pieces)):
            axes = ((0,) if _cuts(masking) else ()) + ((1,) if first + width > type_.shape[1] else ())
            properties: dict[str, Attribute] = {"boundary": DenseArrayAttr(axes)}
            if self.schedule.descriptors and rows is None:
                properties["bulk"] = UnitAttr()
            if self.schedule.by_column and memory is self.values:
                properties["by_column"] = UnitAttr()
            operands, tile = [memory, start_n, builder.index(first)], type_.with_shape(self._tile_keys(masking), width)
            loaded.append(builder.create(LoadOp, operands, [tile], properties, name=piece_name(name, i)).out)
        if rows is not None:
            (tile,) = loaded
            loaded = [rows.changed(tiles_like(builder, tile), tile, start_n, key_end, widen=wide, name=name)]
        return [widened(builder, tile) for tile in loaded] if wide else loaded

    def _load_codes(
        self,
        builder: Builder,
        source: tuple[Value, str],
        start_n: Value,
        pieces: Sequence[int],
        masking: Masking | None,
        rows: StoredKeys,
    ) -> list[Value]:
        """The same of codes."""
        memory, name = source
        load = Load(
            rows.element, name, _cuts(masking), bulk=bool(self.schedule.descriptors) and not rows.rows.storage.packed,
            by_column=bool(self.schedule.by_column) and memory is self.values,
        )  # fmt: skip
        key_end = masking.key_end if masking else None
        return [
            rows.tile(
                builder, memory, (start_n, first), (self._tile_keys(masking), width),
                replace(load, name=piece_name(name, i)), key_end,
            )
            for i, (first, width) in enumerate(starts(pieces))
        ]  # fmt: skip

    def _dot(self, builder: Builder, a: Value, b: Value, acc: Value, name: str) -> Value:
        properties = {"precision": StringAttr(self.schedule.precision)}
        return builder.create(DotOp, [a, b, acc], [acc.type], properties, name=name).out


def each_tile(
    builder: Builder,
    bounds: tuple[Value, Value, int],
    start: Carried,
    about: str,
    body: Callable[[Builder, Value, Carried], Carried],
) -> Carried:
    """A loop from a lower to an upper bound in steps of so many keys; `body` gets its position and what it carries."""
    lower, upper, keys = bounds
    types = [v.type for v in start.values]
    block = Block.with_arguments([index, *types], ["start_n", *start.names])
    inner = Builder(block, location=builder.location)
    start_n, *carried = block.arguments
    inner.create(YieldOp, body(inner, start_n, start.with_values(carried)).values)
    step = builder.index(keys)
    loop = builder.create(ForOp, [lower, upper, step, *start.values], types, regions=[Region([block])])
    loop.operation.attributes["about"] = StringAttr(about)
    return start.with_values(loop.results)


def not_pipelined(state: Carried) -> Carried:
    """Let the loop that carries `state` on load for each step when it begins: it has one or two."""
    loop = ForOp.producing(state.row_max)
    if loop is not None:
        loop.operation.attributes["stages"] = IntegerAttr(1)
    return state


def step_where(builder: Builder, condition: Value, before: Carried, step: Callable[[Builder], Carried]) -> Carried:
    """`step` where a condition holds, else what was there before."""
    then, otherwise = Block(), Block()
    inside = Builder(then, location=builder.location)
    inside.create(YieldOp, step(inside).values)
    Builder(otherwise, location=builder.location).create(YieldOp, before.values)
    types = [v.type for v in before.values]
    branch = builder.create(IfOp, [condition], types, regions=[Region([then]), Region([otherwise])])
    return before.with_values(branch.results)


def starts(pieces: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first column and the width of each piece."""
    first = 0
    for width in pieces:
        yield first, width
        first += width


def _joined(tiles: TileBuilder, factors: Sequence[Tile]) -> list[Tile]:
    """The product of factors, those that vary along no axis or the same one multiplied into one."""
    found: list[Tile] = []
    for factor in sorted(factors, key=lambda tile: len(tile.axes)):
        if found and (not found[-1].axes or found[-1].axes == factor.axes):
            factor = tiles.binary(MulFOp, found.pop(), factor)
        found.append(factor)
    return found


def widened(builder: Builder, tile: Value) -> Value:
    """A tile as f32."""
    type_ = tile.type
    assert isinstance(type_, TensorType)
    if type_.element == f32:
        return tile
    return builder.create(ExtFOp, [tile], [type_.with_element(f32)], name=tile.name_hint).out


def _cuts(masking: Masking | None) -> bool:
    """Whether a loop's last tile may end beyond the keys."""
    return masking is not None and masking.key_end is not None


def _about(masking: Masking | None) -> str:
    if masking is None:
        return "key tiles that are kept whole"
    if masking.key_end is None:
        return "whole key tiles, of which the mask drops single scores"
    return "key tiles that the mask or the end of the keys cuts"


def finite_or_zero(tiles: TileBuilder, row_max: Tile) -> Tile:
    """The row maximum, or 0 for rows without any score yet: -inf - -inf would be nan."""
    minus_infinity = Tile(tiles.builder.constant(MINUS_INFINITY, f32))
    properties = {"predicate": CmpFOp.predicate_attr("oeq")}
    empty = tiles.elementwise(CmpFOp.op_name, [row_max, minus_infinity], i1, properties, "no_key_yet")
    zero = Tile(tiles.builder.constant(0.0, f32))
    return tiles.elementwise(SelectOp.op_name, [empty, zero, row_max], f32, label="safe_max")


def exp2(tiles: TileBuilder, x: Tile, label: str) -> Tile:
    """2^x of what lies below a maximum."""
    power = tiles.elementwise(Exp2Op.op_name, [x], f32, label=label)
    assert power.value.defining_op is not None
    Exp2Op(power.value.defining_op).nonpositive = UnitAttr()
    return power


def row_sums(tiles: TileBuilder, x: Tile) -> Tile:
    """The sum over the keys of a full tile."""
    return _reduce(tiles, x, "sum", "tile_sum")


def _reduce(tiles: TileBuilder, x: Tile, kind: str, label: str) -> Tile:
    """Fold the keys of a full tile away."""
    properties = {"axis": IntegerAttr(COLUMNS), "kind": StringAttr(kind)}
    type_ = tiles.type_along((ROWS,), f32)
    return Tile(tiles.builder.create(ReduceOp, [x.value], [type_], properties, name=label).out, (ROWS,))
