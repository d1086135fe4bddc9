"""What every group of `benchmarks/sparsity.py` gives: settings, rows with bars, and how kernels of a case are made."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch

from attir.compiler.kernels import compile_site
from attir.compiler.native_runtime import NativeRunner
from attir.compiler.options import Options
from benchmarks.attention_cases import Captures, Case
from benchmarks.cpu.measuring import Call


@dataclass(frozen=True)
class Settings:
    """What the command line chose: a part of each group or all of it, and seconds to spend on a row.

    `lengths` replace the queries and keys of a group's rows where they are given.
    """

    quick: bool = False
    seconds: float = 1.0
    lengths: tuple[int, ...] = ()

    def chosen(self, quick: tuple[int, ...], every: tuple[int, ...]) -> tuple[int, ...]:
        """The lengths to measure at."""
        return self.lengths or (quick if self.quick else every)


def heads_of(length: int) -> int:
    """Heads of a problem: as many as models have where that does not take long, and never one alone."""
    return max(2, min(8, 32768 // length))


@dataclass(frozen=True)
class Row:
    """One line: what was measured, its figures by name, the bar and whether it is held; None where there is no bar.

    `times` are the raw seconds by rival.
    """

    what: str
    figures: Mapping[str, float | str]
    bar: str = ""
    held: bool | None = None
    note: str = ""
    times: Mapping[str, list[float]] = field(default_factory=dict[str, list[float]])

    def __str__(self) -> str:
        verdict = {True: "PASS", False: "FAIL", None: "    "}[self.held]
        figures = ", ".join(f"{name} {_shown(x)}" for name, x in self.figures.items())
        return " | ".join(x for x in (verdict, self.what, figures, self.bar, self.note) if x)

    def as_record(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in ("", None)}


def _shown(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:.4g}"


def runner(case: Case) -> NativeRunner:
    """The native kernels of a case."""
    return cast("NativeRunner", compile_site(case.module(), Options(backend="native")).runner)


def native_call(run: NativeRunner, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Captures) -> Call:
    return lambda: run(q, k, v, captures, False)[0]


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "triton")}
