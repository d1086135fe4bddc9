"""Turns a function around one attention into one kernel: loops over key tiles, softmax kept up as it goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..cost_model.resources import padded_width
from ..ir.attributes import (
    Attribute,
    DenseArrayAttr,
    FloatType,
    FunctionType,
    IntegerAttr,
    StringAttr,
    TensorType,
    f32,
    i1,
    index,
)
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.arith import (
    AddFOp,
    CmpFOp,
    DivFOp,
    DivSIOp,
    MinSIOp,
    MulFOp,
    MulIOp,
    RemSIOp,
    SelectOp,
    SubIOp,
    TruncFOp,
)
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.func import FuncOp, ReturnOp
from ..ir.dialects.math import Log2Op
from ..ir.dialects.tensor import DimOp
from ..ir.dialects.tile import KernelOp, LoadOp, ProgramIdOp, SliceOp, StoreOp
from ..ir.dialects.tile import ReturnOp as KernelReturnOp
from ..ir.dialects.tile import YieldOp as GridYieldOp
from .analyze_mask import analyze_mask
from .dce import drop_dead_code
from .key_ranges import KeyRanges, key_ranges
from .manager import Pass, PassContext
from .mask_structure import MaskStructure
from .schedule import Schedule
from .softmax_loop import MINUS_INFINITY, Carried, Masking, Scaling, SoftmaxLoop
from .tile_builder import ROWS, IndexMath, Tile, TileBuilder
from .tile_regions import RegionPositions, TileRegion, hoist


@dataclass(frozen=True)
class LowerAttention(Pass):
    """Replace each function that holds one attention by a kernel that computes it.

    Before: `func.func @f(q, k, v, captures...) -> (out[, lse])`, scheduled by `plan`. After:
    `tile.kernel @f(q, k, v, captures..., out[, lse])`.
    """

    name: ClassVar[str] = "lower-attention"

    def run(self, module: Operation, ctx: PassContext) -> None:
        for operation in list(module.walk()):
            function = FuncOp.match(operation)
            if function is None or not any(AttentionOp.match(op) for op in operation.walk()):
                continue
            site = _site(function)
            assert operation.parent is not None
            operation.parent.insert_before(operation, _Lowering(site, Schedule.of(site.attention)).kernel())
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
    for name, operand in zip("qkv", attention.operation.operands, strict=False):
        element = operand.type.element if isinstance(operand.type, TensorType) else operand.type
        if not isinstance(element, FloatType) or element.name not in ("f16", "bf16", "f32"):
            op_error(attention.operation, f"kernels take f16, bf16 or f32, but {name} is {operand.type}")
    return _Site(function, attention, returned)


@dataclass(frozen=True)
class _Head:
    """Where one program works: its batch and heads, its first query row, and the sizes."""

    b: Value
    h: Value
    key_head: Value
    start_m: Value
    query_length: Value
    key_length: Value


@dataclass(frozen=True)
class _Lowering:
    """Builds the kernel of one site."""

    site: _Site
    schedule: Schedule

    def kernel(self) -> Operation:
        function, attention, schedule = self.site.function, self.site.attention, self.schedule
        grid, body = self._block(), self._block()
        self._emit_grid(Builder(grid, location=attention.operation.location), grid)
        self._emit_body(Builder(body, location=attention.operation.location), body)
        properties: dict[str, Attribute] = {
            "sym_name": function.sym_name,
            "function_type": FunctionType(tuple(a.type for a in body.arguments), ()),
            "num_warps": IntegerAttr(schedule.num_warps),
            "num_stages": IntegerAttr(schedule.num_stages),
        }
        kernel = KernelOp.create([], [], properties, [Region([grid]), Region([body])])
        kernel.operation.location = attention.operation.location
        if kernel.operation.location.known:
            kernel.source = StringAttr(f"{kernel.operation.location.file}:{kernel.operation.location.line}")
        drop_dead_code(kernel.operation)
        return kernel.operation

    def _block(self) -> Block:
        """The kernel's arguments: those of the function, then its results."""
        inputs = self.site.function.body.block.arguments
        names = ["out" if v is self.site.attention.out else "lse" for v in self.site.returned]
        return Block.with_arguments(
            [v.type for v in (*inputs, *self.site.returned)], [*(v.name_hint for v in inputs), *names]
        )

    # --- the grid

    def _emit_grid(self, builder: Builder, block: Block) -> None:
        """One axis, since the others are limited to 65535: query tiles fastest, then heads, then batches."""
        q = self._argument(block, self.site.attention.q)
        tiles = self._query_tiles(builder, _size(builder, q, 2, "M"))
        heads = builder.binary(MulIOp, _size(builder, q, 0, "B"), _size(builder, q, 1, "H"))
        builder.create(GridYieldOp, [builder.binary(MulIOp, tiles, heads, "programs")])

    def _query_tiles(self, builder: Builder, query_length: Value) -> Value:
        return IndexMath(builder).ceiling_quotient(query_length, self.schedule.block_m, "query_tiles")

    def _argument(self, block: Block, value: Value) -> Value:
        """The kernel argument for an argument or a result of the function."""
        arguments = self.site.function.body.block.arguments
        if value in self.site.returned:
            return block.arguments[len(arguments) + self.site.returned.index(value)]
        return block.arguments[arguments.index(value)]

    # --- the program

    def _emit_body(self, builder: Builder, block: Block) -> None:
        attention = self.site.attention
        q, k, v = (self._argument(block, x) for x in (attention.q, attention.k, attention.v))
        head = self._head(builder, q, k)
        tiles = TileBuilder(builder, (self.schedule.block_m, self.schedule.block_n))
        rows = tiles.positions(head.start_m, ROWS, "offs_m")
        row_valid = tiles.compare("slt", rows, Tile(head.query_length), "row_valid")
        key_width, value_width = (padded_width(x) for x in (_width(k), _width(v)))
        query = _slice(builder, q, (head.b, head.h), "q_head")
        keys, values = (_slice(builder, x, (head.b, head.key_head), f"{n}_head") for x, n in ((k, "k"), (v, "v")))
        q_tile = _load(builder, query, head.start_m, self.schedule.block_m, key_width)
        captures = self._captures(block)
        score = self._hoist(attention.score, tiles, head, rows, row_valid, captures)
        mask = (
            self._hoist(attention.mask, tiles, head, rows, row_valid, captures) if self.site.structure.opaque else None
        )
        scaling = Scaling.of(attention.scale.value, attention.score, attention.shapes[0].element)
        loop = SoftmaxLoop(self.schedule, scaling, q_tile, keys, values, key_width, value_width, row_valid, score)
        result = self._emit_loops(builder, loop, head, tiles, rows, mask)
        self._emit_results(builder, block, head, value_width, result, scaling)
        builder.create(KernelReturnOp)

    def _head(self, builder: Builder, q: Value, k: Value) -> _Head:
        query_length, key_length = _size(builder, q, 2, "M"), _size(builder, k, 2, "N")
        heads = _size(builder, q, 1, "H")
        pid = builder.create(ProgramIdOp, [], [index], {"axis": IntegerAttr(0)}, name="pid").out
        query_tiles = self._query_tiles(builder, query_length)
        tile = builder.binary(RemSIOp, pid, query_tiles, "tile")
        structure = self.site.structure
        if structure.upper is not None and structure.lower is None:
            # Later queries see more keys: the longest programs go first, the short ones fill the gaps.
            last = IndexMath(builder).add(query_tiles, -1)
            tile = builder.binary(SubIOp, last, tile, "tile")
        head = builder.binary(DivSIOp, pid, query_tiles, "bh")
        b, h = builder.binary(DivSIOp, head, heads, "b"), builder.binary(RemSIOp, head, heads, "h")
        group = self.site.attention.group.value
        key_head = h if group == 1 else builder.binary(DivSIOp, h, builder.index(group), "kh")
        start_m = builder.binary(MulIOp, tile, builder.index(self.schedule.block_m), "start_m")
        return _Head(b, h, key_head, start_m, query_length, key_length)

    def _captures(self, block: Block) -> list[Value]:
        return [self._argument(block, capture) for capture in self.site.attention.captures]

    def _hoist(
        self, region: Region, tiles: TileBuilder, head: _Head, rows: Tile, row_valid: Tile, captures: list[Value]
    ) -> TileRegion | None:
        if region.empty:
            return None
        positions = RegionPositions.of(region)
        arguments = region.block.arguments[len(region.block.arguments) - len(captures) :]
        known = {positions.b: Tile(head.b), positions.h: Tile(head.h), positions.m: rows}
        return hoist(region, tiles, known, dict(zip(arguments, captures, strict=True)), {ROWS: row_valid})

    # --- the loops

    def _emit_loops(
        self, builder: Builder, loop: SoftmaxLoop, head: _Head, tiles: TileBuilder, rows: Tile, mask: TileRegion | None
    ) -> Carried:
        """Masked tiles at the left edge, whole tiles, masked tiles at the right edge with the ragged tail."""
        structure, math_ = self.site.structure, IndexMath(builder)
        ranges = self._ranges(builder, head)
        state = self._start(builder, loop)
        right = self._masking(math_, head, tiles, rows, mask)
        if structure.opaque:
            return loop.emit(builder, ranges.begin, ranges.end, state, right)
        if structure.has_lower_bound:
            left_end = math_.least(ranges.full_begin, ranges.end)
            left_end.name_hint = "left_end"
            left = Masking(right.key_end, right.last_key, self._first_keys(tiles, rows))
            state = loop.emit(builder, ranges.begin, left_end, state, left)
        state = loop.emit(builder, ranges.full_begin, ranges.full_end, state, None)
        return loop.emit(builder, ranges.full_end, ranges.end, state, right)

    def _ranges(self, builder: Builder, head: _Head) -> KeyRanges[Value]:
        math_, schedule = IndexMath(builder), self.schedule
        row_end = builder.binary(MinSIOp, math_.add(head.start_m, schedule.block_m), head.query_length, "row_end")
        ranges = key_ranges(self.site.structure, math_, head.start_m, row_end, head.key_length, schedule.block_n)
        for name in ("begin", "full_begin", "full_end", "end"):
            bound: Value = getattr(ranges, name)
            bound.name_hint = bound.name_hint or name
        return ranges

    def _start(self, builder: Builder, loop: SoftmaxLoop) -> Carried:
        rows = self.schedule.block_m
        acc = builder.constant(0.0, TensorType((rows, loop.value_width), f32), "acc")
        row_max = builder.constant(MINUS_INFINITY, TensorType((rows,), f32), "row_max")
        return Carried(acc, row_max, builder.constant(0.0, TensorType((rows,), f32), "row_sum"))

    def _masking(
        self, math_: IndexMath, head: _Head, tiles: TileBuilder, rows: Tile, mask: TileRegion | None
    ) -> Masking:
        """The checks at the right edge, where lower bounds hold already; all of them if the mask is opaque."""
        structure = self.site.structure
        key_end = head.key_length
        if structure.last is not None:
            key_end = math_.least(key_end, math_.constant(structure.last + 1))
        if structure.opaque or structure.upper is None:
            return Masking(Tile(key_end), region=mask)
        last = Tile(math_.add(key_end, -1))
        return Masking(Tile(key_end), tiles.binary(MinSIOp, tiles.shifted(rows, structure.upper), last, "last_key"))

    def _first_keys(self, tiles: TileBuilder, rows: Tile) -> tuple[Tile, ...]:
        structure, bounds = self.site.structure, list[Tile]()
        if structure.lower is not None:
            bounds.append(tiles.shifted(rows, structure.lower, "first_key"))
        if (structure.first or 0) > 0:
            bounds.append(tiles.index(structure.first or 0))
        return tuple(bounds)

    # --- the results

    def _emit_results(
        self, builder: Builder, block: Block, head: _Head, width: int, result: Carried, scaling: Scaling
    ) -> None:
        attention = self.site.attention
        tiles = TileBuilder(builder, (self.schedule.block_m, width))
        row_sum = _one_where_zero(tiles, Tile(result.row_sum, (ROWS,)))
        for value in self.site.returned:
            target = _slice(builder, self._argument(block, value), (head.b, head.h), "")
            if value is attention.out:
                target.name_hint = "out_head"
                _store_out(tiles, target, head.start_m, Tile(result.acc, (0, 1)), row_sum)
            else:
                target.name_hint = "lse_head"
                lse = _log_sum(tiles, Tile(result.row_max, (ROWS,)), row_sum, natural=scaling.late)
                builder.create(StoreOp, [lse, target, head.start_m], [], {"boundary": DenseArrayAttr((0,))})


