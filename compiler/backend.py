"""The backend that `torch.compile` calls: one fx graph in, one callable with fused attention out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import fx
from torch._dynamo.exc import ShortenTraceback

from ..ir.diagnostics import CompileError, Diagnostic, error
from ..ir.location import UNKNOWN, Location
from .block_calibration import BlockChoice
from .calibration import Calibration
from .compilation import Compilation, Program
from .custom_op import call_sites_directly, watched_calls
from .dump import Listener
from .options import AUTO, AUTOS, Options
from .quantize_calibration import QuantizeChoice
from .refusals import refuse_graph
from .report import GraphReport, Report, SiteReport
from .site_program import watched_host_ops
from .sites import CompiledSite, SiteCompiler
from .tile_report import ChosenBlocks, counted_in_words

Runnable = Callable[..., Any]


def attir_backend(
    gm: fx.GraphModule, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **_: Any
) -> Runnable:
    """`torch.compile(model, backend="attir", options={...})`; the options are those of `attir.compile`.

    All callables compiled by name share one report.
    """
    named = dict(options or {})
    if unknown := named.keys() - Options.__dataclass_fields__.keys():
        known = ", ".join(Options.__dataclass_fields__)
        raise BackendError(Diagnostic(UNKNOWN, f"unknown option '{min(unknown)}'; expected {known}"))
    asked = [f"{name}='{AUTO}'" for name in AUTOS if isinstance(named.get(name), str) and named[name] == AUTO]
    asked += [] if named.get("max_error") is None else ["max_error"]
    if asked:
        raise BackendError(
            Diagnostic(UNKNOWN, f"{asked[0]} is calibrated on what attir.compile returns; expected that instead")
        )
    if isinstance(kinds := named.get("backend_options"), Mapping):
        named["backend_options"] = tuple(sorted(cast("Mapping[str, Any]", kinds).items()))
    try:
        return shared_backend(tuple(sorted(named.items())))(gm, example_inputs)
    except BackendError:
        raise
    except CompileError as problem:
        raise BackendError(*problem.diagnostics) from None


_shared: dict[tuple[tuple[str, Any], ...], Backend] = {}


def shared_backend(options: tuple[tuple[str, Any], ...] = ()) -> Backend:
    """The backend behind the name "attir", one for each set of options."""
    if options not in _shared:
        _shared[options] = Backend(Options(**dict(options)))
    return _shared[options]


def shared_report() -> Report:
    """What was done for all callables that were compiled by name."""
    return Report([graph for backend in _shared.values() for graph in backend.report.graphs])


class BackendError(CompileError, ShortenTraceback):
    """A CompileError that Dynamo hands to the user as it is, instead of wrapping it."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        self.text = "\n".join(d.render() for d in diagnostics)
        ShortenTraceback.__init__(self, self.text, first_useful_frame=None)

    def __str__(self) -> str:
        # Dynamo appends advice on how to debug Dynamo to the arguments of the exception.
        return self.text


