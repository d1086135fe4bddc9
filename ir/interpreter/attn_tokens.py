"""The meaning of the ops that reorder tokens of a grid; `token_order` is what other rooms use of it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..diagnostics import op_error
from ..dialects.attn_tokens import TOKENS_AXIS, GatherTokensOp, ScatterTokensOp, TokenOrderOp
from .call import Array, Call, Handler


@dataclass(frozen=True)
class TokenOrder:
    """What `attn.token_order` says of `count` tokens; see there for what the sizes mean."""

    grid: tuple[int, ...]
    tile: tuple[int, ...]
    inner: tuple[int, ...]
    dilation: tuple[int, ...]

    @staticmethod
    def of(op: TokenOrderOp) -> TokenOrder:
        inner = op.inner.values if op.inner is not None else (1,) * op.axes
        return TokenOrder(op.grid.values, op.tile.values, inner, op.dilations)

    def arrays(self, count: int) -> list[Array]:
        """The results of the op: the order, coordinates, then places and residues of dilated axes; (count) i32 each."""
        coordinates = self.coordinates(count)
        order = np.argsort(self._keys(coordinates, count), kind="stable")
        found = [order, *(c[order] for c in coordinates)]
        for c, d in zip(coordinates, self.dilation, strict=True):
            found += [c[order] // d, c[order] % d] if d > 1 else []
        return [x.astype(np.int32) for x in found]

    def coordinates(self, count: int) -> list[Array]:
        """Of every token along every axis."""
        rest, found = np.arange(count, dtype=np.int64), list[Array]()
        for size in reversed(self.grid):
            found.insert(0, rest % size)
            rest = rest // size
        return [rest, *found]

    def sizes(self, count: int) -> tuple[int, ...]:
        """Of the axes, of which the outermost is as long as `count` tokens need."""
        return -(-count // int(np.prod(self.grid))), *self.grid

    def _keys(self, coordinates: Sequence[Array], count: int) -> Array:
        """One number a token, by which they are sorted."""
        residues = [c % d for c, d in zip(coordinates, self.dilation, strict=True)]
        places = [c // d for c, d in zip(coordinates, self.dilation, strict=True)]
        # A class has as many places along an axis as its residue leaves.
        sizes = self.sizes(count)
        lengths = [-(-(size - r) // d) for size, r, d in zip(sizes, residues, self.dilation, strict=True)]
        slab, tiles = self._slabs(places, lengths)
        boxes = [p // t for p, t in zip(places, tiles, strict=True)]
        within = [p % t for p, t in zip(places, tiles, strict=True)]
        parts = [w // i for w, i in zip(within, self.inner, strict=True)]
        last = [w % i for w, i in zip(within, self.inner, strict=True)]
        digits = [*residues, slab, *boxes, *parts, *last]
        keys: Array = np.zeros(count, np.int64)
        for digit in digits:
            keys = keys * (int(digit.max(initial=0)) + 1) + digit
        return keys

    def _slabs(self, places: Sequence[Array], lengths: Sequence[Array]) -> tuple[Array, list[Array]]:
        """In which slab a token lies, 0 for whole boxes, and the box it is in along each axis there."""
        slab: Array = np.zeros_like(places[0])
        tiles: list[Array] = [np.full_like(slab, t) for t in self.tile]
        if len(places) == 1:
            return slab, tiles
        for axis, (place, length, tile) in enumerate(zip(places, lengths, self.tile, strict=True)):
            thick = length % tile
            here = (slab == 0) & (place >= length - thick)
            other = len(places) - 1 if axis < len(places) - 1 else axis - 1
            slab = np.where(here, axis + 1, slab)
            thin = np.maximum(thick, 1)
            tiles[axis] = np.where(here, thin, tiles[axis])
            tiles[other] = np.where(here, self.tile[other] * (tile // thin), tiles[other])
        return slab, tiles


def token_order(call: Call) -> Sequence[Array]:
    """The order of as many tokens as the operand has, and their coordinates in it."""
    return list(TokenOrder.of(TokenOrderOp(call.op)).arrays(call.operands[0].shape[TOKENS_AXIS]))


def gather_tokens(call: Call) -> Sequence[Array]:
    x, order = call.operands
    _check_length(call, x, order)
    return [np.take(x, order, axis=TOKENS_AXIS)]


def scatter_tokens(call: Call) -> Sequence[Array]:
    x, order = call.operands
    _check_length(call, x, order)
    out = np.empty_like(x)
    out[:, :, order] = x
    return [out]


def _check_length(call: Call, x: Array, order: Array) -> None:
    if x.shape[TOKENS_AXIS] != len(order):
        op_error(call.op, f"an order of {len(order)} tokens does not fit {x.shape[TOKENS_AXIS]}")


TOKEN_HANDLERS: Mapping[str, Handler] = {
    TokenOrderOp.op_name: token_order,
    GatherTokensOp.op_name: gather_tokens,
    ScatterTokensOp.op_name: scatter_tokens,
}
