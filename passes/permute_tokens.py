"""Puts the tokens of a grid into an order in which tiles of the attention's mask are dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..ir.attributes import Attribute, DenseArrayAttr, StringAttr, TensorType, i32
from ..ir.builder import Builder
from ..ir.core import Operation, Value
from ..ir.diagnostics import error
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.attn_tokens import TOKENS_AXIS, GatherTokensOp, ScatterTokensOp, TokenOrderOp
from .grid_masks import Grid, grids_of, parts_of
from .known_orders import note_order
from .manager import Pass, PassContext
from .position_forms import M, N
from .score_regions import drop_unused_captures, tidy
from .token_regions import cannot_move, capture_order, positions_of


@dataclass(frozen=True)
class PermuteTokens(Pass):
    """Put tokens of a grid into boxes where the mask takes positions apart into coordinates.

    Before and behind the attention tokens are copied; that is done where the estimate for `target` says that
    the copies cost less than the denser tiles save, and with `force` wherever it can be. `tile` are the sides of
    boxes, outermost first, for the estimate to choose where left out. `queries` and `keys` are lengths to
    estimate with where the types do not say them; `wishes` are the planner's.
    """

    name: ClassVar[str] = "permute-tokens"
    target: str = "sm_90"
    force: bool = False
    tile: tuple[int, ...] = ()
    queries: int = 0
    keys: int = 0
    wishes: tuple[str, ...] = ()

    def run(self, module: Operation, ctx: PassContext) -> None:
        if any(side < 1 for side in self.tile):
            raise error(f"the sides of a tile must be positive, but are {', '.join(map(str, self.tile))}")
        for operation in list(module.walk()):
            attention = AttentionOp.match(operation)
            if attention is not None and GatherTokensOp.producing(attention.q) is None:
                reason = self._visit(attention, ctx)
                if reason:
                    ctx.miss(self.name, operation, reason)

    def _visit(self, attention: AttentionOp, ctx: PassContext) -> str:
        """Permute, or say why not."""
        operation = attention.operation
        grids = grids_of_mask(attention)
        if not grids:
            return "the mask does not take positions apart into coordinates of a grid"
        reason = next(filter(None, (cannot_move(region, name) for name, region in attention.present)), "")
        if not reason:
            # Numbers come as arrays, and small commands do not load numpy.
            from .token_cost import estimate

            found = estimate(attention, self._fitting(grids), self)
            if found.pays or self.force:
                boxes = found.boxes
                permute(attention, boxes.grid, boxes.tile, boxes.inner, found.verdict, found.lengths)
                ctx.statistics["attentions permuted"] += 1
                ctx.remark(operation, f"tokens are put into boxes: {found.verdict}")
                return ""
            reason = found.verdict
        ctx.remark(operation, f"tokens stay in their order: {reason}")
        return reason

    def _fitting(self, grids: Sequence[Grid]) -> list[Grid]:
        """Those that have as many axes as `tile` has sides."""
        if not self.tile:
            return list(grids)
        fitting = [grid for grid in grids if len(grid.dilation) == len(self.tile)]
        if not fitting:
            found = " or ".join(dict.fromkeys(str(len(grid.dilation)) for grid in grids))
            raise error(f"the tile has {len(self.tile)} sides, but the grid of the mask has {found} axes")
        return fitting[:1]


def grids_of_mask(attention: AttentionOp) -> list[Grid]:
    """The grids that the positions in the mask of an attention may be coordinates of, likeliest first."""
    if attention.mask.empty:
        return []
    return list(grids_of(parts_of(attention.mask, positions_of(attention.mask.block, "mask"))))


def permute(
    attention: AttentionOp,
    grid: Grid,
    tile: Sequence[int],
    inner: Sequence[int],
    reason: str = "",
    lengths: tuple[int, int] | None = None,
) -> None:
    """attention(q, k, v)  →  scatter(attention(gather(q), gather(k), gather(v))), its regions over coordinates.

    The kernel is planned for `lengths`, queries and keys, where they are given.
    """
    builder = Builder.before(attention.operation)
    q, k, v = attention.q, attention.k, attention.v
    shared = _length(q) is not None and _length(q) == _length(k)
    orders = {M: _order(builder, q, grid, tile, inner, reason)}
    orders[N] = orders[M] if shared else _order(builder, k, grid, tile, inner, reason)
    types = {position: [result.type for result in order.every] for position, order in orders.items()}
    for name, region in attention.present:
        capture_order(region, name, grid, types, shared)
    captured = [value for order in dict.fromkeys(orders.values()) for value in order.every]
    moved = [_gather(builder, x, orders[position].order) for x, position in ((q, M), (k, N), (v, N))]
    attention.operation.set_operands([*moved, *attention.captures, *captured])
    attention.structure = None
    behind = Builder(builder.block, _next(attention.operation), attention.operation.location)
    for result in attention.operation.results:
        if result.uses:
            _scatter(behind, result, orders[M].order)
    tidy(attention.operation)
    drop_unused_captures(attention)
    if lengths is not None:
        note_order(attention, [orders[M]] if shared else [orders[M], orders[N]], lengths)


def _length(x: Value) -> object:
    assert isinstance(x.type, TensorType)
    return x.type.shape[TOKENS_AXIS]


def _order(
    builder: Builder, tokens: Value, grid: Grid, tile: Sequence[int], inner: Sequence[int], reason: str
) -> TokenOrderOp:
    assert isinstance(tokens.type, TensorType)
    properties: dict[str, Attribute] = {"grid": DenseArrayAttr(grid.inner), "tile": DenseArrayAttr(tuple(tile))}
    if tuple(inner) != tuple(tile):
        properties["inner"] = DenseArrayAttr(tuple(inner))
    if any(d > 1 for d in grid.dilation):
        properties["dilation"] = DenseArrayAttr(grid.dilation)
    axes = range(len(grid.dilation))
    dilated = [axis for axis in axes if grid.dilation[axis] > 1]
    names = ["order", *(f"axis{a}" for a in axes), *(f"{x}{a}" for a in dilated for x in ("place", "residue"))]
    type_ = TensorType((tokens.type.shape[TOKENS_AXIS],), i32)
    order = builder.create(TokenOrderOp, [tokens], [type_] * len(names), properties)
    order.reason = StringAttr(reason) if reason else None
    for result, name in zip(order.every, names, strict=True):
        result.name_hint = name
    return order


def _gather(builder: Builder, x: Value, order: Value) -> Value:
    return builder.create(GatherTokensOp, [x, order], [x.type], name=x.name_hint).out


def _scatter(builder: Builder, result: Value, order: Value) -> None:
    """Bring a result of attention back, for all that read it."""
    back = builder.create(ScatterTokensOp, [result, order], [result.type], name=result.name_hint)
    result.replace_uses_if(back.out, lambda user: user is not back.operation)


def _next(operation: Operation) -> Operation:
    assert operation.parent is not None
    ops = operation.parent.ops
    return ops[ops.index(operation) + 1]
