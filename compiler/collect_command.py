"""`attir tune --collect`: times of many kernels of many problems, written to a file that models are trained on.

    python -m attir tune --collect --cpu --count 4500 --seconds 240

Each problem is measured with good and bad schedules, by turns with the kernel that the planner takes for it and with
one that is always the same. Every problem is written when it is done: a run that was stopped goes on where it was.
Seconds depend on who else uses the machine: a few runs with --again, some minutes apart, find the undisturbed ones.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import cast

import torch

from ..cost_model.dataset import DATA, Header, TimeRecord, Writer, pack, schedule_value
from ..ir.diagnostics import CompileError, error
from .collect_again import Again
from .collected_kernels import PLACES, Place, TimedKernel, candidates, chosen
from .measuring import Timing, measured
from .tuning_problems import TuningProblem, case_of, families, fields_of, problems_of, tensors_of
from .version import VERSION

KERNELS = 14
"""Schedules of a program."""

EACH = 0.06
"""Seconds that each measurement may take."""

COUNT, SECONDS = 4500, 240.0

MACHINE = "machine"
"""The name of the call that is the same in all records."""

BOUNDS: Mapping[str, float] = {"f32": 1e-3, "f16": 1e-2, "bf16": 6e-2}
"""How far results of two schedules may lie apart, relatively to the largest: roundings differ, nothing else does."""

Say = Callable[[str], None]


def run(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    place = PLACES["gpu" if arguments.gpu else "cpu"]()
    out: Path = arguments.out or DATA / f"{place.kind}.{place.target}.jsonl.gz"
    if arguments.again:
        again = Again(place, out)
        whole = again.run(arguments.seconds)
        print(f"{again.problems} problems measured again, {again.shorter} faster{'' if whole else '; no time for all'}")
        return 0
    collection = Collection(place, Writer(out, header_for(place, arguments.seed)), arguments.seed)
    try:
        ended = collection.run(arguments.count, arguments.seconds)
    except KeyboardInterrupt:
        print(f"stopped; {collection.kept} measurements are in {out}", file=sys.stderr)
        return 130
    if ended:
        pack(out)
    print(f"{collection.kept} measurements are in {out}")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="attir tune", description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", action="store_true", help="collect times")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cpu", action="store_true", help="of native kernels on one thread here (the default)")
    where.add_argument("--gpu", action="store_true", help="of Triton kernels on the CUDA device")
    parser.add_argument("--count", type=int, default=COUNT, metavar="N", help="measurements in the file in the end")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="time that this run takes about")
    parser.add_argument("--again", action="store_true", help="time the references anew; the shorter time counts")
    parser.add_argument("--out", type=Path, metavar="FILE", help="by default the file in cost_model/data")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="which problems")
    found = parser.parse_args(list(argv))
    if found.count < 1 or found.seconds <= 0:
        raise error(f"--count and --seconds must be positive, but are {found.count} and {found.seconds:g}")
    return found


def header_for(place: Place, seed: int) -> Header:
    """Where records of today are from; no names of machines or folders."""
    packages = ("torch", "torch-mlir" if place.device == "cpu" else "triton", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions |= {"attir": VERSION, "python": platform.python_version()}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    flag = "cpu" if place.device == "cpu" else "gpu"
    return Header(place.kind, place.machine, versions, date, f"python -m attir tune --collect --{flag} --seed {seed}")


@dataclass
class Collection:
    """Measures problem after problem and writes each down; those that the file has already are passed over."""

    place: Place
    writer: Writer
    seed: int = 0
    kernels: int = KERNELS
    each: float = EACH
    say: Say = print

    @property
    def kept(self) -> int:
        """How many measurements the file has."""
        return len(self.writer.records)

    def run(self, count: int, seconds: float) -> bool:
        """Collect until the file has `count` measurements, which is answered by True, or `seconds` have passed."""
        began, done = time.monotonic(), self._done()
        machine = self.place.machine_call()
        for family in families(self.seed):
            problems = [p for p in problems_of(family, self.place.scale) if p.key not in done]
            if self.kept >= count:
                return True
            if time.monotonic() - began > seconds:
                return False
            for rows, alike in groupby(problems, lambda p: self.place.rows(p.sizes.queries, p.family.group)):
                self._same_kernels(rows, list(alike), machine, count, began + seconds)
        return True

    def _done(self) -> set[tuple[str, str]]:
        times = [record for record in self.writer.records if isinstance(record, TimeRecord)]
        return {(record.family, str(record.sizes)) for record in times}

    def _same_kernels(
        self, rows: int, problems: Sequence[TuningProblem], machine: Callable[[], object], count: int, end: float
    ) -> None:
        """Measure problems of a family whose kernels are made for so many rows."""
        kernels = self._kernels(problems[len(problems) // 2], rows)
        for problem in problems:
            if self.kept >= count or time.monotonic() > end:
                return
            records = measure(problem, rows, kernels, self.place, machine, self.each)
            self.writer.write(records)
            best = min(record.ratio for record in records)
            self.say(
                f"{problem.family.name} {problem.sizes}: {len(records)} kernels, {1e3 * records[0].seconds:.3g} ms, "
                f"best {best:.2f} | {self.kept} of {count}"
            )

    def _kernels(self, problem: TuningProblem, rows: int) -> list[TimedKernel]:
        """Kernels with the planner's choice and other schedules, as far as they can be made."""
        name, module, found = problem.family.name, case_of(problem.family).module(), list[TimedKernel]()
        for schedule in chosen(candidates(self.place, module, rows, problem.sizes), self.kernels, name):
            try:
                found.append(self.place.kernel(module, rows, schedule))
            except CompileError as refused:
                self.say(f"{name}: no kernel with {schedule_value(schedule)}: {refused}")
        return found


