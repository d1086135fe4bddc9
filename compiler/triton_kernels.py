"""The Triton kernels of one attention: which calls share one, and each made once, when a call asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..ir.core import Operation
from .kernels import Kernel, Wishes, build_kernel, emit_kernels
from .layouts import Layout
from .outlined import KernelWatcher, OutlinedAttention
from .report import Variant
from .sites import canonical_text
from .triton_calls import Steps

MOST_ROWS, LEAST_ROWS, FEW_QUERIES = 128, 16, 128
"""Rows of the largest tile and of the smallest, and queries whose heads share tiles and whose keys are split."""

BULK_BYTES, LARGEST_SIZE, LARGEST_STRIDE = 16, 2**31 - 1, 2**40 - 1
"""What tensor descriptors demand: multiples of 16 bytes as address and strides, and limits of sizes and strides."""


@dataclass(frozen=True)
class Choice:
    """What distinguishes the kernels of one attention.

    `rows` is for how many pairs of query and head of a group a kernel is made, 0 for any number. Where q,
    k and v are `regular`, a kernel may copy tiles of them through tensor descriptors. Where keys are
    `split`, they may be spread over programs.
    """

    rows: int = 0
    regular: bool = True
    split: bool = True

    @property
    def name(self) -> str:
        """The choice as a part of a file's name."""
        rows = f"rows-{self.rows}" if self.rows else "any-rows"
        return f"{rows}{'' if self.regular else '-any-strides'}{'' if self.split else '-whole'}"

    @property
    def wishes(self) -> Wishes:
        pointers: Wishes = () if self.regular else (("descriptors", ""),)
        return pointers if self.split else (*pointers, ("split", 0))


def rows_for(queries: int, group: int) -> int:
    """For how many rows a kernel is made that serves `queries` queries and `group` heads for each key head.

    A power of two from 16 to 128, the rows of a tile; 0, a kernel for any number, for many queries.
    """
    rows = max(LEAST_ROWS, 1 << max(queries * group - 1, 0).bit_length())
    return 0 if queries > FEW_QUERIES else min(rows, MOST_ROWS)


def is_regular(layout: Layout, item_size: int, *, aligned_address: bool) -> bool:
    """Whether a tensor descriptor can stand for a tensor (B, H, N, D); every axis has an entry."""
    *outer, last = layout.strides
    extent = layout.sizes[-1] * item_size
    return (
        aligned_address
        and last == 1
        and extent % BULK_BYTES == 0
        and min(layout.sizes) > 0
        and max(layout.sizes) <= LARGEST_SIZE
        and all(0 < s * item_size <= LARGEST_STRIDE and s * item_size % BULK_BYTES == 0 for s in outer)
    )


def calls_in_words(choice: Choice, queries: int | None, group: int) -> str:
    """Which calls a kernel is for, and the one it was made for."""
    kind = f"decode, {choice.rows} rows" if choice.rows else "prefill, any rows"
    first = "before any call"
    if queries is not None:
        first = f"{queries} {'query' if queries == 1 else 'queries'} x group {group}"
    return f"{kind}: {first}{'' if choice.regular else ', any strides'}{'' if choice.split else ', keys not split'}"


@dataclass(eq=False)
class TritonKernels(OutlinedAttention):
    """All kernels of one outlined attention on a GPU, or in the interpreter; safe to use from several threads.

    `made` holds those so far and `variants` tells of them, and for which calls; `watchers` hear of
    what is made from now on. All follow `wishes`, where the tensors of a call let them. Without
    `cache` nothing is shared with equal programs.
    """

    target: str
    wishes: Wishes = ()
    cache: bool = True
    variants: list[Variant] = field(default_factory=list[Variant])
    watchers: list[KernelWatcher] = field(default_factory=list["KernelWatcher"])
    made: dict[Choice, Steps] = field(default_factory=dict[Choice, Steps])
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def choice(self, queries: int | None) -> Choice:
        """The kernel for so many queries; where that is not known, the one for any number."""
        return Choice(0 if queries is None else rows_for(queries, self.group))

    def get(self, choice: Choice, queries: int | None) -> Steps:
        """The kernel for `choice`, made now if it is the first time; CompileError where there is none.

        `queries` are those of the call that needs it, for the record.
        """
        with self._lock:
            if choice not in self.made:
                self.made[choice] = self._make(choice, queries)
            return self.made[choice]

    def for_call(self, q: Layout, k: Layout, *, regular: bool) -> Steps:
        """The kernel for a call; keys are split only by a kernel that then merges more than one part."""
        (batch, heads, queries, _), keys = q.sizes, k.sizes[2]
        choice = replace(self.choice(queries), regular=regular)
        steps = self.get(choice, queries)
        if steps.schedule.split and steps.split_count(batch, heads, queries, keys) == 1:
            return self.get(replace(choice, split=False), queries)
        return steps

    def _make(self, choice: Choice, queries: int | None) -> Steps:
        # What holds for any tensor serves regular ones, and what splits no keys needs no second form.
        for common in (replace(choice, regular=True), replace(choice, split=True)):
            if common != choice and not _differs(self.get(common, queries), choice):
                return self.get(common, queries)
        started = time.perf_counter()
        build: Callable[..., Kernel] = build_kernel if self.cache else emit_kernels
        kernel = build(self.module, self.target, choice.rows, (*self.wishes, *choice.wishes))
        origin = f"written in {1e3 * (time.perf_counter() - started):.0f} ms"
        calls = calls_in_words(choice, queries, self.group)
        self.variants.append(Variant(calls, origin, kernel.lowered.decisions, kernel.source))
        for watcher in self.watchers:
            watcher(choice.name, kernel)
        return Steps.of(kernel)


def _differs(steps: Steps, choice: Choice) -> bool:
    """Whether the wishes of `choice` change anything about a kernel that was made without them."""
    return any(getattr(steps.schedule, name) != value for name, value in choice.wishes)


_kernels: dict[tuple[str, str, Wishes], TritonKernels] = {}
_lock = threading.Lock()


def triton_kernels(module: Operation, target: str, wishes: Wishes = ()) -> TritonKernels:
    """The kernels of an outlined attention on `target`, none made yet if it is new; equal programs share them."""
    key = (canonical_text(module), target, wishes)
    with _lock:
        if key not in _kernels:
            _kernels[key] = TritonKernels(module.clone(), target, wishes)
        return _kernels[key]
