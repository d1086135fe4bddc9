"""All candidates of one attention on one target, the fastest first by the cost model; compiles nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from ..cost_model.cpus import CPUS, Cpu, rates_for
from ..cost_model.devices import DEVICES, INTERPRETER, Device, device_named
from ..cost_model.prediction import ANALYTICAL, LEARNED, Estimate, Prediction
from ..cost_model.problem import Problem, Sizes, Visits
from ..cost_model.resources import AttentionShape, TileConfig, as_scheduled, shared_memory
from ..cost_model.schedule import Schedule
from ..ir.attributes import Attribute, DictAttr, FloatAttr, IntegerAttr, StringAttr, f64
from ..ir.core import Value
from ..ir.diagnostics import error, op_error
from ..ir.dialects.attn import AttentionOp
from .attention_shape import as_stored, attention_shape, mask_work
from .plan_cpu import cpu_candidates, scratch_of
from .plan_gpu import Wish, gpu_candidates
from .problem import problem_of

CPU_CHOICES = ("block_m", "block_n", "columns", "edge_n", "lists", "split", "folded")
"""What can be chosen for kernels on CPUs."""

UNKNOWN = 1.05
"""How much slower kernels that look at every tile count where it is not known what captured tensors hold: a list costs
a few percent of a short call at most, and saves much where few tiles are kept."""

UNSURE = 0.2
"""The standard deviation among learned models, of log(seconds), from which on the analytical one knows more."""

RUNNERS_UP = 2
"""Candidates behind the first that are written down beside it."""

TYPICAL_HEADS, TYPICAL_LENGTH, GPU_LENGTH, DECODE_HEADS, DECODE_LENGTH = 32, 1024, 4096, 8, 8192
"""What is taken of sizes that nothing tells."""


@dataclass(frozen=True)
class Candidate:
    """One schedule, what the analytical model says of it term by term, and what is predicted in the end."""

    schedule: Schedule
    visits: Visits
    estimate: Estimate
    prediction: Prediction


@dataclass(frozen=True)
class Ranking:
    """The candidates that fit, best first; `note` says why a prediction is only analytical, if it is."""

    problem: Problem
    candidates: tuple[Candidate, ...]
    note: str = ""

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    def decision(self) -> DictAttr:
        """What was predicted for the first, and those that came next, for the IR."""
        first = self.best.prediction
        entries: dict[str, Attribute] = {
            "sizes": StringAttr(str(self.problem.sizes)),
            "source": StringAttr(first.source),
            "predicted_us": _microseconds(first.seconds),
            "analytical_us": _microseconds(first.analytical),
            "spread": FloatAttr(_rounded(first.spread), f64),
            "candidates": IntegerAttr(len(self.candidates)),
        }
        for place, other in enumerate(self.candidates[1 : 1 + RUNNERS_UP], 1):
            entries[f"runner_up_{place}"] = StringAttr(difference(other.schedule, self.best.schedule))
            entries[f"runner_up_{place}_us"] = _microseconds(other.prediction.seconds)
        if self.note:
            entries["note"] = StringAttr(self.note)
        return DictAttr.of(entries)


def rank(
    attention: AttentionOp,
    target: str,
    rows: int = 0,
    wishes: tuple[Wish, ...] = (),
    sizes: Sizes | None = None,
    threads: int = 1,
) -> Ranking:
    """Every candidate for kernels of `attention` on `target`, best first; CompileError where there is none.

    `rows` and `wishes` are those of the pass `plan`, `sizes` those of the call to plan for, typical ones if None.
    On a CPU calls run on up to `threads` cores.
    """
    cpu = CPUS.get(target)
    shape = attention_shape(attention, padded=cpu is None, few_rows=bool(rows))
    if cpu is None:
        schedules = gpu_candidates(attention, shape, device_named(target), rows, wishes)
    else:
        schedules = cpu_schedules(attention, as_stored(attention, shape), cpu, rows, wishes)
    sizes = sizes_of(attention, sizes, target, rows)
    problem = problem_of(attention, sizes, padded=cpu is None, few_rows=bool(rows))
    return ranked(attention, schedules, target, problem, threads=threads)


def cpu_schedules(
    attention: AttentionOp, shape: AttentionShape, cpu: Cpu, rows: int, wishes: tuple[Wish, ...]
) -> list[Schedule]:
    """The candidates for a CPU that follow the wishes; what no candidate has is tried all the same."""
    found = cpu_candidates(cpu, shape, rows, mask_work(attention))
    if isinstance(found, str):
        op_error(
            attention.operation,
            f"no tile sizes fit {cpu.name}: head dimensions {shape.key_width} and {shape.value_width} need {found}",
        )
    wanted = _cpu_wishes(wishes)
    if not wanted:
        return found
    asked = [replace(s, **wanted) for s in found]
    kept = [s for s, wished in zip(found, asked, strict=True) if s == wished]
    return kept or list(dict.fromkeys(replace(s, reason="as asked") for s in asked))


def _cpu_wishes(wishes: tuple[Wish, ...]) -> dict[str, Any]:
    """Fields of a CPU's schedule with numbers; CompileError on others."""
    for name, value in wishes:
        if name not in CPU_CHOICES:
            raise error(f"a kernel for a CPU has no option '{name}'; expected {', '.join(CPU_CHOICES)}")
        if not isinstance(value, int):
            raise error(f"option '{name}' of a kernel for a CPU must be a number, but is {value!r}")
    return dict(wishes)


