"""A benchmark of groups of rows, each row with its figures and its bar: the command line, the printing, the record."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks.cpu.machine import description


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


Groups: TypeAlias = Mapping[str, Callable[[Settings], Iterable[Row]]]
"""What a benchmark measures, by name."""


def measure(groups: Groups, names: Sequence[str], settings: Settings) -> dict[str, list[Row]]:
    """The rows of each group, printed as soon as they are there."""
    found: dict[str, list[Row]] = {}
    for name in names:
        started = time.perf_counter()
        print(f"### {name}", flush=True)
        found[name] = []
        for row in groups[name](settings):
            found[name].append(row)
            print(row, flush=True)
        print(f"{name} took {time.perf_counter() - started:.0f} s\n", flush=True)
    return found


def as_record(benchmark: str, found: Mapping[str, Sequence[Row]], settings: Settings) -> dict[str, Any]:
    """Everything, as a JSON object."""
    rows = {name: [row.as_record() for row in group] for name, group in found.items()}
    return {"benchmark": benchmark, "machine": description(), "quick": settings.quick, "groups": rows}


def main(benchmark: str, about: str | None, groups: Groups, argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line that measures `groups`: 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a part of every group")
    parser.add_argument("--only", action="append", choices=list(groups), metavar="GROUP", help=", ".join(groups))
    parser.add_argument("--seconds", type=float, help="to spend on a row; by default 1, with --quick 0.5")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[], metavar="N", help="queries and keys, for all rows"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw time there")
    arguments = parser.parse_args(argv)
    seconds = arguments.seconds if arguments.seconds is not None else (0.5 if arguments.quick else 1.0)
    settings = Settings(arguments.quick, seconds, tuple(arguments.lengths))
    machine = description()
    print(f"{machine['cpu']}, 1 thread, target {machine['target']}, {machine['versions']}\n", flush=True)
    before = os.environ.get("ATTIR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="attir-") as cache, torch.no_grad():
        os.environ["ATTIR_CACHE_DIR"] = cache
        try:
            found = measure(groups, arguments.only or list(groups), settings)
        finally:
            if before is None:
                os.environ.pop("ATTIR_CACHE_DIR", None)
            else:
                os.environ["ATTIR_CACHE_DIR"] = before
    held = [row.held for group in found.values() for row in group if row.held is not None]
    print(f"{sum(held)} of {len(held)} bars are held")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        record = as_record(benchmark, found, settings)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(held) else 1
