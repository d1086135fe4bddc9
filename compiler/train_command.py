"""`attir tune --train`: trains the learned models from recorded data, tries them on families they never saw, and
writes weights and a report.

    python -m attir tune --train

Two learners are compared for times and for what compilers make: an ensemble on explicit features, and a model that
reads the tile IR as words. The first is what plans can use, since no kernel needs to be made for it; it is shipped for
times where it is better than the analytical model. The same data give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..cost_model import families
from ..cost_model.dataset import COMPILES, CPU_TIMES, DATA, GPU_TIMES, CompileRecord, TimeRecord, read_sections
from ..cost_model.learned import ALL_GPUS, KERNEL, TIME, WEIGHTS, arrays_of, weights_file
from ..cost_model.training import feasibility
from ..cost_model.training.ensemble import CHANCE, NUMBER, RATIO, Settings, fit
from ..cost_model.training.samples import Array, Samples, Split
from ..cost_model.training.scores import TimeScores, kernel_scores, time_scores
from ..cost_model.training.text_model import TextSettings, fit_text
from ..ir.diagnostics import error
from .training_samples import Collected, compile_samples, time_samples

REPORT = "report.json"

TIMES = Settings((RATIO,))
KERNELS = Settings((NUMBER, CHANCE, NUMBER), width=48, steps=400, decay=3.0, within=0.0, best=0.0)
TIME_TEXTS = TextSettings((RATIO,), epochs=8)
KERNEL_TEXTS = TextSettings((NUMBER, CHANCE, NUMBER), epochs=20, within=0.0, best=0.0)
"""How each model is trained."""

SAME_REGRET = 0.005
"""Regrets that differ by less are those of equal choices."""


@dataclass(frozen=True)
class Result:
    """What came of one model: its scores on held-out families by learner, and its weights if they are worth it."""

    name: str
    counts: Mapping[str, int]
    scores: Mapping[str, Mapping[str, float]]
    shipped: str
    seconds: float
    arrays: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_values(self) -> dict[str, Any]:
        """As the report has it; without times of this machine, so that it is the same each time."""
        return {"counts": self.counts, "held out": self.scores, "shipped": self.shipped}


def run(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    began = time.monotonic()
    times, compiles, data = _records(arguments.data)
    results: dict[Path, Result] = {}
    for target, records in times.items():
        results[weights_file(TIME, target, arguments.out)] = train_times(records, target, data, arguments.text)
    if compiles:
        path = weights_file(KERNEL, ALL_GPUS, arguments.out)
        results[path] = train_kernels(compiles, data, arguments.text)
    if not results:
        raise error(f"there is nothing to learn from in {arguments.data}; 'attir tune --collect' measures times")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path, result in results.items():
        _write(path, result)
        print(table(result))
    if arguments.data == DATA:
        feasibility.main(arguments.out / feasibility.WEIGHTS.name)
    report = {"data": data, "models": {result.name: result.as_values() for result in results.values()}}
    (arguments.out / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    print(f"trained in {time.monotonic() - began:.0f} s; weights and {REPORT} are in {arguments.out}")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="attir tune", description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="train from recorded data")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="of recorded data")
    parser.add_argument("--out", type=Path, default=WEIGHTS, metavar="FOLDER", help="for weights and the report")
    parser.add_argument("--no-text", dest="text", action="store_false", help="without the model that reads tile IR")
    return parser.parse_args(list(argv))


def _records(folder: Path) -> tuple[dict[str, list[TimeRecord]], list[CompileRecord], str]:
    """Times by target, compilations, and the fingerprint of all files."""
    times: dict[str, list[TimeRecord]] = {}
    compiles: list[CompileRecord] = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        for section in read_sections(path):
            for record in section.records:
                if isinstance(record, TimeRecord) and section.header.kind in (CPU_TIMES, GPU_TIMES):
                    times.setdefault(record.schedule.target, []).append(record)
                elif isinstance(record, CompileRecord) and section.header.kind == COMPILES:
                    compiles.append(record)
    return times, compiles, fingerprint(folder)


def fingerprint(folder: Path) -> str:
    """Of all data files: what weights were trained from."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.jsonl.gz")):
        found.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


# --- times