def ranked(
    attention: AttentionOp,
    schedules: Sequence[Schedule],
    target: str,
    problem: Problem,
    captures: Mapping[Value, Any] | None = None,
    threads: int = 1,
) -> Ranking:
    """Order `schedules`, which all fit `target`, by the predicted seconds of a call like `problem`.

    The same schedules get the same order whatever theirs was. `captures` are arrays of captured tensors by the mask
    region's arguments, where they are known. On a CPU calls run on up to `threads` cores.
    """
    from .visits import MaskVisits

    visited = MaskVisits(attention, problem.sizes, captures)
    visits = [visited.at(schedule) for schedule in schedules]
    estimates = [estimated(problem, s, v, target, threads) for s, v in zip(schedules, visits, strict=True)]
    predictions, note = _corrected(problem, schedules, visits, estimates, target)
    rows = zip(schedules, visits, estimates, predictions, strict=True)
    unknown = target in CPUS and problem.mask == "tiles" and captures is None
    return Ranking(problem, tuple(_ordered([Candidate(*row) for row in rows], UNKNOWN if unknown else 1.0)), note)


def estimated(problem: Problem, schedule: Schedule, visits: Visits, target: str, threads: int = 1) -> Estimate:
    """The analytical model's answer for `target`, a GPU or so many `threads` of a CPU."""
    place = _place(target)
    if isinstance(place, Cpu):
        from ..cost_model.cpu_time import cpu_estimate

        return cpu_estimate(problem, schedule, visits, rates_for(place.name, threads))
    from ..cost_model.gpu_time import gpu_estimate

    return gpu_estimate(problem, schedule, visits, place)


def _place(target: str) -> Cpu | Device:
    return CPUS[target] if target in CPUS else device_named(target)


