"""Which schedule serves the calls of one attention: kept plans are asked first, then the cost model.

Calls whose sizes have one bucket share a decision. Measures nothing itself; see `autotune`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, lru_cache
from typing import Any, cast

from ..cost_model.cpus import CPUS, CpuRates, rates_for
from ..cost_model.devices import device_named
from ..cost_model.learned import WEIGHTS
from ..cost_model.online import CORRECTION, Correction, terms_of
from ..cost_model.prediction import Prediction
from ..cost_model.problem import Problem, Sizes
from ..cost_model.schedule import CPU_FIELDS, GPU_FIELDS, Schedule
from ..ir.core import Operation
from ..ir.diagnostics import CompileError
from ..ir.dialects.attn import AttentionOp
from ..passes.attention_shape import as_stored, attention_shape
from ..passes.plan_gpu import GpuPlanner, gpu_candidates
from ..passes.ranking import (
    CPU_CHOICES,
    RUNNERS_UP,
    Candidate,
    Ranking,
    cpu_schedules,
    difference,
    has_times,
    rank,
)
from .tuning import Tuning
from .tuning_cache import Key, canonical_key, device_fingerprint, toolchain, tuning_cache

Wishes = tuple[tuple[str, int | str], ...]

WORTH = 0.10
"""The part of its time that another kernel must be predicted to save before it is compiled beside one that serves."""

LEAST_SAVED = 50e-6
"""Seconds of a call that it must be predicted to save besides: compiling takes as long as ten thousand times that."""

TEXTS = ("precision", "target", "reason", "descriptors")
"""Fields of a schedule that are no numbers."""

CACHED, MODEL, SHARED = "cache", "model", "model, kept"
"""Where decisions come from, besides measurements."""


@dataclass(frozen=True)
class Calls:
    """What one decision is for: `sizes` of a call like them, `rows` as for `lower`, and what else kernels differ in.

    `kind` is the name of the choice, `wishes` must be followed, `threads` run native kernels.
    """

    sizes: Sizes
    rows: int = 0
    kind: str = ""
    wishes: Wishes = ()
    threads: int = 0

    @property
    def bucket(self) -> str:
        """The name of all calls that share the decision."""
        asked = " ".join(f"{name}={value}" for name, value in self.wishes)
        parts = (str(self.sizes.bucket), self.kind, asked, f"{self.threads} threads" if self.threads else "")
        return " ".join(filter(None, parts))


@dataclass(frozen=True)
class Chosen:
    """A schedule for calls, and in `decision` why it is this one, in the words of `Ranking.decision`."""

    schedule: Schedule
    decision: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """What the cache knows: a plan that can be followed, or only why there is none."""

    chosen: Chosen | None
    reason: str
    effort: int = 0


def wishes_of(schedule: Schedule) -> Wishes:
    """The wishes that leave no field of `schedule` to choose."""
    unused = ("target", "reason", *(() if schedule.lanes else CPU_FIELDS))
    names = CPU_CHOICES if schedule.lanes else [f.name for f in fields(Schedule) if f.name not in unused]
    return tuple((name, getattr(schedule, name)) for name in names)


def same(schedule: Schedule) -> Schedule:
    """The schedule without its reason, to compare it with others."""
    return replace(schedule, reason="")


def schedule_from(entries: Any, target: str) -> Schedule | str:
    """The schedule that a kept plan names; else what is wrong with it, in words."""
    if not isinstance(entries, Mapping):
        return f"a schedule must be a mapping, but is {entries!r:.80}"
    given: dict[Any, Any] = dict(cast("Mapping[Any, Any]", entries))
    known = {f.name: f for f in fields(Schedule)}
    if strange := [name for name in given if name not in known]:
        return f"a schedule has no field {strange[0]!r:.40}"
    if missing := [name for name in ("block_m", "block_n", "num_warps", "num_stages", "target") if name not in given]:
        return f"a schedule needs '{missing[0]}'"
    for name, value in given.items():
        wanted = str if name in TEXTS else int
        if not isinstance(value, wanted) or isinstance(value, bool):
            return f"field '{name}' of a schedule must be {'text' if wanted is str else 'a number'}, not {value!r:.40}"
    if given["target"] != target:
        return f"the schedule is for {given['target']:.40}, not for {target}"
    unused = GPU_FIELDS if target in CPUS else CPU_FIELDS
    if used := [name for name in unused if given.get(name)]:
        return f"field '{used[0]}' means nothing on {target}"
    checked: dict[str, Any] = {**given, "reason": ""}
    return Schedule(**checked)


@cache
def model_mark() -> str:
    """Tells one state of the learned cost model from another: what it decided alone holds for that state."""
    files = sorted(WEIGHTS.glob("*.npz"))
    return " ".join(f"{file.stem}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)


def rates_mark(target: str) -> str:
    """Tells rates of a CPU from others, which predictions depend on; empty for other targets."""
    return _mark_of(rates_for(target, 1)) if target in CPUS else ""


@lru_cache(maxsize=8)
def _mark_of(rates: CpuRates) -> str:
    return hashlib.sha256(repr(rates).encode()).hexdigest()[:16]


@dataclass(eq=False)
class SitePlans:
    """The plans of one outlined attention on one target; with `kept`, those of earlier processes too."""

    module: Operation
    target: str
    kept: bool = True

    @cached_property
    def attention(self) -> AttentionOp:
        """The attention as the planner sees it, with what is known of its mask."""
        from ..passes.analyze_mask import AnalyzeMask
        from ..passes.manager import PassContext

        module = self.module.clone()
        AnalyzeMask().run(module, PassContext())
        return next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))

    @cached_property
    def _program(self) -> str:
        return canonical_key(self.module)

    @property
    def has_times(self) -> bool:
        """Whether anything is predicted for the target."""
        return has_times(self.target)

    def key(self, calls: Calls) -> Key:
        """What a plan for such calls is kept under."""
        return Key(self._program, calls.bucket, "", device_fingerprint(self.target), toolchain(self.target))

    # --- what is kept

    def find(self, calls: Calls) -> Found:
        """The kept plan for such calls, if it can be followed; a wrong one is a miss with its reason."""
        if not self.kept:
            return Found(None, "not asked: cache=False")
        lookup = tuning_cache().plan(self.key(calls))
        if lookup.found is None:
            return Found(None, lookup.reason)
        schedule = schedule_from(lookup.found.get("schedule"), self.target)
        if isinstance(schedule, Schedule) and (problem := self.problem(schedule, calls)):
            schedule = problem
        if isinstance(schedule, str):
            return Found(None, f"miss: the kept plan is of no use: {schedule}")
        if not lookup.found.get("effort") and lookup.found.get("model") != model_mark():
            return Found(
                None, "miss: the cost model has changed since the kept plan was made, and nothing was measured"
            )
        if not lookup.found.get("effort") and lookup.found.get("rates") != rates_mark(self.target):
            return Found(
                None, f"miss: {self.target} has other rates than when the kept plan was made, and nothing was measured"
            )
        decision = _decision_from(lookup.found.get("decision"), calls)
        effort = lookup.found.get("effort")
        return Found(Chosen(schedule, decision), lookup.reason, effort if isinstance(effort, int) else 0)

    def problem(self, schedule: Schedule, calls: Calls) -> str:
        """Why a schedule is not for such calls; empty where it is."""
        attention, cpu, rows = self.attention, CPUS.get(self.target), self._rows(calls)
        try:
            shape = attention_shape(attention, padded=cpu is None, few_rows=bool(rows))
            if cpu is None:
                planner = GpuPlanner(attention, shape, device_named(self.target), rows, calls.wishes)
                return planner.problem(schedule)
            feasible = cpu_schedules(attention, as_stored(attention, shape), cpu, rows, calls.wishes)
        except CompileError as problem:
            return problem.diagnostics[0].message
        tiles = schedule.block_m, schedule.block_n
        like = (same(s) for s in feasible if (s.block_m, s.block_n) == tiles)
        return "" if same(schedule) in like else "it is none of the candidates that fit"

    def keep(
        self, calls: Calls, chosen: Chosen, *, effort: int = 0, rounds: int = 0, seconds: float | None = None
    ) -> None:
        """Write a decision down for later processes; `effort` says among how many it was made, see `Tuning`."""
        if self.kept:
            # What was chosen among more candidates replaces what was chosen among fewer, however long that took.
            rounds = max(rounds, self._rounds(calls)) if effort else rounds
            entries = {name: value for name, value in vars(same(chosen.schedule)).items() if name != "reason"}
            plan = {
                "schedule": entries, "source": chosen.decision.get("source", ""), "seconds": seconds, "effort": effort,
                "decision": dict(chosen.decision), "model": model_mark(), "rates": rates_mark(self.target),
                "rounds": rounds,
            }  # fmt: skip
            tuning_cache().keep_plan(self.key(calls), plan, support=rounds, seconds=seconds)

    def _rounds(self, calls: Calls) -> int:
        """Behind the kept plan for such calls."""
        kept = tuning_cache().plan(self.key(calls)).found or {}
        rounds = kept.get("rounds")
        return rounds if isinstance(rounds, int) else 0

    def keep_measurements(self, calls: Calls, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write down what was measured."""
        if self.kept and rows:
            tuning_cache().keep_measurements(self.key(calls), rows)

    # --- what measurements teach about the device

    def correction(self) -> Correction:
        """How far predictions for this device were off in earlier measurements."""
        if not self.kept:
            return Correction()
        return Correction.of(tuning_cache().calibration(device_fingerprint(self.target), CORRECTION).found)

    def learn(self, problem: Problem, times: Sequence[tuple[Prediction, float]]) -> None:
        """Let later predictions start from how far these were off; `times` are predictions and measured seconds."""
        if self.kept:
            correction = self.correction()
            for prediction, seconds in times:
                correction = correction.updated(terms_of(problem), prediction.seconds, seconds)
            tuning_cache().keep_calibration(device_fingerprint(self.target), CORRECTION, correction.to_values())

    # --- what the cost model says

    def schedules(self, calls: Calls) -> list[Schedule]:
        """Every candidate that fits, in no order; CompileError where there is none."""
        attention, cpu, rows = self.attention, CPUS.get(self.target), self._rows(calls)
        shape = attention_shape(attention, padded=cpu is None, few_rows=bool(rows))
        if cpu is None:
            return gpu_candidates(attention, shape, device_named(self.target), rows, calls.wishes)
        return cpu_schedules(attention, as_stored(attention, shape), cpu, rows, calls.wishes)

    def ranking(self, calls: Calls) -> Ranking:
        """Every candidate that fits, the best first; CompileError where there is none."""
        threads = max(1, calls.threads)
        return rank(self.attention, self.target, self._rows(calls), calls.wishes, calls.sizes, threads)

    def _rows(self, calls: Calls) -> int:
        # Parts of split keys are merged by their log-sum-exp, which a largest score is not.
        return 0 if self.attention.normaliser.value == "max" else calls.rows

    def by_model(self, calls: Calls, current: Schedule | None) -> Chosen:
        """What the model takes: `current`, which serves calls already, unless another is predicted to be worth it.

        What is no candidate was somebody's wish, and stays.
        """
        ranking = self.ranking(calls)
        best, source, note = ranking.best, MODEL, ranking.note
        serving = None if current is None else _find(ranking.candidates, current)
        if current is not None and serving is None:
            return Chosen(current, {})
        if serving is not None and serving is not best:
            seconds = serving.prediction.seconds - best.prediction.seconds
            saved = seconds / max(serving.prediction.seconds, 1e-12)
            if saved < WORTH or seconds < LEAST_SAVED:
                best, source = serving, SHARED
                note = _joined(f"shared with other sizes: the best is predicted {100 * saved:.1f} % faster", note)
            else:
                note = _joined(f"another kernel for these sizes: predicted {100 * saved:.0f} % faster", note)
        order = [best, *(c for c in ranking.candidates if c is not best)]
        return Chosen(best.schedule, self.decision(ranking, calls.sizes, source, order, note=note))

    def decision(
        self,
        ranking: Ranking,
        sizes: Sizes,
        source: str,
        order: Sequence[Candidate],
        measured: Mapping[Schedule, float] | None = None,
        note: str = "",
    ) -> dict[str, Any]:
        """As `decision_of`, with predictions that take into account how far earlier ones were off on this device."""
        correction = self.correction()
        ratio, _ = correction.at(terms_of(ranking.problem))
        if correction.count:
            note = _joined(
                note, f"predictions are {math.exp(ratio):.2f} times the model's, from {correction.count} times"
            )
        corrected = [
            replace(c, prediction=replace(c.prediction, seconds=c.prediction.seconds * math.exp(ratio))) for c in order
        ]
        return decision_of(sizes, source, corrected, len(ranking.candidates), measured, note)


