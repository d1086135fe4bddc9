"""The way of one graph: captured, raised, its attention sites compiled, written back to fx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from ..cost_model.cpus import CPUS
from ..ir.core import Operation, Value
from ..ir.diagnostics import CompileError
from ..ir.dialects.attn import AttentionOp
from ..ir.location import Location
from ..passes.manager import Pass, PassContext
from ..passes.pipeline import Observer, PassPipeline, RunSettings
from .algebra import describe
from .built_sites import BuiltSite, Outlined, SiteBuilder
from .calibration import Calibration
from .capture import Captured, capture, placeholder_examples, restore_mutations
from .dump import ENDINGS, KERNEL_STEP, Dump, Listener
from .fx_export import export_graph
from .fx_import import Imported, import_graph
from .head_dims import specialise_head_dims
from .kv_cached_attention import AS_STORED, made_as_numbers, obstacle, take_update, update_of
from .options import Options
from .pipelines import preparing, raising
from .places import Place, place_for, target_of
from .refusals import ATTENTION_OPS, refusal
from .report import GraphReport, Report, SiteReport, location_text
from .site_program import SiteProgram
from .sites import CompiledSite, SiteCompiler, canonical_text, capture_names, ir_hash
from .tile_report import tiles_in_words
from .torch_types import example_of, symbol_text
from .warn_once import warn_once


@dataclass
class Compilation:
    """The way of one graph: captured, raised, its sites compiled, written back."""

    options: Options
    compile_site: SiteCompiler
    graph: GraphReport
    listener: Listener | None = None
    device: str = ""
    calibration: Calibration | None = None
    hidden: dict[Location, str] = field(default_factory=dict[Location, str])
    obstacles: dict[Location, str] = field(default_factory=dict[Location, str])
    compiled: dict[str, CompiledSite] = field(default_factory=dict[str, CompiledSite])
    programs: dict[str, Program] = field(default_factory=dict[str, "Program"])

    def run(self, gm: fx.GraphModule) -> fx.GraphModule:
        dump = Dump.for_graph(self.options.dump, self.graph.number, self.listener)
        examples = placeholder_examples(gm)
        captured = capture(gm, examples)
        if specialised := specialise_head_dims(captured.graph_module):
            self.graph.notes.append(f"{specialised} symbolic head dimensions were fixed to their present sizes")
        imported, sites, context = self._raise_until_all_compile(captured, examples, dump)
        behind = {op: site.behind for op, site in sites.items()}
        exported = export_graph(imported.module, imported, lambda op: sites[op].number, captured.graph_module, behind)
        restore_mutations(exported, captured.signature)
        self._report(imported, sites, context)
        if dump.wanted:
            dump.step("main", "graph", "py", exported.print_readable(print_output=False))
        dump.file("report.json", Report([self.graph]).to_json())
        return exported

    def _raise_until_all_compile(
        self, captured: Captured, examples: Sequence[Any], dump: Dump
    ) -> tuple[Imported, Mapping[Operation, Site], PassContext]:
        """Raise, and once more without the sites that turned out to have no kernel, until all have one."""
        sizes = example_sizes(captured.graph_module)
        while True:
            imported = import_graph(captured.graph_module, self._is_hidden)
            dump.module("main", "aten", imported.module)
            context = PassContext()
            PassPipeline(self._raising(examples)).run(imported.module, context, RunSettings(observe=_dumping(dump)))
            sites, failures = self._compile_sites(imported, examples, sizes, dump)
            if not failures:
                return imported, sites, context
            self.hidden |= failures

    def _raising(self, examples: Sequence[Any]) -> tuple[Pass, ...]:
        """The passes that raise; nothing around attention moves where it is not known what runs it."""
        try:
            target = self.device or target_of(self._place(examples).backend)
        except CompileError:
            return raising("never", "", self.options.rest)
        # What is read in front of a kernel must be q and k as they enter the product.
        return raising("never" if self.options.reads_rows else self.options.fuse_rows, target, self.options.rest)

    def _is_hidden(self, name: str, location: Location) -> bool:
        return name in ATTENTION_OPS and location in self.hidden

    def _compile_sites(
        self, imported: Imported, examples: Sequence[Any], sizes: Mapping[str, int], dump: Dump
    ) -> tuple[Mapping[Operation, Site], dict[Location, str]]:
        sites: dict[Operation, Site] = {}
        failures: dict[Location, str] = {}
        seen: Counter[str] = Counter()
        for op in [op for op in imported.module.walk() if AttentionOp.match(op)]:
            name = f"attention_{self.graph.number}_{len(sites)}"
            try:
                place = self._place(examples)
                if place.warning:
                    self._warn(place.warning)
                location = str(op.location)
                outlined = Outlined.of(op, name, seen[location], sizes)
                seen[location] += 1
                cached = self._reads_cache(op)
                sites[op] = self._compiled(name, outlined, place, dump, cached=cached)
                if cached:
                    sites[op] = replace(sites[op], behind=take_update(op))
            except CompileError as problem:
                failures[op.location] = problem.diagnostics[0].message
        return sites, failures

    def _reads_cache(self, op: Operation) -> bool:
        """Whether an attention is to read keys and values as a cache stores them; says why where it cannot."""
        if update_of(op) is None:
            return False
        why = obstacle(op) if self.options.sparsity is None else "sparsity= is about keys that lie in one tensor"
        if why:
            self.obstacles[op.location] = why
        return not why

    def _place(self, examples: Sequence[Any]) -> Place:
        if self.device:
            backend = "native" if self.device in CPUS else "triton"
            return Place(backend, f"{backend}, compiled for {self.device} and not run")
        return place_for(self.options.backend, examples)

    def _warn(self, warning: str) -> None:
        """Say once for each graph, and once aloud, that this is not what a user hopes for."""
        if warning not in self.graph.notes:
            self.graph.notes.append(warning)
        warn_once(warning)

    def _sparsity(self, built: BuiltSite) -> Sequence[str]:
        """What is left out at the user's word; calibration writes its lines when it has chosen."""
        if built.calibrated is not None and self.options.auto == "sparsity":
            return built.calibrated.table
        given = [] if self.options.sparsity is None else [str(self.options.sparsity)]
        return [*given, *built.prepared.remarks]

    def _quantize(self, built: BuiltSite) -> Sequence[str]:
        """What is kept in few bits at the user's word; calibration writes its lines when it has chosen."""
        if built.calibrated is not None and self.options.auto == "quantize":
            return built.calibrated.table
        given = [] if self.options.quantize is None else [str(self.options.quantize)]
        return [*given, *built.prepared.quantized]

    def _compiled(self, name: str, outlined: Outlined, place: Place, dump: Dump, *, cached: bool = False) -> Site:
        options = replace(self.options, backend=place.backend)
        reorder = preparing(self.device or target_of(place.backend), outlined.queries, outlined.keys, options.wishes)
        if cached:
            built = SiteBuilder(replace(options, quantize=None), self.compile_site).build_cached(outlined)
        else:
            built = SiteBuilder(options, self.compile_site, self.calibration, reorder).build(outlined)
        compiled, number = built.compiled, built.number(positions_first=outlined.positions_first)
        self.compiled[name] = compiled
        self.programs[name] = Program(outlined.module, number, outlined.same_lengths, built.prepared.program)
        dump.module(name, "outline", outlined.module)
        for step, text in built.prepared.steps:
            dump.step(name, step, "mlir", text)
        _dump_kernel(dump, name, compiled.language, compiled.steps, compiled.kernel_source)
        if dump.wanted:
            compiled.watch(
                lambda which, steps, source: _dump_kernel(dump, f"{name}.{which}", compiled.language, steps, source)
            )
        hashed = ir_hash(canonical_text(outlined.module))
        told = self._sparsity(built), [AS_STORED] if cached else self._quantize(built)
        return Site(name, compiled, number, place.why, hashed, *told, built.prepared.program, outlined)

    def _report(self, imported: Imported, sites: Mapping[Operation, Site], context: PassContext) -> None:
        for op, site in sites.items():
            self.graph.sites.append(site.report(AttentionOp(op)))
        for op in imported.module.walk():
            reason = refusal(op, context, self.hidden)
            if reason is not None:
                self.graph.refuse(op.name.removeprefix("fx."), op.location, reason)
        self.graph.notes += [f"{d.message} ({location_text(d.location)})" for d in context.remarks]
        for location, note in made_as_numbers(imported.module, self.obstacles):
            self.graph.notes.append(f"{note} ({location_text(location)})")


