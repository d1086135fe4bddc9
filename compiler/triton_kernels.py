"""The Triton kernels of one attention: which calls share one, and each made once, when a call asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..cost_model.problem import Sizes
from ..ir.core import Operation
from .kernels import Kernel, Wishes, build_kernel, emit_kernels
from .layouts import Layout, Results
from .outlined import KernelWatcher, OutlinedAttention
from .report import Variant
from .serving import DECIDING, Serving, Workshop
from .site_plans import Calls, SitePlans
from .sites import canonical_text
from .triton_calls import Steps
from .tuning import OFF, Tuning

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

    `made` holds the first of each choice and `variants` tells of all, and for which calls; `watchers` hear of
    what is made from now on. All follow `wishes`, where the tensors of a call let them. Without
    `cache` nothing is shared with equal programs. `tuning` says what is measured.
    """

    target: str
    wishes: Wishes = ()
    cache: bool = True
    variants: list[Variant] = field(default_factory=list[Variant])
    watchers: list[KernelWatcher] = field(default_factory=list["KernelWatcher"])
    tuning: Tuning = OFF
    made: dict[Choice, Steps] = field(default_factory=dict[Choice, Steps])

    @cached_property
    def serving(self) -> Serving[Choice, Steps]:
        """What decides which kernel serves which calls."""
        shop = Workshop(self._build, _kernel, lambda c, queries: calls_in_words(c, queries, self.group), _name, "cuda")
        plans = SitePlans(self.module, self.target, self.cache)
        return Serving(plans, shop, self.tuning, self.variants, self.watchers, first=self.made)

    def choice(self, queries: int | None) -> Choice:
        """The kernel for so many queries; where that is not known, the one for any number."""
        return Choice(0 if queries is None else rows_for(queries, self.group))

    def first(self, call: Sizes | int | None) -> Steps:
        """The kernel for the first call, of which its sizes are known, its queries, or nothing."""
        queries = call.queries if isinstance(call, Sizes) else call
        return self.get(self.choice(queries), queries, call if isinstance(call, Sizes) else None)

    def get(self, choice: Choice, queries: int | None, sizes: Sizes | None = None) -> Steps:
        """The first kernel for `choice`, made now if there is none; CompileError where it cannot be.

        `queries` are those of the call that needs it, for the record; it is planned for `sizes`, where they are known.
        """
        sizes = sizes if self.serving.plans.has_times else None
        with DECIDING:
            if choice not in self.made:
                self.made[choice] = self._shared(choice, queries, sizes) or self.serving.make_first(
                    choice, queries, None if sizes is None else self.calls(choice, sizes)
                )
            return self.made[choice]

    def for_call(self, q: Layout, k: Layout, *, regular: bool, call: Callable[[Steps], Callable[[], Results]]) -> Steps:
        """The kernel for a call; keys are split only by a kernel that then merges more than one part.

        `call` says how one is called on its tensors.
        """
        (batch, heads, queries, _), keys = q.sizes, k.sizes[2]
        sizes = Sizes(batch, heads, k.sizes[1], queries, max(1, keys))
        choice = replace(self.choice(queries), regular=regular)
        steps = self._for_call(choice, sizes, call)
        if steps.schedule.split and steps.split_count(batch, heads, queries, keys) == 1:
            return self._for_call(replace(choice, split=False), sizes, call)
        return steps

    def _for_call(self, choice: Choice, sizes: Sizes, call: Callable[[Steps], Callable[[], Results]]) -> Steps:
        self.get(choice, sizes.queries, sizes)
        return self.serving.for_call(choice, self.calls(choice, sizes), call)

    def calls(self, choice: Choice, sizes: Sizes) -> Calls:
        """What decisions for calls of such sizes are made and kept for."""
        return Calls(sizes, choice.rows, choice.name, (*self.wishes, *choice.wishes))

    def _shared(self, choice: Choice, queries: int | None, sizes: Sizes | None) -> Steps | None:
        """What holds for any tensor serves regular ones, and what splits no keys needs no second form."""
        for common in (replace(choice, regular=True), replace(choice, split=True)):
            if common != choice and not _differs(self.get(common, queries, sizes), choice):
                return self.get(common, queries, sizes)
        return None

    def _build(self, choice: Choice, wishes: Wishes, calls: Calls | None) -> tuple[Steps, str]:
        started = time.perf_counter()
        sizes = None if calls is None else calls.sizes
        build: Callable[..., Kernel] = build_kernel if self.cache else emit_kernels
        kernel = build(self.module, self.target, choice.rows, wishes or (*self.wishes, *choice.wishes), sizes)
        return Steps.of(kernel), f"written in {1e3 * (time.perf_counter() - started):.0f} ms"


def _kernel(steps: Steps) -> Kernel:
    return steps.kernel


def _name(choice: Choice) -> str:
    return choice.name


def _differs(steps: Steps, choice: Choice) -> bool:
    """Whether the wishes of `choice` change anything about a kernel that was made without them."""
    return any(getattr(steps.schedule, name) != value for name, value in choice.wishes)


_kernels: dict[tuple[str, str, Wishes, Tuning], TritonKernels] = {}
_lock = threading.Lock()


def triton_kernels(module: Operation, target: str, wishes: Wishes = (), tuning: Tuning = OFF) -> TritonKernels:
    """The kernels of an outlined attention on `target`, none made yet if it is new; equal programs share them."""
    key = (canonical_text(module), target, wishes, replace(tuning, shown=None))
    with _lock:
        if key not in _kernels:
            _kernels[key] = TritonKernels(module.clone(), target, wishes, tuning=tuning)
        return _kernels[key]