def measure(
    problem: TuningProblem,
    rows: int,
    kernels: Sequence[TimedKernel],
    place: Place,
    machine: Callable[[], object],
    each: float = EACH,
) -> list[TimeRecord]:
    """A record of every kernel; the first is the reference. CompileError where two compute different things."""
    tensors = tensors_of(problem.family, problem.sizes, place.device)
    calls = {str(number): kernel.call(tensors) for number, kernel in enumerate(kernels)}
    check_same(problem, kernels, calls)
    calls = {**calls, MACHINE: machine}
    times = measured(calls, reference="0", seconds=each * len(calls), threads=1, device=place.device)
    return [_record(problem, rows, kernel, times, str(n)) for n, kernel in enumerate(kernels)]


def check_same(
    problem: TuningProblem, kernels: Sequence[TimedKernel], calls: Mapping[str, Callable[[], object]]
) -> None:
    """Fail where a kernel's result is not that of the first."""
    expected, bound = _result(calls["0"]), BOUNDS[problem.family.dtype]
    for number, kernel in enumerate(kernels):
        distance = (_result(calls[str(number)]) - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
        if not float(distance) <= bound:
            raise error(
                f"{problem.family.name} {problem.sizes}: results of {kernel.schedule} and {kernels[0].schedule} "
                f"differ by {float(distance):.1e}, of which roundings explain {bound:.0e}"
            )


def _result(call: Callable[[], object]) -> torch.Tensor:
    """The output of a call, which kernels return before the log-sum-exp."""
    out, *_ = cast("tuple[torch.Tensor, ...]", call())
    return out.double()


def _record(
    problem: TuningProblem, rows: int, kernel: TimedKernel, times: Mapping[str, Timing], name: str
) -> TimeRecord:
    own, reference = times[name], times["0"]
    return TimeRecord(
        problem.family.name, fields_of(problem.family), problem.sizes, rows, kernel.schedule,
        own.seconds, reference.seconds, own.ratio, own.spread, own.rounds, times[MACHINE].seconds,
    )  # fmt: skip
