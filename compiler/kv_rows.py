"""Tensors that rows are added to in place, and numbers in few bits that lie in such tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..ir.storage import Storage
from .storage_math import dequantize, quantize

LEAST_ROOM = 64


class Rows:
    """Rows of a tensor (B, H, rows, width), added at the end and dropped at both, in memory that doubles when full."""

    def __init__(self, memory: torch.Tensor) -> None:
        self._memory = memory
        self._first: int = 0
        self._last: int = 0

    @property
    def tensor(self) -> torch.Tensor:
        """The rows there are, in memory that later rows are written behind."""
        return self._memory[:, :, self._first : self._last]

    @property
    def allocated_bytes(self) -> int:
        return self._memory.numel() * self._memory.element_size()

    def append(self, rows: torch.Tensor) -> None:
        count, used = rows.shape[2], self._last - self._first
        if not count:
            return
        if self._last + count > self._memory.shape[2]:
            batch, heads, room, width = self._memory.shape
            memory = self._memory
            # Where most rows have been dropped, those left move to the front; else there is twice the room.
            if 2 * (used + count) > room:
                memory = memory.new_empty((batch, heads, max(LEAST_ROOM, 2 * (used + count)), width))
            memory[:, :, :used] = self.tensor.clone() if memory is self._memory else self.tensor
            self._memory, self._first, self._last = memory, 0, used
        self._memory[:, :, self._last : self._last + count] = rows
        self._last += count

    def keep(self, first: int, last: int) -> None:
        """Drop all rows but those from `first` up to `last`."""
        self._first, self._last = self._first + first, self._first + last
        if self._first == self._last:
            self._first = self._last = 0

    def select(self, indices: torch.Tensor) -> None:
        """Batches in another order."""
        self._memory = self._memory.index_select(0, indices)


class Numbers:
    """Keys or values (B, H, N, width) in one storage, or as they are; only whole groups of tokens come and go."""

    def __init__(self, storage: Storage | None, like: torch.Tensor) -> None:
        """No tokens yet; `like` has their other sizes, dtype and device."""
        self.storage, self._like = storage, like
        self._rows: tuple[Rows, ...] = ()
        batch, heads, _, width = like.shape
        if storage is None:
            self._rows = (Rows(like.new_empty((batch, heads, 0, width))),)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What is stored: codes, scales and zeros as the storage has them, or the numbers."""
        return tuple(rows.tensor for rows in self._rows)

    @property
    def allocated_bytes(self) -> int:
        return sum(rows.allocated_bytes for rows in self._rows)

    def quantized(self, x: torch.Tensor, scale_dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """What is stored of new tokens x."""
        if self.storage is None:
            return (x.to(self._like.dtype),)
        return quantize(x, self.storage, scale_dtype)

    def append(self, stored: Sequence[torch.Tensor]) -> None:
        """Add tokens, as `quantized` gives them."""
        if not self._rows:
            self._rows = tuple(Rows(x.new_empty((*x.shape[:2], 0, x.shape[3]))) for x in stored)
        for rows, new in zip(self._rows, stored, strict=True):
            rows.append(new)

    def keep(self, first: int, last: int) -> None:
        """Drop all tokens but those from `first` up to `last`."""
        for place, rows in enumerate(self._rows):
            rows.keep(self._row(place, first), self._row(place, last))

    def read(self, first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
        """The numbers of tokens from `first`, which begins a group, up to `last`."""
        batch, heads, _, width = self._like.shape
        if first == last:
            return self._like.new_empty((batch, heads, 0, width), dtype=dtype)
        if self.storage is None:
            return self._rows[0].tensor[:, :, first:last].to(dtype)
        ends = [(self._row(i, first), self._row(i, last)) for i in range(len(self._rows))]
        codes, *scales = (rows.tensor[:, :, a:b] for rows, (a, b) in zip(self._rows, ends, strict=True))
        return dequantize(codes, self.storage, *scales, tokens=last - first, dtype=dtype)

    def select(self, indices: torch.Tensor) -> None:
        self._like = self._like.index_select(0, indices)
        for rows in self._rows:
            rows.select(indices)

    def _row(self, place: int, token: int) -> int:
        """Where a token begins in codes (place 0) or scales; the next row, where it stands within one."""
        if self.storage is None:
            return token
        return self.storage.stored_tokens(token) if place == 0 else -(-token // self.storage.tokens)