def _corrected(
    problem: Problem,
    schedules: Sequence[Schedule],
    visits: Sequence[Visits],
    estimates: Sequence[Estimate],
    target: str,
) -> tuple[list[Prediction], str]:
    """The estimates as predictions, with what was learned where there is such a model for `target`."""
    # Numbers come as arrays, and small commands do not load numpy.
    from ..cost_model.learned import fallback_reason, learned_for

    learned = learned_for(target)
    if learned is None:
        return [Prediction(e.seconds, e.seconds, 0.0, ANALYTICAL) for e in estimates], fallback_reason(target)
    from ..cost_model.features import features_of

    rows = [features_of(problem, *row) for row in zip(schedules, visits, estimates, strict=True)]
    ratios, spreads = learned.correct(rows)
    unsure = float(sorted(spreads)[len(rows) // 2]) if rows else 0.0
    if unsure > UNSURE:
        why = (
            f"analytical only: learned models differ by {100 * unsure:.0f} % on calls like this, of which they saw few"
        )
        return [Prediction(e.seconds, e.seconds, 0.0, ANALYTICAL) for e in estimates], why
    found = [
        Prediction(e.seconds * math.exp(float(ratio)), e.seconds, float(spread), LEARNED)
        for e, ratio, spread in zip(estimates, ratios, spreads, strict=True)
    ]
    return found, ""


def _ordered(candidates: Sequence[Candidate], unlisted: float) -> Iterator[Candidate]:
    """By predicted time; of equals tensor descriptors, then tall tiles, which read keys rarely, then by all fields.

    So nothing depends on the order of enumeration. Kernels without a list count as `unlisted` times as long.
    """

    def order(candidate: Candidate) -> tuple[float, bool, int]:
        return _order(candidate, 1.0 if candidate.schedule.lists else unlisted)

    for _, equals in groupby(sorted(candidates, key=order), key=order):
        found = list(equals)
        yield from found if len(found) == 1 else sorted(found, key=_fields)


def _order(candidate: Candidate, times: float) -> tuple[float, bool, int]:
    schedule = candidate.schedule
    return candidate.prediction.seconds * times, not schedule.descriptors, -schedule.block_m


def _fields(candidate: Candidate) -> list[str]:
    return [str(x) for name, x in vars(candidate.schedule).items() if name != "reason"]


def difference(schedule: Schedule, other: Schedule) -> str:
    """The fields in which `schedule` differs from `other`, as `name=value`."""
    found = {name: x for name, x in vars(schedule).items() if name != "reason" and x != getattr(other, name)}
    return ", ".join(f"{name}={value}" for name, value in found.items())


def sizes_of(attention: AttentionOp, given: Sizes | None = None, target: str = "", rows: int = 0) -> Sizes:
    """The sizes of a call: those that types say, else `given`, else what is typical of `target` and for `rows`."""
    group = max(1, attention.group.value)
    base = given or typical(target, rows, group)
    q, k, _ = attention.shapes
    batch, heads, queries = (n if isinstance(n, int) else None for n in q.shape[:3])
    keys = k.shape[2] if isinstance(k.shape[2], int) else None
    heads = base.heads if heads is None else heads
    if given is None and not rows:
        # Where one length is known, the other is taken to be the same.
        keys, queries = keys or queries, queries or keys
    return Sizes(
        # A call without a batch runs nothing, and its kernel serves others.
        max(1, base.batch if batch is None else batch),
        max(heads, group),
        max(1, heads // group),
        base.queries if queries is None else queries,
        base.keys if keys is None else keys,
    )


def typical(target: str, rows: int, group: int) -> Sizes:
    """What is taken of sizes that neither types nor a call tell: enough to keep a GPU busy, less on a CPU."""
    if rows:
        return Sizes(1, DECODE_HEADS * group, DECODE_HEADS, max(1, rows // group), DECODE_LENGTH)
    batch, length = (1, TYPICAL_LENGTH) if target in CPUS else (4, GPU_LENGTH)
    return Sizes(batch, TYPICAL_HEADS, max(1, TYPICAL_HEADS // group), length, length)


def has_times(target: str) -> bool:
    """Whether anything is predicted for a target; the interpreter has no speed."""
    return target != INTERPRETER and (target in CPUS or target in DEVICES)


def _microseconds(seconds: float) -> FloatAttr:
    return FloatAttr(_rounded(1e6 * seconds), f64)


def _rounded(x: float) -> float:
    """Four digits: more are noise, and texts of IR stay equal where results hardly differ."""
    return float(f"{x:.4g}")


SHOWN_TERMS = 4


def reason(ranking: Ranking) -> str:
    """Why the first was chosen, in words: what it takes, and the largest parts of that."""
    best = ranking.best
    terms = sorted((t for t in best.estimate.terms if not t.hidden and t.seconds > 0), key=lambda t: -t.seconds)
    parts = ", ".join(f"{t.name} {1e6 * t.seconds:.3g}" for t in terms[:SHOWN_TERMS])
    told = f"{1e6 * best.prediction.analytical:.4g} us by the analytical model ({parts})"
    told = f"{_tiles_in_words(best.schedule, ranking.problem.shape)}, {told}"
    return f"{told} for {ranking.problem.sizes}; best of {len(ranking.candidates)} that fit"


def _tiles_in_words(schedule: Schedule, shape: AttentionShape) -> str:
    """The tiles of a schedule, and the memory that they take."""
    tiles = f"{schedule.block_m}x{schedule.block_n} tiles"
    if schedule.lanes:
        vectors = schedule.block_m // schedule.lanes
        block = f" in register blocks of {vectors} vectors by {schedule.columns}" if vectors else ""
        return f"{tiles}{block}, {scratch_of(schedule, shape)} bytes of scratch memory"
    config = TileConfig(schedule.block_m, schedule.block_n, schedule.num_warps, schedule.num_stages)
    memory = shared_memory(config, as_scheduled(shape, schedule), device_named(schedule.target))
    return f"{tiles}, {memory} bytes of shared memory"