def _one_where_zero(tiles: TileBuilder, row_sum: Tile) -> Tile:
    """The row sum, or 1 for rows without any key, whose accumulator is 0 and maximum -inf."""
    zero, one = (Tile(tiles.builder.constant(x, f32)) for x in (0.0, 1.0))
    properties = {"predicate": CmpFOp.predicate_attr("oeq")}
    empty = tiles.elementwise(CmpFOp.op_name, [row_sum, zero], i1, properties, "no_key")
    return tiles.elementwise(SelectOp.op_name, [empty, one, row_sum], f32, label="row_sum")


def _store_out(tiles: TileBuilder, target: Value, start_m: Value, acc: Tile, row_sum: Tile) -> None:
    memory, width = target.type, tiles.shape[1]
    assert isinstance(memory, TensorType)
    out = tiles.binary(DivFOp, acc, row_sum, "out_tile")
    if memory.element != f32:
        out = tiles.elementwise(TruncFOp.op_name, [out], memory.element, label="out_tile")
    axes = DenseArrayAttr((0,) if width == memory.shape[1] else (0, 1))
    operands = [out.value, target, start_m, tiles.builder.index(0)]
    tiles.builder.create(StoreOp, operands, [], {"boundary": axes})


def _log_sum(tiles: TileBuilder, row_max: Tile, row_sum: Tile, *, natural: bool) -> Value:
    """The natural logarithm of the sum of the exponentials of a row's scores.

    The maximum is in powers of two, or already `natural`.
    """
    logarithm = tiles.elementwise(Log2Op.op_name, [row_sum], f32)
    unit = Tile(tiles.builder.constant(math.log(2.0), f32))
    if natural:
        return tiles.binary(AddFOp, row_max, tiles.binary(MulFOp, logarithm, unit), "lse_tile").value
    return tiles.binary(MulFOp, tiles.binary(AddFOp, row_max, logarithm), unit, "lse_tile").value


