"""Summaries of caches that only grow, kept from one call to the next where the user says so."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .estimators import Estimator, Summary
from .key_summaries import KeySummary

MOST_CACHES = 1024
"""Caches that are remembered: layers times sequences that are decoded at once."""

Place: TypeAlias = tuple[Any, ...]


@dataclass
class _Kept:
    """A summary, and the memory whose keys it is of, for as long as that lives."""

    memory: StorageWeakRef
    summary: KeySummary


@dataclass
class KeptSummaries:
    """The summaries of one choice, by where in memory keys begin.

    A call with M queries and N keys is one step of a sequence if its last M keys are new and the N - M before them
    are those that were summarised: then only the new ones are looked at. Anything else is summarised anew.
    """

    known: OrderedDict[Place, _Kept] = field(default_factory=OrderedDict[Place, _Kept])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def summary(self, estimator: Estimator, block: int, k: torch.Tensor, queries: int) -> Summary:
        """The summary of all keys k (B, K, N, D) in a call that brings the last `queries` of them."""
        place, before = _place(k), k.shape[2] - queries
        with self.lock:
            kept = self.known.pop(place, None)
            if kept is None or kept.memory.expired() or kept.summary.length != before or before == 0:
                kept = _Kept(StorageWeakRef(k.untyped_storage()), KeySummary(estimator, block))
                kept.summary.append(k)
            else:
                kept.summary.append(k[:, :, before:])
            self.known[place] = kept
            while len(self.known) > MOST_CACHES:
                self.known.popitem(last=False)
            return kept.summary.summary


def _place(k: torch.Tensor) -> Place:
    """What tells one cache from another: its memory, where and how keys lie in it, for how many batches and heads."""
    storage = cast(Any, k.untyped_storage())
    return (storage._cdata, k.storage_offset(), k.stride(), *k.shape[:2], k.shape[3], k.dtype, k.device)
