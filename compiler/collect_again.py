"""`attir tune --collect --again`: times the reference of each problem of a file anew; the shorter time counts.

Ratios of kernels that were measured side by side are the same on another day, seconds are not: whoever else uses the
machine takes caches and bandwidth away for minutes. That only ever makes kernels slower, so that the shortest of a few
passes, hours or minutes apart, is what the machine does undisturbed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from ..cost_model.dataset import Record, Section, TimeRecord, read_sections, rewrite
from ..cost_model.families import Family
from .collected_kernels import Place, TimedKernel
from .measuring import Timing, measured
from .tuning_problems import case_of, tensors_of

EACH = 0.06
"""Seconds for each of the two calls that take turns."""

MARK = ", --again"
"""What is added to the command of a section for each pass."""


@dataclass
class Again:
    """One pass over the times of a file."""

    place: Place
    path: Path
    each: float = EACH
    shorter: int = 0
    problems: int = 0
    _kernels: dict[tuple[str, int, object], TimedKernel] = field(
        default_factory=dict[tuple[str, int, object], TimedKernel]
    )

    def run(self, seconds: float) -> bool:
        """Go through the file, and write it anew; False where there was no time for all of it."""
        ends, machine = time.monotonic() + seconds, self.place.machine_call()
        sections = [self._section(section, machine, ends) for section in read_sections(self.path)]
        rewrite(self.path, sections)
        return time.monotonic() <= ends

    def _section(self, section: Section, machine: Callable[[], object], ends: float) -> Section:
        if section.header.kind != self.place.kind or section.header.machine != self.place.machine:
            return section
        found, before = list[Record](), self.problems
        for records in _by_problem(section.records):
            late = time.monotonic() > ends
            found += records if late else self._problem(records, machine)
        mark = MARK if self.problems > before else ""
        return Section(replace(section.header, command=section.header.command + mark), found)

    def _problem(self, records: Sequence[TimeRecord], machine: Callable[[], object]) -> list[TimeRecord]:
        """The records of one problem, with shorter times if its reference was faster this time."""
        self.problems += 1
        reference = next(record for record in records if record.ratio == 1.0)
        family = Family.parse(reference.family)
        key = reference.family, reference.rows, reference.schedule
        if key not in self._kernels:
            module = case_of(family).module()
            self._kernels = {key: self.place.kernel(module, reference.rows, reference.schedule)}
        call = self._kernels[key].call(tensors_of(family, reference.sizes, self.place.device))
        times = measured(
            {"reference": call, "machine": machine}, reference="reference", seconds=2 * self.each, threads=1,
            device=self.place.device,
        )  # fmt: skip
        faster = times["reference"].seconds < reference.reference
        self.shorter += faster
        return [_revised(record, times["reference"], times["machine"]) for record in records] if faster else [*records]


def _revised(record: TimeRecord, reference: Timing, machine: Timing) -> TimeRecord:
    seconds = record.ratio * reference.seconds
    return replace(record, seconds=seconds, reference=reference.seconds, machine=machine.seconds)


def _by_problem(records: Sequence[Record]) -> Iterator[list[TimeRecord]]:
    """Those that were measured side by side: neighbours of one family and size."""
    times = [record for record in records if isinstance(record, TimeRecord)]
    for _, alike in groupby(times, lambda record: (record.family, record.sizes, record.rows)):
        yield list(alike)
