"""What the compiler did with every attention of a compiled callable, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..ir.location import Location

Status = Literal["fused", "refused"]
NOTHING_YET = "nothing was captured yet: call the compiled object once, then explain it"


@dataclass(frozen=True)
class SiteReport:
    """One attention: what it computes, what became of it, and the reason where it was refused."""

    name: str
    status: Status
    location: str
    reason: str = ""
    op: str = ""
    form: str = ""
    backend: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict[str, Any])
    kernel_source: str = ""

    def __str__(self) -> str:
        lines = [f"{self.name}  {self.status}  {self.location}"]
        if self.form:
            lines.append(f"    computes  {self.form}")
        if self.backend:
            lines.append(f"    backend   {self.backend}")
        if self.plan:
            lines.append(f"    plan      {', '.join(f'{k}={v}' for k, v in self.plan.items())}")
        if self.kernel_source:
            lines.append(f"    kernel    {len(self.kernel_source.splitlines())} lines (.kernel_source)")
        if self.reason:
            lines.append(f"    reason    {self.reason}")
        return "\n".join(lines)


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
    """Everything known about one compiled callable; grows when a call makes PyTorch capture again."""

    graphs: list[GraphReport] = field(default_factory=list[GraphReport])

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
        """The report as a JSON object with `graphs`, each with `sites`."""
        return json.dumps({"graphs": [asdict(graph) for graph in self.graphs]}, indent=2, default=str)

    def __str__(self) -> str:
        return "\n".join(map(str, self.graphs)) if self.graphs else NOTHING_YET


def location_text(location: Location) -> str:
    """`file:line` of the user's code."""
    return f"{location.file}:{location.line}" if location.known else "unknown location"
