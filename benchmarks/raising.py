"""How much of the attention of many models attir fuses, beside Inductor's patterns in the same run.

    python benchmarks/raising.py                  every model of the tests' zoo; an hour
    python benchmarks/raising.py --quick          those that must work
    python benchmarks/raising.py llama t5 vit     some models
    python benchmarks/raising.py --json FILE      also as JSON, brought up to date after each model

A model of two layers or so is captured once in each form of its attention, "eager" and "sdpa", and
the graphs that Dynamo makes of it go to both compilers. Text is padded where it is encoded, and not
where it is continued. The attentions of a model are counted as eager PyTorch runs it, which knows
nothing of either compiler. attir's are those that its report calls fused, and the result is compared
with eager's. Inductor runs all of its passes up to the lowering of the graph to loops, which is after
the last that fuses attention: `patterns` is its own counter `fuse_attention`, `operators` the fused
attention operators that are in the graph then, whether a pattern put one there or the model called it.

`raise` is attir's time for all graphs of a model from capture to the graph that calls the kernels,
without the compilation of these; `dynamo` is what Dynamo takes before it. Both are CPU seconds of one
thread in a process that has compiled another model before.

The models of timm are left out: timm imports torchvision, which has no place in this environment.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT / "tests", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import torch  # noqa: E402  the benchmark runs from a checkout
from models import zoo, zoo_eager, zoo_rows  # noqa: E402
from torch import fx  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402

from attir.compiler.backend import Backend  # noqa: E402
from attir.compiler.kernels import compile_site  # noqa: E402
from attir.compiler.options import Options  # noqa: E402
from attir.compiler.report import SiteReport  # noqa: E402
from attir.compiler.sites import CompiledSite  # noqa: E402
from attir.cost_model.problem import Sizes  # noqa: E402
from attir.ir.core import Operation  # noqa: E402
from benchmarks.cpu.machine import description  # noqa: E402

LIMIT = 1.0
"""Seconds that capture and raising of a model of two layers may take."""
WARM_UP = "llama"
clock = time.process_time


@dataclass(frozen=True)
class Missed:
    """An attention that was not fused: where, and why."""

    location: str
    reason: str


@dataclass
class Row:
    """One model in one form; times in seconds; `error` is the largest difference to eager's, relative to the largest.

    `attentions` are those that eager runs, `sites` those that attir's report names. `problem` says what
    kept the model from being compiled at all.
    """

    model: str
    family: str
    form: str
    attentions: int = 0
    sites: int = 0
    fused: int = 0
    patterns: int = 0
    operators: int = 0
    graphs: int = 0
    dynamo: float = 0.0
    raising: float = 0.0
    error: float = 0.0
    missed: list[Missed] = field(default_factory=list[Missed])
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.model:26}{self.form:7}{self.problem}"
        return (
            f"{self.model:26}{self.form:7}attir {self.fused:2}/{self.attentions:<3} "
            f"Inductor {self.operators:2}/{self.attentions:<3}({self.patterns:2} by pattern)  "
            f"dynamo {self.dynamo:5.2f}  raise {self.raising:5.2f}  error {self.error:.0e}"
        )

    @property
    def unreported(self) -> int:
        """Attentions that attir neither fused nor named."""
        return max(0, self.attentions - self.sites)


@dataclass
class Graph:
    """What both compilers made of one graph, and how often it ran: Dynamo gives equal layers one graph."""

    patterns: int
    operators: int
    sites: list[SiteReport]
    runs: int = 0


@dataclass
class Compilers:
    """A backend for Dynamo that gives each graph to Inductor and to attir, whose result runs."""

    attir: Backend = field(init=False)
    graphs: list[Graph] = field(default_factory=list[Graph])
    seconds: float = 0.0
    raising: float = 0.0
    kernels: float = 0.0

    def __post_init__(self) -> None:
        self.attir = Backend(Options(), compile_site=self._timed_kernel)

    def __call__(self, gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        started = clock()
        patterns, operators = inductor_fuses(copy.deepcopy(gm), inputs)
        raising, kernels = clock(), self.kernels
        run = self.attir(gm, inputs)
        self.raising += clock() - raising - (self.kernels - kernels)
        self.seconds += clock() - started
        graph = Graph(patterns, operators, self.attir.report.graphs[-1].sites)
        self.graphs.append(graph)

        def counted(*arguments: Any) -> Any:
            graph.runs += 1
            return run(*arguments)

        return counted

    def _timed_kernel(self, module: Operation, options: Options, call: Sizes | int | None = None) -> CompiledSite:
        started = clock()
        try:
            return compile_site(module, options, call)
        finally:
            self.kernels += clock() - started


def inductor_fuses(gm: fx.GraphModule, inputs: Sequence[Any]) -> tuple[int, int]:
    """How many attentions Inductor's patterns find in a graph, and how many fused operators it then has."""
    from torch._inductor.compile_fx import compile_fx

    operators: list[str] = []

    def find_operators(lowered: fx.GraphModule, *_: Any, **__: Any) -> Callable[..., Any]:
        """Stands for the lowering to loops; what it returns is never called."""
        operators.extend(t for n in lowered.graph.nodes if "_scaled_dot_product" in (t := str(n.target)))
        return lowered.forward

    before = counters["inductor"]["fuse_attention"]
    cast(Any, compile_fx)(gm, list(inputs), inner_compile=find_operators)
    return counters["inductor"]["fuse_attention"] - before, len(operators)


