"""Attention over a cache in few bits: a kernel for each way in which tokens are kept, merged by log-sum-exp.

In a graph the k and v of such an attention come from `attir::kv_update`. Here the two become one site, that adds
the new tokens to the cache and attends to each of its segments as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeAlias

import torch

from ..ir.core import Operation, Value
from ..ir.diagnostics import CompileError
from ..ir.dialects.attn import AttentionOp
from ..ir.location import Location
from .kv_segment import Way, has_sink, reads_key_positions, segment_module
from .kv_storage import Segment, Store
from .kv_update import written
from .layouts import Results
from .report import Variant
from .sites import CompiledSite, Watcher

UPDATE = "fx.attir.kv_update"
AS_STORED = "keys and values of a cache are read as they are stored; an empty cache's first tokens attend exactly"
"""What the report says of a site over a cache."""
LOWEST = -1e30
"""Below all scores that mean something: those of keys that are masked by the least number that there is."""
Make: TypeAlias = Callable[[Operation], CompiledSite]
"""Compiles an outlined attention."""


def update_of(op: Operation) -> Operation | None:
    """The `attir::kv_update` that k or v of an attention comes from."""
    attention = AttentionOp(op)
    found = (value.defining_op for value in (attention.k, attention.v))
    return next((o for o in found if o is not None and o.name == UPDATE), None)


def obstacle(op: Operation) -> str:
    """Why an attention cannot read the cache that its k or v comes from as it is stored; empty where it can."""
    attention, update = AttentionOp(op), update_of(op)
    assert update is not None
    if [attention.k, attention.v] != update.results:
        return "only one of k and v comes from the cache as it is"
    if any(len(value.uses) != 1 for value in update.results):
        return "something else reads them too"
    for name in ("weight", "output", "key", "value"):
        if not attention.region(name).empty:
            return f"its {name} region is not known to mean the same over parts of the keys"
    if attention.empty_score is not None and attention.empty_score.value > LOWEST:
        return f"rows without any key have scores of {attention.empty_score.value:g}, which others may have too"
    if attention.normaliser.value != "softmax" or attention.shapes[2].shape[3] == 0:
        return "it is no softmax over values"
    return ""


def take_update(op: Operation) -> tuple[Value, ...]:
    """Let an attention read the new k and v, instead of all; what else its site is to be called with."""
    update = update_of(op)
    assert update is not None
    k, v, *rest = update.operands
    op.set_operand(1, k)
    op.set_operand(2, v)
    update.erase()
    return tuple(rest)


def made_as_numbers(module: Operation, obstacles: Mapping[Location, str]) -> list[tuple[Location, str]]:
    """Where a graph makes all keys and values of a cache as numbers, and why; `obstacles` are of attentions."""
    found: list[tuple[Location, str]] = []
    for op in module.walk():
        if op.name == UPDATE:
            users = {user for value in op.results for user in value.users}
            reasons = [obstacles[u.location] for u in users if u.location in obstacles]
            why = reasons[0] if reasons else "what reads them is no fused attention"
            found.append((op.location, f"all keys and values of a cache in few bits are made as numbers: {why}"))
    return found


@dataclass(eq=False)
class CachedSite:
    """An attention over a cache: `base` is that over k and v as they are, and attends to what an empty cache is given.

    Kernels for segments are compiled by `make` when there are such segments.
    """

    module: Operation
    base: CompiledSite
    make: Make
    parts: dict[Way, _Part] = field(default_factory=dict["Way", "_Part"])
    watchers: list[Watcher] = field(default_factory=list[Watcher])
    variants: list[Variant] = field(default_factory=list[Variant])
    _listed: tuple[int, int] = (-1, 0)

    def __post_init__(self) -> None:
        self.list_variants()

    @property
    def runner(self) -> CachedRunner:
        return CachedRunner(self)

    @property
    def plan(self) -> Mapping[str, Any]:
        return self.base.plan

    @property
    def kernel_source(self) -> str:
        return self.base.kernel_source

    @property
    def language(self) -> str:
        return self.base.language

    @property
    def steps(self) -> Sequence[tuple[str, str]]:
        return self.base.steps

    def list_variants(self) -> None:
        """Bring `variants` up to date: the kernels of `base`, then those of segments."""
        count = len(self.base.variants) + sum(len(part.site.variants) for part in self.parts.values())
        if (count, len(self.parts)) == self._listed:
            return
        self._listed = count, len(self.parts)
        found = _labelled("an empty cache", self.base.variants)
        for part in self.parts.values():
            found += part.variants
        self.variants[:] = found

    def watch(self, watcher: Watcher) -> None:
        self.base.watch(watcher)
        self.watchers.append(watcher)
        for part in self.parts.values():
            part.site.watch(watcher)

    def part(self, way: Way) -> _Part:
        """The kernel for segments that are kept in that way."""
        if way not in self.parts:
            self.parts[way] = self._part(way)
        return self.parts[way]

    def _part(self, way: Way) -> _Part:
        try:
            found = _Part(way, self.make(segment_module(self.module, way)))
        except CompileError as problem:
            why = f"made as numbers first, because {problem.diagnostics[0].message}"
            # The kernel for all keys is there in any case.
            return _Part(way, self.base if way.exact else self.part(way.numbers).site, why)
        for watcher in self.watchers:
            found.site.watch(watcher)
        return found


@dataclass(frozen=True)
class _Part:
    """A kernel for segments kept in one way; `problem` says why it reads them as numbers that are made first."""

    way: Way
    site: CompiledSite
    problem: str = ""

    @property
    def variants(self) -> list[Variant]:
        if self.problem:
            return [Variant(f"{self.way}: any", self.problem)]
        return _labelled(str(self.way), self.site.variants)


def _labelled(label: str, variants: Sequence[Variant]) -> list[Variant]:
    if not variants:
        return [Variant(f"{label}: any", "compiled")]
    return [replace(variant, calls=f"{label}: {variant.calls}") for variant in variants]


class CachedRunner:
    """`runner(q, k, v, (*captures, handle, tokens), want_lse) -> (out, lse)`: k and v are new tokens of the cache."""

    def __init__(self, site: CachedSite) -> None:
        self.site = site
        self._base = site.base.runner
        self._shifted, self._sink = reads_key_positions(site.module), has_sink(site.module)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> Results:
        *captures, handle, tokens = captures
        with written(handle, tokens, k, v) as store:
            store.append(k, v)
        found = self._over(store, q, captures, want_lse) if tokens.shape[0] else self._base(q, k, v, captures, want_lse)
        self.site.list_variants()
        return found

    def _over(self, store: Store, q: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool) -> Results:
        """Attention over all segments."""
        segments = [segment for segment in store.segments if segment.length]
        parts = [self._part(store, segment, last=segment is segments[-1]) for segment in segments]
        if any(part.site is self.site.base for part in parts):
            return self._base(q, *store.numbers(), captures, want_lse)
        results, start = list[Results](), 0
        for segment, part in zip(segments, parts, strict=True):
            own = [_number(start, q.device)] if self._shifted else []
            k, v = (segment.keys.tensors, segment.values.tensors)
            if part.problem:
                k, v = ([x] for x in segment.read(0, segment.length, store.dtype))
            results.append(part.site.runner(q, k[0], v[0], [*captures, *own, *k[1:], *v[1:]], True))
            start += segment.length
        return merged(results, [segment.length for segment in segments])

    def _part(self, store: Store, segment: Segment, *, last: bool) -> _Part:
        format_ = segment.format
        return self.site.part(Way(format_.key, format_.value, store.scale_dtype, self._shifted, self._sink and last))


@cache
def _number(number: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(number, device=device)


def merged(parts: Sequence[Results], lengths: Sequence[int]) -> Results:
    """Attention over several sets of keys from out (B, H, M, E) and lse (B, H, M) over each: `attn.merge`.

    Rows that keep no key anywhere are 0, or where such rows average all values the mean by the `lengths` of the sets.
    """
    if len(parts) == 1:
        return parts[0]
    lses = torch.stack([lse for _, lse in parts])
    lse = lses.logsumexp(0)
    weights = (lses - lse).exp()
    lost = lse < LOWEST
    shares = torch.tensor(lengths, dtype=weights.dtype, device=weights.device) / sum(lengths)
    weights = torch.where(lost, shares[:, None, None, None], weights)[..., None]
    out = (parts[0][0] * weights[0]).float()
    for (part, _), weight in zip(parts[1:], weights[1:], strict=True):
        out += part * weight
    return out.to(parts[0][0].dtype), lse