@dataclass(eq=False)
class Backend:
    """Compiles the graphs of one callable and keeps the report about them.

    `compile_site` turns an outlined attention into a kernel; by default attir's own. `listener`
    hears of every step. `device` names one that kernels are made for without running. `compiled`
    holds every site by name, `programs` what it computes.
    """

    options: Options
    compile_site: SiteCompiler | None = None
    listener: Listener | None = None
    device: str = ""
    compiled: dict[str, CompiledSite] = field(default_factory=dict[str, CompiledSite])
    programs: dict[str, Program] = field(default_factory=dict[str, Program])
    report: Report = field(default_factory=Report)
    calibration: Calibration | None = field(init=False)
    __name__ = "attir"

    def __post_init__(self) -> None:
        self.calibration = None
        if self.options.auto:
            method = _method(self.options)
            self.calibration = Calibration(self.options.max_error or 0.0, method)
            self.report.notes = self.calibration.lines

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Runnable:
        self._require_calibration()
        graph = self.report.start_graph(_cause_of_capture() if self.report.graphs else "first capture")
        try:
            _refuse_gradients(gm, example_inputs)
            compile_site = self.compile_site or _own_site_compiler()
            compilation = Compilation(self.options, compile_site, graph, self.listener, self.device, self.calibration)
            result = compilation.run(gm)
            self.compiled |= compilation.compiled
            self.programs |= compilation.programs
        except CompileError as problem:
            refuse_graph(gm, graph, problem)
            result = gm
        if self.options.strict:
            _raise_refusals(graph)
        return self._rest(result, example_inputs)

    def _require_calibration(self) -> None:
        try:
            if self.calibration is not None:
                self.calibration.require_done()
        except CompileError as problem:
            raise BackendError(*problem.diagnostics) from None

    def counted(self, run: Callable[[], object]) -> Report:
        """The report with the tiles counted that each site computes while `run` calls it."""
        run()
        # Now everything that the call needs is captured, and what is captured is watched.
        choices = ChosenBlocks()
        with watched_calls() as calls, watched_host_ops(choices.see):
            run()
        # Equal sites share a kernel, and are called in the order in which they are reported.
        numbers = {program.number for program in self.programs.values()}
        shared = {number: iter([c for c in calls if c.site == number]) for number in numbers}
        graphs = [replace(graph, sites=list(graph.sites)) for graph in self.report.graphs]
        report = Report(graphs, self.report.notes)
        for graph in report.graphs:
            for position, site in enumerate(graph.sites):
                program = self.programs.get(site.name)
                call = next(shared[program.number], None) if program is not None else None
                if program is not None and call is not None:
                    tiles = counted_in_words(program.attention, site.plan, call)
                    told = choices.in_words(program.prepared)
                    graph.sites[position] = replace(site, tiles=tiles, sparsity=[*site.sparsity, *told])
        return report

    def _rest(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Runnable:
        """What runs the graph around the fused sites."""
        if self.options.rest == "eager":
            call_sites_directly(gm)
            return gm.forward
        from torch._inductor.compile_fx import compile_fx

        return cast(Any, compile_fx)(gm, list(example_inputs))


def _method(options: Options) -> BlockChoice | QuantizeChoice:
    """How calibration chooses what is asked for."""
    if options.auto == "sparsity":
        return BlockChoice()
    return QuantizeChoice() if isinstance(options.quantize, str) else QuantizeChoice.of(options.quantize)


def _own_site_compiler() -> SiteCompiler:
    from .kernels import compile_site

    return compile_site


def _cause_of_capture() -> str:
    """Why Dynamo captures a graph now, in its own words where it recaptures."""
    from torch._dynamo.utils import get_metrics_context

    reason = cast(Any, get_metrics_context())._metrics.get("recompile_reason")
    # The same function compiled by another backend is no recapture of ours.
    if not reason or "BACKEND_MATCH" in reason:
        return "first capture"
    return f"captured again because {' '.join(str(reason).split())}"


def _refuse_gradients(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> None:
    tensors = [*example_inputs, *gm.parameters()]
    wanted = any(isinstance(t, torch.Tensor) and t.requires_grad for t in tensors)
    if wanted and (torch.is_grad_enabled() or _enables_grad(gm)):
        raise error(
            "inference only: an input or parameter requires a gradient; "
            "call under torch.no_grad() or requires_grad_(False)"
        )


def _enables_grad(gm: fx.GraphModule) -> bool:
    return any(getattr(n.target, "__name__", "") == "_set_grad_enabled" and n.args[0] is True for n in gm.graph.nodes)


def _raise_refusals(graph: GraphReport) -> None:
    if refused := refusals(graph.sites):
        raise BackendError(*refused)


def refusals(sites: Sequence[SiteReport]) -> list[Diagnostic]:
    """What to tell the user about the refused ones of `sites` where they are errors."""
    refused = [s for s in sites if s.status == "refused"]
    return [Diagnostic(_location(s), f"'{s.op}' was not fused: {s.reason}") for s in refused]


def _location(site: SiteReport) -> Location:
    file, _, line = site.location.rpartition(":")
    return Location(file, int(line)) if file else Location(site.location, 0)