def measure(architecture: zoo.Architecture, family: str, form: str) -> Row | None:
    """One model in one form; nothing where it does not have that form."""
    row = Row(architecture.name, family, form)
    try:
        model = architecture.model(form)
    except ValueError as problem:
        if "attention implementation" in str(problem) or "has only" in str(problem):
            return None
        raise
    sides = architecture.paddings
    inputs = architecture.inputs("right" if "right" in sides and "left" not in sides else "none")
    try:
        _fill(row, model, inputs)
    except Exception as problem:
        row.problem = f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}"
    return row


def _fill(row: Row, model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
    cast(Any, torch.compiler).reset()
    cast(Any, torch).manual_seed(0)
    eager, row.attentions = zoo_eager.run(model, inputs)
    compilers = Compilers()
    compiled = cast(Any, torch).compile(model, backend=compilers)
    first, ours = _call(compiled, inputs)
    graphs = compilers.graphs
    sites = [site for graph in graphs for site in graph.sites * graph.runs]
    row.sites, row.fused = len(sites), sum(s.status == "fused" for s in sites)
    row.missed = [Missed(_place(s), s.reason) for s in sites if s.status != "fused"]
    row.patterns, row.operators = (sum(getattr(g, c) * g.runs for g in graphs) for c in ("patterns", "operators"))
    again, _ = _call(compiled, inputs)
    row.graphs, row.raising = len(graphs), compilers.raising
    row.dynamo = max(0.0, first - again - compilers.seconds)
    row.error = max((_apart(x, y) for x, y in zip(ours, eager, strict=True)), default=0.0)


def _call(compiled: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
    """Seconds of a call, and its results, drawn from the same random numbers each time."""
    cast(Any, torch).manual_seed(0)
    started = clock()
    with torch.no_grad():
        output = compiled(**inputs)
    return clock() - started, zoo_eager.results(output)


def _apart(ours: torch.Tensor, eager: torch.Tensor) -> float:
    """The largest difference as a part of the largest of eager's; infinite where only one is finite."""
    finite = eager.isfinite()
    if ours.shape != eager.shape or not torch.equal(ours.isfinite(), finite):
        return float("inf")
    if not finite.any():
        return 0.0
    return ((ours - eager)[finite].abs().max() / eager[finite].abs().max().clamp_min(1e-30)).item()


def _place(site: SiteReport) -> str:
    return "/".join(site.location.split("/")[-2:])


def table(rows: Sequence[Row]) -> str:
    """The totals of every family and form as markdown."""
    lines = [
        "| family | form | models | attentions | attir fused | Inductor: fused operators | of them by pattern |",
        "|---|---|---|---|---|---|---|",
    ]
    for form in zoo_rows.FORMS:
        for family in [*zoo.FAMILIES, "total"]:
            group = [r for r in rows if r.form == form and family in (r.family, "total")]
            if group:
                sums = (sum(getattr(r, c) for r in group) for c in ("attentions", "fused", "operators", "patterns"))
                lines.append(f"| {family} | {form} | {len(group)} | {' | '.join(map(str, sums))} |")
    return "\n".join(lines)


def remarks(rows: Sequence[Row]) -> list[str]:
    """What is not as it should be, a line each."""
    said = [f"{r.model} {r.form}: {r.problem}" for r in rows if r.problem]
    said += [f"{r.model} {r.form}: {m.location} not fused: {m.reason}" for r in rows for m in r.missed]
    said += [
        f"{r.model} {r.form}: {r.unreported} attentions unreported" for r in rows if r.unreported and not r.problem
    ]
    said += [f"{r.model} {r.form}: capture and raising took {r.raising:.2f} s" for r in rows if r.raising > LIMIT]
    return said


def as_json(rows: Sequence[Row]) -> str:
    def rounded(row: Row) -> dict[str, Any]:
        return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in asdict(row).items()}

    record = {"benchmark": "raising", **description(), "limit": LIMIT, "rows": [rounded(r) for r in rows]}
    return json.dumps(record, indent=1) + "\n"


def chosen(names: Sequence[str], *, quick: bool) -> dict[str, Sequence[zoo.Architecture]]:
    """The models to measure by family; SystemExit at a name that is not in the zoo."""
    if unknown := [n for n in names if n not in zoo.ARCHITECTURES]:
        raise SystemExit(f"no model '{unknown[0]}'; there are {', '.join(zoo.ARCHITECTURES)}")
    wanted = names or (zoo.MUST_WORK if quick else tuple(zoo.ARCHITECTURES))
    return {family: [a for a in rows if a.name in wanted] for family, rows in zoo.FAMILIES.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--quick", action="store_true", help="the models that must work")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    families = chosen(arguments.names, quick=arguments.quick)
    torch.set_num_threads(1)
    quiet()
    measure(zoo.ARCHITECTURES[WARM_UP], "warm-up", "eager")
    rows: list[Row] = []
    for family, architectures in families.items():
        for architecture, form in [(a, f) for a in architectures for f in zoo_rows.FORMS]:
            if row := measure(architecture, family, form):
                rows.append(row)
                print(row, flush=True)
                if arguments.json:
                    arguments.json.write_text(as_json(rows), encoding="utf-8")
    print("\n".join(["", table(rows), "", *remarks(rows)]))
    return 0


def quiet() -> None:
    """Neither the libraries' advice nor PyTorch's caches: every graph is compiled anew."""
    warnings.filterwarnings("ignore")
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    cast(Any, torch.compiler).config.force_disable_caches = True


if __name__ == "__main__":
    sys.exit(main())
