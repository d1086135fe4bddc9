"""Whether it is known before compiling if a kernel fits a GPU, from kernels that were compiled offline.

Only kernels of families count that no model is trained on. They were drawn around the limits of their devices, where
it is hardest to tell. What compiled but needs more shared memory than there is cannot be launched; what spills in a
loop can, but should not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attir.compiler.compile_sample import Configuration, shape_of
from attir.compiler.training_samples import compile_samples
from attir.cost_model.dataset import DATA, CompileRecord, read_compiles
from attir.cost_model.devices import Device, device_named
from attir.cost_model.families import held_out
from attir.cost_model.learned import Expected, kernel_model_for
from attir.cost_model.resources import refusal, shared_memory
from attir.cost_model.training.scores import explained
from benchmarks.grouped import Row, Settings

TARGETS, WIDTHS = ("sm_80", "sm_90"), (64, 256)
RIGHT_BAR, REGISTERS_BAR = 0.97, 0.9
LIKELY = 0.5
"""The probability of spills from which on a kernel is said to spill."""

QUICK_COUNT = 60
"""Kernels of each target, for a part."""


@dataclass(frozen=True)
class Compiled:
    """One kernel: what is said of it before, and what the compiler made of it."""

    record: CompileRecord

    @cached_property
    def configuration(self) -> Configuration:
        return Configuration.of(self.record)

    @property
    def too_large(self) -> bool:
        """Whether it needs more shared memory than there is."""
        return self.record.shared > self._device.shared_memory

    @property
    def spills(self) -> bool:
        return self.record.loop_spills > 0

    @cached_property
    def said_shared(self) -> int:
        """Bytes by the formulas."""
        return shared_memory(self.configuration.config, shape_of(self.configuration), self._device)

    @property
    def said_too_large(self) -> bool:
        return self.said_shared > self._device.shared_memory

    @cached_property
    def refused(self) -> bool:
        """Whether the planner leaves it out."""
        return refusal(self.configuration.config, shape_of(self.configuration), self._device) is not None

    @property
    def _device(self) -> Device:
        return device_named(self.record.target)


def feasibility(settings: Settings) -> Iterator[Row]:
    """For each device: what fits, then what the learned model expects."""
    for target in TARGETS:
        kernels, others = held_out_kernels(target, QUICK_COUNT if settings.quick else None)
        if not kernels:
            yield Row(f"{target}: what fits", {}, f">= {RIGHT_BAR:.0%} right", False, "no kernels were compiled for it")
            continue
        model = kernel_model_for(target)
        samples = compile_samples([kernel.record for kernel in kernels]).samples
        expected = None if model is None else model.expect([tuple(row) for row in samples.rows.tolist()])
        yield from fitting_rows(target, kernels, expected, others)
        yield from resource_rows(target, samples.answers, expected)


def held_out_kernels(target: str, count: int | None = None) -> tuple[list[Compiled], int]:
    """The kernels for `target` of head dimensions in question, and how many more were not compiled at all."""
    files = sorted(DATA.glob("compiles.*.jsonl.gz"))
    found = [r for r in read_compiles(*files) if r.target == target and held_out(r.family) and _of_width(r)][:count]
    kernels = [Compiled(record) for record in found if record.registers]
    return kernels, len(found) - len(kernels)


def _of_width(record: CompileRecord) -> bool:
    return WIDTHS[0] <= record.case.width <= WIDTHS[1]


def fitting_rows(
    target: str, kernels: Sequence[Compiled], expected: Sequence[Expected] | None, others: int
) -> Iterator[Row]:
    """Shared memory alone, then all that the planner knows, then with the learned model's word on spills."""
    note = f"{len(kernels)} kernels of held-out families"
    note += f"; {others} more were not compiled to the end" if others else ""
    large, misfits = [k.too_large for k in kernels], [k.too_large or k.spills for k in kernels]
    yield _row(f"{target}: too much shared memory", kernels, large, [k.said_too_large for k in kernels], note)
    both = f"{target}: spills or too much shared memory"
    yield _row(f"{both}, as planned", kernels, misfits, [k.refused for k in kernels], note)
    if expected is not None:
        said = [k.said_too_large or e.spills > LIKELY for k, e in zip(kernels, expected, strict=True)]
        yield _row(f"{both}, learned", kernels, misfits, said, note)


def _row(what: str, kernels: Sequence[Compiled], found: Sequence[bool], said: Sequence[bool], note: str) -> Row:
    """How often what is `said` not to fit is `found` not to."""
    right = sum(x == y for x, y in zip(found, said, strict=True)) / len(found)
    # What is said to fit but cannot be launched at all.
    false_fits = sum(kernel.too_large and not misfit for kernel, misfit in zip(kernels, said, strict=True))
    pairs = list(zip(found, said, strict=True))
    figures = {
        "right": right, "said to fit, cannot be launched": false_fits, "do not fit": sum(found),
        "of these said to fit": pairs.count((True, False)), "fit, said not to": pairs.count((False, True)),
    }  # fmt: skip
    return Row(what, figures, f">= {RIGHT_BAR:.0%} right, no false fit", right >= RIGHT_BAR and not false_fits, note)


def resource_rows(target: str, answers: NDArray[np.float64], expected: Sequence[Expected] | None) -> Iterator[Row]:
    """Registers and the length of the main loop by the learned model; `answers` are registers, spills, log length."""
    bar = f"R2 >= {REGISTERS_BAR}"
    if expected is None:
        yield Row(f"{target}: registers, learned", {}, bar, False, f"nothing was learned for {target}")
        return
    registers, _, loops = answers.T
    said = np.asarray([e.registers for e in expected])
    figures = {"R2": explained(registers, said), "mean error": float(np.abs(registers - said).mean())}
    yield Row(f"{target}: registers, learned", figures, bar, figures["R2"] >= REGISTERS_BAR)
    known, said = np.isfinite(loops), np.log([e.loop for e in expected])
    figures = {"R2 of its logarithm": explained(loops[known], said[known])}
    yield Row(f"{target}: instructions of the main loop, learned", figures)