def train_times(records: Sequence[TimeRecord], target: str, data: str, text: bool = True) -> Result:
    """The model of times on one target; weights only where it is better than the analytical model alone."""
    began = time.monotonic()
    collected = time_samples(records, target)
    samples, split = collected.samples, _split(collected.samples)
    training, held_out = samples.at(split.training), samples.at(split.held_out)
    ensemble = fit(training, replace(TIMES, noise=collected.noise))
    ratios = {"analytical": np.zeros(len(held_out)), "features": ensemble.answers(held_out.rows)[0][:, 0]}
    if text:
        ratios["text"] = _text_answers(collected, split, TIME_TEXTS)[:, 0]
    scores = {name: _time_scores(held_out, found) for name, found in ratios.items()}
    better = _is_better(scores["features"], scores["analytical"])
    return Result(
        f"{TIME} on {target}", _counts(training, held_out),
        {name: {**found.as_values(), "bias": _bias(ratios[name], held_out)} for name, found in scores.items()},
        "features" if better else "analytical", time.monotonic() - began,
        arrays_of(ensemble, TIME, [target], data) if better else {},
    )  # fmt: skip


def _is_better(learned: TimeScores, analytical: TimeScores) -> bool:
    """Whether times are nearer to those measured, and choices no worse."""
    return learned.error <= analytical.error and learned.regret <= analytical.regret + SAME_REGRET


def _time_scores(samples: Samples, ratio: Array) -> TimeScores:
    return time_scores(samples.seconds, samples.analytical * np.exp(ratio), samples.problems)


def _bias(ratio: Array, samples: Samples) -> float:
    return round(float(np.median(ratio - samples.answers[:, 0])), 4)


def _split(samples: Samples) -> Split:
    """By the families that no model may see."""
    return Split.of(samples.families, {name for name in set(samples.families) if families.held_out(name)})


def _counts(training: Samples, held_out: Samples) -> dict[str, int]:
    return {
        "training samples": len(training), "training families": len(set(training.families)),
        "held-out samples": len(held_out), "held-out families": len(set(held_out.families)),
    }  # fmt: skip


def _text_answers(collected: Collected, split: Split, settings: TextSettings) -> Array:
    """What a model that read the kernels of the training families says of the others."""
    texts = collected.words()
    training, held_out = ([texts[int(i)] for i in places] for places in (split.training, split.held_out))
    model = fit_text(training, collected.samples.at(split.training), settings)
    return model.answers(held_out)


# --- what compilers make


def train_kernels(records: Sequence[CompileRecord], data: str, text: bool = True) -> Result:
    """The model of registers, spills and loops, of all targets that kernels were compiled for."""
    began = time.monotonic()
    collected = compile_samples(records)
    split = _split(collected.samples)
    training, held_out = collected.samples.at(split.training), collected.samples.at(split.held_out)
    ensemble = fit(training, KERNELS)
    answers = {"features": ensemble.answers(held_out.rows)[0]}
    if text:
        answers["text"] = _text_answers(collected, split, KERNEL_TEXTS)
    scores = {name: kernel_scores(held_out.answers, found).as_values() for name, found in answers.items()}
    return Result(
        "kernels", _counts(training, held_out), scores, "features", time.monotonic() - began,
        arrays_of(ensemble, KERNEL, sorted({r.target for r in records}), data),
    )  # fmt: skip


# --- what is written and printed


def _write(path: Path, result: Result) -> None:
    """The weights; a file of a model that is not shipped any more is removed."""
    if not result.arrays:
        path.unlink(missing_ok=True)
        return
    with path.open("wb") as file:
        np.savez_compressed(file, **result.arrays)


def table(result: Result) -> str:
    """The scores of one model on held-out families, a learner a line."""
    names = list(next(iter(result.scores.values())))
    counts = ", ".join(f"{value} {name}" for name, value in result.counts.items())
    lines = [f"{result.name} ({counts}; {result.seconds:.0f} s)", f"  {'':12}" + "".join(f"{n:>15}" for n in names)]
    for learner, scores in result.scores.items():
        lines.append(f"  {learner:12}" + "".join(f"{scores[n]:>15.4g}" for n in names))
    lines.append(f"  shipped: {result.shipped}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