@dataclass(frozen=True)
class Program:
    """An outlined attention, and the number under which graphs call it; see `Outlined` for `same_lengths`.

    `prepared` is what it became before its kernel was made.
    """

    module: Operation
    number: int
    same_lengths: bool = True
    prepared: SiteProgram | None = None

    @property
    def attention(self) -> AttentionOp:
        return next(AttentionOp(op) for op in self.module.walk() if AttentionOp.match(op))


@dataclass(frozen=True)
class Site:
    """An attention with its kernel, and the number under which graphs call it.

    `sparsity` and `quantize` tell what is lossy at the user's word, `program` is what became of what was `outlined`.
    Calls have what is `behind` the captures too.
    """

    name: str
    compiled: CompiledSite
    number: int
    backend: str
    ir_hash: str
    sparsity: Sequence[str]
    quantize: Sequence[str]
    program: SiteProgram
    outlined: Outlined
    behind: tuple[Value, ...] = ()

    def _plan(self, op: AttentionOp) -> Mapping[str, Any]:
        """The kernel's plan, and as its entry `rows` what was decided about what surrounds the attention."""
        return self.compiled.plan if op.rows is None else {**self.compiled.plan, "rows": op.rows.value}

    def report(self, op: AttentionOp) -> SiteReport:
        # What a mask of the user's adds is part of what is computed; an order of tokens or a choice is not.
        told = op if self.program.mask is None else self.outlined.restricted(self.program.mask)
        return SiteReport(
            self.name, "fused", location_text(op.operation.location), "", op.operation.name,
            describe(told, capture_names(told)), self.backend, self._plan(op), self.compiled.kernel_source,
            self.compiled.variants, self.ir_hash, self._tiles(), self.sparsity, self.quantize,
        )  # fmt: skip

    def _tiles(self) -> str:
        """How many tiles the kernel computes in the call that the site was captured from."""
        lengths = {"M": self.outlined.queries, "N": self.outlined.keys}
        sizes = {name: size for name, size in lengths.items() if size is not None}
        return tiles_in_words(AttentionOp(self.program.outlined_attention), self.compiled.plan, sizes)


def example_sizes(graph_module: fx.GraphModule) -> Mapping[str, int]:
    """What the symbolic sizes in a graph are in the call it was captured from, by their text."""
    sizes: dict[str, int] = {}
    for node in graph_module.graph.nodes:
        value = node.meta.get("val")
        for size in value.shape if isinstance(value, torch.Tensor) else ():
            if isinstance(size, torch.SymInt) and (number := example_of(size)) is not None:
                sizes[symbol_text(size)] = number
    return sizes


def _dump_kernel(dump: Dump, scope: str, language: str, steps: Sequence[tuple[str, str]], source: str) -> None:
    for step, text in steps:
        dump.step(scope, step, "mlir", text)
    dump.step(scope, KERNEL_STEP, ENDINGS[language], source)


def _dumping(dump: Dump) -> Observer:
    """An observer that hands the IR after each pass to `dump`."""

    def observe(moment: str, step: Pass, module: Operation) -> None:
        if moment == "after":
            dump.module("main", step.name, module)

    return observe