def satisfied(found: Found, tuning: Tuning) -> bool:
    """Whether a kept plan needs no more measuring."""
    return found.chosen is not None and (not tuning.wanted or tuning.satisfied_by(found.effort))


def decision_of(
    sizes: Sizes,
    source: str,
    order: Sequence[Candidate],
    count: int,
    measured: Mapping[Schedule, float] | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Why the first of `order` is taken, and the next ones, as `Ranking.decision` tells it; times in microseconds.

    `measured` has the seconds of those that were measured, `count` is how many candidates there were.
    """
    first, times = order[0], measured or {}
    told: dict[str, Any] = {
        "sizes": str(sizes),
        "source": source,
        "predicted_us": _microseconds(first.prediction.seconds),
        "analytical_us": _microseconds(first.prediction.analytical),
        "spread": float(f"{first.prediction.spread:.4g}"),
        "candidates": count,
    }
    if (seconds := times.get(first.schedule)) is not None:
        told["measured_us"] = _microseconds(seconds)
    for place, other in enumerate(order[1 : 1 + RUNNERS_UP], 1):
        told[f"runner_up_{place}"] = difference(other.schedule, first.schedule)
        told[f"runner_up_{place}_us"] = _microseconds(other.prediction.seconds)
        if (seconds := times.get(other.schedule)) is not None:
            told[f"runner_up_{place}_measured_us"] = _microseconds(seconds)
    return {**told, "note": note} if note else told


def _decision_from(kept: Any, calls: Calls) -> dict[str, Any]:
    """A kept decision as one to show: only words and numbers, from the cache now."""
    entries: dict[Any, Any] = dict(cast("Mapping[Any, Any]", kept)) if isinstance(kept, Mapping) else {}
    plain = {str(k): v for k, v in entries.items() if isinstance(v, str | int | float)}
    if not all(name in plain for name in ("predicted_us", "candidates", "source")):
        return {}
    return {"spread": 0.0, **plain, "sizes": str(calls.sizes), "source": f"{CACHED}: {plain['source']}"}


def _find(candidates: Sequence[Candidate], schedule: Schedule) -> Candidate | None:
    return next((c for c in candidates if same(c.schedule) == same(schedule)), None)


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _microseconds(seconds: float) -> float:
    return float(f"{1e6 * seconds:.4g}")
