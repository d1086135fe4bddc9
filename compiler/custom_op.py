"""The one custom op that stands for a fused attention in an fx graph: `attir::attention`.

Knows how PyTorch's dispatcher reaches a site's kernel; knows nothing about kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, cast

import torch
from torch import fx

Runner: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, Sequence[torch.Tensor], bool], tuple[torch.Tensor, torch.Tensor]
]
"""`runner(q, k, v, captures, want_lse) -> (out, lse)`.

q is (B, H, M, D), k (B, K, N, D), v (B, K, N, E), with any strides; out (B, H, M, E) in q's dtype,
contiguous; lse (B, H, M) in f32, empty where it is not wanted. A runner may have a method
`with_positions_first()`: the same with out in memory as (B, M, H, E).
"""

Inputs: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[torch.Tensor]]
"""What a site is called on: q, k, v and captured tensors."""

SCHEMA = (
    "attention(Tensor q, Tensor k, Tensor v, Tensor[] captures, int site, bool want_lse, bool positions_first=False)"
    " -> (Tensor out, Tensor lse)"
)
"""`positions_first` is what `site` was registered with: graphs that are kept on disk must tell layouts apart."""

_runners: list[Runner] = []


def register_site(runner: Runner, *, positions_first: bool = False) -> int:
    """The number under which graphs call `runner`, for the life of the process.

    Where `positions_first`, out lies in memory as (B, M, H, E).
    """
    _runners.append(_reordered(runner) if positions_first else runner)
    return len(_runners) - 1


def _reordered(runner: Runner) -> Runner:
    """`runner` with out in memory as (B, M, H, E); by a copy where it cannot write it so itself."""
    own: Callable[[], Runner] | None = getattr(runner, "with_positions_first", None)
    if own is not None:
        return own()

    def copying(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = runner(q, k, v, captures, want_lse)
        return out.transpose(1, 2).contiguous().transpose(1, 2), lse

    return copying


@dataclass(frozen=True)
class Call:
    """One call of a site: its number, the shapes of q and k, and what it captured then."""

    site: int
    q: torch.Size
    k: torch.Size
    captures: Sequence[torch.Tensor]


@contextmanager
def watched_calls(see: Callable[[int, Inputs], None] = lambda site, tensors: None) -> Generator[list[Call]]:
    """Collects the calls of all sites that are registered now; they run as ever.

    `see` is told the number of each site that is called, and what on.
    """
    calls, before = list[Call](), list(_runners)

    def watched(site: int, runner: Runner) -> Runner:
        def run(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
        ) -> tuple[torch.Tensor, torch.Tensor]:
            calls.append(Call(site, q.shape, k.shape, [c.detach().clone() for c in captures]))
            see(site, (q, k, v, captures))
            return runner(q, k, v, captures, want_lse)

        return run

    _runners[:] = [watched(site, runner) for site, runner in enumerate(before)]
    try:
        yield calls
    finally:
        _runners[: len(before)] = before


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    captures: list[torch.Tensor],
    site: int,
    want_lse: bool,
    positions_first: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _runners[site](q, k, v, captures, want_lse)


def _fake_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    captures: list[torch.Tensor],
    site: int,
    want_lse: bool,
    positions_first: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, length = q.shape[:3]
    if positions_first:
        out = q.new_empty((batch, length, heads, v.shape[3])).transpose(1, 2)
    else:
        out = q.new_empty((batch, heads, length, v.shape[3]))
    return out, q.new_empty((batch, heads, length) if want_lse else (0,), dtype=torch.float32)


def attir_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    captures: list[torch.Tensor],
    site: int,
    want_lse: bool,
    positions_first: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the op does above all kernels, and to be called instead of it where microseconds count.

    Refuses to lose gradients; else goes on, at once where nothing else wants to see the call.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *captures)):
        raise RuntimeError(
            "attir::attention has no gradient yet, but an input requires one: "
            "call the compiled model under torch.no_grad() or requires_grad_(False)"
        )
    plain = type(q) in _PLAIN and not (q.is_meta or _dispatch_modes() or _transforms() or _profiled())
    # A tensor may be a promise of its negative, which the dispatcher keeps before a kernel reads memory.
    if plain and not (q.is_neg() or k.is_neg() or v.is_neg() or any(map(torch.Tensor.is_neg, captures))):
        return _runners[site](q, k, v, captures, want_lse)
    with below_autograd():
        return attention_op()(q, k, v, captures, site, want_lse, positions_first)


_PLAIN = (torch.Tensor, torch.nn.Parameter)
_dispatch_modes: Callable[[], int] = cast(Any, torch)._C._len_torch_dispatch_stack
_transforms: Callable[[], object] = cast(Any, torch)._C._functorch.peek_interpreter_stack
_profiled: Callable[[], bool] = cast(Any, torch).autograd._profiler_enabled
below_autograd: Callable[[], AbstractContextManager[None]] = cast(Any, torch)._C._AutoDispatchBelowAutograd


@cache
def attention_op() -> Any:
    """The overload `torch.ops.attir.attention.default`, defined on first use."""
    library = attir_library()
    library.define(SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        library.impl("attention", _attention, key)
    library.impl("attention", attir_attention, "Autograd")
    library._register_fake("attention", _fake_attention)
    return torch.ops.attir.attention.default


def call_sites_directly(graph_module: fx.GraphModule) -> None:
    """Let a graph that nobody compiles further call its sites without PyTorch's dispatcher in between."""
    sites = [node for node in graph_module.graph.nodes if node.target is attention_op()]
    for node in sites:
        node.target = attir_attention
    if sites:
        graph_module.recompile()


@cache
def attir_library() -> Any:
    """The operators of this package."""
    return torch.library.Library("attir", "FRAGMENT")
