"""What the compiler did with every attention of a compiled callable, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..ir.location import Location

Status = Literal["fused", "refused"]
NOTHING_YET = "nothing was captured yet: call the compiled object once, then explain it"


@dataclass(frozen=True)
class Variant:
    """One of several kernels of a site: which calls it is for, where its code came from, how it is scheduled."""

    calls: str
    origin: str
    plan: Mapping[str, Any] = field(default_factory=dict[str, Any])
    kernel_source: str = ""


@dataclass(frozen=True)
class SiteReport:
    """One attention: what it computes, what became of it, and the reason where it was refused.

    Where kernels are compiled as the sizes of calls ask for them, `variants` lists them so far, and
    `plan` and `kernel_source` are those of the first. `ir_hash` names what is computed: it is equal
    for equal attention, whether Dynamo, torch.export or a text of IR brought it. `tiles` says how many
    tiles a kernel computes, or what decides that. `sparsity` tells what is left out at the user's word, `quantize`
    what is kept in few bits; both grow when calibration has chosen.
    """

    name: str
    status: Status
    location: str
    reason: str = ""
    op: str = ""
    form: str = ""
    backend: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict[str, Any])
    kernel_source: str = ""
    variants: Sequence[Variant] = ()
    ir_hash: str = ""
    tiles: str = ""
    sparsity: Sequence[str] = ()
    quantize: Sequence[str] = ()

    def __str__(self) -> str:
        told = [("computes", self.form), ("backend", self.backend)]
        for variant in self.variants:
            told += [("variant", f"{variant.calls} ({variant.origin})"), *_plan_lines(variant.plan)]
        told += [] if self.variants else _plan_lines(self.plan)
        told += [("rows", str(self.plan.get("rows", "")))]
        for label, lines in (("sparsity", self.sparsity), ("quantize", self.quantize)):
            told += [(label if i == 0 else "", line) for i, line in enumerate(lines)]
        told += [("visits", _visited(self.plan.get("mask", {}))), ("tiles", self.tiles), ("reason", self.reason)]
        if self.kernel_source:
            told.append(("kernel", f"{len(self.kernel_source.splitlines())} lines (.kernel_source)"))
        lines = [f"    {label:<10}{text}" for label, text in told if text]
        return "\n".join([f"{self.name}  {self.status}  {shortened(self.location)}", *lines])

    def to_json(self) -> str:
        """This site alone as a JSON object."""
        return json.dumps(asdict(self), indent=2, default=str)


def _plan_lines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A plan in words: its numbers, and why these."""
    hidden = ("reason", "mask", "rows", "decision", *(("num_warps", "num_stages") if plan.get("lanes") else ()))
    numbers = ", ".join(f"{k}={v}" for k, v in plan.items() if k not in hidden)
    told = [("plan", numbers), ("because", str(plan.get("reason", "")))]
    return [*told, *_decision_lines(plan.get("decision", {}))]


def _decision_lines(decision: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was predicted, what was measured, and the candidates that came next."""
    if not decision:
        return []
    learned = f", {decision['analytical_us']} us by the analytical model" if decision.get("spread") else ""
    told = [("predicted", f"{decision['predicted_us']} us ({decision['source']}{learned}) for {decision['sizes']}")]
    measured = decision.get("measured_us")
    told.append(("measured", f"{measured} us" if measured is not None else "not yet; autotune= or attir tune do"))
    for place in range(1, 3):
        name = f"runner_up_{place}"
        if name in decision:
            found = decision.get(f"{name}_measured_us")
            beside = f", {found} us measured" if found is not None else ""
            told.append(("next", f"{decision[name]}: {decision[f'{name}_us']} us{beside}"))
    told.append(("among", f"{decision['candidates']} candidates that fit"))
    return [*told, ("note", str(decision.get("note", "")))]


def _visited(mask: Mapping[str, Any]) -> str:
    """The keys n that the loops for query row m cover, from the bounds that mask analysis found."""
    bounds = [
        f"n {sign} {place}"
        for name, sign, place in (
            ("first", ">=", f"{mask.get('first')}"),
            ("lower", ">=", _offset(mask.get("lower"))),
            ("upper", "<=", _offset(mask.get("upper"))),
            ("last", "<=", f"{mask.get('last')}"),
        )
        if mask.get(name) is not None
    ]
    opaque = _TESTED.get(mask.get("tiles"), _TESTED[None]) if mask.get("opaque") else ""
    return "; ".join(filter(None, (f"keys with {' and '.join(bounds)}" if bounds else "", opaque)))


_TESTED: Mapping[str | None, str] = {
    None: "the mask is tested on each score",
    "pieces": "ranges of keys in closed form; the mask is tested in tiles that it cuts",
    "tiles": "tiles that may keep a key; the mask is tested in those that it cuts",
    "list": "tiles that may keep a key, which a kernel lists first; the mask is tested in those that it cuts",
}
"""How a kernel treats a mask that is no pair of bounds, by the kind of its plan."""


def _offset(distance: Any) -> str:
    return "m" if not distance else f"m {'+' if distance > 0 else '-'} {abs(distance)}"


def shortened(location: str) -> str:
    """`location` relative to the working directory where it lies in it."""
    return location.removeprefix(f"{Path.cwd()}{os.sep}")


@dataclass
class GraphReport:
    """One graph that Dynamo handed over: why it was captured, its sites, and remarks on the whole."""

    number: int
    cause: str
    sites: list[SiteReport] = field(default_factory=list[SiteReport])
    notes: list[str] = field(default_factory=list[str])

    def refuse(self, op: str, location: Location, reason: str, form: str = "") -> None:
        name = f"attention_{self.number}_{len(self.sites)}"
        self.sites.append(SiteReport(name, "refused", location_text(location), reason, op, form))

    def __str__(self) -> str:
        fused = sum(s.status == "fused" for s in self.sites)
        lines = [f"graph {self.number}: {fused} of {len(self.sites)} attention sites fused ({self.cause})"]
        lines += [f"  note: {note}" for note in self.notes]
        lines += ["  " + str(site).replace("\n", "\n  ") for site in self.sites]
        return "\n".join(lines)


@dataclass
class Report:
    """Everything known about one compiled callable; grows when a call makes PyTorch capture again.

    `notes` tell of what was chosen for all sites together.
    """

    graphs: list[GraphReport] = field(default_factory=list[GraphReport])
    notes: list[str] = field(default_factory=list[str])

    @property
    def sites(self) -> Sequence[SiteReport]:
        """The sites of all graphs, in the order of capture."""
        return [site for graph in self.graphs for site in graph.sites]

    @property
    def refused(self) -> Sequence[SiteReport]:
        return [site for site in self.sites if site.status == "refused"]

    def start_graph(self, cause: str) -> GraphReport:
        self.graphs.append(GraphReport(len(self.graphs), cause))
        return self.graphs[-1]

    def to_json(self) -> str:
        """The report as a JSON object with `graphs`, each with `sites`, and `notes` where there are any."""
        told = {"graphs": [asdict(graph) for graph in self.graphs]} | ({"notes": self.notes} if self.notes else {})
        return json.dumps(told, indent=2, default=str)

    def __str__(self) -> str:
        return "\n".join([*self.notes, *map(str, self.graphs)]) if self.graphs else NOTHING_YET


def location_text(location: Location) -> str:
    """`file:line` of the user's code."""
    return f"{location.file}:{location.line}" if location.known else "unknown location"