def _size(builder: Builder, tensor: Value, axis: int, name: str) -> Value:
    type_ = tensor.type
    assert isinstance(type_, TensorType)
    size = type_.shape[axis]
    if isinstance(size, int):
        return builder.index(size, name)
    return builder.create(DimOp, [tensor, builder.index(axis)], [index], name=name).out


def _width(tensor: Value) -> int:
    """The constant head dimension of a (B, H, N, D) tensor."""
    type_ = tensor.type
    assert isinstance(type_, TensorType)
    width = type_.shape[3]
    assert isinstance(width, int), "the planner refuses unknown head dimensions"
    return width


def _slice(builder: Builder, tensor: Value, indices: tuple[Value, Value], name: str) -> Value:
    type_ = tensor.type
    assert isinstance(type_, TensorType)
    return builder.create(SliceOp, [tensor, *indices], [type_.with_shape(*type_.shape[2:])], name=name).out


def _load(builder: Builder, source: Value, start: Value, rows: int, width: int) -> Value:
    type_ = source.type
    assert isinstance(type_, TensorType)
    axes = DenseArrayAttr((0,) if width == type_.shape[1] else (0, 1))
    tile = type_.with_shape(rows, width)
    return builder.create(LoadOp, [source, start, builder.index(0)], [tile], {"boundary": axes}, name="q_tile").out
