"""Runs the ops that reorder tokens with PyTorch, on any device; orders are made once for each size and device."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..ir.core import Operation
from ..ir.dialects.attn_tokens import TOKENS_AXIS, TokenOrderOp
from ..ir.interpreter.attn_tokens import TokenOrder


@lru_cache(maxsize=64)
def ordered(order: TokenOrder, count: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """The results of `attn.token_order` for so many tokens."""
    return tuple(torch.as_tensor(array, device=device) for array in order.arrays(count))


def token_order(op: Operation, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    (tokens,) = tensors
    return ordered(TokenOrder.of(TokenOrderOp(op)), tokens.shape[TOKENS_AXIS], tokens.device)


@dataclass(frozen=True)
class _Move:
    """Where the rows of a tensor (B, H, N, D) of some strides go in an order: `at` numbers them in its memory."""

    order: torch.Tensor
    shape: torch.Size
    strides: tuple[int, ...]
    at: torch.Tensor

    def fits(self, x: torch.Tensor, order: torch.Tensor) -> bool:
        return self.order is order and self.shape == x.shape and self.strides == x.stride()


class _Kept(threading.local):
    """What a thread keeps of the last call of each op: the numbers of rows, and what was gathered.

    That is written again, since fresh pages cost more than the copy.
    """

    def __init__(self) -> None:
        self.moves: weakref.WeakKeyDictionary[Operation, _Move] = weakref.WeakKeyDictionary()
        self.outs: weakref.WeakKeyDictionary[Operation, torch.Tensor] = weakref.WeakKeyDictionary()

    def out(self, op: Operation, x: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor of the shape and type of `x` that holds anything."""
        held = self.outs.get(op)
        if held is None or held.shape != x.shape or held.dtype != x.dtype:
            held = self.outs[op] = torch.empty(x.shape, dtype=x.dtype)
        return held


_kept = _Kept()


def gather_tokens(op: Operation, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """On a CPU the result lives until the next call of this op in the same thread."""
    x, order = tensors
    with torch.no_grad():
        if not _has_rows(x):
            return [x.index_select(TOKENS_AXIS, order)]
        return [_moved(op, x, order, _kept.out(op, x), inverse=False)]


def scatter_tokens(op: Operation, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    x, order = tensors
    with torch.no_grad():
        if not _has_rows(x):
            return [x.index_select(TOKENS_AXIS, _inverse(order))]
        return [_moved(op, x, order, torch.empty(x.shape, dtype=x.dtype), inverse=True)]


def _inverse(order: torch.Tensor) -> torch.Tensor:
    places = torch.arange(order.numel(), dtype=order.dtype, device=order.device)
    return torch.empty_like(order).index_copy_(0, order.long(), places)


def _has_rows(x: torch.Tensor) -> bool:
    """Whether a tensor on a CPU is (B, H, N, D) with rows of D elements that lie in steps of D."""
    if x.device.type != "cpu" or x.dim() != 4 or x.stride(3) != 1 or x.numel() == 0:
        return False
    return not any(stride < 0 or stride % x.shape[3] for stride in x.stride()[:3])


def _moved(op: Operation, x: torch.Tensor, order: torch.Tensor, out: torch.Tensor, *, inverse: bool) -> torch.Tensor:
    """x[:, :, order], or by the inverse order, in `out`.

    PyTorch's CPU kernel copies whole rows fast along the first axis alone: that of all rows of all heads.
    """
    unit = x.shape[3]
    steps = [stride // unit for stride in x.stride()[:3]]
    move = _kept.moves.get(op)
    if move is None or not move.fits(x, order):
        batch, head = (torch.arange(size) * step for size, step in zip(x.shape[:2], steps[:2], strict=True))
        tokens = (_inverse(order) if inverse else order).long() * steps[2]
        at = (batch[:, None, None] + head[:, None] + tokens).flatten()
        move = _kept.moves[op] = _Move(order, x.shape, x.stride(), at)
    last = sum((size - 1) * step for size, step in zip(x.shape[:3], steps, strict=True))
    rows = x.as_strided((last + 1, unit), (unit, 1))
    torch.index_select(rows, 0, move.at, out=out.view(-1, unit))
    return out
