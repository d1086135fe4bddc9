"""The way of one graph: captured, raised, its attention sites compiled, written back to fx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from ..ir.core import Operation
from ..ir.diagnostics import CompileError, error
from ..ir.dialects.attn import AttentionOp
from ..ir.location import Location
from ..passes.manager import Pass, PassContext
from ..passes.pipeline import Observer, PassPipeline, RunSettings
from .algebra import describe
from .capture import Captured, capture, placeholder_examples, restore_mutations
from .custom_op import register_site
from .dump import Dump, Listener
from .fx_export import export_graph
from .fx_import import Imported, import_graph
from .head_dims import specialise_head_dims
from .options import Options
from .pipelines import RAISE
from .refusals import ATTENTION_OPS, refusal
from .report import GraphReport, Report, SiteReport, location_text
from .sites import CompiledSite, SiteCompiler, canonical_text, capture_names, outline


@dataclass
class Compilation:
    """The way of one graph: captured, raised, its sites compiled, written back."""

    options: Options
    compile_site: SiteCompiler
    graph: GraphReport
    listener: Listener | None = None
    device: str = ""
    hidden: dict[Location, str] = field(default_factory=dict[Location, str])
    compiled: dict[str, CompiledSite] = field(default_factory=dict[str, CompiledSite])

    def run(self, gm: fx.GraphModule) -> fx.GraphModule:
        dump = Dump.for_graph(self.options.dump, self.graph.number, self.listener)
        examples = placeholder_examples(gm)
        captured = capture(gm, examples)
        if specialised := specialise_head_dims(captured.graph_module):
            self.graph.notes.append(f"{specialised} symbolic head dimensions were fixed to their present sizes")
        imported, sites, context = self._raise_until_all_compile(captured, examples, dump)
        exported = export_graph(imported.module, imported, lambda op: sites[op].number, captured.graph_module)
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
        while True:
            imported = import_graph(captured.graph_module, self._is_hidden)
            dump.module("main", "aten", imported.module)
            context = PassContext()
            PassPipeline(RAISE).run(imported.module, context, RunSettings(observe=_dumping(dump)))
            sites, failures = self._compile_sites(imported, examples, dump)
            if not failures:
                return imported, sites, context
            self.hidden |= failures

    def _is_hidden(self, name: str, location: Location) -> bool:
        return name in ATTENTION_OPS and location in self.hidden

    def _compile_sites(
        self, imported: Imported, examples: Sequence[Any], dump: Dump
    ) -> tuple[Mapping[Operation, Site], dict[Location, str]]:
        sites: dict[Operation, Site] = {}
        failures: dict[Location, str] = {}
        for op in [op for op in imported.module.walk() if AttentionOp.match(op)]:
            name = f"attention_{self.graph.number}_{len(sites)}"
            try:
                backend, why = self._backend(examples)
                module = outline(op, name)
                sites[op] = self._compiled(name, module, backend, why, dump)
            except CompileError as problem:
                failures[op.location] = problem.diagnostics[0].message
        return sites, failures

    def _backend(self, examples: Sequence[Any]) -> tuple[str, str]:
        if self.device:
            return "triton", f"triton, compiled for {self.device} and not run"
        return backend_for(self.options.backend, examples)

    def _compiled(self, name: str, module: Operation, backend: str, why: str, dump: Dump) -> Site:
        options = replace(self.options, backend=backend)
        key = (canonical_text(module), backend, self.compile_site)
        if key not in _kernels or not self.options.cache:
            compiled = self.compile_site(module, options)
            _kernels[key] = (compiled, register_site(compiled.runner))
        compiled, number = _kernels[key]
        self.compiled[name] = compiled
        dump.module(name, "outline", module)
        for step, text in compiled.steps:
            dump.step(name, step, "mlir", text)
        dump.step(name, "kernel", "py", compiled.kernel_source)
        return Site(name, compiled, number, why)

    def _report(self, imported: Imported, sites: Mapping[Operation, Site], context: PassContext) -> None:
        for op, site in sites.items():
            self.graph.sites.append(site.report(AttentionOp(op)))
        for op in imported.module.walk():
            reason = refusal(op, context, self.hidden)
            if reason is not None:
                self.graph.refuse(op.name.removeprefix("fx."), op.location, reason)
        self.graph.notes += [f"{d.message} ({location_text(d.location)})" for d in context.remarks]


@dataclass(frozen=True)
class Site:
    """An attention with its kernel, and the number under which graphs call it."""

    name: str
    compiled: CompiledSite
    number: int
    backend: str

    def report(self, op: AttentionOp) -> SiteReport:
        return SiteReport(
            self.name, "fused", location_text(op.operation.location), "", op.operation.name,
            describe(op, capture_names(op)), self.backend, self.compiled.plan, self.compiled.kernel_source,
        )  # fmt: skip


_kernels: dict[tuple[str, str, SiteCompiler], tuple[CompiledSite, int]] = {}
"""Compiled sites of this process by canonical text, backend and compiler."""


def backend_for(wanted: str, examples: Sequence[Any]) -> tuple[str, str]:
    """The backend for tensors like `examples`, and why in words; CompileError where `wanted` cannot run them."""
    kinds = {e.device.type for e in examples if isinstance(e, torch.Tensor)} or {"cpu"}
    kind = "cuda" if "cuda" in kinds else min(kinds)
    if kind not in ("cpu", "cuda"):
        raise error(f"there are no kernels for tensors on '{kind}'; expected cpu or cuda")
    if wanted == "triton" and kind == "cpu":
        raise error("backend 'triton' needs tensors on a GPU, but they are on the cpu; expected backend 'interpret'")
    if wanted != "auto":
        return wanted, f"{wanted}, as asked"
    if kind == "cuda":
        return "triton", "triton, because tensors are on a GPU"
    return "interpret", "interpret: Triton's interpreter, for correctness only, because tensors are on the cpu"


def _dumping(dump: Dump) -> Observer:
    """An observer that hands the IR after each pass to `dump`."""

    def observe(moment: str, step: Pass, module: Operation) -> None:
        if moment == "after":
            dump.module("main", step.name, module)

    return observe
