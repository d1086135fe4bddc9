"""Summaries of keys that grow with each step of decoding, in memory that is made larger now and then."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..ir.diagnostics import error
from .estimators import Estimator, Summary

FIRST_ROOM = 64
"""Entries there is room for at first."""


class KeySummary:
    """What an estimator keeps of a growing cache of keys: appending n keys costs O(n), not the length of the cache.

        summary = KeySummary(estimator, block=64)
        summary.append(k)          # the prompt: (B, K, N, D); what the estimator learns, it learns from these keys
        summary.append(k_new)      # each step

    `summary.summary` equals `estimator.summarise` of all keys, for what is learnt from the first ones. Its
    tensors are views that stay as they are until more keys come to the last page.
    """

    def __init__(self, estimator: Estimator, block: int) -> None:
        self.estimator, self.block = estimator, block
        self._summary: Summary | None = None
        self._room: tuple[torch.Tensor, ...] = ()

    @property
    def length(self) -> int:
        """How many keys there are."""
        return self._summary.length if self._summary is not None else 0

    @property
    def summary(self) -> Summary:
        """Of all keys so far; CompileError before the first."""
        if self._summary is None:
            raise error("there is no summary yet: expected keys to be appended first")
        return self._summary

    def append(self, k: torch.Tensor) -> None:
        """Add keys (B, K, new, D) behind the others."""
        if k.ndim != 4:
            raise error(f"keys must be (batch, key heads, new, head dimension), but have shape {tuple(k.shape)}")
        if self._summary is None:
            self._summary = self.estimator.start(k, self.block)
            self._room = self._summary.parts
        before = self._summary
        self._check(before, k)
        keys, parts, tail = self.estimator.extended(before, k)
        whole = before.length // before.page
        count = -(-(before.length + keys) // before.page)
        self._room = tuple(_with_room(x, whole, count) for x in self._room)
        for room, new in zip(self._room, parts, strict=True):
            room[:, :, whole:count] = new
        views = tuple(x[:, :, :count] for x in self._room)
        self._summary = replace(before, length=before.length + keys, parts=views, tail=tail.clone())

    def _check(self, before: Summary, k: torch.Tensor) -> None:
        wanted, found = before.tail, (*k.shape[:2], k.shape[3])
        if found != (*wanted.shape[:2], wanted.shape[3]) or k.dtype != wanted.dtype or k.device != wanted.device:
            raise error(
                f"keys must be {wanted.shape[0]} x {wanted.shape[1]} x new x {wanted.shape[3]} of {wanted.dtype} on "
                f"{wanted.device} like those before, but are {tuple(k.shape)} of {k.dtype} on {k.device}"
            )


def _with_room(x: torch.Tensor, used: int, needed: int) -> torch.Tensor:
    """x with room for `needed` entries and its first `used` ones kept; grows to the double at least."""
    if needed <= x.shape[2]:
        return x
    larger = x.new_empty((*x.shape[:2], max(needed, 2 * x.shape[2], FIRST_ROOM), *x.shape[3:]))
    larger[:, :, :used] = x[:, :, :used]
    return larger
