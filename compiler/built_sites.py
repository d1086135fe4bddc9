"""Sites of this process as they were built: prepared, compiled, and registered once for all graphs that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..cost_model.problem import Sizes
from ..ir.core import Operation
from ..ir.dialects.attn import AttentionOp
from ..passes.manager import Pass
from .calibration import AutoRunner, Calibration, SiteCalibration, SiteName, Tools
from .custom_op import Runner, register_site
from .kv_cached_attention import CachedSite
from .mask_algebra import Mask
from .options import AUTOS, Options
from .places import target_of
from .prepare_site import Prepared, prepare
from .site_program import ProgramRunner
from .sites import CompiledSite, SiteCompiler, canonical_text, located_text, outline


@dataclass(frozen=True)
class Outlined:
    """An attention as a program of its own, and what is known of it in its graph.

    `name` tells it from others, `queries` and `keys` are how many the first call brings, `same_lengths` says whether
    there are always as many of both, and `positions_first` whether out shall lie in memory as (B, M, H, E). `sizes`
    are all of the first call, where they are known.
    """

    module: Operation
    name: SiteName
    queries: int | None = None
    keys: int | None = None
    same_lengths: bool = True
    positions_first: bool = False
    sizes: Sizes | None = None

    @property
    def call(self) -> Sizes | int | None:
        """What is known of the first call."""
        return self.queries if self.sizes is None else self.sizes

    def restricted(self, mask: Mask) -> AttentionOp:
        """The attention under its own mask and `mask`."""
        module = prepare(self.module, mask, same_lengths=self.same_lengths).program.module
        return next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))

    @staticmethod
    def of(op: Operation, name: str, number: int, sizes: Mapping[str, int]) -> Outlined:
        """The attention `op` of a graph as `@name`; it is the `number`-th at its location.

        `sizes` are what symbolic sizes are in the call that the graph was captured from, by their text.
        """
        attention, module = AttentionOp(op), outline(op, name)
        q, k, _ = attention.shapes
        found = [[n if isinstance(n, int) else sizes.get(str(n)) for n in x.shape[:3]] for x in (q, k)]
        lengths = [size[2] for size in found]
        every = [*found[0][:2], found[1][1], *lengths]
        return Outlined(
            module,
            (str(op.location), number, canonical_text(module)),
            lengths[0],
            lengths[1],
            q.shape[2] is not None and q.shape[2] == k.shape[2],
            attention.positions_first is not None,
            Sizes(*whole) if len(whole := [n for n in every if n]) == len(every) else None,
        )


@dataclass
class BuiltSite:
    """A site with its kernel and what runs it.

    `numbers` are those under which graphs call it, by whether out lies with positions first. `calibrated`
    is there where calibration chooses what runs. `over_cache` is the same attention over a cache in few bits.
    """

    compiled: CompiledSite
    runner: Runner
    prepared: Prepared
    calibrated: SiteCalibration | None = None
    numbers: dict[bool, int] = field(default_factory=dict[bool, int])
    over_cache: BuiltSite | None = None

    def number(self, *, positions_first: bool) -> int:
        if positions_first not in self.numbers:
            self.numbers[positions_first] = register_site(self.runner, positions_first=positions_first)
        return self.numbers[positions_first]


_built: dict[tuple[object, ...], BuiltSite] = {}
_compiled: dict[tuple[object, ...], CompiledSite] = {}
_prepared: dict[tuple[object, ...], Prepared] = {}


@dataclass(frozen=True)
class SiteBuilder:
    """Builds sites as `options` ask, for one backend; `passes` change an outlined attention before it is a kernel."""

    options: Options
    compile_site: SiteCompiler
    calibration: Calibration | None = None
    passes: Sequence[Pass] = ()

    def build(self, site: Outlined) -> BuiltSite:
        """The site for an outlined attention; equal ones share it, but where calibration may tell them apart."""
        prepared = self._prepared(site)
        own = (self.calibration, site.name) if self.calibration is not None else ()
        bound = tuple(map(id, prepared.program.bound))
        text = canonical_text(prepared.program.module)
        key = (text, *self._how, bound, own)
        if key not in _built or not self.options.cache:
            _built[key] = self._build(prepared, site)
        return _built[key]

    def build_cached(self, site: Outlined) -> BuiltSite:
        """The site for an outlined attention whose calls bring what to add to a cache, and the cache."""
        built = self.build(site)
        if built.over_cache is None:
            cached = CachedSite(
                site.module, built.compiled, lambda module: self.compile_site(module, self.options, site.queries)
            )
            built.over_cache = BuiltSite(cached, cached.runner, built.prepared)
        return built.over_cache

    def _prepared(self, site: Outlined, choice: Any = None) -> Prepared:
        """What an outlined attention becomes; worked out once for equal ones, since estimates take time.

        Where calibration chooses, it follows `choice`, or nothing.
        """
        auto = self.options.auto
        sparsity, quantize = (choice if auto == name else getattr(self.options, name) for name in AUTOS)
        # Calibration of choices makes kernels of the attention itself.
        passes = () if auto == "sparsity" else tuple(self.passes)
        # Locations are part of what dumps and errors show.
        key = (located_text(site.module), sparsity, quantize, passes, site.same_lengths)
        if key not in _prepared or not self.options.cache:
            _prepared[key] = prepare(site.module, sparsity, passes, same_lengths=site.same_lengths, quantize=quantize)
        return _prepared[key]

    @property
    def _how(self) -> tuple[object, ...]:
        """What kernels of equal programs may differ in."""
        options = self.options
        return options.backend, options.backend_options, options.tuning, self.compile_site

    def _compiled(self, module: Operation, call: Sizes | int | None) -> CompiledSite:
        """The kernel for an outlined attention; where calibration tells equal sites apart, they share it still."""
        key = (canonical_text(module), *self._how)
        if key not in _compiled or not self.options.cache:
            _compiled[key] = self.compile_site(module, self.options, call)
        return _compiled[key]

    def _build(self, prepared: Prepared, outlined: Outlined) -> BuiltSite:
        program = prepared.program
        compiled = self._compiled(program.kernel(), outlined.call)
        runner = compiled.runner if program.alone else ProgramRunner(program, compiled.runner)
        if self.calibration is None:
            return BuiltSite(compiled, runner, prepared)
        tools = Tools(
            program,
            lambda choice: self._prepared(outlined, choice).program,
            lambda module: self._compiled(module, outlined.call).runner,
            runner,
            target_of(self.options.backend),
        )
        site = self.calibration.site(outlined.name)
        return BuiltSite(compiled, AutoRunner(self.calibration, site, tools), prepared, site)
